/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_MIXED_REVERSE_CUH
#define MLFF_CUDA_MESSAGE_MIXED_REVERSE_CUH
/*
 * Adjoints of a row's message in mixed (message_matrix.cu), in the manner of message_mixed.cuh: products of halves,
 * sums in single by the matrix units.
 *
 * Features  as forward: filters transposed, times the neighbours' adjoints; the right side of the sums over the edges
 *           has a column of ones for each of x_s, x_R, x_v (3).
 * Edges     filters as they are, [16 edges x 16 columns], times the neighbours' adjoints; the right side of the sums
 *           over the columns [16 x 4] is the row's own features, in the column of u_x, u_y, u_z or d. Sums of all
 *           slices stay in registers: a lane with t < 2 has components 2t and 2t + 1 of edges g and 8 + g of each tile.
 */
#include "message_mixed.cuh"

namespace mlff
{

/* Radial functions of a tile in shared memory: phi as right sides (edges 0..7, edges 8..15), dphi/dd as left sides; of each the
 * fourth step, then the other functions. */
typedef uint4 mixed_fragments[2][2][32];

/* Four 8 x 8 matrices of halves as they are: lane 4g + t gets columns 2t and 2t + 1 of row g of each. */
__device__ inline void load_straight(uint32_t address, uint32_t (&to)[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}

__device__ inline void load_straight_swapped(uint32_t address, bool swapped, uint32_t (&to)[4])
{
    uint32_t x[4];
    load_straight(address, x);
#pragma unroll
    for (int q = 0; q < 4; q++) to[q] = swapped ? x[q ^ 2] : x[q];
}

__device__ inline uint32_t multiply_add_halves(uint32_t a, uint32_t b, uint32_t c)
{
    const __half2 sum = __hfma2(*(const __half2 *)&a, *(const __half2 *)&b, *(const __half2 *)&c);
    return *(const uint32_t *)&sum;
}

/* W [16 edges x 16 columns] of a kind as a left side. */
__device__ inline void filter_straight(const uint4 (&w)[2], const uint4 &rest, const uint4 &main, uint32_t (&to)[4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float c[4];
        begin_mma_half(c, rest, half == 0 ? make_uint2(w[0].x, w[0].y) : make_uint2(w[0].z, w[0].w));
        mma_half(c, main, half == 0 ? make_uint2(w[1].x, w[1].y) : make_uint2(w[1].z, w[1].w));
        to[2 * half] = pack_halves(c[0], c[1]);
        to[2 * half + 1] = pack_halves(c[2], c[3]);
    }
}

/* - u of an edge, twice in each: what stands in the place of (u, d) once the radial functions are made. */
__device__ inline void halve_directions(staged_edges &edges)
{
    __syncwarp();
#pragma unroll
    for (int q = threadIdx.x % 32; q < PASS_EDGES; q += 32) {
        const float4 r = edges.edge[q];
        const uint4 halves = make_uint4(pack_halves(-r.x, -r.x), pack_halves(-r.y, -r.y), pack_halves(-r.z, -r.z), 0);
        edges.edge[q] = *(const float4 *)&halves;
    }
    __syncwarp();
}

__device__ inline uint4 direction_of(const staged_edges &edges, int q)
{
    return *(const uint4 *)&edges.edge[q];
}

/* - u . v of the halves v[0..2]; u as direction_of gives it, or pairs of two edges. */
__device__ inline uint32_t along_halves(const uint4 &u, uint32_t vx, uint32_t vy, uint32_t vz)
{
    return multiply_add_halves(u.z, vz, multiply_add_halves(u.y, vy, multiply_halves(u.x, vx)));
}

/* Two neighbouring columns of an edge's neighbour where some have no seat; plane of [rows][4][F]. */
__device__ inline uint32_t gather_two(const char *stage, const staged_edges &edges, int q, const __half *adj, int F,
                                      int plane, int column, int at)
{
    const int neighbour = edges.neighbour[q];
    if (neighbour >= 0)
        return *(const uint32_t *)(stage +
                                   ((neighbour ^ plane * COLUMNS * (int)sizeof(__half)) + at * (int)sizeof(__half)));
    return *(const uint32_t *)(adj + ((size_t)(-1 - neighbour) * REVERSE_PLANES + plane) * F + column + at);
}

__device__ inline uint32_t gather_one_of_two(const char *stage, const staged_edges &edges, int q, const __half *adj,
                                             int F, int plane, int column, int at)
{
    const uint32_t a = gather_two(stage, edges, q, adj, F, plane, column, at & ~1),
                   b = gather_two(stage, edges, q + 1, adj, F, plane, column, at & ~1);
    return __byte_perm(a, b, at % 2 ? 0x7632 : 0x5410);
}

/* What a lane needs of a tile's neighbours in each phase: planes s_adj, v_adj (3). */
template <bool ALL>
__device__ inline void gather_transposed(const matrix_arguments &a, const char *stage, uint32_t lane_stage,
                                         const staged_edges &edges, int tile, int neighbour, const __half *adj,
                                         int column, uint32_t (&x)[REVERSE_PLANES][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int plane = 0; plane < REVERSE_PLANES; plane++) {
        if (ALL) load_swapped(lane_stage + neighbour ^ plane * COLUMNS * (int)sizeof(__half), lane & 2, x[plane]);
#pragma unroll
        for (int q = 0; q < 4 && !ALL; q++)
            x[plane][q] =
                gather_one_of_two(stage, edges, tile * 16 + q % 2 * 8 + 2 * t, adj, a.F, plane, column, q / 2 * 8 + g);
    }
}

template <bool ALL>
__device__ inline void gather_straight(const matrix_arguments &a, const char *stage, uint32_t lane_stage,
                                       const staged_edges &edges, int tile, int neighbour, const __half *adj,
                                       int column, uint32_t (&x)[REVERSE_PLANES][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int plane = 0; plane < REVERSE_PLANES; plane++) {
        if (ALL)
            load_straight_swapped(lane_stage + neighbour ^ plane * COLUMNS * (int)sizeof(__half), lane & 16, x[plane]);
#pragma unroll
        for (int q = 0; q < 4 && !ALL; q++)
            x[plane][q] =
                gather_two(stage, edges, tile * 16 + q % 2 * 8 + g, adj, a.F, plane, column, q / 2 * 8 + 2 * t);
    }
}

__device__ inline void load_quads(const uint4 *from, uint4 (&w)[3][2])
{
#pragma unroll
    for (int q = 0; q < 6; q++) w[q / 2][q % 2] = from[q * 32 + threadIdx.x % 32];
}

/* Four products, as a left side. */
__device__ inline uint4 multiply_four(const uint32_t (&w)[4], const uint32_t (&x)[4])
{
    return make_uint4(multiply_halves(w[0], x[0]), multiply_halves(w[1], x[1]), multiply_halves(w[2], x[2]),
                      multiply_halves(w[3], x[3]));
}

/* Adjoints of the row's features: x_adj has planes 2t and 2t + 1 of column g, then of column 8 + g, for planes below five. */
template <bool ALL>
__device__ inline void add_to_features(const matrix_arguments &a, const char *stage, uint32_t lane_stage,
                                       const uint2 *weights, const staged_edges &edges,
                                       const mixed_fragments *fragments, const int (&neighbour)[TILES],
                                       const __half *adj, int tiles, int column, float (&x_adj)[4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 w[3][2];
    load_quads((const uint4 *)weights, w);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint32_t x[REVERSE_PLANES][4], along[4], W[3][2][2];
        const uint4 rest = fragments[tile][0][0][lane], main = fragments[tile][0][1][lane];
        const radial_pairs phi = {{make_uint2(rest.x, rest.y), make_uint2(main.x, main.y)},
                                  {make_uint2(rest.z, rest.w), make_uint2(main.z, main.w)}};
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter_pairs(w[kind], phi, W[kind]);
        gather_transposed<ALL>(a, stage, lane_stage, edges, tile, neighbour[tile], adj, column, x);
#pragma unroll
        for (int q = 0; q < 2; q++) { /* edges 8q + 2t, 8q + 2t + 1 */
            const uint4 e0 = direction_of(edges, tile * 16 + 8 * q + 2 * t),
                        e1 = direction_of(edges, tile * 16 + 8 * q + 2 * t + 1);
            const uint4 u = make_uint4(__byte_perm(e0.x, e1.x, 0x5410), __byte_perm(e0.y, e1.y, 0x5410),
                                       __byte_perm(e0.z, e1.z, 0x5410), 0);
#pragma unroll
            for (int half = 0; half < 2; half++)
                along[2 * half + q] = along_halves(u, x[1][2 * half + q], x[2][2 * half + q], x[3][2 * half + q]);
        }
#pragma unroll
        for (int plane = 0; plane < 5; plane++) {
            const int kind = plane < 2 ? plane : 2;
            const uint32_t(&y)[4] = plane == 0 ? x[0] : plane == 1 ? along : x[plane < 2 ? 0 : plane - 1];
            const uint32_t one = g == plane ? 0x3c003c00u : 0;
            mma_half(x_adj,
                     make_uint4(multiply_halves(W[kind][0][0], y[0]), multiply_halves(W[kind][0][1], y[2]),
                                multiply_halves(W[kind][1][0], y[1]), multiply_halves(W[kind][1][1], y[3])),
                     make_uint2(one, one));
        }
    }
}

/* Adjoints of the row's edges. own [5]: the row's features of columns 2t, 2t + 1, and 8 + 2t, 9 + 2t. */
template <bool ALL>
__device__ inline void add_to_edges(const matrix_arguments &a, const char *stage, uint32_t lane_stage,
                                    const uint2 *weights, const staged_edges &edges, const mixed_fragments *fragments,
                                    const int (&neighbour)[TILES], const __half *adj, int tiles, int column,
                                    const uint2 (&own)[5], float (&edge_adj)[TILES][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    const uint2 none = make_uint2(0, 0);
    uint4 w[3][2];
    load_quads((const uint4 *)weights + 6 * 32, w);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint32_t x[REVERSE_PLANES][4], along[4], W[4];
        gather_straight<ALL>(a, stage, lane_stage, edges, tile, neighbour[tile], adj, column, x);
        const uint4 rest = fragments[tile][0][0][lane], main = fragments[tile][0][1][lane];
        filter_straight(w[1], make_uint4(rest.x, rest.z, rest.y, rest.w), make_uint4(main.x, main.z, main.y, main.w),
                        W);
#pragma unroll
        for (int c = 0; c < 3; c++) mma_half(edge_adj[tile], multiply_four(W, x[1 + c]), g == c ? own[1] : none);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint4 u = direction_of(edges, tile * 16 + 8 * h + g);
#pragma unroll
            for (int half = 0; half < 2; half++)
                along[2 * half + h] = along_halves(u, x[1][2 * half + h], x[2][2 * half + h], x[3][2 * half + h]);
        }
        const uint4 d_rest = fragments[tile][1][0][lane], d_main = fragments[tile][1][1][lane];
#pragma unroll
        for (int kind = 0; kind < 3; kind++) {
            filter_straight(w[kind], d_rest, d_main, W);
            if (kind < 2) {
                mma_half(edge_adj[tile], kind == 0 ? multiply_four(W, x[0]) : multiply_four(W, along),
                         g == 3 ? own[kind] : none);
                continue;
            }
#pragma unroll
            for (int c = 0; c < 3; c++)
                mma_half(edge_adj[tile], multiply_four(W, x[1 + c]), g == 3 ? own[2 + c] : none);
        }
    }
}

/* As add_feature_adjoints of message_reverse.cuh. */
__device__ inline void add_mixed_features(int F, float scale, bool again, bool more, const float (&x_adj)[4],
                                          __half *features, float *sums)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        const int plane = 2 * t + q % 2, at = plane * F + 8 * (q / 2) + g;
        if (plane >= 5) continue;
        float sum = x_adj[q] * scale;
        if (again) sum += sums[at];
        if (more)
            sums[at] = sum;
        else
            features[at] = __float2half_rn(sum);
    }
}

