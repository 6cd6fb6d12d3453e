/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_LAUNCH_CUH
#define MLFF_CUDA_LAUNCH_CUH
/* Sizes of launches. */
#include <cuda_runtime.h>
#include <stdint.h>

namespace mlff
{

/* Blocks of 256 threads for n values, a thread a value. */
inline unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + 255) / 256);
}

/* Of the device in use. */
inline int multiprocessors()
{
    int device = 0, count = 1;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
}

/* Blocks that fill the machine, for kernels that work through many rows with their weights in registers; allows the
 * kernel its shared memory (bytes a block). */
template <typename Kernel> int blocks_for(Kernel kernel, int threads, size_t shared, int32_t rows)
{
    int per_processor = 1;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, threads, shared);
    const int full = multiprocessors() * (per_processor > 0 ? per_processor : 1);
    return rows < full ? rows : full;
}

} // namespace mlff

#endif
