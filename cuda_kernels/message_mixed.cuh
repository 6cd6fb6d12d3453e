/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_MIXED_CUH
#define MLFF_CUDA_MESSAGE_MIXED_CUH
/*
 * A row's message in mixed (message_matrix.cu): the matrix units make the filters and also sum over the edges; what is
 * between, filter times neighbour, is half precision, two edges at a time.
 *
 * Filters  transposed (mixed_fragments.cuh): lane 4g + t is left with columns g and 8 + g of edges 2t and 2t + 1.
 * Products with the neighbours' columns, which ldmatrix.trans brings in the same order.
 * Sums     [16 columns x 16 edges] [16 edges x 4 vectors], single: the right side's columns s, v_x, v_y, v_z are ones,
 *          or an edge's direction for the plane that is multiplied by it. A lane with t < 2 is left with vectors 2t and
 *          2t + 1 of columns g and 8 + g: nothing is left to add up between lanes.
 */
#include "message_stage.cuh"

namespace mlff
{

/* Four 8 x 8 matrices of halves; lane 8i + r names row r of matrix i, 16 bytes in shared memory. Of each, lane 4g + t
 * gets columns 2t and 2t + 1 of row g, TRANSPOSED rows 2t and 2t + 1 of column g. Where `swapped`, matrices 0 and 2
 * change places, and 1 and 3. */
template <bool TRANSPOSED> __device__ inline void load_matrices(uint32_t address, bool swapped, uint32_t (&to)[4])
{
    uint32_t x[4];
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(address));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(address));
#pragma unroll
    for (int q = 0; q < 4; q++) to[q] = swapped ? x[q ^ 2] : x[q];
}

/* A tile's radial functions as right sides: edges 0..7 and 8..15. */
typedef mixed_functions radial_pairs[2];

template <bool GAUSSIAN>
__device__ inline void make_radial_pairs(const matrix_arguments &a, const radial_table &table,
                                         const staged_edges &edges, int left, int tiles, radial_pairs (&phi)[TILES])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break;
        edge_cutoff cutoff[2];
        load_cutoffs(a, edges, left, tile, g, cutoff);
#pragma unroll
        for (int q = 0; q < 2; q++) make_functions<GAUSSIAN, false>(table, cutoff[q], t, &phi[tile][q], nullptr);
    }
}

/* What a lane keeps of a pass: for each tile the neighbour whose columns it names to ldmatrix, and its part of the
 * directions' fragment (lanes with g = 1..3: component g - 1). */
struct mixed_edges {
    int neighbour[TILES];
    uint2 direction[TILES];

    __device__ void load(const staged_edges &edges, int tiles)
    {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            if (tile % 2 == 0 && tile >= tiles) break;
            neighbour[tile] = edges.neighbour[tile * 16 + lane % 16];
            direction[tile] = make_uint2(0, 0);
            if (g < 1 || g > 3) continue;
            const float *u = (const float *)(edges.edge + tile * 16 + 2 * t) + g - 1;
            direction[tile] = make_uint2(pack_halves(u[0], u[4]), pack_halves(u[32], u[36]));
        }
    }
};

/* One plane of a tile's neighbours where some of them have no seat; halves as load_matrices brings them. */
__device__ inline void gather_halves(const char *stage, const staged_edges &edges, int tile, const __half *features,
                                     int F, int plane, int column, uint32_t (&to)[4])
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        __half two[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int neighbour = edges.neighbour[tile * 16 + q % 2 * 8 + 2 * t + k], at = q / 2 * 8 + g;
            two[k] = neighbour >= 0 ? ((const __half *)(stage + neighbour))[plane * COLUMNS + at]
                                    : features[(size_t)(-1 - neighbour) * FORWARD_PLANES * F + FORWARD_PLANES * column +
                                               plane * COLUMNS + at];
        }
        const __half2 pair = __halves2half2(two[0], two[1]);
        to[q] = *(const uint32_t *)&pair;
    }
}

