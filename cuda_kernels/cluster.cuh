/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_CLUSTER_CUH
#define MLFF_CUDA_CLUSTER_CUH
/*
 * Blocks of a thread-block cluster that send each other values (compute capability 9.0; PTX ISA: st.async, mbarrier): a
 * store into another block's shared memory counts its bytes at a barrier there, and who waits for so many bytes has
 * them. The cluster's own barrier is used once: releasing to the cluster makes a thread wait for everything that it
 * ever wrote to global memory. Loads whose place in the code matters are here too.
 */
#include "copies.cuh"

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
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(shared)), "r"(rank));
    return there;
}

/* Every thread of every block: what was written before is seen by all, every block runs. */
__device__ inline void cluster_barrier()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* The first half of a barrier that orders nothing but make_arrivals(), which every block's sends need. */
__device__ inline void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ inline void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* A barrier for bytes that arrive and so many arrivals of the block's own threads; one thread makes it, before
 * cluster_arrive(). */
__device__ inline void make_arrivals(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* To another block, or this one; its bytes count at the same barrier there. */
__device__ inline void send(float *shared, int rank, float2 value, uint64_t *barrier)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                     place_in_block(shared, rank)),
                 "f"(value.x), "f"(value.y), "r"(place_in_block(barrier, rank))
                 : "memory");
}

/* A thread arrives at its own block's barrier: what it has read and written comes before what others do behind it. */
__device__ inline void arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* The same; tells how many bytes a phase has, which may have arrived. */
__device__ inline void expect_arrivals(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

/* Every thread that reads what arrives; parity: of the phase, which alternates. */
__device__ inline void wait_for_arrivals(uint64_t *barrier, int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* A value that never changes, loaded here and not where it is first needed; 0 where it is not valid. */
__device__ inline float load_ahead_of_use(const float *from, bool valid)
{
    float value;
    asm volatile("{\n"
                 ".reg .pred valid;\n"
                 "setp.ne.s32 valid, %2, 0;\n"
                 "mov.f32 %0, 0f00000000;\n"
                 "@valid ld.global.nc.f32 %0, [%1];\n"
                 "}"
                 : "=f"(value)
                 : "l"(from), "r"((int)valid));
    return value;
}

/* Two of them. */
__device__ inline float2 load_two_ahead_of_use(const float *from, bool valid)
{
    float2 value;
    asm volatile("{\n"
                 ".reg .pred valid;\n"
                 "setp.ne.s32 valid, %3, 0;\n"
                 "mov.f32 %0, 0f00000000;\n"
                 "mov.f32 %1, 0f00000000;\n"
                 "@valid ld.global.nc.v2.f32 {%0, %1}, [%2];\n"
                 "}"
                 : "=f"(value.x), "=f"(value.y)
                 : "l"(from), "r"((int)valid));
    return value;
}

/* Four of them. */
__device__ inline float4 load_four_ahead_of_use(const float *from, bool valid)
{
    float4 value;
    asm volatile("{\n"
                 ".reg .pred valid;\n"
                 "setp.ne.s32 valid, %5, 0;\n"
                 "mov.f32 %0, 0f00000000;\n"
                 "mov.f32 %1, 0f00000000;\n"
                 "mov.f32 %2, 0f00000000;\n"
                 "mov.f32 %3, 0f00000000;\n"
                 "@valid ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];\n"
                 "}"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "l"(from), "r"((int)valid));
    return value;
}

} // namespace mlff

#endif
