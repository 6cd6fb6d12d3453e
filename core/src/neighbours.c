/* SPDX-License-Identifier: MIT */
/*
 * Neighbours of plain structures, by cell lists.
 *
 * Each structure gets a box: its lattice, in which directions that are not periodic are replaced by unit vectors
 * orthogonal to the rest, and a grid of bins along the three lattice directions. Atoms are wrapped into the box and
 * sorted by bin. A neighbour of an atom lies within `range` bins of the atom's own bin; a bin index beyond the grid
 * is a bin of the image that floor division names, so a cell shorter than the cutoff is nothing special.
 *
 * Two tests decide on a pair. The first, over the sorted wrapped positions, is fast and generous by a margin for
 * rounding. The second is the pair's own distance |x_j - x_i + shift| < cutoff from the positions as they were
 * given, as every later reader of the graph computes it. It is odd in (i, j), so each edge has its way back.
 *
 * The order of slots follows bins and atoms only, never threads.
 */
#include "graph.h"

#include "status.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* Beyond this double precision resolves no more than 0.0001 angstrom. */
#define FURTHEST_POSITION 1e12
/* Slots, and bins to look at, beyond which a request is absurd. */
#define MOST_SLOTS 0x1p40
/* Slots beyond which memory is asked for before the time is spent counting. */
#define MANY_SLOTS 0x1p28
/* Volume of the lattice vectors over the product of their lengths, below which they count as linearly dependent. */
#define FLATTEST_CELL 1e-6

enum { RUN_LENGTH = 256 }; /* candidates of one pass of the first test */

typedef struct box {
    int32_t first_row, n_rows;
    int periodic[3];
    double lattice[3][3]; /* rows are the vectors, angstrom */
    double inverse[3][3]; /* lattice coordinate d of x: sum over c of x[c] inverse[c][d] */
    double height[3];     /* distance between the planes of the other two vectors, angstrom */
    double lowest[3];     /* least lattice coordinate, and ... */
    double extent[3];     /* ... width of what holds all atoms; 0 and 1 where periodic */
    double generous;      /* cutoff of the first test, angstrom */
    int64_t bins[3], range[3];
    int32_t *bin_first; /* [bins + 1] sorted atoms of each bin */
    double visits;      /* bins that all atoms together have to look at */
    int32_t bad_row;    /* the first with a position that cannot be used, or -1 */
} box;

/* What the second test reads of a sorted atom. */
typedef struct placed {
    double x[3];     /* as given, angstrom */
    double image[3]; /* whole numbers: the wrapped position is x - image . lattice */
    int32_t row;
} placed;

typedef struct sorted_atoms {
    box *boxes;               /* [S] */
    placed *placed;           /* [rows] */
    double *wrapped[3];       /* [rows] each, angstrom */
    int32_t *bin_of_row;      /* [rows] */
    int32_t *row_of_position; /* [rows] */
    int32_t *bin_first;       /* [rows + 2 S] */
} sorted_atoms;

/* --------------------------------------------------------------------------------------- vectors */

static double dot(const double a[3], const double b[3])
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static double length(const double a[3])
{
    return sqrt(dot(a, a));
}

static void cross(const double a[3], const double b[3], double c[3])
{
    c[0] = a[1] * b[2] - a[2] * b[1];
    c[1] = a[2] * b[0] - a[0] * b[2];
    c[2] = a[0] * b[1] - a[1] * b[0];
}

static void unit_cross(const double a[3], const double b[3], double c[3])
{
    cross(a, b, c);
    const double norm = length(c);
    for (int d = 0; d < 3; ++d)
        c[d] /= norm;
}

/* ---------------------------------------------------------------------------------------- checks */