/* One slice of a row; sum: vectors 2t, 2t + 1 of column g, then of column 8 + g; of lanes with t < 2. */
template <bool ALL>
__device__ inline void mixed_slice(const matrix_arguments &a, const char *stage, const mixed_weights &weights,
                                   const __half *features, const staged_edges &edges, const mixed_edges &own,
                                   const radial_pairs (&phi)[TILES], int tiles, int column, float (&sum)[4])
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    /* Rows 4..7 of a matrix are of the other half of the columns, and change places afterwards: edges 0..3 and 4..7 are
     * of seats of the same four kinds (clusters.cu), and would meet in the same banks. */
    const uint32_t lane_stage = shared_address(stage) + (lane / 16 ^ lane / 4 % 2) * 16;
    const bool swapped = lane & 2;
    const lane_weights w(weights);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint32_t W[3][2][2];
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter_transposed(w, kind, phi[tile], W[kind]);
#pragma unroll
        for (int plane = 0; plane < 5; plane++) { /* x_s, x_R, y (3) */
            const int kind = plane < 2 ? plane : 2, vector = plane < 2 ? 0 : plane - 1;
            uint32_t x[4];
            if (ALL)
                load_matrices<true>(lane_stage + own.neighbour[tile] + plane * COLUMNS * (int)sizeof(__half), swapped,
                                    x);
            else
                gather_halves(stage, edges, tile, features, a.F, plane, column, x);
            const uint32_t one = g == vector ? 0x3c003c00u : 0;
            mma_half(sum,
                     make_uint4(multiply_halves(W[kind][0][0], x[0]), multiply_halves(W[kind][0][1], x[2]),
                                multiply_halves(W[kind][1][0], x[1]), multiply_halves(W[kind][1][1], x[3])),
                     plane == 1 ? own.direction[tile] : make_uint2(one, one));
        }
    }
}

/* Where a lane's sums go: vectors 2t, 2t + 1 of (s, v), columns g and 8 + g; lanes with t >= 2 have none. */
struct mixed_part {
    size_t at; /* of s */
    bool has_any;

    __device__ mixed_part(int row, int F, bool writes)
    {
        at = (size_t)row * F + threadIdx.x % 32 / 4;
        has_any = writes && threadIdx.x % 4 < 2;
    }
    __device__ static bool is_first()
    {
        return threadIdx.x % 4 == 0;
    }
    /* of v_x, or of v_y */
    __device__ size_t place(int F, int column) const
    {
        return 3 * at - 2 * (threadIdx.x % 32 / 4) + (is_first() ? 0 : F) + column;
    }
    /* What the sums are added to, as it lies in memory: vector 2t of both columns, then 2t + 1. */
    __device__ void load(const __half *v, const float *s, int F, int column, uint32_t (&old)[4]) const
    {
        if (!has_any) return;
        const __half *from = v + place(F, column);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            old[half] = is_first() ? __float_as_uint(s[at + column + 8 * half]) : __half_as_ushort(from[8 * half]);
            old[2 + half] = __half_as_ushort(from[8 * half + (is_first() ? 0 : F)]);
        }
    }
    __device__ void store(__half *v, float *s, int F, int column, const uint32_t (&old)[4], const float (&sum)[4],
                          float scale) const
    {
        if (!has_any) return;
        __half *to = v + place(F, column);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float a = sum[2 * half] * scale, b = sum[2 * half + 1] * scale;
            if (is_first())
                s[at + column + 8 * half] = __uint_as_float(old[half]) + a;
            else
                to[8 * half] = __float2half_rn(value(old[half]) + a);
            to[8 * half + (is_first() ? 0 : F)] = __float2half_rn(value(old[2 + half]) + b);
        }
    }
    static __device__ float value(uint32_t bits)
    {
        return __half2float(__ushort_as_half((unsigned short)bits));
    }
};

/* A row's warp. */
template <bool GAUSSIAN, typename Shared>
__device__ inline void forward_rows(const matrix_arguments &a, const __half *__restrict__ features,
                                    const __half *__restrict__ v_in, float *s, __half *v_out, Shared &shared)
{
    constexpr int ROWS = Shared::ROWS;
    const int warp = threadIdx.x / 32, slices = a.F / COLUMNS;
    ring<Shared::BUFFERS> slice_ring;
    ring<2> pass_ring;
    for (;; pass_ring.advance()) {
        const staged_pass<ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        const staged_edges &edges = pass.row[warp];
        const int row = row_of_warp(a, pass.cluster, warp), begin = pass.begin, left = pass.edges[warp] - begin,
                  tiles = tiles_of(left);
        const bool all_seated = pass.all_seated;
        radial_pairs phi[TILES];
        mixed_edges own;
        make_radial_pairs<GAUSSIAN>(a, shared.table, edges, left, tiles, phi);
        own.load(edges, tiles);
        const mixed_part to(row, a.F, row < a.N && (begin == 0 || tiles > 0));
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            uint32_t old[4];
            to.load(begin > 0 ? v_out : v_in, s, a.F, column, old);
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
            float sum[4] = {};
            const char *stage = shared.stage[slice_ring.buffer];
            const mixed_weights &weights = *(const mixed_weights *)shared.weights[slice_ring.buffer];
            if (all_seated)
                mixed_slice<true>(a, stage, weights, features, edges, own, phi, tiles, column, sum);
            else
                mixed_slice<false>(a, stage, weights, features, edges, own, phi, tiles, column, sum);
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            to.store(v_out, s, a.F, column, old, sum, a.scale);
        }
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

} // namespace mlff

#endif
