/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_WARP_SUMS_CUH
#define MLFF_CUDA_WARP_SUMS_CUH
/* Sums over lanes of a warp, in a fixed tree. */
#include <cuda_runtime.h>

namespace mlff
{

/* One exchange of a transposed sum: lanes with the bit LANE keep the upper HALF values. */
template <int HALF, int LANE, typename R, int COUNT> __device__ inline void exchange_halves(R (&value)[COUNT], int lane)
{
    const bool upper = lane & LANE;
#pragma unroll
    for (int q = 0; q < HALF; q++) {
        const R keep = upper ? value[q + HALF] : value[q], send = upper ? value[q] : value[q + HALF];
        value[q] = keep + __shfl_xor_sync(0xffffffffu, send, LANE);
    }
}

/* Sums 16 values over the warp in 16 exchanges; lanes 2q and 2q + 1 return the sum of value q. */
__device__ inline double transposed_sum(double (&value)[16], int lane)
{
    exchange_halves<8, 16>(value, lane);
    exchange_halves<4, 8>(value, lane);
    exchange_halves<2, 4>(value, lane);
    exchange_halves<1, 2>(value, lane);
    return value[0] + __shfl_xor_sync(0xffffffffu, value[0], 1);
}

/* Sums 8 values over lanes t, 4 + t .. 28 + t in 7 exchanges; lane 4g + t returns the sum of value g. */
__device__ inline float transposed_sum(float (&value)[8], int lane)
{
    exchange_halves<4, 16>(value, lane);
    exchange_halves<2, 8>(value, lane);
    exchange_halves<1, 4>(value, lane);
    return value[0];
}

/* Sums 4 values over lanes 4g .. 4g + 3; lane 4g + t returns the sum of value t. */
__device__ inline float sum_over_lanes(const float (&p)[4], int t)
{
    float two[2];
#pragma unroll
    for (int k = 0; k < 2; k++)
        two[k] = (t & 2 ? p[2 + k] : p[k]) + __shfl_xor_sync(0xffffffffu, t & 2 ? p[k] : p[2 + k], 2);
    return (t & 1 ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, t & 1 ? two[0] : two[1], 1);
}

} // namespace mlff

#endif
