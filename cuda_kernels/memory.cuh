/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MEMORY_CUH
#define MLFF_CUDA_MEMORY_CUH
/* Device arenas and pinned host memory. */
#include "state.cuh"

namespace mlff
{

enum { LAYER_ROWS = 8, MAX_TENSORS = MLFF_MAX_INTERACTIONS * LAYER_ROWS + 32 };

/* As mlff_arena_place, on the device: room for every row of the table, whose pointers are set. */
mlff_status place_on_device(device_arena *a, const tensor_row *rows, int n_rows, mlff_error *error);

/* Pinned host memory of at least so many bytes. */
mlff_status pin_host_memory(void **memory, size_t *bytes, size_t wanted, mlff_error *error);

/* The end of the chunk that begins at a row. Rows of a structure follow each other. */
int32_t chunk_end(const mlff_graph *g, int32_t row);

/* The tensors of one evaluation, [MAX_TENSORS] at most; returns their number. */
template <typename T> int tensor_table(state<T> *s, tensor_row *table);

} // namespace mlff

#endif
