/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_CLUSTER_CUH
#define MLFF_CUDA_CLUSTER_CUH
/*
 * Blocks of a thread-block cluster: their shared memory seen from each other, their barrier (compute capability 9.0; CUDA C++
 * Programming Guide, distributed shared memory). Here in one place, because everything else runs on an emulator too.
 */
#include <cuda_runtime.h>
#include <stdint.h>

namespace mlff
{

__device__ inline int cluster_rank()
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

/* The same place of shared memory in another block. */
__device__ inline uint32_t place_in_block(const void *shared, int rank)
{
    const uint32_t here = (uint32_t)__cvta_generic_to_shared(shared);
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
    return there;
}

__device__ inline void store_in_block(float *shared, int rank, float2 value)
{
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(place_in_block(shared, rank)), "f"(value.x),
                 "f"(value.y)
                 : "memory");
}

__device__ inline float4 load_from_block(const float4 *shared, int rank)
{
    float4 value;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "r"(place_in_block(shared, rank))
                 : "memory");
    return value;
}

__device__ inline double load_from_block(const double *shared, int rank)
{
    double value;
    asm volatile("ld.shared::cluster.f64 %0, [%1];" : "=d"(value) : "r"(place_in_block(shared, rank)) : "memory");
    return value;
}

/* What a thread wrote before it arrived is seen by those that have waited. Every thread of every block does both. */
__device__ inline void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ inline void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

} // namespace mlff

#endif
