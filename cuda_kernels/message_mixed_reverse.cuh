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

/* What a row's warp keeps of a tile of its edges in shared memory: phi as right sides (edges 0..7, edges 8..15),
 * dphi/dd as a left side, of each the functions of the step of 8 inputs; components of - u of edges 2t, 2t + 1, and of
 * 8 + 2t, 9 + 2t. */
struct mixed_tile {
    uint4 phi[32], dphi[32];
    uint2 phi_rest[32], dphi_rest[32];
    uint2 direction[3][4];
};

/* The functions of a tile's edges, and their directions by pairs. */
template <bool GAUSSIAN>
__device__ inline void make_tile(const matrix_arguments &a, const radial_table &table, const staged_edges &edges,
                                 int left, int tile, mixed_tile &to)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    mixed_functions phi[2], dphi[2];
    edge_cutoff cutoff[2];
    load_cutoffs(a, edges, left, tile, g, cutoff);
#pragma unroll
    for (int h = 0; h < 2; h++) make_functions<GAUSSIAN, true>(table, cutoff[h], t, &phi[h], &dphi[h]);
    to.phi[lane] = make_uint4(phi[0].main.x, phi[0].main.y, phi[1].main.x, phi[1].main.y);
    to.dphi[lane] = make_uint4(dphi[0].main.x, dphi[1].main.x, dphi[0].main.y, dphi[1].main.y);
    to.phi_rest[lane] = make_uint2(phi[0].rest, phi[1].rest);
    to.dphi_rest[lane] = make_uint2(dphi[0].rest, dphi[1].rest);
    if (g < 3) {
        const float *u = (const float *)(edges.edge + tile * 16 + 2 * t) + g;
        to.direction[g][t] = make_uint2(pack_halves(-u[0], -u[4]), pack_halves(-u[32], -u[36]));
    }
}

/* - u of an edge, twice in each: what stands in the place of (u, d) once the tiles are made. */
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

/* - u . v of halves; u: - u. */
__device__ inline uint32_t along_halves(uint32_t ux, uint32_t uy, uint32_t uz, uint32_t vx, uint32_t vy, uint32_t vz)
{
    return multiply_add_halves(uz, vz, multiply_add_halves(uy, vy, multiply_halves(ux, vx)));
}

/* Two neighbouring columns of an edge's neighbour where some have no seat; plane of [rows][F/16][4][16]. */
__device__ inline uint32_t gather_two(const char *stage, const staged_edges &edges, int q, const __half *adj, int F,
                                      int plane, int column, int at)
{
    const int neighbour = edges.neighbour[q];
    if (neighbour >= 0)
        return *(const uint32_t *)(stage +
                                   ((neighbour ^ plane * COLUMNS * (int)sizeof(__half)) + at * (int)sizeof(__half)));
    return *(const uint32_t *)(adj + (size_t)(-1 - neighbour) * REVERSE_PLANES * F + REVERSE_PLANES * column +
                               plane * COLUMNS + at);
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
        if (ALL)
            load_matrices<true>(lane_stage + neighbour ^ plane * COLUMNS * (int)sizeof(__half), lane & 2, x[plane]);
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
            load_matrices<false>(lane_stage + neighbour ^ plane * COLUMNS * (int)sizeof(__half), lane & 16, x[plane]);
#pragma unroll
        for (int q = 0; q < 4 && !ALL; q++)
            x[plane][q] =
                gather_two(stage, edges, tile * 16 + q % 2 * 8 + g, adj, a.F, plane, column, q / 2 * 8 + 2 * t);
    }
}

/* Four products, as a left side. */
__device__ inline uint4 multiply_four(const uint32_t (&w)[2][2], const uint32_t (&x)[4])
{
    return make_uint4(multiply_halves(w[0][0], x[0]), multiply_halves(w[0][1], x[1]), multiply_halves(w[1][0], x[2]),
                      multiply_halves(w[1][1], x[3]));
}

/* Adjoints of the row's features: x_adj has planes 2t and 2t + 1 of column g, then of column 8 + g, for planes below
 * five. */
