/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_RADIAL_FRAGMENTS_CUH
#define MLFF_CUDA_RADIAL_FRAGMENTS_CUH
/*
 * Radial functions and filter weights as the matrix units (m16n8k16) take them.
 *
 * A filter W [16 edges x 8 features] is phi [16 x 21] times weights [21 x 8], both split into halves of 11 bits,
 * a = hi + lo. Functions 0..15 fill one step for each of the products lo hi, hi lo and hi hi; the three products of
 * functions 16..19 and of the cutoff function (the bias) fill 15 of a fourth step's 16 inputs. Mixed:
 * mixed_fragments.cuh.
 *
 * The order of a step's inputs is free: lane t of a row makes functions 4t..4t+3, 16+t and the cutoff function.
 */
#include "radial.cuh"

#include <cuda_fp16.h>

namespace mlff
{

constexpr int MATRIX_K = 20;
constexpr int PARTS = 3; /* fragments of 16 edges, or of a weight tile: high halves, low halves, the fourth step */

/* What a lane needs of its functions, in single. Gaussians: offset, sqrt(log2(e)/2)/width for 2^-(.)^2, and what its
 * argument is multiplied by in the derivative; Bessel functions: frequency/pi in two parts, frequency. */
struct radial_table {
    float4 function[MATRIX_K];
};

__device__ inline void load_radial_table(const radial_parameters &p, radial_table &table)
{
    const double root = 0.84932180028801907, pi = 3.14159265358979323846; /* sqrt(log2(e)/2) */
    for (int k = threadIdx.x; k < MATRIX_K; k += blockDim.x) {
        const double centre = k < p.K ? p.centre[k] : 0, inverse = k < p.K && p.gaussian ? p.inverse_width[k] : 0;
        const float high = (float)(centre / pi);
        table.function[k] = p.gaussian
                                ? make_float4((float)centre, (float)(inverse * root), (float)(-inverse / root), 0)
                                : make_float4(high, (float)(centre / pi - (double)high), (float)centre, 0);
    }
}

struct edge_cutoff {
    float d, fc, dfc;
};

__device__ inline edge_cutoff cutoff_of(const radial_parameters &p, float d)
{
    edge_cutoff e = {d, 0, 0};
    cutoff_function(p, d, &e.fc, &e.dfc);
    return e;
}

/* phi_k and dphi_k/dd; functions beyond the model's have zero weights */
template <bool GAUSSIAN>
__device__ inline void radial_value(const float4 &f, const edge_cutoff &e, float *phi, float *dphi)
{
    float rbf, drbf;
    if (GAUSSIAN) {
        const float z = (e.d - f.x) * f.y;
        rbf = power_of_two(-z * z);
        drbf = z * f.z * rbf;
    } else {
        const float x = f.x * e.d, lost = 3.14159265f * (fmaf(f.x, e.d, -x) + f.y * e.d), inverse = 1 / e.d;
        float s, c; /* what rounding took from the argument, by the first derivative */
        sincospif(x, &s, &c);
        rbf = (s + lost * c) * inverse;
        drbf = (f.z * (c - lost * s) - rbf) * inverse;
    }
    *phi = rbf * e.fc;
    *dphi = drbf * e.fc + rbf * e.dfc;
}

/* a and b in halves: high parts in *hi, what is left in *lo */
__device__ inline void split_two(float a, float b, uint32_t *hi, uint32_t *lo)
{
    const __half2 high = __floats2half2_rn(a, b);
    const float2 back = __half22float2(high);
    const __half2 low = __floats2half2_rn(a - back.x, b - back.y);
    *hi = *(const uint32_t *)&high;
    *lo = *(const uint32_t *)&low;
}

/* One edge's half of a lane's fragments (x and z of row g, y and w of row g + 8) from the values of its functions. */
__device__ inline void edge_fragment(const float (&phi)[5], float bias, int t, uint2 (&part)[PARTS])
{
    uint32_t hi, lo;
    split_two(phi[0], phi[1], &part[0].x, &part[1].x);
    split_two(phi[2], phi[3], &part[0].y, &part[1].y);
    split_two(phi[4], bias, &hi, &lo);
    part[2].x = __byte_perm(hi, lo, 0x5410);                                          /* hi, lo of function 16 + t */
    part[2].y = t == 3 ? hi & 0xffff : __byte_perm(hi, lo, t == 1 ? 0x7610 : 0x3210); /* hi; bias hi, lo, hi, none */
}

/* Fragments of phi, and of dphi/dd where wanted, of the edges of rows g and g + 8; one that is not there (d < 0) gives
 * zeros. */
template <bool GAUSSIAN, bool DERIVATIVE>
__device__ inline void edge_fragments(const radial_table &table, const edge_cutoff (&e)[2], int t, uint4 (&a)[PARTS],
                                      uint4 (&da)[PARTS])
{
    uint2 half[2][PARTS], dhalf[2][PARTS];
    float4 functions[5];
#pragma unroll
    for (int q = 0; q < 5; q++) functions[q] = table.function[q < 4 ? 4 * t + q : 16 + t];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float phi[5], dphi[5];
        const edge_cutoff r = e[h].d < 0 ? edge_cutoff{1, 0, 0} : e[h];
#pragma unroll
        for (int q = 0; q < 5; q++) radial_value<GAUSSIAN>(functions[q], r, &phi[q], &dphi[q]);
        edge_fragment(phi, r.fc, t, half[h]);
        if (DERIVATIVE) edge_fragment(dphi, r.dfc, t, dhalf[h]);
    }
#pragma unroll
    for (int q = 0; q < PARTS; q++) {
        a[q] = make_uint4(half[0][q].x, half[1][q].x, half[0][q].y, half[1][q].y);
        if (DERIVATIVE) da[q] = make_uint4(dhalf[0][q].x, dhalf[1][q].x, dhalf[0][q].y, dhalf[1][q].y);
    }
}

/* The weights that lane t of column n holds for a step's four inputs (2t, 2t+1, 2t+8, 2t+9): which function, and
 * whether the high or the low half. part 0: high halves of functions 0..15; 1: their low halves; 2: the fourth step. */
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

/* W of 16 edges and 8 features: W of row g + 8h and the lane's column q is c[2 * h + q]. Small parts first. */
__device__ inline void filter_tile(const uint4 (&a)[PARTS], const uint2 (&b)[PARTS], float (&c)[4])
{
#pragma unroll
    for (int q = 0; q < 4; q++) c[q] = 0;
    mma_half(c, a[1], b[0]);
    mma_half(c, a[0], b[1]);
    mma_half(c, a[2], b[2]);
    mma_half(c, a[0], b[0]);
}

/* W of 16 edges and 16 features: W of row g + 8h and the lane's column q is c[q / 2][2 * h + q % 2]. */
__device__ inline void filter(const uint4 (&a)[PARTS], const uint2 (&b)[2][PARTS], float (&c)[2][4])
{
    filter_tile(a, b[0], c[0]);
    filter_tile(a, b[1], c[1]);
}

} // namespace mlff

#endif
