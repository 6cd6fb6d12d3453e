/* SPDX-License-Identifier: MIT */
#ifndef MLFF_GRAPH_CHECKS_H
#define MLFF_GRAPH_CHECKS_H
/* What every graph must be, and the reference that graphs are held against: all pairs, all images, no lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "graph.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) fail_msg(__VA_ARGS__);                                                                       \
    } while (0)

/* The same numbers on every machine, in [0, 1). */
static inline double uniform(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(*seed >> 11) * 0x1p-53;
}

/* In a block of its own size, so that AddressSanitizer sees an element too many. */
static inline void *exact_copy(const void *array, size_t bytes)
{
    void *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    if (bytes) memcpy(copy, array, bytes);
    return copy;
}

/* Rows and atoms name each other, offsets ascend, and the transpose lists each slot under its neighbour, ascending. */
static inline void check_graph(const mlff_graph *g)
{
    assert_true(0 <= g->n_owned && g->n_owned <= g->n_rows && g->n_rows <= g->n_all);
    for (int32_t row = 0; row < g->n_rows; ++row) {
        const int32_t atom = g->atom_of_row[row];
        assert_in_range(atom, row < g->n_owned ? 0 : g->n_local, (row < g->n_owned ? g->n_local : g->n_all) - 1);
        assert_int_equal(g->row_of_atom[atom], row);
    }
    for (int32_t row = 0; row < g->n_owned; ++row) assert_in_range(g->structure_of_row[row], 0, g->n_structures - 1);
    assert_int_equal(g->first[0], 0);
    assert_int_equal(g->first[g->n_owned], g->n_slots);
    for (int32_t row = 0; row < g->n_owned; ++row) assert_true(g->first[row] <= g->first[row + 1]);
    for (int64_t slot = 0; slot < g->n_slots; ++slot) {
        assert_in_range(g->neighbour_row[slot], 0, g->n_rows - 1);
        assert_int_equal(g->row_of_atom[g->neighbour_atom[slot]], g->neighbour_row[slot]);
    }
    assert_int_equal(g->incoming_first[0], 0);
    assert_int_equal(g->incoming_first[g->n_rows], g->n_slots);
    for (int32_t row = 0; row < g->n_rows; ++row) {
        for (int64_t k = g->incoming_first[row]; k < g->incoming_first[row + 1]; ++k) {
            assert_int_equal(g->neighbour_row[g->incoming[k]], row);
            if (k > g->incoming_first[row]) assert_true(g->incoming[k - 1] < g->incoming[k]);
        }
    }
}

/* The status, one sentence with `part` in it, and an empty graph. */
static inline void expect_graph_refusal(mlff_status status, const mlff_error *error, const mlff_graph *graph,
                                        mlff_status expected, const char *part)
{
    if (!strstr(error->message, part)) fail_msg("message '%s' lacks '%s'", error->message, part);
    assert_string_equal(mlff_status_name(status), mlff_status_name(expected));
    assert_null(strchr(error->message, '\n'));
    assert_int_equal(graph->n_rows, 0);
    assert_int_equal(graph->n_slots, 0);
}

/* ------------------------------------------------------------------------------------------ reference */

/* One directed edge: atoms, and the whole cells that the neighbour is displaced by. */
typedef struct edge {
    int64_t i, j, cells[3];
} edge;

typedef struct edges {
    edge *edge;
    size_t n, capacity;
} edges;

static inline void add_edge(edges *e, edge added)
{
    if (e->n == e->capacity) {
        e->capacity = 2 * e->capacity + 16;
        e->edge = realloc(e->edge, e->capacity * sizeof(edge));
        assert_non_null(e->edge);
    }
    e->edge[e->n++] = added;
}

static inline int compare_edges(const void *left, const void *right)
{
    const edge *a = left, *b = right;
    if (a->i != b->i) return a->i < b->i ? -1 : 1;
    if (a->j != b->j) return a->j < b->j ? -1 : 1;
    for (int d = 0; d < 3; ++d) {
        if (a->cells[d] != b->cells[d]) return a->cells[d] < b->cells[d] ? -1 : 1;
    }
    return 0;
}

static inline void sort_edges(edges *e)
{
    if (e->n) qsort(e->edge, e->n, sizeof(edge), compare_edges);
}

static inline void check_same_edges(edges *found, edges *expected, const char *what)
{
    sort_edges(found);
    sort_edges(expected);
    for (size_t k = 0; k < found->n && k < expected->n; ++k) {
        const edge *f = &found->edge[k], *e = &expected->edge[k];
        CHECK(compare_edges(f, e) == 0,
              "%s: edge %zu: found %lld-%lld cells %lld %lld %lld, expected %lld-%lld cells %lld %lld %lld", what, k,
              (long long)f->i, (long long)f->j, (long long)f->cells[0], (long long)f->cells[1], (long long)f->cells[2],
              (long long)e->i, (long long)e->j, (long long)e->cells[0], (long long)e->cells[1], (long long)e->cells[2]);
    }
    CHECK(found->n == expected->n, "%s: found %zu edges, expected %zu", what, found->n, expected->n);
}