static mlff_status check_structures(const mlff_input *input, mlff_error *error)
{
    const mlff_structures *s = input->structures;
    if (!s) return mlff_fail(error, MLFF_ERROR_ARGUMENT, "structures: found NULL, expected structures");
    if (input->n_all != input->n_local) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "structures: found n_all %d, expected n_local = %d (no ghosts)",
                         input->n_all, input->n_local);
    }
    if (s->n_structures < 0) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "structures: found n_structures %d, expected 0 or more",
                         s->n_structures);
    }
    if (!s->first_atom) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "structures: found first_atom NULL, expected %lld numbers",
                         (long long)s->n_structures + 1);
    }
    if (s->first_atom[0] != 0) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "structures: found first_atom[0] = %d, expected 0",
                         s->first_atom[0]);
    }
    for (int32_t k = 0; k < s->n_structures; ++k) {
        if (s->first_atom[k + 1] < s->first_atom[k]) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "structures: found first_atom[%d] = %d after %d, expected ascending numbers", k + 1,
                             s->first_atom[k + 1], s->first_atom[k]);
        }
    }
    if (s->first_atom[s->n_structures] != input->n_local) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "structures: found first_atom[%d] = %d, expected n_local = %d",
                         s->n_structures, s->first_atom[s->n_structures], input->n_local);
    }
    return MLFF_OK;
}

/* Takes structure k's lattice and says what is wrong with it. */
static mlff_status read_cell(box *b, const mlff_structures *s, int32_t k, mlff_error *error)
{
    for (int d = 0; d < 3; ++d) {
        int32_t periodic = s->periodic ? s->periodic[3 * (int64_t)k + d] : 0;
        if (periodic != 0 && periodic != 1) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "structure %d: found periodic %d for lattice vector %d, expected 0 or 1", k, periodic, d);
        }
        if (periodic && !s->cell) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "structure %d: found no cell, expected one because lattice vector %d is periodic", k, d);
        }
        b->periodic[d] = periodic;
        for (int c = 0; c < 3; ++c) {
            double value = s->cell ? s->cell[9 * (int64_t)k + 3 * d + c] : 0.0;
            if (!isfinite(value)) {
                return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                                 "structure %d: found %g in lattice vector %d, expected finite numbers", k, value, d);
            }
            b->lattice[d][c] = value;
        }
        if (periodic && !(length(b->lattice[d]) > 0.0)) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "structure %d: found lattice vector %d of length 0, expected more, as it is periodic", k,
                             d);
        }
    }
    return MLFF_OK;
}

/* Puts orthonormal vectors where a direction is not periodic: what the caller has there plays no part. */
static void complete_lattice(box *b)
{
    const int n_periodic = b->periodic[0] + b->periodic[1] + b->periodic[2];
    if (n_periodic == 3) return;
    if (n_periodic == 0) {
        for (int d = 0; d < 3; ++d) {
            for (int c = 0; c < 3; ++c)
                b->lattice[d][c] = c == d;
        }
        return;
    }
    int p = 0; /* the periodic one of one, or the open one of two */
    while (b->periodic[p] != (n_periodic == 1))
        ++p;
    double *v = b->lattice[p], *next = b->lattice[(p + 1) % 3], *last = b->lattice[(p + 2) % 3];
    if (n_periodic == 2) {
        unit_cross(next, last, v);
        return;
    }
    int least = 0; /* the axis that is furthest from parallel */
    for (int c = 1; c < 3; ++c) {
        if (fabs(v[c]) < fabs(v[least])) least = c;
    }
    double axis[3] = {0.0, 0.0, 0.0};
    axis[least] = 1.0;
    unit_cross(v, axis, next);
    unit_cross(v, next, last);
}

/* Completes and inverts the lattice; *volume is that of the periodic vectors alone (length, area or volume). */
static mlff_status invert_lattice(box *b, int32_t k, double *volume, mlff_error *error)
{
    complete_lattice(b);
    double lengths = 1.0;
    for (int d = 0; d < 3; ++d)
        lengths *= b->periodic[d] ? length(b->lattice[d]) : 1.0;
    double normal[3][3];
    for (int d = 0; d < 3; ++d)
        cross(b->lattice[(d + 1) % 3], b->lattice[(d + 2) % 3], normal[d]);
    const double determinant = dot(b->lattice[0], normal[0]);
    *volume = fabs(determinant);
    if (!(*volume > FLATTEST_CELL * lengths)) { /* also when a completion failed and gave NaN */
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "structure %d: found periodic lattice vectors that are linearly dependent (volume %g, product "
                         "of lengths %g), expected a volume above %g of that product",
                         k, *volume, lengths, FLATTEST_CELL);
    }
    for (int d = 0; d < 3; ++d) {
        for (int c = 0; c < 3; ++c)
            b->inverse[c][d] = normal[d][c] / determinant;
        b->height[d] = *volume / length(normal[d]);
        if (!(b->height[d] > 0.0) || !isfinite(b->height[d])) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "structure %d: found lattice vectors of volume %g, expected a size that can be inverted",
                             k, *volume);
        }
    }
    return MLFF_OK;
}

