/* SPDX-License-Identifier: MIT */
/*
 * Dense layers, Y = X M + b, with a register tile of our own.
 *
 * Why not BLAS: rows come in blocks of 64 and matrices are at most 256 x 768, so a library's packing costs as much as
 * the product, its threads would change the order of sums, and the OpenBLAS 0.3.21 of Debian 12 does not know recent
 * CPUs: on a Xeon of 2023 (family 6, model 207) it takes its SSE3 kernels, 24 to 30 GFLOP/s for [64 x 128][128 x 384]
 * in single on one core, where this tile makes 160 (2026-11).
 */
#include "variant.h"

/* Y tile [rows][vectors * LANES] over all of n_in; rows and vectors are constants where it is inlined. */
static inline __attribute__((always_inline)) void tile(const matrix *m, const real *X, size_t x_stride, real *Y,
                                                       size_t y_stride, int column, int accumulate, const int rows,
                                                       const int vectors)
{
    vec y[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int q = 0; q < vectors; q++) {
            if (accumulate)
                y[r][q] = load(Y + r * y_stride + column + q * LANES);
            else if (m->b)
                y[r][q] = load(m->b + column + q * LANES);
            else
                y[r][q] = (vec){0};
        }
    const real *M = m->M + column;
    for (int k = 0; k < m->n_in; k++, M += m->n_out) {
        vec w[TILE_VECTORS];
#pragma GCC unroll 2
        for (int q = 0; q < vectors; q++) w[q] = load(M + q * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int q = 0; q < vectors; q++) y[r][q] += X[r * x_stride + k] * w[q];
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int q = 0; q < vectors; q++) store(Y + r * y_stride + column + q * LANES, y[r][q]);
}

static inline __attribute__((always_inline)) void column_strip(const matrix *m, const real *X, size_t x_stride, real *Y,
                                                               size_t y_stride, int64_t rows, int column,
                                                               int accumulate, const int vectors)
{
    int64_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        tile(m, X + r * x_stride, x_stride, Y + r * y_stride, y_stride, column, accumulate, TILE_ROWS, vectors);
    for (; r < rows; r++)
        tile(m, X + r * x_stride, x_stride, Y + r * y_stride, y_stride, column, accumulate, 1, vectors);
}

void dense_rows(const matrix *m, const real *X, size_t x_stride, real *Y, size_t y_stride, int64_t rows, int accumulate)
{
    int column = 0;
    for (; column + TILE_VECTORS * LANES <= m->n_out; column += TILE_VECTORS * LANES)
        column_strip(m, X, x_stride, Y, y_stride, rows, column, accumulate, TILE_VECTORS);
    for (; column < m->n_out; column += LANES) column_strip(m, X, x_stride, Y, y_stride, rows, column, accumulate, 1);
}
