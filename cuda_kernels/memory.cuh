/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MEMORY_CUH
#define MLFF_CUDA_MEMORY_CUH
/* Device arenas and pinned host memory. */
#include "state.cuh"

namespace mlff
{

enum { LAYER_ROWS = 8, MAX_TENSORS = MLFF_MAX_INTERACTIONS * LAYER_ROWS + 32 };

/* As mlff_arena_place, on the device: room for every row of the table, whose pointers are set. After a failure the
 * arena is empty and may be placed again. */
mlff_status place_on_device(device_arena *a, const tensor_row *rows, int n_rows, mlff_error *error);

/* Pinned host memory of at least so many bytes. */
mlff_status pin_host_memory(void **memory, size_t *bytes, size_t wanted, mlff_error *error);

/* Sends the graph if the device has another one, and places every tensor of an evaluation. Where memory does not
 * suffice the message tells how many atoms would fit, and what the device still holds is given back. */
template <typename T> mlff_status make_room(state<T> *s, const mlff_graph *graph, mlff_error *error);

/* After a failure for want of memory: the message goes on with how many atoms like those of `s` would fit, and the
 * arenas are empty, so that a smaller system works. */
template <typename T> mlff_status tell_what_fits(state<T> *s, mlff_error *error);

/* Bytes of the device for energy and forces on one rank, with an engine's list; neighbours are candidates, skin
 * included. */
template <typename T> void estimate_memory(const state<T> *s, double *bytes_per_atom, double *bytes_per_neighbour);

/* The end of the chunk that begins at a row. Rows of a structure follow each other. */
int32_t chunk_end(const mlff_graph *g, int32_t row);

} // namespace mlff

#endif