/* Slots that a structure of n atoms has at least, roughly: lattice points in the sphere of the cutoff. */
static double expected_slots(const box *b, double volume, double cutoff)
{
    const double pi = 3.14159265358979323846;
    const double ball[4] = {0.0, 2.0 * cutoff, pi * cutoff * cutoff, 4.0 / 3.0 * pi * cutoff * cutoff * cutoff};
    const double n = b->n_rows;
    const int n_periodic = b->periodic[0] + b->periodic[1] + b->periodic[2];
    double most = (n_periodic == 3 ? n * n : n) * ball[n_periodic] / volume;
    for (int d = 0; d < 3; ++d) {
        if (b->periodic[d]) most = fmax(most, n * ball[1] / length(b->lattice[d]));
    }
    return most;
}

/* Refuses what could not be stored, before hours are spent on counting it. */
static mlff_status check_amount(mlff_graph *graph, double slots, mlff_error *error)
{
    const double bytes_per_slot = 2 * sizeof(int32_t) + sizeof(int64_t) + 3 * sizeof(double);
    if (slots > MOST_SLOTS) {
        return mlff_fail(error, MLFF_ERROR_MEMORY,
                         "neighbour graph: found cells so small for the cutoff that about %.3g neighbours need %.3g "
                         "bytes, expected at most %.3g neighbours",
                         slots, slots * bytes_per_slot, MOST_SLOTS);
    }
    if (slots > MANY_SLOTS) return mlff_graph_reserve_slots(graph, (int64_t)(slots / 2), 1, error);
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------ rows and room */

/* Owned rows in the order of atoms, and each structure's part of them. */
static void number_rows(mlff_graph *graph, const mlff_input *input, box *boxes)
{
    const mlff_structures *s = input->structures;
    int32_t row = 0;
    for (int32_t k = 0; k < s->n_structures; ++k) {
        boxes[k].first_row = row;
        for (int32_t atom = s->first_atom[k]; atom < s->first_atom[k + 1]; ++atom) {
            if (input->species[atom] < 0) {
                graph->row_of_atom[atom] = -1;
                continue;
            }
            graph->row_of_atom[atom] = row;
            graph->atom_of_row[row] = atom;
            graph->species[row] = input->species[atom];
            graph->structure_of_row[row++] = k;
        }
        boxes[k].n_rows = row - boxes[k].first_row;
    }
    graph->n_owned = graph->n_rows = row;
}

/* Places n items of `size` bytes in the block, or only counts when there is no block yet. */
static void *place(char *block, size_t *offset, size_t n, size_t size)
{
    void *array = block ? block + *offset : NULL;
    *offset += (n * size + 63) / 64 * 64;
    return array;
}

static size_t place_all(sorted_atoms *a, char *block, size_t n_rows, size_t n_structures)
{
    size_t offset = 0;
    a->boxes = place(block, &offset, n_structures, sizeof(box));
    a->placed = place(block, &offset, n_rows, sizeof(placed));
    for (int d = 0; d < 3; ++d)
        a->wrapped[d] = place(block, &offset, n_rows, sizeof(double));
    a->bin_of_row = place(block, &offset, n_rows, sizeof(int32_t));
    a->row_of_position = place(block, &offset, n_rows, sizeof(int32_t));
    a->bin_first = place(block, &offset, n_rows + 2 * n_structures, sizeof(int32_t));
    return offset;
}

static mlff_status reserve_scratch(mlff_graph *graph, sorted_atoms *a, size_t n_rows, size_t n_structures,
                                   mlff_error *error)
{
    size_t bytes = place_all(a, NULL, n_rows, n_structures) + 1; /* never 0 */
    if (bytes > graph->capacity_scratch) {
        if (bytes < graph->capacity_scratch + graph->capacity_scratch / 2) {
            bytes = graph->capacity_scratch + graph->capacity_scratch / 2;
        }
        free(graph->scratch);
        graph->capacity_scratch = 0;
        graph->scratch = malloc(bytes);
        if (!graph->scratch) {
            return mlff_fail(error, MLFF_ERROR_MEMORY, "neighbour graph: no memory for %zu bytes of cell lists", bytes);
        }
        graph->capacity_scratch = bytes;
    }
    place_all(a, graph->scratch, n_rows, n_structures);
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------------ bins */

/* Lattice coordinates of x, less whole cells where periodic; image holds those cells, wrapped the position. */
static void wrap(const box *b, const double x[3], double coordinate[3], double image[3], double wrapped[3])
{
    for (int c = 0; c < 3; ++c)
        wrapped[c] = x[c];
    for (int d = 0; d < 3; ++d) {
        coordinate[d] = x[0] * b->inverse[0][d] + x[1] * b->inverse[1][d] + x[2] * b->inverse[2][d];
        image[d] = b->periodic[d] ? floor(coordinate[d]) : 0.0;
        coordinate[d] -= image[d];
        for (int c = 0; c < 3; ++c)
            wrapped[c] -= image[d] * b->lattice[d][c];
    }
}

/* Finds what the atoms span, what cannot be used, and how far rounding may carry a wrapped position. */
static void measure_box(box *b, const mlff_graph *graph, const double *x, double cutoff)
{
    double largest = 0.0, low[3] = {DBL_MAX, DBL_MAX, DBL_MAX}, high[3] = {-DBL_MAX, -DBL_MAX, -DBL_MAX};
    b->bad_row = -1;
    for (int32_t row = b->first_row; row < b->first_row + b->n_rows; ++row) {
        const double *position = x + 3 * (int64_t)graph->atom_of_row[row];
        double coordinate[3], image[3], wrapped[3], size = 0.0;
        for (int c = 0; c < 3; ++c) {
            if (!(fabs(position[c]) <= FURTHEST_POSITION)) {
                b->bad_row = row;
                return;
            }
        }
        wrap(b, position, coordinate, image, wrapped);
        for (int d = 0; d < 3; ++d) {
            size += fabs(position[d]) + fabs(image[d]) * length(b->lattice[d]);
            if (coordinate[d] < low[d]) low[d] = coordinate[d];
            if (coordinate[d] > high[d]) high[d] = coordinate[d];
        }
        if (size > largest) largest = size;
    }
    for (int d = 0; d < 3; ++d) {
        b->lowest[d] = b->periodic[d] ? 0.0 : low[d];
        b->extent[d] = b->periodic[d] ? 1.0 : high[d] - low[d];
        if (b->periodic[d]) largest += length(b->lattice[d]) * (cutoff / b->height[d] + 2.0);
    }
    b->generous = cutoff + 64.0 * DBL_EPSILON * (largest + cutoff);
}

/* Bins no thinner than the cutoff, but no more of them than atoms, so that a large sparse box costs no memory. */
static void choose_bins(box *b)
{
    double bins[3];
    for (int d = 0; d < 3; ++d)
        bins[d] = fmax(1.0, floor(b->height[d] * b->extent[d] / b->generous));
    while (bins[0] * bins[1] * bins[2] > b->n_rows) {
        int most = bins[1] > bins[0] ? 1 : 0;
        if (bins[2] > bins[most]) most = 2;
        bins[most] = ceil(bins[most] / 2.0);
    }
    b->visits = b->n_rows;
    for (int d = 0; d < 3; ++d) {
        b->bins[d] = (int64_t)bins[d];
        if (b->periodic[d]) {
            b->range[d] = (int64_t)ceil(b->generous / (b->height[d] / bins[d]));
        } else {
            b->range[d] = b->bins[d] == 1 ? 0 : (int64_t)ceil(b->generous / (b->extent[d] / bins[d]));
        }
        b->visits *= 2.0 * (double)b->range[d] + 1.0;
    }
}

static int32_t bin_of(const box *b, const double coordinate[3])
{
    int64_t index = 0;
    for (int d = 0; d < 3; ++d) {
        int64_t bin = 0;
        if (b->bins[d] > 1) bin = (int64_t)((coordinate[d] - b->lowest[d]) / b->extent[d] * (double)b->bins[d]);
        if (bin >= b->bins[d]) bin = b->bins[d] - 1; /* rounding at the upper end */
        index = index * b->bins[d] + bin;
    }
    return (int32_t)index;
}

/* Sorts one structure's atoms by bin, within a bin by row. */
static void sort_box(box *b, const sorted_atoms *a, const mlff_graph *graph, const double *x)
{
    const int64_t n_bins = b->bins[0] * b->bins[1] * b->bins[2];
    const int32_t end = b->first_row + b->n_rows;
    int32_t *first = b->bin_first;
    double coordinate[3], image[3], wrapped[3];

    for (int64_t bin = 0; bin <= n_bins; ++bin)
        first[bin] = 0;
    for (int32_t row = b->first_row; row < end; ++row) {
        wrap(b, x + 3 * (int64_t)graph->atom_of_row[row], coordinate, image, wrapped);
        a->bin_of_row[row] = bin_of(b, coordinate);
        ++first[a->bin_of_row[row]];
    }
    /* to the end of each bin, then back to its beginning while it fills from behind */
    first[0] += b->first_row;
    for (int64_t bin = 1; bin <= n_bins; ++bin)
        first[bin] += first[bin - 1];
    for (int32_t row = end - 1; row >= b->first_row; --row)
        a->row_of_position[--first[a->bin_of_row[row]]] = row;

    for (int32_t k = b->first_row; k < end; ++k) {
        placed *p = &a->placed[k];
        p->row = a->row_of_position[k];
        for (int c = 0; c < 3; ++c)
            p->x[c] = x[3 * (int64_t)graph->atom_of_row[p->row] + c];
        wrap(b, p->x, coordinate, p->image, wrapped);
        for (int c = 0; c < 3; ++c)
            a->wrapped[c][k] = wrapped[c];
    }
}

/* ----------------------------------------------------------------------------------------- pairs */

/* Where one atom's neighbours go. */
typedef struct row_writer {
    const mlff_graph *graph;
    int64_t slot; /* the next one */
    int store;    /* 0: only count */
} row_writer;

#if defined(__GNUC__) && !defined(__clang__)
#define ONE_COPY __attribute__((noinline, noclone))
#else
#define ONE_COPY __attribute__((noinline))
#endif

/* Takes the neighbours of sorted atom k among the sorted atoms [begin, end), displaced by `offset` cells.
 * One copy of machine code for counting and for storing: both must take the same pairs to the last bit. */
static ONE_COPY void take_run(const sorted_atoms *a, const box *b, int32_t k, const double offset[3], int32_t begin,
                              int32_t end, double cutoff, row_writer *writer)
{
    const placed *self = &a->placed[k];
    const int at_home = offset[0] == 0.0 && offset[1] == 0.0 && offset[2] == 0.0;
    double centre[3], d2[RUN_LENGTH];
    int32_t found[RUN_LENGTH];
    for (int c = 0; c < 3; ++c) {
        centre[c] = a->wrapped[c][k];
        for (int d = 0; d < 3; ++d)
            centre[c] -= offset[d] * b->lattice[d][c];
    }
    for (; begin < end; begin += RUN_LENGTH) {
        const int n = end - begin < RUN_LENGTH ? end - begin : RUN_LENGTH;
        const double *wx = a->wrapped[0] + begin, *wy = a->wrapped[1] + begin, *wz = a->wrapped[2] + begin;
        for (int m = 0; m < n; ++m) {
            const double dx = wx[m] - centre[0], dy = wy[m] - centre[1], dz = wz[m] - centre[2];
            d2[m] = dx * dx + dy * dy + dz * dz;
        }
        int n_found = 0;
        for (int m = 0; m < n; ++m) { /* without a branch, as half of them would be guessed wrong */
            found[n_found] = begin + m;
            n_found += d2[m] < b->generous * b->generous;
        }
        for (int m = 0; m < n_found; ++m) {
            const placed *other = &a->placed[found[m]];
            double cells[3], shift[3], r[3];
            if (at_home && found[m] == k) continue;
            for (int d = 0; d < 3; ++d)
                cells[d] = offset[d] + (self->image[d] - other->image[d]);
            for (int c = 0; c < 3; ++c) {
                shift[c] = cells[0] * b->lattice[0][c] + cells[1] * b->lattice[1][c] + cells[2] * b->lattice[2][c];
                r[c] = (other->x[c] - self->x[c]) + shift[c];
            }
            if (!(r[0] * r[0] + r[1] * r[1] + r[2] * r[2] < cutoff * cutoff)) continue;
            if (writer->store) {
                const mlff_graph *graph = writer->graph;
                graph->neighbour_row[writer->slot] = other->row;
                graph->neighbour_atom[writer->slot] = graph->atom_of_row[other->row];
                for (int c = 0; c < 3; ++c)
                    graph->shift[3 * writer->slot + c] = shift[c];
            }
            ++writer->slot;
        }
    }
}

static int64_t floor_divide(int64_t value, int64_t divisor)
{
    if (value >= 0 && value < divisor) return 0;
    return value / divisor - (value % divisor < 0);
}

/* Bins to look at in direction d; those beyond the grid are in other cells. */
static void bins_around(const box *b, int d, int64_t bin, int64_t *low, int64_t *high)
{
    *low = bin - b->range[d];
    *high = bin + b->range[d];
    if (b->periodic[d]) return;
    if (*low < 0) *low = 0;
    if (*high > b->bins[d] - 1) *high = b->bins[d] - 1;
}

/* All neighbours of sorted atom k. Bins along the third direction follow each other, so they are taken in runs. */
static void take_neighbours(const sorted_atoms *a, const box *b, int32_t k, double cutoff, row_writer *writer)
{
    const int64_t *bins = b->bins;
    const int64_t bin = a->bin_of_row[a->placed[k].row];
    int64_t low[3], high[3];
    bins_around(b, 0, bin / (bins[1] * bins[2]), &low[0], &high[0]);
    bins_around(b, 1, bin / bins[2] % bins[1], &low[1], &high[1]);
    bins_around(b, 2, bin % bins[2], &low[2], &high[2]);

    for (int64_t i = low[0]; i <= high[0]; ++i) {
        const int64_t cell0 = floor_divide(i, bins[0]);
        for (int64_t j = low[1]; j <= high[1]; ++j) {
            const int64_t cell1 = floor_divide(j, bins[1]);
            const int64_t base = ((i - cell0 * bins[0]) * bins[1] + (j - cell1 * bins[1])) * bins[2];
            for (int64_t cell2 = floor_divide(low[2], bins[2]); cell2 * bins[2] <= high[2]; ++cell2) {
                int64_t from = low[2] - cell2 * bins[2], to = high[2] - cell2 * bins[2];
                if (from < 0) from = 0;
                if (to > bins[2] - 1) to = bins[2] - 1;
                const double offset[3] = {(double)cell0, (double)cell1, (double)cell2};
                take_run(a, b, k, offset, b->bin_first[base + from], b->bin_first[base + to + 1], cutoff, writer);
            }
        }
    }
}

/* One pass over all atoms: counts into first[row + 1], or stores from first[row] on. */
static void for_all_atoms(mlff_graph *graph, const sorted_atoms *a, double cutoff, int store, int threads)
{
    (void)threads;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int32_t k = 0; k < graph->n_owned; ++k) {
        const int32_t row = a->placed[k].row;
        row_writer writer = {graph, store ? graph->first[row] : 0, store};
        take_neighbours(a, &a->boxes[graph->structure_of_row[row]], k, cutoff, &writer);
        if (!store) graph->first[row + 1] = writer.slot;
    }
}

/* ----------------------------------------------------------------------------------------- whole */

/* What the threads found, in the order of structures. */
static mlff_status check_boxes(const mlff_graph *graph, const mlff_input *input, const box *boxes, mlff_error *error)
{
    for (int32_t k = 0; k < graph->n_structures; ++k) {
        if (boxes[k].bad_row >= 0) {
            const int32_t atom = graph->atom_of_row[boxes[k].bad_row];
            const double *x = input->x + 3 * (int64_t)atom;
            return mlff_fail(error, MLFF_ERROR_NUMERICS,
                             "atom index %d: found position (%g, %g, %g), expected finite numbers within %g angstrom",
                             atom, x[0], x[1], x[2], FURTHEST_POSITION);
        }
        if (boxes[k].visits > MOST_SLOTS) {
            return mlff_fail(error, MLFF_ERROR_UNSUPPORTED,
                             "structure %d: found a cell so flat that %.3g image cells have to be searched, expected "
                             "at most %.3g",
                             k, boxes[k].visits, MOST_SLOTS);
        }
    }
    return MLFF_OK;
}

static mlff_status place_atoms(mlff_graph *graph, const mlff_input *input, sorted_atoms *a, double cutoff, int threads,
                               mlff_error *error)
{
    const int32_t n_structures = input->structures->n_structures;
    double slots = 0.0;
    for (int32_t k = 0; k < n_structures; ++k) {
        double volume;
        MLFF_TRY(read_cell(&a->boxes[k], input->structures, k, error));
        MLFF_TRY(invert_lattice(&a->boxes[k], k, &volume, error));
        slots += expected_slots(&a->boxes[k], volume, cutoff);
        a->boxes[k].bin_first = a->bin_first + a->boxes[k].first_row + 2 * (int64_t)k;
    }
    MLFF_TRY(check_amount(graph, slots, error));

    (void)threads;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int32_t k = 0; k < n_structures; ++k) {
        box *b = &a->boxes[k];
        measure_box(b, graph, input->x, cutoff);
        b->visits = 0.0;
        if (b->n_rows == 0 || b->bad_row >= 0) continue;
        choose_bins(b);
        sort_box(b, a, graph, input->x);
    }
    return check_boxes(graph, input, a->boxes, error);
}

