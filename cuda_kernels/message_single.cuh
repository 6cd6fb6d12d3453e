/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_SINGLE_CUH
#define MLFF_CUDA_MESSAGE_SINGLE_CUH
/*
 * A row's message in single (message_matrix.cu): the matrix units make the filters of 16 edges and 16 columns from
 * halves of 11 bits; products with the neighbours and sums over the edges are ordinary arithmetic. Lane 4g + t has
 * edges g and 8 + g of a tile and columns 4t .. 4t + 3.
 */
#include "message_stage.cuh"

namespace mlff
{

__device__ inline void to_four(const float4 &v, float (&to)[4])
{
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

/* The warp's edges, whose distances only it has read, give them for their neighbour. */
__device__ inline void name_neighbours(staged_edges &edges)
{
    __syncwarp();
#pragma unroll
    for (int q = threadIdx.x % 32; q < PASS_EDGES; q += 32) edges.edge[q].w = __int_as_float(edges.neighbour[q]);
    __syncwarp();
}

/* fragments: of the slice, [3][2][PARTS][32] */
__device__ inline void load_weights(const uint2 *fragments, int kind, int lane, uint2 (&b)[2][PARTS])
{
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            b[half][part] = fragments[((kind * 2 + half) * PARTS + part) * 32 + lane];
}

/* Sums over the eight rows g of four vectors of the lane's four columns; lane 4g + t is left with columns
 * 4t + 2(g % 2), + 1 of vector g / 2. */
__device__ inline float2 sum_over_rows(const float (&x)[4][4], int g)
{
    float two[2][4], one[4], out[2];
    const bool upper = g & 4, odd = g & 2, right = g & 1;
#pragma unroll
    for (int v = 0; v < 2; v++)
#pragma unroll
        for (int q = 0; q < 4; q++)
            two[v][q] =
                (upper ? x[2 + v][q] : x[v][q]) + __shfl_xor_sync(0xffffffffu, upper ? x[v][q] : x[2 + v][q], 16);
#pragma unroll
    for (int q = 0; q < 4; q++)
        one[q] = (odd ? two[1][q] : two[0][q]) + __shfl_xor_sync(0xffffffffu, odd ? two[0][q] : two[1][q], 8);
#pragma unroll
    for (int q = 0; q < 2; q++)
        out[q] = (right ? one[2 + q] : one[q]) + __shfl_xor_sync(0xffffffffu, right ? one[q] : one[2 + q], 4);
    return make_float2(out[0], out[1]);
}

/* The same of one vector: every lane is left with column 4t + g / 2. */
__device__ inline float sum_vector_over_rows(const float (&x)[4], int g)
{
    const bool upper = g & 4, odd = g & 2;
    float two[2];
#pragma unroll
    for (int q = 0; q < 2; q++)
        two[q] = (upper ? x[2 + q] : x[q]) + __shfl_xor_sync(0xffffffffu, upper ? x[q] : x[2 + q], 16);
    const float one = (odd ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, odd ? two[0] : two[1], 8);
    return one + __shfl_xor_sync(0xffffffffu, one, 4);
}

/* The lane's four columns of plane p of an edge's neighbour, which is where its seat begins, or -1 - row where it has
 * none. stage: at the lane's columns. ALL: every edge of the cluster has a seat. */
template <bool ALL>
__device__ inline void gather(const char *stage, const float *features, int F, int neighbour, int plane, int column,
                              float (&to)[4])
{
    if (ALL || neighbour >= 0)
        to_four(*(const float4 *)(stage + neighbour + plane * COLUMNS * (int)sizeof(float)), to);
    else
        to_four(*(const float4 *)(features + (size_t)(-1 - neighbour) * FORWARD_PLANES * F +
                                  sliced(FORWARD_PLANES, column) + plane * COLUMNS),
                to);
}

/* One slice of a row: sum [4][4] of s and v of the lane's columns, over its rows g of every tile. */
template <bool ALL>
__device__ inline void single_slice(const matrix_arguments &a, const char *stage, const uint2 *weights,
                                    const float *features, const float4 *geometry, const uint4 (&phi)[TILES][PARTS],
                                    int tiles, int column, float (&sum)[4][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const char *lane_stage = stage + 4 * t * sizeof(float);
    uint2 b[3][2][PARTS];
#pragma unroll
    for (int kind = 0; kind < 3; kind++) load_weights(weights, kind, lane, b[kind]);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        float W[3][2][4];
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter(phi[tile], b[kind], W[kind]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 r = geometry[tile * 16 + 8 * h + g];
            float x[5][4];
#pragma unroll
            for (int p = 0; p < 5; p++)
                gather<ALL>(lane_stage, features, a.F, __float_as_int(r.w), p, column + 4 * t, x[p]);
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                const float R = W[1][q / 2][at] * x[1][q], w = W[2][q / 2][at];
                sum[0][q] += W[0][q / 2][at] * x[0][q];
                sum[1][q] += R * r.x;
                sum[1][q] += w * x[2][q];
                sum[2][q] += R * r.y;
                sum[2][q] += w * x[3][q];
                sum[3][q] += R * r.z;
                sum[3][q] += w * x[4][q];
            }
        }
    }
}

/* Where a lane's two columns of a row's sums go: vector g / 2 of (s, v). */
struct single_part {
    const float *in;
    float *out;

