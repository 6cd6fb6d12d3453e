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

/* Column n of tile `half` as the lanes have it: lane t has four neighbouring columns of both tiles; transposed, lane g column
 * g of both. */
static int column_of(bool transposed, int half, int n)
{
    return transposed ? 8 * half + n : 4 * (n / 2) + 2 * half + n % 2;
}

float message_matrix_pack(const double *filter, int F, int K, bool transposed, uint2 *fragments)
{
    double largest = 0;
    for (size_t q = 0; q < (size_t)(K + 1) * 3 * F; q++) largest = fmax(largest, fabs(filter[q]));
    int exponent = 0;
    frexp(largest, &exponent);
    /* the largest weight comes near 2^10, or to 2^2 .. 2^3 where products with features are halves too */
    const double up = largest > 0 ? ldexp(1.0, (transposed ? 3 : 11) - exponent) : 1;
    for (size_t q = 0; q < message_matrix_fragments(F); q++) {
        const int lane = q % 32, part = q / 32 % PARTS, half = q / 32 / PARTS % 2, kind = q / 32 / PARTS / 2 % 3;
        const int f = (int)(q / SLICE_FRAGMENTS) * COLUMNS + column_of(transposed, half, lane / 4);
        uint16_t bits[4];
        for (int input = 0; input < 4; input++) {
            int function;
            bool low;
            weight_of(part, lane % 4, input, &function, &low);
            const int k = function == MATRIX_K ? K : function < K ? function : -1;
            const float w = k < 0 ? 0 : (float)(filter[((size_t)k * 3 + kind) * F + f] * up);
            const __half hi = __float2half_rn(w), value = low ? __float2half_rn(w - __half2float(hi)) : hi;
            memcpy(&bits[input], &value, sizeof bits[input]);
        }
        fragments[q] = make_uint2(bits[0] | (uint32_t)bits[1] << 16, bits[2] | (uint32_t)bits[3] << 16);
    }
    return (float)(1 / up);
}

} // namespace mlff
