/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MMA_CUH
#define MLFF_CUDA_MMA_CUH
/*
 * Matrix units with nearly the precision of single: a number is split into two TF32 halves (11 bits each), a = hi + lo,
 * and a product is hi hi + hi lo + lo hi, summed in single. What is left out, lo lo, is 2^-22 of it.
 */
#include <stdint.h>

namespace mlff
{

__device__ inline uint32_t to_tf32(float x)
{
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ inline void split_tf32(float x, uint32_t &hi, uint32_t &lo)
{
    hi = to_tf32(x);
    lo = to_tf32(x - __uint_as_float(hi));
}

/* c [16 x 8] += a [16 x 8] b [8 x 8]. Lane 4g + t holds a: (g, t) (g+8, t) (g, t+4) (g+8, t+4); b: (t, g) (t+4, g);
 * c: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1). */
__device__ inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

} // namespace mlff

#endif
