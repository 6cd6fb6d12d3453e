/* SPDX-License-Identifier: MIT */
#ifndef MLFF_TEST_DEVICE_SEARCH_H
#define MLFF_TEST_DEVICE_SEARCH_H
/* Makers of graphs on the device that the tests run on, whose graphs are brought to the host whole. */
#include "graph.h"
#include "support.h"

#ifdef __cplusplus
extern "C" {
#endif

/* By search_on_device of the CUDA backend. */
mlff_status device_search_graph(mlff_graph *graph, const mlff_input *input, int n_elements, double reach,
                                mlff_error *error);

#ifdef __cplusplus
}
#endif

static inline mlff_status graph_from_structures(mlff_graph *graph, const mlff_input *input, int n_elements,
                                                double cutoff, int threads, mlff_error *error)
{
#ifdef MLFF_WITH_CUDA
    if (test_device == MLFF_DEVICE_CUDA) return device_search_graph(graph, input, n_elements, cutoff, error);
#endif
    return mlff_graph_from_structures(graph, input, n_elements, cutoff, threads, error);
}

static inline mlff_status graph_from_search(mlff_graph *graph, const mlff_input *input, int n_elements, int threads,
                                            mlff_error *error)
{
#ifdef MLFF_WITH_CUDA
    if (test_device == MLFF_DEVICE_CUDA)
        return device_search_graph(graph, input, n_elements, input->neighbours->reach, error);
#endif
    return mlff_graph_from_search(graph, input, n_elements, threads, error);
}

#endif
