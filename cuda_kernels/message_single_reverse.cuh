/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_SINGLE_REVERSE_CUH
#define MLFF_CUDA_MESSAGE_SINGLE_REVERSE_CUH
/*
 * Adjoints of a row's message in single (message_matrix.cu): of its own features, from the adjoints of its neighbours,
 * and of its edges. The matrix units make the filters and their derivatives; fragments of both are in shared memory.
 * Lane 4g + t has edges g and 8 + g of a tile and columns 4t .. 4t + 3.
 */
#include "message_single.cuh"
#include "warp_sums.cuh"

namespace mlff
{

/* A lane's fragments of one tile in shared memory. */
typedef uint4 stored_fragments[PARTS][32];

__device__ inline void keep(stored_fragments &to, const uint4 (&a)[PARTS])
{
#pragma unroll
    for (int part = 0; part < PARTS; part++) to[part][threadIdx.x % 32] = a[part];
}

__device__ inline void recall(const stored_fragments &from, uint4 (&a)[PARTS])
{
#pragma unroll
    for (int part = 0; part < PARTS; part++) a[part] = from[part][threadIdx.x % 32];
}

/* Four columns at an address of shared memory. */
__device__ inline void load_four_at(uint32_t address, float (&to)[4])
{
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address));
    to_four(x, to);
}

/* The lane's four columns of the four planes of an edge's neighbour; stage: at the lane's columns of the first plane.
 * The stage begins at a multiple of a seat's bytes, so the turn of a seat works on the address too. */
template <bool ALL>
__device__ inline void gather_planes(uint32_t stage, const float *adj, int F, int neighbour, int column,
                                     float (&to)[REVERSE_PLANES][4])
{
    constexpr int BYTES = COLUMNS * sizeof(float);
    const uint32_t at = stage + neighbour;
#pragma unroll
    for (int p = 0; p < REVERSE_PLANES; p++)
        if (ALL || neighbour >= 0)
            load_four_at(at ^ p * BYTES, to[p]);
        else
            to_four(*(const float4 *)(adj + (size_t)(-1 - neighbour) * REVERSE_PLANES * F +
                                      sliced(REVERSE_PLANES, column) + p * COLUMNS),
                    to[p]);
}

/* What one slice adds to the adjoints of a row's features x [5], and to those of its edges (u, d). */
template <bool ALL>
__device__ inline void reverse_slice(const matrix_arguments &a, const stored_fragments (*fragments)[2],
                                     const char *stage, const uint2 *weights, const float4 *geometry, const float *adj,
                                     int tiles, int column, const float (&x)[5][4], float (&x_adj)[5][4],
                                     float (&edge_adj)[TILES][2][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t lane_stage = shared_address(stage) + 4 * t * sizeof(float);
    uint2 b[3][2][PARTS];
#pragma unroll
    for (int kind = 0; kind < 3; kind++) load_weights(weights, kind, lane, b[kind]);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break;   /* in pairs: fewer branches */
        float in[2][REVERSE_PLANES][4], along[2][4]; /* s_adj, v_adj (3) of the neighbours; - u . v_adj */
        uint4 phi[PARTS], dphi[PARTS];
        recall(fragments[tile][0], phi);
        recall(fragments[tile][1], dphi);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 r = geometry[tile * 16 + 8 * h + g];
            gather_planes<ALL>(lane_stage, adj, a.F, __float_as_int(r.w), column + 4 * t, in[h]);
#pragma unroll
            for (int q = 0; q < 4; q++) along[h][q] = -(r.x * in[h][1][q] + r.y * in[h][2][q] + r.z * in[h][3][q]);
        }
        /* kind by kind, so that the matrix units make the next filters while these are used */
#pragma unroll
        for (int kind = 0; kind < 3; kind++) {
            float W[2][4], dW[2][4];
            filter(phi, b[kind], W);
            filter(dphi, b[kind], dW);
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    const float w = W[q / 2][2 * h + q % 2], dw = dW[q / 2][2 * h + q % 2];
                    if (kind == 0) {
                        x_adj[0][q] += w * in[h][0][q];
                        edge_adj[tile][h][3] += dw * (x[0][q] * in[h][0][q]);
                    } else if (kind == 1) {
                        const float R = w * x[1][q];
                        x_adj[1][q] += w * along[h][q];
#pragma unroll
                        for (int c = 0; c < 3; c++) edge_adj[tile][h][c] -= R * in[h][1 + c][q];
                        edge_adj[tile][h][3] += dw * (x[1][q] * along[h][q]);
                    } else {
                        const float v = x[2][q] * in[h][1][q] + x[3][q] * in[h][2][q] + x[4][q] * in[h][3][q];
#pragma unroll
                        for (int c = 0; c < 3; c++) x_adj[2 + c][q] += w * in[h][1 + c][q];
                        edge_adj[tile][h][3] += dw * v;
                    }
                }
        }
    }
}

