/* SPDX-License-Identifier: MIT */
/*
 * Context (docs/equations.md; the maths stands in context.cu) in one kernel a direction, for single and mixed.
 *
 * Launch   a block of F/16 warps and 32 atoms, warp w has features 16 w .. 16 w + 15 (update_fused.cu).
 * Cost     4 F^2 multiply-adds an atom each way, three times in single.
 * Bytes    11 F values of DRAM an atom forward, 18 F in reverse (single, F = 128: 1.3 and 2.2 ns at 4.2 TB/s); weights:
 *          4 F^2 numbers a block from L2.
 * Order    as in fragments.cuh.
 * Measured with each read next to its use, F = 128, single, 110,592 atoms: 3.1 ns an atom forward, 4.1 in reverse
 *          (H200, driver 580.159.04, CUDA 13.0, 2026-11-21).
 * Share    of the limit, DRAM: single 2.2 and 2.9 ns (53 and 67 %), mixed 1.3 and 1.7 (49 and 58 %) (2026-11-22).
 */
#include "dense_fused.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- forward */

template <typename T> struct context_arguments {
    int32_t N;
    matrix<float> context0, context1;
    const float *s;
    const T *v;
    T *slope, *features, *x_v;
};

template <typename T, int F, int TILES>
__global__ void __launch_bounds__(2 * F, 256 / F) context_kernel(context_arguments<T> a)
{
    constexpr int STEPS = F / GROUP, COUNT = TILES * STEPS;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = warp * GROUP + lane % 4 * 4;
    const int row0 = blockIdx.x * (TILE_ROWS * TILES) + lane / 4;
    uint4 *numbers = (uint4 *)shared;
    float2 *undo = (float2 *)(numbers + 2 * COUNT * PARTS<T> * 32);
    const row_fragments rows = {numbers, undo, STEPS},
                        hidden = {numbers + COUNT * PARTS<T> * 32, undo + COUNT * 8, STEPS};
    float x[TILES][2][4];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        read_four(a.s + (size_t)(row0 + 8 * q) * F + column, row0 + 8 * q < a.N, x[q / 2][q % 2]);
#pragma unroll
    for (int i = 0; i < TILES; i++) put_rows<T>(rows, i, warp, x[i]);
    __syncthreads();
    {
        sums<TILES, 1> c = {};
        multiply<T, TILES, 1>(rows, a.context0, warp, 0, 0, STEPS, c);
        const column_ends ends = ends_of(a.context0, column);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = row0 + 16 * i + 8 * r;
                float y[4], slope[4];
                outputs(c[i][0], r, ends, y);
#pragma unroll
                for (int q = 0; q < 4; q++) x[i][r][q] = silu(y[q], &slope[q]);
                write_four(a.slope + (size_t)row * F + column, row < a.N, slope);
            }
            put_rows<T>(hidden, i, warp, x[i]);
        }
    }
    __syncthreads();
    sums<TILES, 3> c = {};
    multiply<T, TILES, 3>(hidden, a.context1, warp, STEPS, 0, STEPS, c);
    float v[3][2 * TILES][4]; /* read before anything is written, which reads could not pass */
#pragma unroll
    for (int q = 0; q < 6 * TILES; q++) {
        const int row = row0 + 8 * (q / 3);
        read_four(a.v + ((size_t)row * 3 + q % 3) * F + column, row < a.N, v[q % 3][q / 3]);
    }
