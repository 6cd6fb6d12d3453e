/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_CLUSTERS_CUH
#define MLFF_CUDA_CLUSTERS_CUH
/* Clusters of consecutive rows whose neighbours are brought to shared memory together. */
#include "state.cuh"

namespace mlff
{

constexpr int NO_SEAT = 0xffff;

/* Makes the list from this evaluation's edges, on `stream`. */
template <typename T>
mlff_status clusters_make(const state<T> *s, const cluster_list &to, cudaStream_t stream, mlff_error *error);

} // namespace mlff

#endif
