/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_POSITIONS_CUH
#define MLFF_CUDA_POSITIONS_CUH
/* Positions on their way from the caller's array through pinned memory to the device. */
#include "state.cuh"

namespace mlff
{

/* Into pinned memory and, unless all structures go by one launch, on to the device. Fails where a position is not a
 * finite number. */
template <typename T> mlff_status positions_send(state<T> *s, const double *x, mlff_error *error);

/* From pinned memory to the device, for structures that would go by one launch and do not. */
template <typename T> mlff_status positions_send_all(state<T> *s, mlff_error *error);

} // namespace mlff

#endif
