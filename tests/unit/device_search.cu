/* SPDX-License-Identifier: MIT */
#include "neighbours.cuh"

#include <string.h>

extern "C" mlff_status device_search_graph(mlff_graph *graph, const mlff_input *input, int n_elements, double reach,
                                           mlff_error *error);

static mlff_status fetch(void *to, const void *from, size_t bytes, mlff_error *error)
{
    if (bytes > 0) CUDA_TRY(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
    return MLFF_OK;
}

/* The slots, and what else only the device has, into the host's arrays. */
static mlff_status fetch_graph(mlff_graph *graph, const mlff::device_graph *g, mlff_error *error)
{
    const size_t N = graph->n_owned, R = graph->n_rows, E = graph->n_slots;
    const int with_shift = g->shift || E == 0 ? graph->n_all == graph->n_local : 0;
    MLFF_TRY(mlff_graph_reserve_slots(graph, graph->n_slots, with_shift, error));
    MLFF_TRY(fetch(graph->first, g->first, (N + 1) * sizeof(int64_t), error));
    MLFF_TRY(fetch(graph->species, g->species, R * sizeof(int32_t), error));
    int32_t *rows = (int32_t *)malloc((R + 1) * sizeof *rows); /* the device's own must be the same */
    if (!rows) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory");
    const mlff_status status = fetch(rows, g->atom_of_row, R * sizeof(int32_t), error);
    const int same = memcmp(rows, graph->atom_of_row, R * sizeof(int32_t)) == 0;
    free(rows);
    MLFF_TRY(status);
    if (!same) return mlff_fail(error, MLFF_ERROR_DEVICE, "rows of host and device differ");
    MLFF_TRY(fetch(graph->incoming_first, g->incoming_first, (R + 1) * sizeof(int64_t), error));
    MLFF_TRY(fetch(graph->neighbour_row, g->neighbour_row, E * sizeof(int32_t), error));
    MLFF_TRY(fetch(graph->neighbour_atom, g->neighbour_atom, E * sizeof(int32_t), error));
    int32_t *narrow = (int32_t *)malloc((E + 1) * sizeof *narrow);
    if (!narrow) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory");
    const mlff_status fetched = fetch(narrow, g->incoming, E * sizeof(int32_t), error);
    for (size_t q = 0; q < E; q++) graph->incoming[q] = narrow[q];
    free(narrow);
    MLFF_TRY(fetched);
    if (g->shift) MLFF_TRY(fetch(graph->shift, g->shift, E * 3 * sizeof(double), error));
    graph->on_device = 0;
    return MLFF_OK;
}

mlff_status device_search_graph(mlff_graph *graph, const mlff_input *input, int n_elements, double reach,
                                mlff_error *error)
{
    static mlff::device_search search;
    mlff_error unheard;
    if (!error) error = &unheard;
    MLFF_TRY(mlff::search_on_device(&search, 0, graph, input, n_elements, reach, error));
    if (!graph->on_device) return MLFF_OK; /* the kernels do not fit it, and the host made it */
    CUDA_TRY(cudaDeviceSynchronize());
    return fetch_graph(graph, &search.graph, error);
}
