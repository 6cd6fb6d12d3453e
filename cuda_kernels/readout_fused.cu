/* SPDX-License-Identifier: MIT */
/*
 * Readout (docs/equations.md; the maths stands in readout.cu) in one kernel a direction, for single and mixed. The
 * reverse writes s_adj alone: fused, the last layer's update is what first writes v_adj, which is zero before.
 *
 * Launch   a block of F/16 warps and 32 atoms; pairs of 16 atoms and 16 hidden features go round the warps.
 * Cost     F H multiply-adds an atom each way, three times in single; F + H values of DRAM.
 * Share    0.7 ns an atom forward, 23 % of DRAM's limit; 0.4 in reverse, 109 %, since some stays in L2; F = 128,
 *          single, 110,592 atoms (H200, driver 580.159.04, CUDA 13.0, 2026-11-22).
 * Order    of the energy, in double: a lane's four features, the four lanes of 16 features, the groups of 16 in order.
 */
#include "dense_fused.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- forward */

template <typename T> struct readout_arguments {
    int32_t N;
    int H;
    double scale, bias;
    matrix<float> readout0;
    const float *s, *weights;
    const double *atom_shift;
    const int32_t *species;
    T *slope;
    double *atom_energy;
    int *bad_row;
};

template <typename T, int F> __global__ void __launch_bounds__(2 * F, 256 / F) readout_kernel(readout_arguments<T> a)
{
    constexpr int STEPS = F / GROUP, COUNT = ATOM_TILES * STEPS;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row0 = blockIdx.x * BLOCK_ATOMS, groups = a.H / GROUP;
    uint4 *numbers = (uint4 *)shared;
    float2 *undo = (float2 *)(numbers + COUNT * PARTS<T> * 32);
    double *parts = (double *)(shared + fragment_bytes<T>(COUNT)); /* [BLOCK_ATOMS][groups] */
    const row_fragments rows = {numbers, undo, STEPS};
#pragma unroll
    for (int i = 0; i < ATOM_TILES; i++) {
        float s[2][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r + lane / 4;
            read_four(a.s + (size_t)row * F + warp * GROUP + lane % 4 * 4, row < a.N, s[r]);
        }
        put_rows<T>(rows, i, warp, s);
    }
    __syncthreads();
    for (int item = warp; item < groups * ATOM_TILES; item += STEPS) {
        const int group = item / ATOM_TILES, i = item % ATOM_TILES, column = group * GROUP + lane % 4 * 4;
        const row_fragments tile = {numbers + i * STEPS * PARTS<T> * 32, undo + i * STEPS * 8, STEPS};
        sums<1, 1> c = {};
        multiply<T, 1, 1, 2>(tile, a.readout0, group, 0, 0, STEPS, c);
        const column_ends ends = ends_of(a.readout0, column);
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r + lane / 4;
            float h[4], slope[4];
            double sum = 0;
            outputs(c[0][0], r, ends, h);
            for (int q = 0; q < 4; q++) sum += (double)silu(h[q], &slope[q]) * (double)a.weights[column + q];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (lane % 4 == 0) parts[(row - row0) * groups + group] = sum;
            write_four(a.slope + (size_t)row * a.H + column, row < a.N, slope);
        }
    }
    __syncthreads();
    const int row = row0 + threadIdx.x;
    if (threadIdx.x >= BLOCK_ATOMS || row >= a.N) return;
    double sum = 0;
    for (int group = 0; group < groups; group++) sum += parts[threadIdx.x * groups + group];
    const double energy = a.scale * (sum + a.bias) + a.atom_shift[a.species[row]];
    a.atom_energy[row] = energy;
    if (!isfinite(energy)) atomicMin(&a.bad_row[1], row);
}

/* ---------------------------------------------------------------------------------------------- reverse */

template <typename T> struct readout_reverse_arguments {
    int32_t N;
    int H;
    float scale;
    matrix<float> readout0_T;
    const float *weights;
    const T *slope;
    T *adj;
};

