/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_BARRIER_CUH
#define MLFF_CUDA_BARRIER_CUH
/*
 * Barriers in shared memory between a warp that brings data and the warps that work on them (PTX: mbarrier). A phase
 * ends when the expected number of arrivals has come; who waits names the phase by its parity.
 */
#include "copies.cuh"

namespace mlff
{

typedef uint64_t barrier;

/* Buffers that are filled and emptied in turn; parity of the phase in which the buffer is filled. */
template <int BUFFERS> struct ring {
    int buffer = 0, parity = 0;
    __device__ void advance()
    {
        if (++buffer < BUFFERS) return;
        buffer = 0, parity ^= 1;
    }
};

__device__ inline void barrier_init(barrier *b, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}

/* Every lane for itself: that costs no more than one for its warp after a __syncwarp, and racecheck follows it. */
__device__ inline void barrier_arrive(barrier *b)
{
    asm volatile("{ .reg .b64 phase; mbarrier.arrive.shared.b64 phase, [%0]; }" ::"r"(shared_address(b)) : "memory");
}

/* An arrival that happens once all asynchronous copies that the thread has started are there. */
__device__ inline void barrier_arrive_with_copies(barrier *b)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}

__device__ inline bool barrier_passed(barrier *b, int parity)
{
    uint32_t passed;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(passed)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
    return passed;
}

__device__ inline void barrier_wait(barrier *b, int parity)
{
    while (!barrier_passed(b, parity)) {
    }
}

} // namespace mlff

#endif
