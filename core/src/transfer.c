/* SPDX-License-Identifier: MIT */
/*
 * Threads   waking them takes 10 to 30 us where OpenMP waits passively, in which one thread copies up to 400 kB: below
 *           ALONE it copies alone. Above, no thread gets less than SHARE, and more than eight do not copy faster.
 * Pieces    threads take them in turn, so that what is in its place grows from the front while threads wake up.
 * Caches    positions go past them: nothing reads them again but the GPU, and it need not wait for lines that are
 *           changed in the caches of several cores. Few are left where they are, since a GPU reads them at once.
 */
#include "transfer.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

/* Numbers of values, but for the last two. */
enum {
    PIECE = 1 << 14,
    TOLD = 1 << 15,
    SHARE = 1 << 15,
    ALONE = 3 << 15,
    CACHED = 1 << 12,
    MOST_PIECES = 256,
    MOST_THREADS = 8
};

static int threads_for(size_t n, int threads)
{
    const size_t most = n < ALONE ? 1 : n / SHARE < MOST_THREADS ? n / SHARE : MOST_THREADS;
    return (size_t)threads < most ? threads : (int)most;
}

static int is_calling_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num() == 0;
#else
    return 1;
#endif
}

/* ------------------------------------------------------------------------------------------ one piece */

/* On their bits, since a sum of integers is vectorised: an exponent of ones plus one in its last place carries into the
 * sign. */
static int copy_cached(double *restrict to, const double *restrict from, size_t n)
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

#if defined(__SSE2__)
/* The same with stores that go past the caches; `to` at a multiple of 16 bytes. They have arrived once this returns. */
static int copy_past_caches(double *restrict to, const double *restrict from, size_t n)
{
    const __m128i magnitude = _mm_set1_epi64x(INT64_MAX), one = _mm_set1_epi64x((int64_t)1 << 52);
    __m128i carries = _mm_setzero_si128();
    for (size_t i = 0; i + 2 <= n; i += 2) {
        const __m128i bits = _mm_loadu_si128((const __m128i *)(from + i));
        carries = _mm_or_si128(carries, _mm_add_epi64(_mm_and_si128(bits, magnitude), one));
        _mm_stream_si128((__m128i *)(to + i), bits);
    }
    _mm_sfence();
    const int finite = _mm_movemask_pd(_mm_castsi128_pd(carries)) == 0;
    return copy_cached(to + n / 2 * 2, from + n / 2 * 2, n % 2) && finite;
}
#else
#define copy_past_caches copy_cached
#endif

/* -------------------------------------------------------------------------------------------- copies */

typedef struct copying {
    double *to;
    const double *from;
    size_t n, piece; /* values; of a piece: a multiple of 8, but for the last */
    int pieces;
    int (*copy)(double *restrict, const double *restrict, size_t);
    atomic_int next; /* piece that nobody has taken */
    atomic_uchar is_done[MOST_PIECES];
    mlff_copied copied;
    void *context;
    int told; /* pieces */
} copying;

static size_t begin_of(const copying *c, int piece)
{
    return (size_t)piece < (size_t)c->pieces ? c->piece * (size_t)piece : c->n;
}

/* Tells of pieces from the front that are done: of all, or when there are enough. */
static void tell(copying *c)
{
    int done = c->told;
    while (done < c->pieces && atomic_load_explicit(&c->is_done[done], memory_order_acquire)) done++;
    const size_t begin = begin_of(c, c->told), end = begin_of(c, done);
    if (end == begin || (end - begin < TOLD && done < c->pieces)) return;
    c->copied(c->context, begin, end);
    c->told = done;
}

/* Takes pieces until none is left; returns whether their values are finite. */
static int take_pieces(copying *c, int is_caller)
{
    int finite = 1;
    for (;;) {
        const int p = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
        if (p >= c->pieces) return finite;
        const size_t begin = begin_of(c, p);
        finite = c->copy(c->to + begin, c->from + begin, begin_of(c, p + 1) - begin) && finite;
        atomic_store_explicit(&c->is_done[p], 1, memory_order_release);
        if (is_caller && c->copied) tell(c);
    }
}

int mlff_copy_finite(double *to, const double *from, size_t n, int threads, mlff_copied copied, void *context)
{
    copying c = {.to = to, .from = from, .n = n, .piece = PIECE, .copied = copied, .context = context};
    while (c.piece * MOST_PIECES < n) c.piece *= 2;
    c.pieces = (int)((n + c.piece - 1) / c.piece);
    c.copy = n < CACHED || (uintptr_t)to % 16 != 0 ? copy_cached : copy_past_caches;
    const int team = threads_for(n, threads);
    if (team <= 1) return take_pieces(&c, 1);
    int finite = 1;
#pragma omp parallel num_threads(team) reduction(&& : finite)
    finite = take_pieces(&c, is_calling_thread()) && finite;
    if (copied) tell(&c); /* what others were still at when the caller found no more */
    return finite;
}

void mlff_copy(double *to, const double *from, size_t n, int threads)
{
    const int team = threads_for(n, threads);
    if (team <= 1) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
#pragma omp parallel for num_threads(team)
    for (int p = 0; p < team; p++) {
        const size_t begin = n / (size_t)team * (size_t)p, end = p == team - 1 ? n : begin + n / (size_t)team;
        memcpy(to + begin, from + begin, (end - begin) * sizeof *to);
    }
}
