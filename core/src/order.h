/* SPDX-License-Identifier: MIT */
#ifndef MLFF_ORDER_H
#define MLFF_ORDER_H
/*
 * The order of rows in space: along a Hilbert curve, so that any few consecutive rows form a compact blob and their
 * neighbours' rows are near each other in memory. A gather from rows in such an order costs a quarter of one from
 * shuffled rows on a GPU (docs/performance.md).
 */
#include <stddef.h>
#include <stdint.h>

/* Fewer atoms than this keep their order: all of their rows fit where a gather is fast. */
#define ORDER_LEAST_ATOMS 64

/* Cells of the curve, angstrom: about one atom each, so that the order means something within eight rows. */
#define ORDER_CELL 1.5

/* Bits of a cell's number in each direction, at most; a wider system gets wider cells. */
#define ORDER_MOST_BITS 14

/* Bytes that mlff_order_in_space needs for n atoms. */
size_t mlff_order_scratch(size_t n);

/* Sorts atoms [n] by the position of their cell on the curve; atoms of one cell, and atoms whose position is not
 * finite, keep their order. x_of(context, k, r) gives the position of atoms[k], angstrom. */
void mlff_order_in_space(int32_t n, int32_t *atoms, void (*x_of)(const void *context, int32_t k, double r[3]),
                         const void *context, void *scratch);

/* The number of a cell on the curve through 2^bits cells in each direction, below 2^(3 bits). */
uint64_t mlff_order_curve(uint32_t x, uint32_t y, uint32_t z, int bits);

#endif
