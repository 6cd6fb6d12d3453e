/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_SILU_CUH
#define MLFF_CUDA_SILU_CUH
/* silu(x) = x sigma(x), its derivative, and the launches of element-wise kernels. */
#include "radial.cuh"

namespace mlff {

template <typename T> __device__ inline T silu(T x, T *slope)
{
    const T sigma = 1 / (1 + exponential(-x));
    *slope = sigma * (1 + x * (1 - sigma));
    return x * sigma;
}

inline unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + 255) / 256);
}

} // namespace mlff

#endif
