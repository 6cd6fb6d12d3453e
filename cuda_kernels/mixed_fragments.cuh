/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MIXED_FRAGMENTS_CUH
#define MLFF_CUDA_MIXED_FRAGMENTS_CUH
/*
 * Filters in mixed (message_matrix.cu): halves as the matrix units take and give them.
 *
 * Inputs   of a filter W: functions 0..15 in a step of 16 inputs (m16n8k16); functions 16..19 and the bias, with its
 *          three products hi hi, lo hi, hi lo, in one of 8 (m16n8k8), which comes first. Lane t of a row makes
 *          functions 4t..4t+3, 16+t and the cutoff function (radial_fragments.cuh).
 * Sums     are rounded to halves by the matrix units: in single they had to be packed, 28 instructions of 400 a tile.
 * Orders   W^T [16 columns x 8 edges] = weights^T phi^T, or W [16 edges x 8 columns] = phi weights: what the lanes hold
 *          of weights and functions is the same, in another order.
 */
#include "radial_fragments.cuh"

namespace mlff
{

/* A slice's weights in one order, of the filters W_s, W_R, W_v. Transposed: a left side. Straight: right sides of
 * columns 0..7 and 8..15. */
struct mixed_weights {
    uint4 main[3][32];
    uint2 rest[3][32];
};

/* What the two weights of a lane in the step of 8 inputs belong to. */
inline void mixed_rest_of(int t, int input, int *function, bool *low)
{
    *function = input == 0 ? 16 + t : t < 3 ? MATRIX_K : -1;
    *low = input == 1 && t == 2;
}

struct lane_weights {
    uint4 main[3];
    uint2 rest[3];

    __device__ explicit lane_weights(const mixed_weights &from)
    {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int kind = 0; kind < 3; kind++) main[kind] = from.main[kind][lane], rest[kind] = from.rest[kind][lane];
    }
};

__device__ inline uint32_t pack_halves(float a, float b)
{
    const __half2 pair = __floats2half2_rn(a, b);
    return *(const uint32_t *)&pair;
}

__device__ inline uint32_t multiply_halves(uint32_t a, uint32_t b)
{
    const __half2 product = __hmul2(*(const __half2 *)&a, *(const __half2 *)&b);
    return *(const uint32_t *)&product;
}

__device__ inline uint32_t multiply_add_halves(uint32_t a, uint32_t b, uint32_t c)
{
    const __half2 sum = __hfma2(*(const __half2 *)&a, *(const __half2 *)&b, *(const __half2 *)&c);
    return *(const uint32_t *)&sum;
}

/* d [16 x 8] = a [16 x 8] b [8 x 8]; d: rows g and 8 + g of columns 2t, 2t + 1 */
__device__ inline void begin_halves(uint32_t (&d)[2], const uint2 &a, uint32_t b)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3}, {%4}, {%5,%5};"
        : "=r"(d[0]), "=r"(d[1])
        : "r"(a.x), "r"(a.y), "r"(b), "r"(0));
}

/* d += a [16 x 16] b [16 x 8] */
__device__ inline void add_halves(uint32_t (&d)[2], const uint4 &a, const uint2 &b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
        : "+r"(d[0]), "+r"(d[1])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

/* A lane's values of the functions of an edge, or of their derivatives. */
struct mixed_functions {
    uint2 main;
    uint32_t rest;
};

__device__ inline mixed_functions pack_functions(const float (&phi)[5], float bias, int t)
{
    const float high = __half2float(__float2half_rn(bias)); /* hi, lo, hi, none */
    return {make_uint2(pack_halves(phi[0], phi[1]), pack_halves(phi[2], phi[3])),
            pack_halves(phi[4], t == 1   ? bias - high
                                : t == 3 ? 0
                                         : high)};
}

/* Of an edge; zeros for one that is not there (d < 0). */
template <bool GAUSSIAN, bool DERIVATIVE>
__device__ inline void make_functions(const radial_table &table, const edge_cutoff &e, int t, mixed_functions *phi,
                                      mixed_functions *dphi)
{
    float values[5], slopes[5];
    const edge_cutoff r = e.d < 0 ? edge_cutoff{1, 0, 0} : e;
#pragma unroll
    for (int q = 0; q < 5; q++)
        radial_value<GAUSSIAN>(table.function[q < 4 ? 4 * t + q : 16 + t], r, &values[q], &slopes[q]);
    *phi = pack_functions(values, r.fc, t);
    if (DERIVATIVE) *dphi = pack_functions(slopes, r.dfc, t);
}

/* W^T of edges 0..7 (to[0]) and 8..15 (to[1]) of a tile: columns g and 8 + g of edges 2t, 2t + 1. phi: of edges g and
 * 8 + g */
__device__ inline void filter_transposed(const lane_weights &w, int kind, const mixed_functions (&phi)[2],
                                         uint32_t (&to)[2][2])
{
#pragma unroll
    for (int q = 0; q < 2; q++) {
        begin_halves(to[q], w.rest[kind], phi[q].rest);
        add_halves(to[q], w.main[kind], phi[q].main);
    }
}

/* W of columns 0..7 (to[0]) and 8..15 (to[1]) of a tile: columns 2t, 2t + 1 of edges g and 8 + g. main, rest: of these
 * edges, as a left side */
__device__ inline void filter_straight(const lane_weights &w, int kind, const uint4 &main, const uint2 &rest,
                                       uint32_t (&to)[2][2])
{
    const uint4 m = w.main[kind];
    begin_halves(to[0], rest, w.rest[kind].x);
    begin_halves(to[1], rest, w.rest[kind].y);
    add_halves(to[0], main, make_uint2(m.x, m.y));
    add_halves(to[1], main, make_uint2(m.z, m.w));
}

} // namespace mlff

#endif