template <typename T, int F>
__global__ void __launch_bounds__(2 * F, 256 / F) readout_reverse_kernel(readout_reverse_arguments<T> a)
{
    constexpr int STEPS = F / GROUP;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row0 = blockIdx.x * BLOCK_ATOMS, groups = a.H / GROUP;
    uint4 *numbers = (uint4 *)shared;
    const row_fragments rows = {numbers, (float2 *)(numbers + ATOM_TILES * groups * PARTS<T> * 32), groups};
    for (int item = warp; item < groups * ATOM_TILES; item += STEPS) {
        const int group = item / ATOM_TILES, i = item % ATOM_TILES, column = group * GROUP + lane % 4 * 4;
        float h_adj[2][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r + lane / 4;
            read_four(a.slope + (size_t)row * a.H + column, row < a.N, h_adj[r]);
#pragma unroll
            for (int q = 0; q < 4; q++) h_adj[r][q] *= a.scale * a.weights[column + q];
        }
        put_rows<T>(rows, i, group, h_adj);
    }
    __syncthreads();
    sums<ATOM_TILES, 1> c = {};
    multiply<T, ATOM_TILES, 1>(rows, a.readout0_T, warp, 0, 0, groups, c);
    const int column = warp * GROUP + lane % 4 * 4;
    const column_ends ends = ends_of(a.readout0_T, column);
#pragma unroll
    for (int i = 0; i < ATOM_TILES; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r + lane / 4;
            float y[4];
            outputs(c[i][0], r, ends, y);
            write_four(a.adj + (size_t)row * 4 * F + sliced(4, column), row < a.N, y);
        }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <int F, typename T> static cudaError_t launch(const state<T> *s, const readout_arguments<T> &a)
{
    const size_t shared =
        fragment_bytes<T>(ATOM_TILES * F / GROUP) + (size_t)BLOCK_ATOMS * a.H / GROUP * sizeof(double);
    return launch_fused(readout_kernel<T, F>, F, ATOM_TILES, shared, s->N, s->stream, a);
}

template <int F, typename T> static cudaError_t launch(const state<T> *s, const readout_reverse_arguments<T> &a)
{
    const size_t shared = fragment_bytes<T>(ATOM_TILES * a.H / GROUP);
    return launch_fused(readout_reverse_kernel<T, F>, F, ATOM_TILES, shared, s->N, s->stream, a);
}

template <typename T, typename Arguments> static cudaError_t launch_any(const state<T> *s, const Arguments &a)
{
    switch (s->w.F) {
    case 32: return launch<32>(s, a);
    case 64: return launch<64>(s, a);
    case 96: return launch<96>(s, a);
    case 128: return launch<128>(s, a);
    }
    return cudaErrorInvalidValue;
}

template <typename T> mlff_status fused_readout_forward(state<T> *s, mlff_error *error)
{
    const weights<float> &w = s->w;
    const readout_arguments<T> a = {s->N,       w.H,          w.scale,    w.readout1_bias,  w.readout0,     s->s,
                                    w.readout1, w.atom_shift, s->species, s->readout_slope, s->atom_energy, s->bad_row};
    const cudaError_t code = launch_any(s, a);
    if (code != cudaSuccess) return cuda_failure(code, "launch of readout", error);
    return MLFF_OK;
}

template <typename T> mlff_status fused_readout_reverse(state<T> *s, mlff_error *error)
{
    const weights<float> &w = s->w;
    const readout_reverse_arguments<T> a = {
        s->N, w.H, (float)(w.scale * adjoint_scale<T>), w.readout0_T, w.readout1, s->readout_slope, s->adj};
    const cudaError_t code = launch_any(s, a);
    if (code != cudaSuccess) return cuda_failure(code, "launch of readout, reverse", error);
    return MLFF_OK;
}

template mlff_status fused_readout_forward(state<float> *, mlff_error *);
template mlff_status fused_readout_forward(state<__half> *, mlff_error *);
template mlff_status fused_readout_reverse(state<float> *, mlff_error *);
template mlff_status fused_readout_reverse(state<__half> *, mlff_error *);

} // namespace mlff
