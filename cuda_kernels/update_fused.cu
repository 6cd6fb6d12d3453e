/* SPDX-License-Identifier: MIT */
/*
 * Update (docs/equations.md; the maths stands in update.cu) in one kernel a direction, for single and mixed.
 *
 * Launch   a block of F/16 warps and 32 atoms. Warp w has features 16 w .. 16 w + 15 of every layer's output, for all
 *          atoms and components: V, U and the dense layers' sums meet in the same lanes, so nothing but the inputs of
 *          the matrix units goes through shared memory. Two blocks of F = 128 a multiprocessor.
 * Shared   inputs of the layer at work, 96 rows of F numbers; in reverse F values an atom too (single, 128: 51, 67 KB).
 * Cost     11 F^2 multiply-adds an atom each way (10 in the last layer), three times in single.
 * Bytes    single, F = 128: 17 F values of DRAM an atom, 8.7 kB (2.1 ns at 4.2 TB/s); from L2 also 7 F^2 numbers of
 *          weights a block, 14 kB an atom, and values read again, 5 kB forward, 8 kB in reverse. Matrix units 1.8 ns.
 * Order    as in fragments.cuh.
 * Measured with each read of an epilogue next to its use, F = 128, single, 110,592 atoms: 7.7 ns an atom forward, 7.5
 *          in reverse, 5.2 and 5.4 in the last layer (H200, driver 580.159.04, CUDA 13.0, 2026-11-21); the time went
 *          into waiting for those reads (28 % of the samples), matrix units 27 to 33 % busy, DRAM 29 %. Hence all reads
 *          of a tile stand before its writes.
 * Share    of the limit, with weights of several steps ahead: single 5.8 ns an atom, 4.3 in the last layer, in reverse
 *          6.2 and 5.0 (35 to 46 % of what matrix units or DRAM need), mixed 2.9, 2.3, 3.2 and 2.5 (28 to 35 %); L1 and
 *          shared memory are 70 to 74 % busy (H200, driver 580.159.04, CUDA 13.0, 2026-11-22).
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
template <typename T, int F, int TILES> constexpr size_t forward_bytes()
{
    constexpr size_t mix = fragment_bytes<T>(3 * TILES * F / GROUP), norms = (TILE_ROWS * TILES) * F * sizeof(float),
                     dense = fragment_bytes<T>(2 * TILES * F / GROUP) + norms;
    return mix > dense ? mix : dense;
}

/* V (part 0) or U (1); with U also |V|^2 and U.V: V is read again, there is no room for both in registers. */
template <typename T, int F, int TILES, int PART>
__device__ inline void mix(const update_arguments<T> &a, const row_fragments &rows, int warp, int lane_row, int column,
                           float (&n)[TILES][2][4], float (&UV)[TILES][2][4])
{
    sums<3 * TILES, 1> c = {};
    multiply<T, 3 * TILES, 1>(rows, a.mix, PART * F / GROUP + warp, 0, 0, F / GROUP, c);
    const int row0 = anew(lane_row);
    const column_ends ends = ends_of(a.mix, PART * F + column);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float V[3][2][4];
        if (PART == 1)
#pragma unroll
            for (int q = 0; q < 6; q++) {
                const int row = row0 + 16 * i + 8 * (q % 2);
                read_four(a.VU + ((size_t)row * 3 + q / 2) * 2 * F + column, row < a.N, V[q / 2][q % 2]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int k = 0; k < 3; k++) {
                const int row = row0 + 16 * i + 8 * r;
                float y[4];
                outputs(c[k * TILES + i][0], r, ends, y);
                write_four(a.VU + (((size_t)row * 3 + k) * 2 + PART) * F + column, row < a.N, y);
                if (PART == 1)
#pragma unroll
                    for (int q = 0; q < 4; q++) {
                        n[i][r][q] = (k > 0 ? n[i][r][q] : 0) + V[k][r][q] * V[k][r][q];
                        UV[i][r][q] = (k > 0 ? UV[i][r][q] : 0) + V[k][r][q] * as_stored<T>(y[q]);
                    }
            }
    }
}

