/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_DENSE_FUSED_CUH
#define MLFF_CUDA_DENSE_FUSED_CUH
/* Each of the layers that act atom by atom as one kernel, where fragments_fit; chosen by the general paths' files. */
#include "fragments.cuh"
#include "launch.cuh"

namespace mlff
{

template <typename T> mlff_status fused_update_forward(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status fused_update_reverse(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status fused_context_forward(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status fused_context_reverse(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status fused_readout_forward(state<T> *s, mlff_error *error);
template <typename T> mlff_status fused_readout_reverse(state<T> *s, mlff_error *error);

/* Whether blocks of one tile of atoms take less time than blocks of two, of which 256/F run on a multiprocessor at a
 * time: one takes 0.58 of the other's time, the weights being read as often (H200, 1,000 to 50,000 atoms). What becomes
 * of an atom does not depend on it. */
inline bool few_atoms(int32_t N, int F)
{
    const int64_t at_a_time = (int64_t)multiprocessors() * (256 / F), small = TILE_ROWS * at_a_time, large = 2 * small;
    return 0.58 * (double)((N + small - 1) / small) < (double)((N + large - 1) / large);
}

/* Blocks of so many tiles of atoms and 2 F threads: a warp for 16 features. */
template <typename Kernel, typename Arguments>
cudaError_t launch_fused(Kernel kernel, int F, int tiles, size_t shared, int32_t N, cudaStream_t stream,
                         const Arguments &a)
{
    const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (code != cudaSuccess) return code;
    kernel<<<(N + TILE_ROWS * tiles - 1) / (TILE_ROWS * tiles), 2 * F, shared, stream>>>(a);
    return cudaGetLastError();
}

} // namespace mlff

#endif
