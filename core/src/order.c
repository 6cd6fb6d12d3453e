/* SPDX-License-Identifier: MIT */
#include "order.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS, MOST_BLOCKS = 64 };

/* Blocks are no smaller, angstrom, so that few rows lie where one block's curve ends and the next begins. */
#define LEAST_BLOCK 24.0

/* A place on the curve and the atom there. */
typedef struct placed_atom {
    uint64_t place;
    int32_t atom;
} placed_atom;

size_t mlff_order_scratch(size_t n)
{
    return 2 * n * sizeof(placed_atom);
}

/* J. Skilling, AIP Conference Proceedings 707, 381 (2004): the coordinates become, bit by bit, the place on the curve:
 * from the coarsest halving on, each one says how the finer ones are turned; the Gray code of what results is undone. */
uint64_t mlff_order_curve(uint32_t x, uint32_t y, uint32_t z, int bits)
{
    uint32_t axis[3] = {x, y, z};
    for (int b = bits - 1; b > 0; --b) {
        const uint32_t finer = (UINT32_C(1) << b) - 1;
        for (int d = 0; d < 3; ++d) { /* without branches, as half of them would be guessed wrong */
            const uint32_t upper = 0 - (axis[d] >> b & 1);
            const uint32_t swapped = (axis[0] ^ axis[d]) & finer & ~upper;
            axis[0] ^= (finer & upper) | swapped;
            axis[d] ^= swapped;
        }
    }
    axis[1] ^= axis[0];
    axis[2] ^= axis[1];
    uint32_t flip = 0;
    for (int b = bits - 1; b > 0; --b) flip ^= ((UINT32_C(1) << b) - 1) & (0 - (axis[2] >> b & 1));
    uint64_t place = 0;
    for (int b = bits - 1; b >= 0; --b)
        for (int d = 0; d < 3; ++d) place = place << 1 | ((axis[d] ^ flip) >> b & 1);
    return place;
}

static int is_finite(const double r[3])
{
    return isfinite(r[0]) && isfinite(r[1]) && isfinite(r[2]);
}

/* The box around the atoms is cut into blocks of about its shortest side, each with a curve of its own. */
typedef struct grid {
    double low[3], cell[3]; /* angstrom */
    uint32_t blocks[3];
    int bits; /* of a cell's number within a block, in each direction */
} grid;

/* Cells are shrunk to fill the block where that changes their shape little: a curve of which whole halves lie outside
 * of the system leaves it and comes back. */
static void choose_grid(grid *g, const double extent[3])
{
    double block[3], largest = 0.0, side = fmin(fmin(extent[0], extent[1]), extent[2]);
    if (!(side > 1.0)) side = LEAST_BLOCK;
    while (side < LEAST_BLOCK) side *= 2.0; /* so that the system fills halves of its blocks */
    for (int d = 0; d < 3; ++d) {
        g->blocks[d] = (uint32_t)fmax(1.0, fmin(floor(extent[d] / side + 0.5), MOST_BLOCKS));
        block[d] = extent[d] * (1 + 1e-9) / g->blocks[d];
        largest = fmax(largest, block[d]);
    }
    for (g->bits = 1; g->bits < ORDER_MOST_BITS && largest > ldexp(ORDER_CELL, g->bits);) ++g->bits;
    for (int d = 0; d < 3; ++d) g->cell[d] = ldexp(block[d] > 0.6 * largest ? block[d] : largest, -g->bits);
}

static uint64_t place_of(const grid *g, const double r[3])
{
    const uint32_t side = UINT32_C(1) << g->bits;
    uint32_t number[3];
    uint64_t block = 0;
    for (int d = 0; d < 3; ++d) {
        uint32_t cell = (uint32_t)((r[d] - g->low[d]) / g->cell[d]);
        if (cell >= side * g->blocks[d]) cell = side * g->blocks[d] - 1; /* rounding at the upper end */
        number[d] = cell & (side - 1);
        block = block * g->blocks[d] + (cell >> g->bits);
    }
    return block << 3 * g->bits | mlff_order_curve(number[0], number[1], number[2], g->bits);
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
    grid g = {.low = {DBL_MAX, DBL_MAX, DBL_MAX}};
    for (int32_t k = 0; k < n; ++k) {
        x_of(context, k, r);
        for (int d = 0; d < 3 && is_finite(r); ++d) {
            g.low[d] = fmin(g.low[d], r[d]);
            high[d] = fmax(high[d], r[d]);
        }
    }
    for (int d = 0; d < 3; ++d) extent[d] = high[d] - g.low[d];
    if (!is_finite(extent) || !(extent[0] + extent[1] + extent[2] > 0.0)) return; /* nothing to tell them apart */
    choose_grid(&g, extent);

    placed_atom *placed = scratch;
    for (int32_t k = 0; k < n; ++k) {
        x_of(context, k, r);
        placed[k] = (placed_atom){is_finite(r) ? place_of(&g, r) : 0, atoms[k]};
    }
    uint64_t last = (uint64_t)g.blocks[0] * g.blocks[1] * g.blocks[2];
    int bits = 3 * g.bits;
    while (last >>= 1) ++bits;
    const placed_atom *sorted = sort_by_place(placed, placed + n, n, bits + 1);
    for (int32_t k = 0; k < n; ++k) atoms[k] = sorted[k].atom;
}