/* s += y_s + y_sv U.V */
template <typename T, int F, int TILES>
__device__ inline void apply_scalars(const update_arguments<T> &a, const row_fragments &hidden, int warp, int lane_row,
                                     int column, const float4 *UV)
{
    sums<TILES, 2> c = {};
    multiply<T, TILES, 2>(hidden, a.dense1, warp, F / GROUP, 0, F / GROUP, c);
    const int row0 = anew(lane_row);
    float s[2 * TILES][4]; /* all reads before the writes, which they could not pass */
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) read_four(a.s + (size_t)(row0 + 8 * q) * F + column, row0 + 8 * q < a.N, s[q]);
    const column_ends ends = ends_of(a.dense1, column), ends_sv = ends_of(a.dense1, F + column);
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const int row = row0 + 8 * q;
        const float4 product = UV[q * 2 * F];
        float y[4], y_sv[4];
        outputs(c[q / 2][0], q % 2, ends, y);
        outputs(c[q / 2][1], q % 2, ends_sv, y_sv);
        s[q][0] += y[0] + y_sv[0] * product.x, s[q][1] += y[1] + y_sv[1] * product.y;
        s[q][2] += y[2] + y_sv[2] * product.z, s[q][3] += y[3] + y_sv[3] * product.w;
        write_four(a.s + (size_t)row * F + column, row < a.N, s[q]);
        write_four(a.y_sv + (size_t)row * F + column, row < a.N, y_sv);
    }
}

template <typename T, int F>
__device__ inline void read_vectors(const update_arguments<T> &a, int row0, int column, float (&v)[3][2][4],
                                    float (&U)[3][2][4])
{
#pragma unroll
    for (int q = 0; q < 6; q++) {
        const int row = row0 + 8 * (q % 2), k = q / 2;
        read_four(a.VU + (((size_t)row * 3 + k) * 2 + 1) * F + column, row < a.N, U[k][q % 2]);
        read_four(a.v_mid + ((size_t)row * 3 + k) * F + column, row < a.N, v[k][q % 2]);
    }
}

/* v += y_v U; what the first tile needs is on its way while y_v is made */
template <typename T, int F, int TILES>
__device__ inline void apply_vectors(const update_arguments<T> &a, const row_fragments &hidden, int warp, int lane_row,
                                     int column)
{
    const int row0 = anew(lane_row);
    float v[3][2][4], U[3][2][4];
    read_vectors<T, F>(a, row0, column, v, U);
    sums<TILES, 1> c = {};
    multiply<T, TILES, 1>(hidden, a.dense1, 2 * (F / GROUP) + warp, 0, 0, F / GROUP, c);
    const column_ends ends = ends_of(a.dense1, 2 * F + column);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        if (i > 0) read_vectors<T, F>(a, row0 + 16 * i, column, v, U);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r;
            float y_v[4];
            outputs(c[i][0], r, ends, y_v);
            write_four(a.y_v + (size_t)row * F + column, row < a.N, y_v);
#pragma unroll
            for (int k = 0; k < 3; k++) {
#pragma unroll
                for (int q = 0; q < 4; q++) v[k][r][q] += y_v[q] * U[k][r][q];
                write_four(a.v_out + ((size_t)row * 3 + k) * F + column, row < a.N, v[k][r]);
            }
        }
    }
}

