/* SPDX-License-Identifier: MIT */
#ifndef MLFF_ORDER_H
#define MLFF_ORDER_H
/*
 * The order of rows in space: along a Hilbert curve, so that any few consecutive rows form a compact blob and their
 * neighbours' rows are near each other in memory. A gather from rows in such an order costs a quarter of one from
 * shuffled rows on a GPU (docs/performance.md).
 */
#include "on_device.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Fewer atoms than this keep their order: all of their rows fit where a gather is fast. */
#define ORDER_LEAST_ATOMS 64

/* Cells of the curve, angstrom: about one atom each, so that the order means something within eight rows. */
#define ORDER_CELL 1.5

/* Bits of a cell's number in each direction, at most; a wider system gets wider cells. */
#define ORDER_MOST_BITS 14

/* Blocks of the curve are no smaller, angstrom, so that few rows lie where a block's curve ends and another begins. */
#define ORDER_LEAST_BLOCK 24.0
#define ORDER_MOST_BLOCKS 64.0 /* in each direction */

/* Bytes that mlff_order_in_space needs for n atoms. */
size_t mlff_order_scratch(size_t n);

/* Sorts atoms [n] by the position of their cell on the curve; atoms of one cell, and atoms whose position is not
 * finite, keep their order. x_of(context, k, r) gives the position of atoms[k], angstrom. */
void mlff_order_in_space(int32_t n, int32_t *atoms, void (*x_of)(const void *context, int32_t k, double r[3]),
                         const void *context, void *scratch);

/* The number of a cell on the curve through 2^bits cells in each direction, below 2^(3 bits).
 * J. Skilling, AIP Conference Proceedings 707, 381 (2004): the coordinates become, bit by bit, the place on the curve:
 * from the coarsest halving on, each says how the finer ones are turned; the Gray code of what results is undone. */
MLFF_ON_DEVICE static inline uint64_t mlff_order_curve(uint32_t x, uint32_t y, uint32_t z, int bits)
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

/* The box around the atoms is cut into blocks of about its shortest side, each with a curve of its own. */
typedef struct order_grid {
    double low[3], cell[3]; /* angstrom */
    uint32_t blocks[3];
    int bits; /* of a cell's number within a block, in each direction */
} order_grid;

/* Cells are shrunk to fill the block where that changes their shape little: a curve of which whole halves lie outside
 * of the system leaves it and comes back. */
MLFF_ON_DEVICE static inline void mlff_order_choose_grid(order_grid *g, const double extent[3], int most_bits)
{
    double block[3], largest = 0.0, side = fmin(fmin(extent[0], extent[1]), extent[2]);
    if (!(side > 1.0)) side = ORDER_LEAST_BLOCK;
    while (side < ORDER_LEAST_BLOCK) side *= 2.0; /* so that the system fills halves of its blocks */
    for (int d = 0; d < 3; ++d) {
        g->blocks[d] = (uint32_t)fmax(1.0, fmin(floor(extent[d] / side + 0.5), ORDER_MOST_BLOCKS));
        block[d] = extent[d] * (1 + 1e-9) / g->blocks[d];
        largest = fmax(largest, block[d]);
    }
    for (g->bits = 1; g->bits < most_bits && largest > ldexp(ORDER_CELL, g->bits);) ++g->bits;
    for (int d = 0; d < 3; ++d) g->cell[d] = ldexp(block[d] > 0.6 * largest ? block[d] : largest, -g->bits);
}

/* Bits of a place; with most_bits in each direction never more than 3 most_bits + 18. */
MLFF_ON_DEVICE static inline int mlff_order_place_bits(const order_grid *g)
{
    int bits = 3 * g->bits;
    for (uint64_t last = (uint64_t)g->blocks[0] * g->blocks[1] * g->blocks[2] - 1; last; last >>= 1) ++bits;
    return bits;
}

MLFF_ON_DEVICE static inline uint64_t mlff_order_place(const order_grid *g, const double r[3])
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

#endif
