/* SPDX-License-Identifier: MIT */
/*
 * Update (docs/equations.md; the maths stands in update.cu) in one kernel a direction, for single and mixed.
 *
 * Launch   a block of F/16 warps and 32 atoms. Warp w has features 16 w .. 16 w + 15 of every layer's output, for all atoms
 *          and components: V, U and the dense layers' sums meet in the same lanes, so nothing but the inputs of the
 *          matrix units goes through shared memory. Two blocks of F = 128 a multiprocessor.
 * Shared   inputs of the layer at work: 96 rows of F numbers (F = 128: 51 KB in single, 28 KB in mixed).
 * Cost     11 F^2 multiply-adds an atom each way (10 in the last layer), three times in single; 17 F values of DRAM; weights:
 *          7 F^2 numbers a block from L2.
 * Order    as in fragments.cuh.
 */
#include "dense_fused.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- forward */

template <typename T> struct update_arguments {
    int32_t N;
    float epsilon;
    matrix<float> mix, dense0, dense1;
    const T *v_mid;
    float *s;
    T *VU, *slope, *y_sv, *y_v, *v_out;
};

/* U.V of a lane's columns, kept from the mix to the end. */
template <typename T, int F> constexpr size_t forward_bytes()
{
    constexpr size_t mix = fragment_bytes<T>(3 * ATOM_TILES * F / GROUP), norms = BLOCK_ATOMS * F * sizeof(float),
                     dense = fragment_bytes<T>(2 * ATOM_TILES * F / GROUP) + norms;
    return mix > dense ? mix : dense;
}

template <typename T, int F, bool LAST>
__global__ void __launch_bounds__(2 * F, 256 / F) update_kernel(update_arguments<T> a)
{
    constexpr int STEPS = F / GROUP, OUT = LAST ? 2 : 3;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = warp * GROUP + lane % 4 * 4;
    const int lane_row = blockIdx.x * BLOCK_ATOMS + lane / 4;
    uint4 *numbers = (uint4 *)shared;
    {
        const int row0 = anew(lane_row);
        float v[3][ATOM_TILES][2][4];
#pragma unroll
        for (int c = 0; c < 3; c++)
#pragma unroll
            for (int q = 0; q < 2 * ATOM_TILES; q++) {
                const int row = row0 + 8 * q;
                read_four(a.v_mid + ((size_t)row * 3 + c) * F + column, row < a.N, v[c][q / 2][q % 2]);
            }
        const row_fragments rows = {numbers, (float2 *)(numbers + 3 * ATOM_TILES * STEPS * PARTS<T> * 32), STEPS};
#pragma unroll
        for (int c = 0; c < 3; c++)
#pragma unroll
            for (int i = 0; i < ATOM_TILES; i++) put_rows<T>(rows, c * ATOM_TILES + i, warp, v[c][i]);
    }
    __syncthreads();

    float n[ATOM_TILES][2][4] = {}, UV[ATOM_TILES][2][4] = {};
#pragma unroll 1
    for (int part = 0; part < 2; part++) { /* V, then U; V is read again, there is no room for both in registers */
        const row_fragments rows = {numbers, (float2 *)(numbers + 3 * ATOM_TILES * STEPS * PARTS<T> * 32), STEPS};
        sums<3 * ATOM_TILES, 1> c = {};
        multiply<T, 3 * ATOM_TILES, 1>(rows, a.mix, part * STEPS + warp, 0, 0, STEPS, c);
        const int row0 = anew(lane_row);
#pragma unroll
        for (int tile = 0; tile < 3 * ATOM_TILES; tile++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = row0 + 16 * (tile % ATOM_TILES) + 8 * r;
                float y[4];
                outputs(c[tile][0], r, a.mix, part * F + column, y);
                write_four(a.VU + (((size_t)row * 3 + tile / ATOM_TILES) * 2 + part) * F + column, row < a.N, y);
#pragma unroll
                for (int q = 0; q < 4; q++) c[tile][0][q / 2][2 * r + q % 2] = as_stored<T>(y[q]);
            }
        if (part == 0) continue;
#pragma unroll
        for (int tile = 0; tile < 3 * ATOM_TILES; tile++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int i = tile % ATOM_TILES, row = row0 + 16 * i + 8 * r;
                float V[4];
                read_four(a.VU + ((size_t)row * 3 + tile / ATOM_TILES) * 2 * F + column, row < a.N, V);
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    n[i][r][q] += V[q] * V[q];
                    UV[i][r][q] += V[q] * c[tile][0][q / 2][2 * r + q % 2];
                }
            }
    }

    float4 *kept = (float4 *)(shared + fragment_bytes<T>(2 * ATOM_TILES * F / GROUP)) + threadIdx.x;
    {
        const row_fragments rows = {numbers, (float2 *)(numbers + 2 * ATOM_TILES * STEPS * PARTS<T> * 32), 2 * STEPS};
        const int row0 = anew(lane_row);
        float s[ATOM_TILES][2][4];
#pragma unroll
        for (int q = 0; q < 2 * ATOM_TILES; q++)
            read_four(a.s + (size_t)(row0 + 8 * q) * F + column, row0 + 8 * q < a.N, s[q / 2][q % 2]);
        __syncthreads(); /* all warps are done with v */
#pragma unroll
        for (int i = 0; i < ATOM_TILES; i++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
#pragma unroll
                for (int q = 0; q < 4; q++) n[i][r][q] = sqrtf(n[i][r][q] + a.epsilon);
                kept[(i * 2 + r) * 2 * F] = make_float4(UV[i][r][0], UV[i][r][1], UV[i][r][2], UV[i][r][3]);
            }
            put_rows<T>(rows, i, warp, s[i]);
            put_rows<T>(rows, i, STEPS + warp, n[i]);
        }
        __syncthreads();
        sums<ATOM_TILES, 1> c = {};
        multiply<T, ATOM_TILES, 1>(rows, a.dense0, warp, 0, 0, 2 * STEPS, c);
        const int slope_row0 = anew(lane_row);
        float h[ATOM_TILES][2][4];
