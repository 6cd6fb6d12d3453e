/* SPDX-License-Identifier: MIT */
#include "transfer.h"

#include <stdint.h>
#include <string.h>

/* A piece is worth a thread; more than eight threads do not copy faster. */
enum { PIECE = 1 << 15, MOST_THREADS = 8 };

static int threads_for(size_t n, int threads)
{
    const size_t pieces = n / PIECE;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    return pieces < (size_t)threads ? (pieces > 0 ? (int)pieces : 1) : threads;
}

static size_t piece_begin(size_t n, int piece, int pieces)
{
    return n / (size_t)pieces * (size_t)piece + (piece == pieces ? n % (size_t)pieces : 0);
}

/* On their bits, since a sum of integers is vectorised: an exponent of ones plus one in its last place carries into the
 * sign. */
static int copy_piece(double *restrict to, const double *restrict from, size_t n)
{
    const uint64_t magnitude = ~((uint64_t)1 << 63), one = (uint64_t)1 << 52;
    uint64_t carries = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, from + i, sizeof bits);
        carries |= (bits & magnitude) + one;
        memcpy(to + i, &bits, sizeof bits);
    }
    return !(carries >> 63);
}

int mlff_copy_finite(double *to, const double *from, size_t n, int threads)
{
    const int pieces = threads_for(n, threads);
    if (pieces == 1) return copy_piece(to, from, n);
    int finite = 1;
#pragma omp parallel for num_threads(pieces) reduction(&& : finite)
    for (int p = 0; p < pieces; p++) {
        const size_t begin = piece_begin(n, p, pieces), end = piece_begin(n, p + 1, pieces);
        finite = copy_piece(to + begin, from + begin, end - begin) && finite;
    }
    return finite;
}

void mlff_copy(double *to, const double *from, size_t n, int threads)
{
    const int pieces = threads_for(n, threads);
    if (pieces == 1) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
#pragma omp parallel for num_threads(pieces)
    for (int p = 0; p < pieces; p++) {
        const size_t begin = piece_begin(n, p, pieces), end = piece_begin(n, p + 1, pieces);
        memcpy(to + begin, from + begin, (end - begin) * sizeof *to);
    }
}
