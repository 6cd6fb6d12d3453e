/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_COPIES_CUH
#define MLFF_CUDA_COPIES_CUH
/* Copies from global to shared memory that do not pass through registers and are waited for later (PTX: cp.async). */
#include <stdint.h>

namespace mlff
{

/* As PTX names a place of shared memory. */
__device__ inline uint32_t shared_address(const void *at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* 16 bytes; zeros where `valid` is false. */
__device__ inline void copy_16_async(void *shared, const void *global, bool valid)
{
    const uint32_t to = shared_address(shared);
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
}

__device__ inline void commit_copies()
{
    asm volatile("cp.async.commit_group;");
}

template <int PENDING> __device__ inline void wait_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
}

/* 8 bytes, there after wait_for_copies() and a barrier of the block. */
__device__ inline void copy_two_async(float *shared, const float *global)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}

/* All copies of the thread. */
__device__ inline void wait_for_copies()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

} // namespace mlff

#endif