#pragma unroll
        for (int i = 0; i < ATOM_TILES; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = slope_row0 + 16 * i + 8 * r;
                float y[4], slope[4];
                outputs(c[i][0], r, a.dense0, column, y);
#pragma unroll
                for (int q = 0; q < 4; q++) h[i][r][q] = silu(y[q], &slope[q]);
                write_four(a.slope + (size_t)row * F + column, row < a.N, slope);
            }
        __syncthreads();
        const row_fragments hidden = {numbers, rows.undo, STEPS};
#pragma unroll
        for (int i = 0; i < ATOM_TILES; i++) put_rows<T>(hidden, i, warp, h[i]);
    }
    __syncthreads();

    const row_fragments hidden = {numbers, (float2 *)(numbers + 2 * ATOM_TILES * STEPS * PARTS<T> * 32), STEPS};
    sums<ATOM_TILES, OUT> c = {};
    multiply<T, ATOM_TILES, OUT>(hidden, a.dense1, warp, STEPS, 0, STEPS, c);
    const int row0 = anew(lane_row);
#pragma unroll
    for (int i = 0; i < ATOM_TILES; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r;
            const bool valid = row < a.N;
            const size_t at = (size_t)row * F + column;
            const float4 product = kept[(i * 2 + r) * 2 * F];
            float s[4], y[4], y_sv[4];
            read_four(a.s + at, valid, s);
            outputs(c[i][0], r, a.dense1, column, y);
            outputs(c[i][1], r, a.dense1, F + column, y_sv);
            s[0] += y[0] + y_sv[0] * product.x, s[1] += y[1] + y_sv[1] * product.y;
            s[2] += y[2] + y_sv[2] * product.z, s[3] += y[3] + y_sv[3] * product.w;
            write_four(a.s + at, valid, s);
            write_four(a.y_sv + at, valid, y_sv);
            if (LAST) continue;
            outputs(c[i][OUT - 1], r, a.dense1, 2 * F + column, y);
            write_four(a.y_v + at, valid, y);
#pragma unroll
            for (int k = 0; k < 3; k++) {
                float v[4], U[4];
                read_four(a.v_mid + ((size_t)row * 3 + k) * F + column, valid, v);
                read_four(a.VU + (((size_t)row * 3 + k) * 2 + 1) * F + column, valid, U);
#pragma unroll
                for (int q = 0; q < 4; q++) v[q] += y[q] * U[q];
                write_four(a.v_out + ((size_t)row * 3 + k) * F + column, valid, v);
            }
        }
}

/* ---------------------------------------------------------------------------------------------- reverse */

template <typename T> struct update_reverse_arguments {
    int32_t N;
    float epsilon;
    matrix<float> mix_T, dense0_T, dense1_T;
    const T *VU, *slope, *y_sv, *y_v;
    T *adj;
};

template <typename T, int F> constexpr size_t reverse_bytes()
{
    return fragment_bytes<T>(3 * ATOM_TILES * F / GROUP) + BLOCK_ATOMS * F * sizeof(float);
}

