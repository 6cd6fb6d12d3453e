/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_MIXED_CUH
#define MLFF_CUDA_MESSAGE_MIXED_CUH
/*
 * A row's message in mixed (message_matrix.cu): the matrix units make the filters and also sum over the edges; what is
 * between, filter times neighbour, is half precision, two edges at a time.
 *
 * Filters  W^T [16 columns x 8 edges] = weights^T [16 x 21] phi^T [21 x 8]: the fragments of message_matrix.cu with the roles of
 *          the two operands changed. Lane 4g + t is left with columns g and 8 + g of edges 2t and 2t + 1.
 * Products with the neighbours' columns, which ldmatrix.trans brings in the same order.
 * Sums     [4 x 16 edges] [16 edges x 8 columns], single: rows s, v_x, v_y, v_z of the left side are ones, or an edge's
 *          direction for the plane that is multiplied by it. A lane with g < 4 is left with two neighbouring columns of vector
 *          g of each half of the slice: nothing is left to add up between lanes.
 */
#include "message_stage.cuh"

namespace mlff
{

/* Four 8 x 8 matrices of halves, transposed; lane 8i + r names row r of matrix i, 16 bytes in shared memory. Lane 4g + t gets
 * rows 2t and 2t + 1 of column g of each. */
__device__ inline void load_matrices(uint32_t address, uint32_t (&to)[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}

__device__ inline uint32_t multiply_halves(uint32_t a, uint32_t b)
{
    const __half2 product = __hmul2(*(const __half2 *)&a, *(const __half2 *)&b);
    return *(const uint32_t *)&product;
}

__device__ inline uint32_t pack_halves(float a, float b)
{
    const __half2 pair = __floats2half2_rn(a, b);
    return *(const uint32_t *)&pair;
}

/* W of edges 0..7 (to[0]) and 8..15 (to[1]) of a tile: columns g and 8 + g. */
__device__ inline void filter_pairs(const uint2 (&w)[2][PARTS], const uint4 (&phi)[PARTS], uint32_t (&to)[2][2])
{
#pragma unroll
    for (int q = 0; q < 2; q++) {
        float c[4] = {0, 0, 0, 0};
#pragma unroll
        for (int part = 2; part >= 0; part -= 2) /* small parts first */
            mma_half(c, make_uint4(w[0][part].x, w[1][part].x, w[0][part].y, w[1][part].y),
                     q == 0 ? make_uint2(phi[part].x, phi[part].z) : make_uint2(phi[part].y, phi[part].w));
        to[q][0] = pack_halves(c[0], c[1]);
        to[q][1] = pack_halves(c[2], c[3]);
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
                                    : features[((size_t)(-1 - neighbour) * 5 + plane) * F + column + at];
        }
        const __half2 pair = __halves2half2(two[0], two[1]);
        to[q] = *(const uint32_t *)&pair;
    }
}

/* One slice of a row; sum [2][4]: the first two of each are columns 2t, 2t + 1 of a half of the slice, of vector g < 4. */
template <bool ALL>
__device__ inline void mixed_slice(const matrix_arguments &a, const char *stage, const uint2 *weights,
                                   const __half *features, const staged_edges &edges, const mixed_edges &own,
                                   const uint4 (&phi)[TILES][PARTS], int tiles, int column, float (&sum)[2][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4;
    const uint32_t lane_stage = shared_address(stage) + lane / 16 * 16, ones = 0x3c003c00u;
    uint2 w[3][2][PARTS];
#pragma unroll
    for (int kind = 0; kind < 3; kind++) load_weights<false>(weights, kind, lane, w[kind]);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint32_t W[3][2][2];
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter_pairs(w[kind], phi[tile], W[kind]);
#pragma unroll
        for (int plane = 0; plane < 5; plane++) { /* x_s, x_R, y (3) */
            const int kind = plane < 2 ? plane : 2, vector = plane < 2 ? 0 : plane - 1;
            uint32_t x[4];
            if (ALL)
                load_matrices(lane_stage + own.neighbour[tile] + plane * COLUMNS * (int)sizeof(__half), x);
            else
                gather_halves(stage, edges, tile, features, a.F, plane, column, x);
            const uint32_t one = g == vector ? ones : 0;
            const uint4 left = plane == 1 ? make_uint4(own.direction[tile].x, 0, own.direction[tile].y, 0)
                                          : make_uint4(one, 0, one, 0);
#pragma unroll
            for (int half = 0; half < 2; half++)
                mma_half(sum[half], left,
                         make_uint2(multiply_halves(W[kind][0][half], x[2 * half]),
                                    multiply_halves(W[kind][1][half], x[2 * half + 1])));
        }
    }
}

/* Where a lane's columns go: vector g of (s, v), columns 2t, 2t + 1 of each half; lanes with g >= 4 have none. */
struct mixed_part {
    const __half *v_in;
    __half *v_out;
    float *s; /* NULL: the lane's vector is one of v */
    bool has_any;

    __device__ mixed_part(int row, int F, const __half *v_from, __half *v_to, float *s_all, bool writes)
    {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const size_t at = ((size_t)row * 3 + g - 1) * F + 2 * t;
        v_in = v_from + at, v_out = v_to + at;
        s = g == 0 ? s_all + (size_t)row * F + 2 * t : nullptr;
        has_any = writes && g < 4;
    }
    __device__ void load(int column, two_columns (&old)[2]) const
    {
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (has_any && s)
                old[half].load(s + column + 8 * half);
            else if (has_any)
                old[half].load(v_in + column + 8 * half);
    }
    __device__ void store(int column, const two_columns (&old)[2], const float (&sum)[2][4], float scale) const
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = column + 8 * half;
            const float2 from = s ? old[half].value(float()) : old[half].value(__half());
            if (has_any && s)
                store_two(s + at, from.x + sum[half][0] * scale, from.y + sum[half][1] * scale);
            else if (has_any)
                store_two(v_out + at, from.x + sum[half][0] * scale, from.y + sum[half][1] * scale);
        }
    }
};

} // namespace mlff

#endif