template <typename T, int F, int TILES, bool LAST>
__global__ void __launch_bounds__(2 * F, 256 / F) update_kernel(update_arguments<T> a)
{
    constexpr int STEPS = F / GROUP;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = warp * GROUP + lane % 4 * 4;
    const int lane_row = blockIdx.x * (TILE_ROWS * TILES) + lane / 4;
    uint4 *numbers = (uint4 *)shared;
    {
        const int row0 = anew(lane_row);
        float v[3][TILES][2][4];
#pragma unroll
        for (int c = 0; c < 3; c++)
#pragma unroll
            for (int q = 0; q < 2 * TILES; q++) {
                const int row = row0 + 8 * q;
                read_four(a.v_mid + ((size_t)row * 3 + c) * F + column, row < a.N, v[c][q / 2][q % 2]);
            }
        const row_fragments rows = {numbers, (float2 *)(numbers + 3 * TILES * STEPS * PARTS<T> * 32), STEPS};
#pragma unroll
        for (int c = 0; c < 3; c++)
#pragma unroll
            for (int i = 0; i < TILES; i++) put_rows<T>(rows, c * TILES + i, warp, v[c][i]);
    }
    __syncthreads();

    float n[TILES][2][4], UV[TILES][2][4];
    {
        const row_fragments rows = {numbers, (float2 *)(numbers + 3 * TILES * STEPS * PARTS<T> * 32), STEPS};
        mix<T, F, TILES, 0>(a, rows, warp, lane_row, column, n, UV);
        mix<T, F, TILES, 1>(a, rows, warp, lane_row, column, n, UV);
    }

    float4 *kept = (float4 *)(shared + fragment_bytes<T>(2 * TILES * F / GROUP)) + threadIdx.x;
    {
        const row_fragments rows = {numbers, (float2 *)(numbers + 2 * TILES * STEPS * PARTS<T> * 32), 2 * STEPS};
        const int row0 = anew(lane_row);
        float s[TILES][2][4];
#pragma unroll
        for (int q = 0; q < 2 * TILES; q++)
            read_four(a.s + (size_t)(row0 + 8 * q) * F + column, row0 + 8 * q < a.N, s[q / 2][q % 2]);
        __syncthreads(); /* all warps are done with v */
#pragma unroll
        for (int i = 0; i < TILES; i++) {
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
        sums<TILES, 1> c = {};
        multiply<T, TILES, 1>(rows, a.dense0, warp, 0, 0, 2 * STEPS, c);
        const int slope_row0 = anew(lane_row);
        const column_ends ends = ends_of(a.dense0, column);
        float h[TILES][2][4];
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = slope_row0 + 16 * i + 8 * r;
                float y[4], slope[4];
                outputs(c[i][0], r, ends, y);
#pragma unroll
                for (int q = 0; q < 4; q++) h[i][r][q] = silu(y[q], &slope[q]);
                write_four(a.slope + (size_t)row * F + column, row < a.N, slope);
            }
        __syncthreads();
        const row_fragments hidden = {numbers, rows.undo, STEPS};
#pragma unroll
        for (int i = 0; i < TILES; i++) put_rows<T>(hidden, i, warp, h[i]);
    }
    __syncthreads();

    const row_fragments hidden = {numbers, (float2 *)(numbers + 2 * TILES * STEPS * PARTS<T> * 32), STEPS};
    apply_scalars<T, F, TILES>(a, hidden, warp, lane_row, column, kept);
    if (!LAST) apply_vectors<T, F, TILES>(a, hidden, warp, lane_row, column);
}

/* ---------------------------------------------------------------------------------------------- reverse */

template <typename T> struct update_reverse_arguments {
    int32_t N;
    float epsilon;
    matrix<float> mix_T, dense0_T, dense1_T;
    const T *VU, *slope, *y_sv, *y_v;
    T *adj;
};

template <typename T, int F, int TILES> constexpr size_t reverse_bytes()
{
    return fragment_bytes<T>(3 * TILES * F / GROUP) + (TILE_ROWS * TILES) * F * sizeof(float);
}