/* Products of adjoints and V, U: (s_adj, s_adj U.V, U.v_adj) of 32 atoms. */
template <typename T, int F, bool LAST>
__device__ inline void put_output_adjoints(const update_reverse_arguments<T> &a, const row_fragments &rows, int warp,
                                           int row0, int column)
{
    constexpr int STEPS = F / GROUP;
#pragma unroll
    for (int i = 0; i < ATOM_TILES; i++) {
        float y_adj[3][2][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r;
            const T *adj = a.adj + (size_t)row * 4 * F + column;
            float U[4], V[4], v_adj[4];
            read_four(adj, row < a.N, y_adj[0][r]);
#pragma unroll
            for (int q = 0; q < 4; q++) y_adj[1][r][q] = y_adj[2][r][q] = 0;
#pragma unroll
            for (int k = 0; k < 3; k++) {
                const T *V_at = a.VU + ((size_t)row * 3 + k) * 2 * F + column;
                read_four(V_at, row < a.N, V);
                read_four(V_at + F, row < a.N, U);
                if (!LAST) read_four(adj + (1 + k) * F, row < a.N, v_adj);
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    y_adj[1][r][q] += U[q] * V[q];
                    if (!LAST) y_adj[2][r][q] += U[q] * v_adj[q];
                }
            }
#pragma unroll
            for (int q = 0; q < 4; q++) y_adj[1][r][q] *= y_adj[0][r][q];
        }
#pragma unroll
        for (int part = 0; part < (LAST ? 2 : 3); part++) put_rows<T>(rows, i, part * STEPS + warp, y_adj[part]);
    }
}

template <typename T, int F, bool LAST>
__global__ void __launch_bounds__(2 * F, 256 / F) update_reverse_kernel(update_reverse_arguments<T> a)
{
    constexpr int STEPS = F / GROUP, OUT = LAST ? 2 : 3;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = warp * GROUP + lane % 4 * 4;
    const int lane_row = blockIdx.x * BLOCK_ATOMS + lane / 4;
    uint4 *numbers = (uint4 *)shared;
    float2 *undo = (float2 *)(numbers + 3 * ATOM_TILES * STEPS * PARTS<T> * 32);
    const row_fragments outputs_adj = {numbers, undo, OUT * STEPS}, rows = {numbers, undo, STEPS};
    put_output_adjoints<T, F, LAST>(a, outputs_adj, warp, lane_row, column);
    __syncthreads();
    {
        sums<ATOM_TILES, 1> c = {};
        multiply<T, ATOM_TILES, 1>(outputs_adj, a.dense1_T, warp, 0, 0, OUT * STEPS, c);
        const int row0 = anew(lane_row);
        float h_adj[ATOM_TILES][2][4];
#pragma unroll
        for (int i = 0; i < ATOM_TILES; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = row0 + 16 * i + 8 * r;
                float slope[4];
                read_four(a.slope + (size_t)row * F + column, row < a.N, slope);
                outputs(c[i][0], r, a.dense1_T, column, h_adj[i][r]);
#pragma unroll
                for (int q = 0; q < 4; q++) h_adj[i][r][q] *= slope[q];
            }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ATOM_TILES; i++) put_rows<T>(rows, i, warp, h_adj[i]);
    }
    __syncthreads();

    float4 *kept = (float4 *)(shared + fragment_bytes<T>(3 * ATOM_TILES * F / GROUP)) + threadIdx.x; /* s_adj y_sv */
    {
        sums<ATOM_TILES, 2> c = {};
        multiply<T, ATOM_TILES, 2>(rows, a.dense0_T, warp, STEPS, 0, STEPS, c);
        const int row0 = anew(lane_row);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ATOM_TILES; i++) {
            float V_adj[3][2][4];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = row0 + 16 * i + 8 * r;
                const bool valid = row < a.N;
                T *adj = a.adj + (size_t)row * 4 * F + column;
                float s_adj[4], in_adj[4], across[4], V[3][4], U[3][4];
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    const T *V_at = a.VU + ((size_t)row * 3 + k) * 2 * F + column;
                    read_four(V_at, valid, V[k]);
                    read_four(V_at + F, valid, U[k]);
                }
                read_four(adj, valid, s_adj);
                read_four(a.y_sv + (size_t)row * F + column, valid, across);
                outputs(c[i][0], r, a.dense0_T, column, in_adj);
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    across[q] *= s_adj[q];
                    s_adj[q] += in_adj[q];
                }
                write_four(adj, valid, s_adj);
                kept[(i * 2 + r) * 2 * F] = make_float4(across[0], across[1], across[2], across[3]);
                outputs(c[i][1], r, a.dense0_T, F + column, in_adj);
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    const float square = a.epsilon + V[0][q] * V[0][q] + V[1][q] * V[1][q] + V[2][q] * V[2][q];
                    const float along = square > 0 ? in_adj[q] * rsqrtf(square) : 0;
#pragma unroll
                    for (int k = 0; k < 3; k++) V_adj[k][r][q] = along * V[k][q] + across[q] * U[k][q];
                }
            }
#pragma unroll
            for (int k = 0; k < 3; k++) put_rows<T>(rows, k * ATOM_TILES + i, warp, V_adj[k]);
        }
    }
    __syncthreads();

    sums<3 * ATOM_TILES, 1> c = {};