template <bool ALL>
__device__ inline void add_to_features(const matrix_arguments &a, const char *stage, uint32_t lane_stage,
                                       const mixed_weights &weights, const staged_edges &edges,
                                       const mixed_tile *own_tiles, const int (&neighbour)[TILES], const __half *adj,
                                       int tiles, int column, float (&x_adj)[4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const lane_weights w(weights);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint32_t x[REVERSE_PLANES][4], along[4], W[3][2][2];
        const mixed_tile &own = own_tiles[tile];
        const uint4 main = own.phi[lane];
        const uint2 rest = own.phi_rest[lane], ux = own.direction[0][t], uy = own.direction[1][t],
                    uz = own.direction[2][t];
        const mixed_functions phi[2] = {{make_uint2(main.x, main.y), rest.x}, {make_uint2(main.z, main.w), rest.y}};
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter_transposed(w, kind, phi, W[kind]);
        gather_transposed<ALL>(a, stage, lane_stage, edges, tile, neighbour[tile], adj, column, x);
#pragma unroll
        for (int half = 0; half < 2; half++) { /* edges 2t, 2t + 1; 8 + 2t, 9 + 2t */
            along[2 * half] = along_halves(ux.x, uy.x, uz.x, x[1][2 * half], x[2][2 * half], x[3][2 * half]);
            along[2 * half + 1] =
                along_halves(ux.y, uy.y, uz.y, x[1][2 * half + 1], x[2][2 * half + 1], x[3][2 * half + 1]);
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
                                    const mixed_weights &weights, const staged_edges &edges,
                                    const mixed_tile *own_tiles, const int (&neighbour)[TILES], const __half *adj,
                                    int tiles, int column, const uint2 (&own)[5], float (&edge_adj)[TILES][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    const uint2 none = make_uint2(0, 0);
    const lane_weights w(weights);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint32_t x[REVERSE_PLANES][4], along[4], W[2][2];
        gather_straight<ALL>(a, stage, lane_stage, edges, tile, neighbour[tile], adj, column, x);
        const mixed_tile &own_tile = own_tiles[tile];
        const uint4 phi = own_tile.phi[lane];
        filter_straight(w, 1, make_uint4(phi.x, phi.z, phi.y, phi.w), own_tile.phi_rest[lane], W);
#pragma unroll
        for (int c = 0; c < 3; c++) mma_half(edge_adj[tile], multiply_four(W, x[1 + c]), g == c ? own[1] : none);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint4 u = *(const uint4 *)&edges.edge[tile * 16 + 8 * h + g];
#pragma unroll
            for (int half = 0; half < 2; half++)
                along[2 * half + h] =
                    along_halves(u.x, u.y, u.z, x[1][2 * half + h], x[2][2 * half + h], x[3][2 * half + h]);
        }
        const uint4 dphi = own_tile.dphi[lane];
        const uint2 dphi_rest = own_tile.dphi_rest[lane];
#pragma unroll
        for (int kind = 0; kind < 3; kind++) {
            filter_straight(w, kind, dphi, dphi_rest, W);
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

/* As add_feature_adjoints of message_single_reverse.cuh. features, sums: of the lane's first plane, column g of the
 * slice. */
__device__ inline void add_mixed_features(float scale, bool again, bool more, const float (&x_adj)[4], __half *features,
                                          float *sums)
{
    const int t = threadIdx.x % 4; /* lanes with t = 2 have one plane, those with t = 3 none */
    float sum[2][2];
#pragma unroll
    for (int q = 0; q < 4; q++) sum[q % 2][q / 2] = x_adj[q] * scale;
    if (again || more) {
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const int at = q % 2 * COLUMNS + q / 2 * 8;
            if (2 * t + q % 2 >= 5) continue;
            if (again) sum[q % 2][q / 2] += sums[at];
            if (more) sums[at] = sum[q % 2][q / 2];
        }
        if (more) return;
    }
    if (t < 3) features[0] = __float2half_rn(sum[0][0]), features[8] = __float2half_rn(sum[0][1]);
    if (t < 2) features[COLUMNS] = __float2half_rn(sum[1][0]), features[COLUMNS + 8] = __float2half_rn(sum[1][1]);
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
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4, slices = a.F / COLUMNS;
    mixed_tile *tiles_of_row = shared.tiles[warp];
    float *sums = a.sums + ((size_t)blockIdx.x * ROWS + warp) * 5 * a.F;
    ring<Shared::BUFFERS> slice_ring;
    ring<2> pass_ring;
    for (;; pass_ring.advance()) {
        staged_pass<ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        staged_edges &edges = pass.row[warp];
        const int row = row_of_warp(a, pass.cluster, warp), begin = pass.begin, left = pass.edges[warp] - begin,
                  tiles = tiles_of(left);
        const bool all_seated = pass.all_seated, more = pass.more;
#pragma unroll 1
        for (int tile = 0; tile < tiles + tiles % 2; tile++)
            make_tile<GAUSSIAN>(a, shared.table, edges, left, tile, tiles_of_row[tile]);
        halve_directions(edges);
        int neighbour[TILES];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) neighbour[tile] = edges.neighbour[tile * 16 + lane % 16];
        const int lane_place = 2 * t * COLUMNS + lane / 4; /* of the adjoints that the lane is left with */
        const size_t own_at = kept((size_t)row * 5 * a.F), lane_at = own_at + lane_place;
        float to_edges[TILES][4] = {};
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            uint2 own[5] = {};
            float x_adj[4] = {};
            if (row < a.N)
#pragma unroll
                for (int p = 0; p < 5; p++) {
                    const __half *from = features + own_at + 5 * column + p * COLUMNS + 2 * t;
                    own[p] = make_uint2(__ldcg((const uint32_t *)from), __ldcg((const uint32_t *)(from + 8)));
                }
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
            const char *stage = shared.stage[slice_ring.buffer];
            const mixed_weights *weights = (const mixed_weights *)shared.weights[slice_ring.buffer];
            /* as in mixed_slice: rows 4..7 of a matrix are of the other half of the columns */
            const uint32_t lane_stage = shared_address(stage) + (lane / 16 ^ lane / 4 % 2) * 16;
            if (all_seated) {
                add_to_features<true>(a, stage, lane_stage, weights[0], edges, tiles_of_row, neighbour, adj, tiles,
                                      column, x_adj);
                add_to_edges<true>(a, stage, lane_stage, weights[1], edges, tiles_of_row, neighbour, adj, tiles, column,
                                   own, to_edges);
            } else {
                add_to_features<false>(a, stage, lane_stage, weights[0], edges, tiles_of_row, neighbour, adj, tiles,
                                       column, x_adj);
                add_to_edges<false>(a, stage, lane_stage, weights[1], edges, tiles_of_row, neighbour, adj, tiles,
                                    column, own, to_edges);
            }
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            if (row < a.N)
                add_mixed_features(a.scale, begin > 0, more, x_adj, features + lane_at + 5 * column,
                                   sums + lane_place + 5 * column);
        }
        if (left > 0)
            add_mixed_edges(edge_adj + pass.first[warp], edges, left, a.scale / adjoint_scale<__half>, to_edges);
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

} // namespace mlff

#endif
