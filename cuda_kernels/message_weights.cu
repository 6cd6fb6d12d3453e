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
 * columns of both; message_mixed_pack: lane g has columns g and 8 + g, the fourth step before the other functions. */

/* The lane's four weights of a part of a tile, as two numbers. */
static uint2 lane_weights(const double *filter, int F, int K, double up, int kind, int f, int part, int t)
{
    uint16_t bits[4];
    for (int input = 0; input < 4; input++) {
        int function;
        bool low;
        weight_of(part, t, input, &function, &low);
        const int k = function == MATRIX_K ? K : function < K ? function : -1;
        const float w = k < 0 ? 0 : (float)(filter[((size_t)k * 3 + kind) * F + f] * up);
        const __half hi = __float2half_rn(w), value = low ? __float2half_rn(w - __half2float(hi)) : hi;
        memcpy(&bits[input], &value, sizeof bits[input]);
    }
    return make_uint2(bits[0] | (uint32_t)bits[1] << 16, bits[2] | (uint32_t)bits[3] << 16);
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
        fragments[q] = lane_weights(filter, F, K, up, kind, f, part, lane % 4);
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
    for (int slice = 0; slice < F / COLUMNS; slice++)
        for (int kind = 0; kind < 3; kind++)
            for (int k = 0; k < 2; k++)
                for (int lane = 0; lane < 32; lane++) {
                    const int f = slice * COLUMNS + lane / 4, part = k == 0 ? 2 : 0;
                    const uint2 a = lane_weights(filter, F, K, up, kind, f, part, lane % 4),
                                b = lane_weights(filter, F, K, up, kind, f + 8, part, lane % 4);
                    uint2 *to = fragments + (size_t)slice * MIXED_SLICE_FRAGMENTS + ((kind * 2 + k) * 32 + lane) * 2,
                          *straight = to + MIXED_SLICE_FRAGMENTS / 2;
                    to[0] = make_uint2(a.x, b.x), to[1] = make_uint2(a.y, b.y); /* as a left side */
                    straight[0] = a, straight[1] = b;                           /* as two right sides */
                }
    return (float)(1 / up);
}

} // namespace mlff