/* The inverse of the lattice in which unit axes, orthogonal to the rest, stand where it is not periodic. Found by
 * Gram-Schmidt and elimination, on purpose another way than the library's. */
static inline void reference_inverse(const double *cell, const int32_t *periodic, double inverse[3][3])
{
    double m[3][6] = {{0.0}};
    for (int d = 0; d < 3; ++d) {
        for (int c = 0; c < 3; ++c) {
            m[d][c] = periodic[d] ? cell[3 * d + c] : 0.0;
            m[d][3 + c] = c == d;
        }
    }
    double basis[3][3]; /* orthonormal: first of the periodic vectors, then of axes */
    int n = 0;
    for (int pass = 0; pass < 2; ++pass) {
        for (int d = 0; d < 3; ++d) {
            if ((pass == 0) != (periodic[d] != 0)) continue;
            double best[3] = {0.0, 0.0, 0.0}, best_norm = 0.0;
            for (int axis = 0; axis < (pass ? 3 : 1); ++axis) {
                double v[3];
                for (int c = 0; c < 3; ++c) v[c] = pass ? (c == axis) : m[d][c];
                for (int k = 0; k < n; ++k) {
                    double along = v[0] * basis[k][0] + v[1] * basis[k][1] + v[2] * basis[k][2];
                    for (int c = 0; c < 3; ++c) v[c] -= along * basis[k][c];
                }
                double norm = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
                if (norm <= best_norm) continue;
                best_norm = norm;
                memcpy(best, v, sizeof best);
            }
            for (int c = 0; c < 3; ++c) {
                basis[n][c] = best[c] / best_norm;
                if (pass) m[d][c] = basis[n][c];
            }
            ++n;
        }
    }
    for (int d = 0; d < 3; ++d) {
        int pivot = d;
        for (int r = d + 1; r < 3; ++r) {
            if (fabs(m[r][d]) > fabs(m[pivot][d])) pivot = r;
        }
        for (int c = 0; c < 6; ++c) {
            double swap = m[d][c];
            m[d][c] = m[pivot][c];
            m[pivot][c] = swap;
        }
        for (int c = 5; c >= d; --c) m[d][c] /= m[d][d];
        for (int r = 0; r < 3; ++r) {
            for (int c = 5; r != d && c >= d; --c) m[r][c] -= m[r][d] * m[d][c];
        }
    }
    for (int d = 0; d < 3; ++d) memcpy(inverse[d], m[d] + 3, sizeof inverse[d]);
}

/* Pairs of one structure's atoms, for atoms `first` .. `end`-1, cell [3][3] and periodic [3]. */
static inline void add_reference_edges(edges *e, const double *x, const int32_t *species, int32_t first, int32_t end,
                                       const double *cell, const int32_t *periodic, double cutoff)
{
    double inverse[3][3], reach[3];
    reference_inverse(cell, periodic, inverse);
    for (int d = 0; d < 3; ++d) {
        reach[d] = cutoff *
                   sqrt(inverse[0][d] * inverse[0][d] + inverse[1][d] * inverse[1][d] + inverse[2][d] * inverse[2][d]);
    }
    for (int32_t i = first; i < end; ++i) {
        for (int32_t j = first; j < end; ++j) {
            if (species[i] < 0 || species[j] < 0) continue;
            double r[3];
            int64_t low[3], high[3], t[3];
            for (int c = 0; c < 3; ++c) r[c] = x[3 * j + c] - x[3 * i + c];
            for (int d = 0; d < 3; ++d) {
                double s = r[0] * inverse[0][d] + r[1] * inverse[1][d] + r[2] * inverse[2][d];
                low[d] = periodic[d] ? (int64_t)ceil(-s - reach[d] - 1e-6) : 0;
                high[d] = periodic[d] ? (int64_t)floor(-s + reach[d] + 1e-6) : 0;
            }
            for (t[0] = low[0]; t[0] <= high[0]; ++t[0]) {
                for (t[1] = low[1]; t[1] <= high[1]; ++t[1]) {
                    for (t[2] = low[2]; t[2] <= high[2]; ++t[2]) {
                        double d2 = 0.0;
                        for (int c = 0; c < 3; ++c) {
                            double shift = 0.0;
                            for (int d = 0; d < 3; ++d) shift += t[d] ? (double)t[d] * cell[3 * d + c] : 0.0;
                            d2 += (r[c] + shift) * (r[c] + shift);
                        }
                        if (i == j && t[0] == 0 && t[1] == 0 && t[2] == 0) continue;
                        if (d2 < cutoff * cutoff) add_edge(e, (edge){i, j, {t[0], t[1], t[2]}});
                    }
                }
            }
        }
    }
}

#endif