    __device__ single_part(int row, int F, const float *v_in, float *v_out, float *s)
    {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, column = 4 * t + 2 * (g % 2);
        const size_t at = ((size_t)row * 3 + g / 2 - 1) * F + column, at_s = (size_t)row * F + column;
        in = g < 2 ? s + at_s : v_in + at;
        out = g < 2 ? s + at_s : v_out + at;
    }
    __device__ void store(int column, float2 old, float2 sum, float scale) const
    {
        *(float2 *)(out + column) = make_float2(old.x + sum.x * scale, old.y + sum.y * scale);
    }
};

template <bool GAUSSIAN>
__device__ inline void radial_fragments(const matrix_arguments &a, const radial_table &table, const staged_edges &edges,
                                        int left, int tiles, uint4 (&phi)[TILES][PARTS])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 unused[PARTS];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break;
        edge_cutoff cutoff[2];
        load_cutoffs(a, edges, left, tile, g, cutoff);
        edge_fragments<GAUSSIAN, false>(table, cutoff, t, phi[tile], unused);
    }
}

/* A row's warp. */
template <bool GAUSSIAN, typename Shared>
__device__ inline void forward_rows(const matrix_arguments &a, const float *__restrict__ features,
                                    const float *__restrict__ v_in, float *s, float *v_out, Shared &shared)
{
    const int warp = threadIdx.x / 32, slices = a.F / COLUMNS;
    ring<Shared::BUFFERS> slice_ring;
    ring<2> pass_ring;
    for (;; pass_ring.advance()) {
        staged_pass<Shared::ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        staged_edges &edges = pass.row[warp];
        const int row = row_of_warp(a, pass.cluster, warp), begin = pass.begin, left = pass.edges[warp] - begin,
                  tiles = tiles_of(left);
        const bool all_seated = pass.all_seated, writes = row < a.N && (begin == 0 || tiles > 0);
        uint4 phi[TILES][PARTS];
        radial_fragments<GAUSSIAN>(a, shared.table, edges, left, tiles, phi);
        name_neighbours(edges);
        const single_part to(row, a.F, begin > 0 ? v_out : v_in, v_out, s);
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            float2 old;
            if (writes) old = __ldcg((const float2 *)(to.in + column));
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
            float sum[4][4] = {};
            const char *stage = shared.stage[slice_ring.buffer];
            const uint2 *weights = shared.weights[slice_ring.buffer];
            if (all_seated)
                single_slice<true>(a, stage, weights, features, edges.edge, phi, tiles, column, sum);
            else
                single_slice<false>(a, stage, weights, features, edges.edge, phi, tiles, column, sum);
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            const float2 part = sum_over_rows(sum, threadIdx.x % 32 / 4);
            if (writes) to.store(column, old, part, a.scale);
        }
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

} // namespace mlff

#endif
