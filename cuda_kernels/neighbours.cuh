/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_NEIGHBOURS_CUH
#define MLFF_CUDA_NEIGHBOURS_CUH
/* The search for neighbours on the device, for structures and for an engine that leaves the search to the library. */
#include "memory.cuh"

#include <float.h>

extern "C" {
#include "box.h"
#include "order.h"
}

namespace mlff
{

/* The graph on the device, as graph.h describes it; valid until the next search. */
struct device_graph {
    int64_t *first;                          /* [N+1] */
    int32_t *atom_of_row, *species;          /* [R] */
    int64_t *incoming_first;                 /* [R+1] */
    int32_t *neighbour_row, *neighbour_atom; /* [n_slots] */
    double *shift;                           /* [n_slots][3] angstrom; NULL with an engine's atoms */
    int32_t *incoming;                       /* [n_slots], NULL where slots need 64 bits: */
    int64_t *incoming_wide;                  /* [n_slots] instead */
};

struct device_search {
    device_graph graph;
    device_arena rows, slots, work;
    char *host; /* pinned: positions up, rows and totals down */
    size_t host_bytes;
    int64_t n_slots; /* of the last search; 0 where it did not come so far */
};

/* Makes the graph on the device and fills the host's arrays of atoms and rows, but for `species`. Where a structure is
 * so dense or so flat that the kernels do not fit it, the host makes the graph instead: graph->on_device says which. */
mlff_status search_on_device(device_search *d, cudaStream_t stream, mlff_graph *graph, const mlff_input *input,
                             int n_elements, double reach, mlff_error *error);

void device_search_free(device_search *d);
size_t device_search_memory(const device_search *d);

/* What the last search asked for; device_search_memory is what is held. */
size_t device_search_wanted(const device_search *d);

} // namespace mlff

#endif