/* Adds the adjoints (u, d) of a pass's edges; the sums have those of - u. */
__device__ inline void add_mixed_edges(edge_adjoint<float> *edge_adj, const staged_edges &edges, int left, float scale,
                                       const float (&part)[TILES][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float2 old[2 * TILES];
    if (t >= 2) return;
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        if (8 * q + g < left) old[q] = *(const float2 *)((float *)(edge_adj + edges.place[8 * q + g]) + 2 * t);
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        if (8 * q + g >= left) continue;
        const float *sum = part[q / 2] + 2 * (q % 2);
        *(float2 *)((float *)(edge_adj + edges.place[8 * q + g]) + 2 * t) =
            make_float2(old[q].x - sum[0] * scale, old[q].y + (t == 0 ? -sum[1] : sum[1]) * scale);
    }
}

/* A row's warp. */
template <bool GAUSSIAN, typename Shared>
__device__ inline void reverse_rows(const matrix_arguments &a, __half *features, const __half *__restrict__ adj,
                                    edge_adjoint<float> *edge_adj, Shared &shared)
{
    constexpr int ROWS = Shared::ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = a.F / COLUMNS;
    mixed_fragments *fragments = shared.fragments[warp];
    float *sums = a.sums + ((size_t)blockIdx.x * ROWS + warp) * 5 * a.F;
    ring slice_ring, pass_ring;
    for (;; pass_ring.advance()) {
        staged_pass<ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        staged_edges &edges = pass.row[warp];
        const int row = pass.cluster * ROWS + warp, begin = pass.begin, left = pass.edges[warp] - begin,
                  tiles = tiles_of(left);
        const bool all_seated = pass.all_seated, more = pass.more;
#pragma unroll 1
        for (int tile = 0; tile < tiles + tiles % 2; tile++) {
            uint4 phi[PARTS], dphi[PARTS];
            edge_cutoff cutoff[2];
            load_cutoffs(a, edges, left, tile, g, cutoff);
            edge_fragments<GAUSSIAN, true>(shared.table, cutoff, t, phi, dphi);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int part = k == 0 ? 2 : 0;
                fragments[tile][0][k][lane] = make_uint4(phi[part].x, phi[part].z, phi[part].y, phi[part].w);
                fragments[tile][1][k][lane] = dphi[part];
            }
        }
        halve_directions(edges);
        int neighbour[TILES];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) neighbour[tile] = edges.neighbour[tile * 16 + lane % 16];
        const size_t own_at = kept((size_t)row * 5 * a.F);
        float to_edges[TILES][4] = {};
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            uint2 own[5] = {};
            float x_adj[4] = {};
            if (row < a.N)
