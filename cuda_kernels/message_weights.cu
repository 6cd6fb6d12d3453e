/* SPDX-License-Identifier: MIT */
/* Filter weights in the order in which the lanes of the matrix units hold them (radial_fragments.cuh). */
#include "message_matrix.cuh"
#include "message_stage.cuh"

#include <string.h>

namespace mlff
{

size_t message_matrix_fragments(int F)
{
    return (size_t)F / COLUMNS * SLICE_FRAGMENTS;
}

/* message_matrix_pack: column n of a tile's half is 4 (n / 2) + 2 half + n % 2, since lane t has four neighbouring
 * columns of both; message_mixed_pack: lane g has columns g and 8 + g. */

/* Weight of a function, or of the bias (MATRIX_K), in halves: the high one, or what it leaves. */
static uint32_t half_weight(const double *filter, int F, int K, double up, int kind, int f, int function, bool low)
{
    const int k = function == MATRIX_K ? K : function < K ? function : -1;
    const float w = k < 0 ? 0 : (float)(filter[((size_t)k * 3 + kind) * F + f] * up);
    const __half hi = __float2half_rn(w), value = low ? __float2half_rn(w - __half2float(hi)) : hi;
    uint16_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The lane's four weights of a part of a tile, as two numbers. */
static uint2 four_weights(const double *filter, int F, int K, double up, int kind, int f, int part, int t)
{
    uint32_t bits[4];
    for (int input = 0; input < 4; input++) {
        int function;
        bool low;
        weight_of(part, t, input, &function, &low);
        bits[input] = half_weight(filter, F, K, up, kind, f, function, low);
    }
    return make_uint2(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16);
}

/* The lane's two weights of the step of 8 inputs in mixed. */
static uint32_t rest_weights(const double *filter, int F, int K, double up, int kind, int f, int t)
{
    uint32_t bits[2];
    for (int input = 0; input < 2; input++) {
        int function;
        bool low;
        mixed_rest_of(t, input, &function, &low);
        bits[input] = half_weight(filter, F, K, up, kind, f, function, low);
    }
    return bits[0] | bits[1] << 16;
}

/* Power of two that brings the largest weight near 2^exponent. */
static double power_for(const double *filter, int F, int K, int exponent)
{
    double largest = 0;
    for (size_t q = 0; q < (size_t)(K + 1) * 3 * F; q++) largest = fmax(largest, fabs(filter[q]));
    int has = 0;
    frexp(largest, &has);
    return largest > 0 ? ldexp(1.0, exponent + 1 - has) : 1;
}

float message_matrix_pack(const double *filter, int F, int K, uint2 *fragments)
{
    const double up = power_for(filter, F, K, 10);
    for (size_t q = 0; q < message_matrix_fragments(F); q++) {
        const int lane = q % 32, part = q / 32 % PARTS, half = q / 32 / PARTS % 2, kind = q / 32 / PARTS / 2 % 3,
                  g = lane / 4;
        const int f = (int)(q / SLICE_FRAGMENTS) * COLUMNS + 4 * (g / 2) + 2 * half + g % 2;
        fragments[q] = four_weights(filter, F, K, up, kind, f, part, lane % 4);
    }
    return (float)(1 / up);
}

size_t message_mixed_fragments(int F)
{
    return (size_t)F / COLUMNS * MIXED_SLICE_FRAGMENTS;
}

float message_mixed_pack(const double *filter, int F, int K, uint2 *fragments)
{
    const double up = power_for(filter, F, K, 1); /* products with features and adjoints are halves too */
    for (int slice = 0; slice < F / COLUMNS; slice++) {
        mixed_weights *to = (mixed_weights *)(fragments + (size_t)slice * MIXED_SLICE_FRAGMENTS);
        for (int kind = 0; kind < 3; kind++)
            for (int lane = 0; lane < 32; lane++) {
                const int f = slice * COLUMNS + lane / 4, t = lane % 4;
                const uint2 a = four_weights(filter, F, K, up, kind, f, 0, t),
                            b = four_weights(filter, F, K, up, kind, f + 8, 0, t);
                to[0].main[kind][lane] = make_uint4(a.x, b.x, a.y, b.y);
                to[1].main[kind][lane] = make_uint4(a.x, a.y, b.x, b.y);
                to[0].rest[kind][lane] = to[1].rest[kind][lane] = make_uint2(
                    rest_weights(filter, F, K, up, kind, f, t), rest_weights(filter, F, K, up, kind, f + 8, t));
            }
    }
    return (float)(1 / up);
}

} // namespace mlff