#pragma unroll
    for (int part = 0; part < 3; part++) {
        const column_ends ends = ends_of(a.context1, part * F + column);
#pragma unroll
        for (int q = 0; q < 2 * TILES; q++) {
            const int row = row0 + 8 * q;
            T *features = a.features + (size_t)row * 5 * F + sliced(5, column);
            float y[4];
            outputs(c[q / 2][part], q % 2, ends, y);
            write_four(part < 2 ? features + part * SLICE : a.x_v + (size_t)row * F + column, row < a.N, y);
            if (part < 2) continue;
#pragma unroll
            for (int k = 0; k < 3; k++) {
#pragma unroll
                for (int p = 0; p < 4; p++) v[k][q][p] *= y[p];
                write_four(features + (2 + k) * SLICE, row < a.N, v[k][q]);
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------- reverse */

template <typename T> struct context_reverse_arguments {
    int32_t N;
    matrix<float> context0_T, context1_T;
    const T *features_adj, *v, *slope, *x_v;
    T *adj;
};

template <typename T, int F, int TILES>
__global__ void __launch_bounds__(2 * F, 256 / F) context_reverse_kernel(context_reverse_arguments<T> a)
{
    constexpr int STEPS = F / GROUP;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = warp * GROUP + lane % 4 * 4;
    const int row0 = blockIdx.x * (TILE_ROWS * TILES) + lane / 4;
    uint4 *numbers = (uint4 *)shared;
    float2 *undo = (float2 *)(numbers + 3 * TILES * STEPS * PARTS<T> * 32);
    const row_fragments outputs_adj = {numbers, undo, 3 * STEPS}, hidden = {numbers, undo, STEPS};
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float x_adj[3][2][4], x_v[2][4], y_adj[3][2][4], v[3][2][4], v_adj[3][2][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r;
            const T *in = a.features_adj + (size_t)row * 5 * F + sliced(5, column);
            read_four(in, row < a.N, x_adj[0][r]);
            read_four(in + SLICE, row < a.N, x_adj[1][r]);
            read_four(a.x_v + (size_t)row * F + column, row < a.N, x_v[r]);
#pragma unroll
            for (int k = 0; k < 3; k++) {
                read_four(in + (2 + k) * SLICE, row < a.N, y_adj[k][r]);
                read_four(a.v + ((size_t)row * 3 + k) * F + column, row < a.N, v[k][r]);
                read_four(a.adj + (size_t)row * 4 * F + sliced(4, column) + (1 + k) * SLICE, row < a.N, v_adj[k][r]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r;
#pragma unroll
            for (int q = 0; q < 4; q++) x_adj[2][r][q] = 0;
#pragma unroll
            for (int k = 0; k < 3; k++) {
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    x_adj[2][r][q] += y_adj[k][r][q] * v[k][r][q];
                    v_adj[k][r][q] += y_adj[k][r][q] * x_v[r][q];
                }
                write_four(a.adj + (size_t)row * 4 * F + sliced(4, column) + (1 + k) * SLICE, row < a.N, v_adj[k][r]);
            }
        }
#pragma unroll
        for (int part = 0; part < 3; part++) put_rows<T>(outputs_adj, i, part * STEPS + warp, x_adj[part]);
    }
    __syncthreads();
    {
        sums<TILES, 1> c = {};
        multiply<T, TILES, 1>(outputs_adj, a.context1_T, warp, 0, 0, 3 * STEPS, c);
        const column_ends ends = ends_of(a.context1_T, column);
        float h_adj[TILES][2][4], slope[TILES][2][4];
#pragma unroll
        for (int q = 0; q < 2 * TILES; q++)
            read_four(a.slope + (size_t)(row0 + 8 * q) * F + column, row0 + 8 * q < a.N, slope[q / 2][q % 2]);
#pragma unroll
        for (int q = 0; q < 2 * TILES; q++) {
            outputs(c[q / 2][0], q % 2, ends, h_adj[q / 2][q % 2]);
#pragma unroll
            for (int p = 0; p < 4; p++) h_adj[q / 2][q % 2][p] *= slope[q / 2][q % 2][p];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILES; i++) put_rows<T>(hidden, i, warp, h_adj[i]);
    }
    __syncthreads();
    sums<TILES, 1> c = {};
    multiply<T, TILES, 1>(hidden, a.context0_T, warp, 0, 0, STEPS, c);
    const column_ends ends = ends_of(a.context0_T, column);
    float s_adj[2 * TILES][4];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        read_four(a.adj + (size_t)(row0 + 8 * q) * 4 * F + sliced(4, column), row0 + 8 * q < a.N, s_adj[q]);
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        float y[4];
        outputs(c[q / 2][0], q % 2, ends, y);
#pragma unroll
        for (int p = 0; p < 4; p++) s_adj[q][p] += y[p];
        write_four(a.adj + (size_t)(row0 + 8 * q) * 4 * F + sliced(4, column), row0 + 8 * q < a.N, s_adj[q]);
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <int F, int TILES, typename T> static cudaError_t launch(const state<T> *s, const context_arguments<T> &a)
{
    constexpr size_t shared = fragment_bytes<T>(2 * TILES * F / GROUP);
    return launch_fused(context_kernel<T, F, TILES>, F, TILES, shared, s->N, s->stream, a);
}

template <int F, int TILES, typename T>
static cudaError_t launch(const state<T> *s, const context_reverse_arguments<T> &a)
{
    constexpr size_t shared = fragment_bytes<T>(3 * TILES * F / GROUP);
    return launch_fused(context_reverse_kernel<T, F, TILES>, F, TILES, shared, s->N, s->stream, a);
}

template <int F, typename T, typename Arguments> static cudaError_t launch_width(const state<T> *s, const Arguments &a)
{
    return few_atoms(s->N, F) ? launch<F, 1>(s, a) : launch<F, 2>(s, a);
}

template <typename T, typename Arguments> static cudaError_t launch_any(const state<T> *s, const Arguments &a)
{
    switch (s->w.F) {
    case 32: return launch_width<32>(s, a);
    case 64: return launch_width<64>(s, a);
    case 96: return launch_width<96>(s, a);
    case 128: return launch_width<128>(s, a);
    }
    return cudaErrorInvalidValue;
}

template <typename T> mlff_status fused_context_forward(state<T> *s, int l, mlff_error *error)
{
    const layer_weights<float> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    const context_arguments<T> a = {s->N, w.context0, w.context1, s->s, t.v, t.context_slope, t.features, t.x_v};
    const cudaError_t code = launch_any(s, a);
    if (code != cudaSuccess) return cuda_failure(code, "launch of context", error);
    return MLFF_OK;
}

template <typename T> mlff_status fused_context_reverse(state<T> *s, int l, mlff_error *error)
{
    const layer_weights<float> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    const context_reverse_arguments<T> a = {s->N, w.context0_T,    w.context1_T, t.features_adj,
                                            t.v,  t.context_slope, t.x_v,        s->adj};
    const cudaError_t code = launch_any(s, a);
    if (code != cudaSuccess) return cuda_failure(code, "launch of context, reverse", error);
    return MLFF_OK;
}

template mlff_status fused_context_forward(state<float> *, int, mlff_error *);
template mlff_status fused_context_forward(state<__half> *, int, mlff_error *);
template mlff_status fused_context_reverse(state<float> *, int, mlff_error *);
template mlff_status fused_context_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