#pragma unroll
                for (int p = 0; p < 5; p++) {
                    const __half *from = features + own_at + p * a.F + column + 2 * t;
                    own[p] = make_uint2(__ldcg((const uint32_t *)from), __ldcg((const uint32_t *)(from + 8)));
                }
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
            const char *stage = shared.stage[slice_ring.buffer];
            const uint2 *weights = shared.weights[slice_ring.buffer];
            /* as in mixed_slice: rows 4..7 of a matrix are of the other half of the columns */
            const uint32_t lane_stage = shared_address(stage) + (lane / 16 ^ lane / 4 % 2) * 16;
            if (all_seated) {
                add_to_features<true>(a, stage, lane_stage, weights, edges, fragments, neighbour, adj, tiles, column,
                                      x_adj);
                add_to_edges<true>(a, stage, lane_stage, weights, edges, fragments, neighbour, adj, tiles, column, own,
                                   to_edges);
            } else {
                add_to_features<false>(a, stage, lane_stage, weights, edges, fragments, neighbour, adj, tiles, column,
                                       x_adj);
                add_to_edges<false>(a, stage, lane_stage, weights, edges, fragments, neighbour, adj, tiles, column, own,
                                    to_edges);
            }
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            if (row < a.N)
                add_mixed_features(a.F, a.scale, begin > 0, more, x_adj, features + own_at + column, sums + column);
        }
        if (left > 0)
            add_mixed_edges(edge_adj + pass.first[warp], edges, left, a.scale / adjoint_scale<__half>, to_edges);
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

} // namespace mlff

#endif
