/* SPDX-License-Identifier: MIT */
#include "order.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* A place on the curve and the atom there. */
typedef struct placed_atom {
    uint64_t place;
    int32_t atom;
} placed_atom;

size_t mlff_order_scratch(size_t n)
{
    return 2 * n * sizeof(placed_atom);
}

static int is_finite(const double r[3])
{
    return isfinite(r[0]) && isfinite(r[1]) && isfinite(r[2]);
}

/* Stable, digit by digit from the last one; returns which of the two arrays holds the result. */
static placed_atom *sort_by_place(placed_atom *from, placed_atom *to, int32_t n, int bits)
{
    for (int shift = 0; shift < bits; shift += DIGIT_BITS) {
        int32_t first[DIGITS + 1] = {0};
        for (int32_t k = 0; k < n; ++k) ++first[(from[k].place >> shift & (DIGITS - 1)) + 1];
        for (int digit = 0; digit < DIGITS; ++digit) first[digit + 1] += first[digit];
        for (int32_t k = 0; k < n; ++k) to[first[from[k].place >> shift & (DIGITS - 1)]++] = from[k];
        placed_atom *swapped = from;
        from = to;
        to = swapped;
    }
    return from;
}

void mlff_order_in_space(int32_t n, int32_t *atoms, void (*x_of)(const void *context, int32_t k, double r[3]),
                         const void *context, void *scratch)
{
    if (n < ORDER_LEAST_ATOMS) return;
    double r[3], extent[3], high[3] = {-DBL_MAX, -DBL_MAX, -DBL_MAX};
    order_grid g = {.low = {DBL_MAX, DBL_MAX, DBL_MAX}};
    for (int32_t k = 0; k < n; ++k) {
        x_of(context, k, r);
        for (int d = 0; d < 3 && is_finite(r); ++d) {
            g.low[d] = fmin(g.low[d], r[d]);
            high[d] = fmax(high[d], r[d]);
        }
    }
    for (int d = 0; d < 3; ++d) extent[d] = high[d] - g.low[d];
    if (!is_finite(extent) || !(extent[0] + extent[1] + extent[2] > 0.0)) return; /* nothing to tell them apart */
    mlff_order_choose_grid(&g, extent, ORDER_MOST_BITS);

    placed_atom *placed = scratch;
    for (int32_t k = 0; k < n; ++k) {
        x_of(context, k, r);
        placed[k] = (placed_atom){is_finite(r) ? mlff_order_place(&g, r) : 0, atoms[k]};
    }
    const placed_atom *sorted = sort_by_place(placed, placed + n, n, mlff_order_place_bits(&g));
    for (int32_t k = 0; k < n; ++k) atoms[k] = sorted[k].atom;
}