/* Products of adjoints and V, U: (s_adj, s_adj U.V, U.v_adj) of 32 atoms. */
template <typename T, int F, int TILES, bool LAST>
__device__ inline void put_output_adjoints(const update_reverse_arguments<T> &a, const row_fragments &rows, int warp,
                                           int row0, int column)
{
    constexpr int STEPS = F / GROUP;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float y_adj[3][2][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = row0 + 16 * i + 8 * r;
            const T *adj = a.adj + (size_t)row * 4 * F + sliced(4, column);
            float U[4], V[4], v_adj[4];
            read_four(adj, row < a.N, y_adj[0][r]);
#pragma unroll
            for (int q = 0; q < 4; q++) y_adj[1][r][q] = y_adj[2][r][q] = 0;
#pragma unroll
            for (int k = 0; k < 3; k++) {
                const T *V_at = a.VU + ((size_t)row * 3 + k) * 2 * F + column;
                read_four(V_at, row < a.N, V);
                read_four(V_at + F, row < a.N, U);
                if (!LAST) read_four(adj + (1 + k) * SLICE, row < a.N, v_adj);
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

/* s_adj += first half of [s, n]_adj; s_adj y_sv, with the old s_adj, to the lane's place. */
template <typename T, int F, int TILES>
__device__ inline void put_scalar_adjoints(const update_reverse_arguments<T> &a, const sums<TILES, 2> &c, int row0,
                                           int column, float4 *kept)
{
    float s_adj[2 * TILES][4], y_sv[2 * TILES][4];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const int row = row0 + 8 * q;
        read_four(a.adj + (size_t)row * 4 * F + sliced(4, column), row < a.N, s_adj[q]);
        read_four(a.y_sv + (size_t)row * F + column, row < a.N, y_sv[q]);
    }
    const column_ends ends = ends_of(a.dense0_T, column);
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const int row = row0 + 8 * q;
        float in_adj[4];
        kept[q * 2 * F] = make_float4(s_adj[q][0] * y_sv[q][0], s_adj[q][1] * y_sv[q][1], s_adj[q][2] * y_sv[q][2],
                                      s_adj[q][3] * y_sv[q][3]);
        outputs(c[q / 2][0], q % 2, ends, in_adj);
#pragma unroll
        for (int p = 0; p < 4; p++) s_adj[q][p] += in_adj[p];
        write_four(a.adj + (size_t)row * 4 * F + sliced(4, column), row < a.N, s_adj[q]);
    }
}

/* V_adj = n_adj V/n + s_adj y_sv U of a tile; c: sums of n_adj */
template <typename T, int F, int TILES>
__device__ inline void put_V_adjoints(const update_reverse_arguments<T> &a, const row_fragments &rows, int i,
                                      const float (&c)[2][4], int warp, int row0, int column, const float4 *kept)
{
    float V[3][2][4], U[3][2][4];
#pragma unroll
    for (int q = 0; q < 6; q++) {
        const int row = row0 + 16 * i + 8 * (q % 2);
        const T *V_at = a.VU + ((size_t)row * 3 + q / 2) * 2 * F + column;
        read_four(V_at, row < a.N, V[q / 2][q % 2]);
        read_four(V_at + F, row < a.N, U[q / 2][q % 2]);
    }
    const column_ends ends = ends_of(a.dense0_T, F + column);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float4 product = kept[(2 * i + r) * 2 * F];
        const float across[4] = {product.x, product.y, product.z, product.w};
        float n_adj[4];
        outputs(c, r, ends, n_adj);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const float square =
                a.epsilon + V[0][r][q] * V[0][r][q] + V[1][r][q] * V[1][r][q] + V[2][r][q] * V[2][r][q];
            const float along = square > 0 ? n_adj[q] / sqrtf(square) : 0;
#pragma unroll
            for (int k = 0; k < 3; k++) V[k][r][q] = along * V[k][r][q] + across[q] * U[k][r][q];
        }
    }
#pragma unroll
    for (int k = 0; k < 3; k++) put_rows<T>(rows, k * TILES + i, warp, V[k]);
}

/* U_adj = s_adj y_sv V + v_adj y_v of a tile */
template <typename T, int F, int TILES, bool LAST>
__device__ inline void put_U_adjoints(const update_reverse_arguments<T> &a, const row_fragments &rows, int i, int warp,
                                      int row0, int column, const float4 *kept)
{
    float V[3][2][4], v_adj[3][2][4] = {}, y_v[2][4] = {};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = row0 + 16 * i + 8 * r;
        if (!LAST) read_four(a.y_v + (size_t)row * F + column, row < a.N, y_v[r]);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            read_four(a.VU + ((size_t)row * 3 + k) * 2 * F + column, row < a.N, V[k][r]);
            if (!LAST)
                read_four(a.adj + (size_t)row * 4 * F + sliced(4, column) + (1 + k) * SLICE, row < a.N, v_adj[k][r]);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float4 product = kept[(2 * i + r) * 2 * F];
        const float across[4] = {product.x, product.y, product.z, product.w};
#pragma unroll
        for (int k = 0; k < 3; k++)
#pragma unroll
            for (int q = 0; q < 4; q++) V[k][r][q] = across[q] * V[k][r][q] + v_adj[k][r][q] * y_v[r][q];
    }
#pragma unroll
    for (int k = 0; k < 3; k++) put_rows<T>(rows, k * TILES + i, warp, V[k]);
}

