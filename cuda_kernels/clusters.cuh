/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_CLUSTERS_CUH
#define MLFF_CUDA_CLUSTERS_CUH
/* Clusters of consecutive rows whose neighbours are brought to shared memory together. */
#include "state.cuh"

namespace mlff
{

constexpr int NO_SEAT = 0xffff;

/* Makes the list from this evaluation's edges. */
template <typename T> mlff_status clusters_make(state<T> *s, const cluster_list &to, mlff_error *error);

} // namespace mlff

#endif
