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

/* h -> silu(h), slope = silu'(h) */
template <typename T> __global__ void silu_kernel(int64_t n, T *h, T *slope)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q < n) h[q] = silu(h[q], &slope[q]);
}

template <typename T> __global__ void multiply_kernel(int64_t n, T *h, const T *slope)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q < n) h[q] *= slope[q];
}

inline unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + 255) / 256);
}

} // namespace mlff

#endif
