/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_SILU_CUH
#define MLFF_CUDA_SILU_CUH
/* silu(x) = x sigma(x), and its derivative. */
#include "launch.cuh"
#include "radial.cuh"

namespace mlff
{

template <typename T> __device__ inline T silu(T x, T *slope)
{
    const T sigma = 1 / (1 + exponential(-x));
    *slope = sigma * (1 + x * (1 - sigma));
    return x * sigma;
}

} // namespace mlff

#endif