template <typename T, int F, int TILES, bool LAST>
__global__ void __launch_bounds__(2 * F, 256 / F) update_reverse_kernel(update_reverse_arguments<T> a)
{
    constexpr int STEPS = F / GROUP, OUT = LAST ? 2 : 3;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = warp * GROUP + lane % 4 * 4;
    const int lane_row = blockIdx.x * (TILE_ROWS * TILES) + lane / 4;
    uint4 *numbers = (uint4 *)shared;
    float2 *undo = (float2 *)(numbers + 3 * TILES * STEPS * PARTS<T> * 32);
    const row_fragments outputs_adj = {numbers, undo, OUT * STEPS}, rows = {numbers, undo, STEPS};
    put_output_adjoints<T, F, TILES, LAST>(a, outputs_adj, warp, lane_row, column);
    __syncthreads();
    {
        sums<TILES, 1> c = {};
        multiply<T, TILES, 1>(outputs_adj, a.dense1_T, warp, 0, 0, OUT * STEPS, c);
        const int row0 = anew(lane_row);
        const column_ends ends = ends_of(a.dense1_T, column);
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
        for (int i = 0; i < TILES; i++) put_rows<T>(rows, i, warp, h_adj[i]);
    }
    __syncthreads();

    float4 *kept = (float4 *)(shared + fragment_bytes<T>(3 * TILES * F / GROUP)) + threadIdx.x; /* s_adj y_sv */
    {
        sums<TILES, 2> c = {};
        multiply<T, TILES, 2>(rows, a.dense0_T, warp, STEPS, 0, STEPS, c);
        const int row0 = anew(lane_row);
        put_scalar_adjoints<T, F, TILES>(a, c, row0, column, kept);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILES; i++) put_V_adjoints<T, F, TILES>(a, rows, i, c[i][1], warp, row0, column, kept);
    }
    __syncthreads();

    sums<3 * TILES, 1> c = {};
#pragma unroll 1
    for (int part = 0; part < 2; part++) { /* V, then U */
        if (part == 1) {
            const int row0 = anew(lane_row);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < TILES; i++) put_U_adjoints<T, F, TILES, LAST>(a, rows, i, warp, row0, column, kept);
            __syncthreads();
        }
        multiply<T, 3 * TILES, 1>(rows, a.mix_T, warp, 0, part * STEPS, STEPS, c);
    }
    const int row0 = anew(lane_row);
    const column_ends ends = ends_of(a.mix_T, column);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float v_adj[6][4] = {}; /* of the last layer: not yet there */
        if (!LAST)
#pragma unroll
            for (int q = 0; q < 6; q++) {
                const int row = row0 + 16 * i + 8 * (q % 2);
                read_four(a.adj + (size_t)row * 4 * F + sliced(4, column) + (1 + q / 2) * SLICE, row < a.N, v_adj[q]);
            }
#pragma unroll
        for (int q = 0; q < 6; q++) {
            const int row = row0 + 16 * i + 8 * (q % 2);
            float y[4];
            outputs(c[q / 2 * TILES + i][0], q % 2, ends, y);
#pragma unroll
            for (int p = 0; p < 4; p++) y[p] += v_adj[q][p];
            write_four(a.adj + (size_t)row * 4 * F + sliced(4, column) + (1 + q / 2) * SLICE, row < a.N, y);
        }
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T, int F, int TILES, bool LAST>
static cudaError_t launch(const state<T> *s, const update_arguments<T> &a)
{
    return launch_fused(update_kernel<T, F, TILES, LAST>, F, TILES, forward_bytes<T, F, TILES>(), s->N, s->stream, a);
}

template <typename T, int F, int TILES, bool LAST>
static cudaError_t launch(const state<T> *s, const update_reverse_arguments<T> &a)
{
    return launch_fused(update_reverse_kernel<T, F, TILES, LAST>, F, TILES, reverse_bytes<T, F, TILES>(), s->N,
                        s->stream, a);
}

template <typename T, int F, typename Arguments>
static cudaError_t launch_width(const state<T> *s, int l, const Arguments &a)
{
    const bool last = l == s->w.L - 1;
    if (few_atoms(s->N, F)) return last ? launch<T, F, 1, true>(s, a) : launch<T, F, 1, false>(s, a);
    return last ? launch<T, F, 2, true>(s, a) : launch<T, F, 2, false>(s, a);
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