/* A slice of a row's feature adjoints, in the place of the features: a lane has two columns of plane g / 2, and one of
 * plane 4 where g is even. Until a row's last pass the sums are in the block's part of `sums`, because every pass reads
 * the features. features, sums: [5][16], of the row's slice. */
__device__ inline void add_feature_adjoints(float scale, bool again, bool more, const float (&x_adj)[5][4],
                                            float *features, float *sums)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int at = g / 2 * COLUMNS + 4 * t + 2 * (g % 2), last_at = 4 * COLUMNS + 4 * t + g / 2;
    const float(&four)[4][4] = *(const float(*)[4][4])x_adj;
    float2 sum = sum_over_rows(four, g);
    float last = sum_vector_over_rows(x_adj[4], g);
    sum.x *= scale, sum.y *= scale, last *= scale;
    if (again || more) {
        if (again) sum.x += sums[at], sum.y += sums[at + 1], last += sums[last_at];
        if (more) {
            *(float2 *)(sums + at) = sum;
            if (g % 2 == 0) sums[last_at] = last;
            return;
        }
    }
    *(float2 *)(features + at) = sum;
    if (g % 2 == 0) features[last_at] = last;
}

/* Adds the adjoints (u, d) of a pass's edges: lanes have component t of edges 8q + g. part: over the lane's columns. */
__device__ inline void add_edge_adjoints(edge_adjoint<float> *edge_adj, const staged_edges &edges, int left,
                                         float scale, const float (&part)[TILES][2][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float old[2 * TILES];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        if (8 * q + g < left) old[q] = ((float *)(edge_adj + edges.place[8 * q + g]))[t];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const float sum = sum_over_lanes(part[q / 2][q % 2], t);
        if (8 * q + g < left) ((float *)(edge_adj + edges.place[8 * q + g]))[t] = old[q] + sum * scale;
    }
}

/* A row's warp. */
template <bool GAUSSIAN, typename Shared>
__device__ inline void reverse_rows(const matrix_arguments &a, float *features, const float *__restrict__ adj,
                                    edge_adjoint<float> *edge_adj, Shared &shared)
{
    constexpr int ROWS = Shared::ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = a.F / COLUMNS;
    stored_fragments(*fragments)[2] = shared.fragments[warp];
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
        const int64_t first = pass.first[warp];
#pragma unroll 1
        for (int tile = 0; tile < tiles + tiles % 2; tile++) {
            uint4 phi[PARTS], dphi[PARTS];
            edge_cutoff cutoff[2];
            load_cutoffs(a, edges, left, tile, g, cutoff);
            edge_fragments<GAUSSIAN, true>(shared.table, cutoff, t, phi, dphi);
            keep(fragments[tile][0], phi);
            keep(fragments[tile][1], dphi);
        }
        name_neighbours(edges);
        const size_t own = kept((size_t)row * 5 * a.F);
        float to_edges[TILES][2][4] = {};
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            float4 raw[5];
            float x[5][4], x_adj[5][4] = {};
            if (row < a.N)
#pragma unroll
                for (int p = 0; p < 5; p++)
                    raw[p] = __ldcg((const float4 *)(features + own + 5 * column + p * COLUMNS + 4 * t));
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
#pragma unroll
            for (int p = 0; p < 5; p++) to_four(raw[p], x[p]);
            const char *stage = shared.stage[slice_ring.buffer];
            const uint2 *weights = shared.weights[slice_ring.buffer];
            if (all_seated)
                reverse_slice<true>(a, fragments, stage, weights, edges.edge, adj, tiles, column, x, x_adj, to_edges);
            else
                reverse_slice<false>(a, fragments, stage, weights, edges.edge, adj, tiles, column, x, x_adj, to_edges);
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            if (row < a.N)
                add_feature_adjoints(a.scale, begin > 0, more, x_adj, features + own + 5 * column, sums + 5 * column);
        }
        add_edge_adjoints(edge_adj + first, edges, left, a.scale / adjoint_scale<float>, to_edges);
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

} // namespace mlff

#endif