#pragma unroll 1
    for (int part = 0; part < 2; part++) { /* V, then U */
        if (part == 1) {
            const int row0 = anew(lane_row);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < ATOM_TILES; i++)
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    float U_adj[2][4];
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        const int row = row0 + 16 * i + 8 * r;
                        const float4 across = kept[(i * 2 + r) * 2 * F];
                        float V[4], v_adj[4] = {0, 0, 0, 0}, y_v[4] = {0, 0, 0, 0};
                        read_four(a.VU + ((size_t)row * 3 + k) * 2 * F + column, row < a.N, V);
                        if (!LAST) {
                            read_four(a.adj + ((size_t)row * 4 + 1 + k) * F + column, row < a.N, v_adj);
                            read_four(a.y_v + (size_t)row * F + column, row < a.N, y_v);
                        }
                        U_adj[r][0] = across.x * V[0] + v_adj[0] * y_v[0];
                        U_adj[r][1] = across.y * V[1] + v_adj[1] * y_v[1];
                        U_adj[r][2] = across.z * V[2] + v_adj[2] * y_v[2];
                        U_adj[r][3] = across.w * V[3] + v_adj[3] * y_v[3];
                    }
                    put_rows<T>(rows, k * ATOM_TILES + i, warp, U_adj);
                }
            __syncthreads();
        }
        multiply<T, 3 * ATOM_TILES, 1>(rows, a.mix_T, warp, 0, part * STEPS, STEPS, c);
    }
    const int row0 = anew(lane_row);
#pragma unroll
    for (int tile = 0; tile < 3 * ATOM_TILES; tile++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * (tile % ATOM_TILES) + 8 * r;
            T *adj = a.adj + ((size_t)row * 4 + 1 + tile / ATOM_TILES) * F + column;
            float y[4], v_adj[4] = {0, 0, 0, 0};
            if (!LAST) read_four(adj, row < a.N, v_adj); /* of the last layer: not yet there */
            outputs(c[tile][0], r, a.mix_T, column, y);
#pragma unroll
            for (int q = 0; q < 4; q++) y[q] += v_adj[q];
            write_four(adj, row < a.N, y);
        }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T, int F, bool LAST> static cudaError_t launch(const state<T> *s, const update_arguments<T> &a)
{
    return launch_fused(update_kernel<T, F, LAST>, F, forward_bytes<T, F>(), s->N, s->stream, a);
}

template <typename T, int F, bool LAST>
static cudaError_t launch(const state<T> *s, const update_reverse_arguments<T> &a)
{
    return launch_fused(update_reverse_kernel<T, F, LAST>, F, reverse_bytes<T, F>(), s->N, s->stream, a);
}

template <typename T, int F, typename Arguments>
static cudaError_t launch_width(const state<T> *s, int l, const Arguments &a)
{
    return l == s->w.L - 1 ? launch<T, F, true>(s, a) : launch<T, F, false>(s, a);
}

template <typename T, typename Arguments> static cudaError_t launch_any(const state<T> *s, int l, const Arguments &a)
{
    switch (s->w.F) {
    case 32: return launch_width<T, 32>(s, l, a);
    case 64: return launch_width<T, 64>(s, l, a);
    case 96: return launch_width<T, 96>(s, l, a);
    case 128: return launch_width<T, 128>(s, l, a);
    }
    return cudaErrorInvalidValue;
}

template <typename T> mlff_status fused_update_forward(state<T> *s, int l, mlff_error *error)
{
    const layer_weights<float> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    T *v_out = l == s->w.L - 1 ? nullptr : s->layer[l + 1].v;
    const update_arguments<T> a = {s->N, s->w.epsilon, w.mix,         w.dense0, w.dense1, s->v_mid,
                                   s->s, t.VU,         t.dense_slope, t.y_sv,   t.y_v,    v_out};
    const cudaError_t code = launch_any(s, l, a);
    if (code != cudaSuccess) return cuda_failure(code, "launch of update", error);
    return MLFF_OK;
}

template <typename T> mlff_status fused_update_reverse(state<T> *s, int l, mlff_error *error)
{
    const layer_weights<float> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    const update_reverse_arguments<T> a = {s->N, s->w.epsilon,  w.mix_T, w.dense0_T, w.dense1_T,
                                           t.VU, t.dense_slope, t.y_sv,  t.y_v,      s->adj};
    const cudaError_t code = launch_any(s, l, a);
    if (code != cudaSuccess) return cuda_failure(code, "launch of update, reverse", error);
    return MLFF_OK;
}

template mlff_status fused_update_forward(state<float> *, int, mlff_error *);
template mlff_status fused_update_forward(state<__half> *, int, mlff_error *);
template mlff_status fused_update_reverse(state<float> *, int, mlff_error *);
template mlff_status fused_update_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