static mlff_status from_structures(mlff_graph *graph, const mlff_input *input, int n_elements, double cutoff,
                                   int threads, mlff_error *error)
{
    MLFF_TRY(mlff_graph_check_atoms(input, n_elements, error));
    MLFF_TRY(check_structures(input, error));
    const int32_t n_structures = input->structures->n_structures;
#ifdef _OPENMP
    if (threads < 1) threads = omp_get_max_threads();
#endif
    MLFF_TRY(mlff_graph_reserve_atoms(graph, input->n_all, input->n_local, error));
    sorted_atoms atoms;
    MLFF_TRY(reserve_scratch(graph, &atoms, (size_t)input->n_local, (size_t)n_structures, error));
    graph->n_local = graph->n_all = input->n_local;
    graph->n_structures = n_structures;
    number_rows(graph, input, atoms.boxes);
    MLFF_TRY(place_atoms(graph, input, &atoms, cutoff, threads, error));

    graph->first[0] = 0;
    for_all_atoms(graph, &atoms, cutoff, 0, threads);
    for (int32_t row = 0; row < graph->n_owned; ++row)
        graph->first[row + 1] += graph->first[row];
    MLFF_TRY(mlff_graph_reserve_slots(graph, graph->first[graph->n_owned], 1, error));
    graph->n_slots = graph->first[graph->n_owned];
    for_all_atoms(graph, &atoms, cutoff, 1, threads);
    mlff_graph_transpose(graph);
    return MLFF_OK;
}

mlff_status mlff_graph_from_structures(mlff_graph *graph, const mlff_input *input, int n_elements, double cutoff,
                                       int threads, mlff_error *error)
{
    graph->n_local = graph->n_all = graph->n_owned = graph->n_rows = graph->n_structures = 0;
    graph->n_slots = 0;
    mlff_status status = from_structures(graph, input, n_elements, cutoff, threads, error);
    if (status != MLFF_OK) {
        graph->n_local = graph->n_all = graph->n_owned = graph->n_rows = graph->n_structures = 0;
        graph->n_slots = 0;
    }
    return status;
}
