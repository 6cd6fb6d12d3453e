/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_WARP_SUMS_CUH
#define MLFF_CUDA_WARP_SUMS_CUH
/* Sums over the lanes of a warp, in a fixed tree. */
#include <cuda_runtime.h>

namespace mlff
{

/* One exchange of transposed_sum: lanes with the bit 2 HALF keep the upper HALF values. */
template <int HALF> __device__ inline void exchange_halves(double (&value)[16], int lane)
{
    const bool upper = lane & (2 * HALF);
#pragma unroll
    for (int q = 0; q < HALF; q++) {
        const double keep = upper ? value[q + HALF] : value[q], send = upper ? value[q] : value[q + HALF];
        value[q] = keep + __shfl_xor_sync(0xffffffffu, send, 2 * HALF);
    }
}

/* Sums 16 values over the warp in 16 exchanges; lanes 2q and 2q + 1 return the sum of value q. */
__device__ inline double transposed_sum(double (&value)[16], int lane)
{
    exchange_halves<8>(value, lane);
    exchange_halves<4>(value, lane);
    exchange_halves<2>(value, lane);
    exchange_halves<1>(value, lane);
    return value[0] + __shfl_xor_sync(0xffffffffu, value[0], 1);
}

} // namespace mlff

#endif
