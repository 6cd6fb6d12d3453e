/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_RADIAL_FRAGMENTS_CUH
#define MLFF_CUDA_RADIAL_FRAGMENTS_CUH
/*
 * Radial functions and filter weights as the matrix units (m16n8k16) take them.
 *
 * A filter W [16 edges x 8 features] is phi [16 x 21] times weights [21 x 8], both split into halves of 11 bits,
 * a = hi + lo. Functions 0..15 fill one step for each of the products lo hi, hi lo and hi hi; the three products of
 * functions 16..19 and of the cutoff function (the bias) fill 15 of a fourth step's 16 inputs. Precision mixed leaves out
 * the first two steps.
 *
 * The order of a step's inputs is free: lane t of a row makes functions 4t..4t+3, 16+t and the cutoff function.
 */
#include "radial.cuh"

#include <cuda_fp16.h>

namespace mlff
{

constexpr int MATRIX_K = 20;
constexpr int PARTS = 3; /* fragments of 16 edges, or of a weight tile: high halves, low halves, the fourth step */

/* Offsets and inverse widths in single, for shared memory. */
struct radial_table {
    float centre[MATRIX_K], inverse_width[MATRIX_K];
};

__device__ inline void load_radial_table(const radial_parameters &p, radial_table &table)
{
    for (int k = threadIdx.x; k < MATRIX_K; k += blockDim.x) {
        table.centre[k] = k < p.K ? (float)p.centre[k] : 0.0f;
        table.inverse_width[k] = k < p.K ? (float)p.inverse_width[k] : 0.0f;
    }
}

struct edge_cutoff {
    float d, fc, dfc;
};

__device__ inline edge_cutoff cutoff_of(const radial_parameters &p, float d)
{
    const float inverse = (float)(1 / p.cutoff);
    float s, c;
    sincospif(d * inverse, &s, &c);
    return {d, 0.5f * (c + 1), -0.5f * 3.14159265f * inverse * s};
}

/* phi_k (DERIVATIVE: dphi_k/dd) of k < 20; 0 beyond the model's functions */
template <bool DERIVATIVE>
__device__ inline float radial_value(const radial_parameters &p, const radial_table &table, const edge_cutoff &e, int k)
{
    if (k >= p.K) return 0;
    float rbf, drbf;
    if (p.gaussian) {
        const float inverse = table.inverse_width[k], z = (e.d - table.centre[k]) * inverse;
        rbf = expf(-0.5f * z * z);
        drbf = -z * inverse * rbf;
    } else {
        const float inverse = 1 / e.d;
        float s, c;
        sincosf(table.centre[k] * e.d, &s, &c);
        rbf = s * inverse;
        drbf = (table.centre[k] * c - rbf) * inverse;
    }
    return DERIVATIVE ? drbf * e.fc + rbf * e.dfc : rbf * e.fc;
}

__device__ inline uint32_t pack(__half low, __half high)
{
    return (uint32_t)__half_as_ushort(low) | (uint32_t)__half_as_ushort(high) << 16;
}

__device__ inline void split(float x, __half &hi, __half &lo)
{
    hi = __float2half_rn(x);
    lo = __float2half_rn(x - __half2float(hi));
}

/* One edge's half of a lane's fragments: x and z (row g) or y and w (row g + 8) of the three parts. */
template <bool DERIVATIVE>
__device__ inline void edge_fragment(const radial_parameters &p, const radial_table &table, const edge_cutoff &e, int t,
                                     uint2 (&part)[PARTS])
{
    __half hi[5], lo[5];
#pragma unroll
    for (int q = 0; q < 5; q++)
        split(radial_value<DERIVATIVE>(p, table, e, q < 4 ? 4 * t + q : 16 + t), hi[q], lo[q]);
    __half bias_hi, bias_lo;
    split(DERIVATIVE ? e.dfc : e.fc, bias_hi, bias_lo);
    part[0] = make_uint2(pack(hi[0], hi[1]), pack(hi[2], hi[3]));
    part[1] = make_uint2(pack(lo[0], lo[1]), pack(lo[2], lo[3]));
    part[2] = make_uint2(pack(hi[4], lo[4]), pack(hi[4], t == 1 ? bias_lo : t == 3 ? __float2half_rn(0.0f) : bias_hi));
}

/* Fragments of the edges of rows g and g + 8; one that is not there (d < 0) gives zeros. */
template <bool DERIVATIVE>
__device__ inline void edge_fragments(const radial_parameters &p, const radial_table &table, const edge_cutoff (&e)[2],
                                      int t, uint4 (&a)[PARTS])
{
    uint2 half[2][PARTS] = {};
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (e[h].d >= 0) edge_fragment<DERIVATIVE>(p, table, e[h], t, half[h]);
#pragma unroll
    for (int q = 0; q < PARTS; q++) a[q] = make_uint4(half[0][q].x, half[1][q].x, half[0][q].y, half[1][q].y);
}

/* The weights that lane t of column n holds for a step's four inputs (2t, 2t+1, 2t+8, 2t+9): which function, and whether
 * the high or the low half. part 0: high halves of functions 0..15; 1: their low halves; 2: the fourth step. */
inline void weight_of(int part, int t, int input, int *function, bool *low)
{
    if (part < 2) {
        *function = 4 * t + input;
        *low = part == 1;
    } else if (input < 3) {
        *function = 16 + t; /* against hi, lo, hi */
        *low = input == 2;
    } else {
        *function = t < 3 ? MATRIX_K : -1; /* against hi, lo, hi, 0 */
        *low = t == 2;
    }
}

__device__ inline void mma_half(float (&c)[4], const uint4 &a, const uint2 &b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

/* W of 16 edges and 16 features (two tiles of 8): W of row g + 8h and the lane's column q is c[q / 2][2 * h + q % 2].
 * SPLIT: with the low halves. Small parts first. */
template <bool SPLIT>
__device__ inline void filter(const uint4 (&a)[PARTS], const uint2 (&b)[2][PARTS], float (&c)[2][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int q = 0; q < 4; q++) c[half][q] = 0;
        if (SPLIT) {
            mma_half(c[half], a[1], b[half][0]);
            mma_half(c[half], a[0], b[half][1]);
        }
        mma_half(c[half], a[2], b[half][2]);
        mma_half(c[half], a[0], b[half][0]);
    }
}

} // namespace mlff

#endif
