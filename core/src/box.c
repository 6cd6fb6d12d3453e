/* SPDX-License-Identifier: MIT */
#include "box.h"

#include "status.h"

#include <float.h>
#include <math.h>

/* Volume of the lattice vectors over the product of their lengths, below which they count as linearly dependent. */
#define FLATTEST_CELL 1e-6

/* --------------------------------------------------------------------------------------- lattice */

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
    for (int d = 0; d < 3; ++d) c[d] /= norm;
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
            for (int c = 0; c < 3; ++c) b->lattice[d][c] = c == d;
        }
        return;
    }
    int p = 0; /* the periodic one of one, or the open one of two */
    while (b->periodic[p] != (n_periodic == 1)) ++p;
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

static mlff_status invert_lattice(box *b, int32_t k, mlff_error *error)
{
    double lengths = 1.0;
    for (int d = 0; d < 3; ++d) {
        b->vector[d] = length(b->lattice[d]);
        lengths *= b->periodic[d] ? b->vector[d] : 1.0;
    }
    double normal[3][3];
    for (int d = 0; d < 3; ++d) cross(b->lattice[(d + 1) % 3], b->lattice[(d + 2) % 3], normal[d]);
    const double determinant = dot(b->lattice[0], normal[0]);
    b->volume = isnan(determinant) ? 0.0 : fabs(determinant); /* NaN: two parallel vectors could not be completed */
    if (!(b->volume > FLATTEST_CELL * lengths)) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "structure %d: found periodic lattice vectors that are linearly dependent (volume %g, product "
                         "of lengths %g), expected a volume above %g of that product",
                         k, b->volume, lengths, FLATTEST_CELL);
    }
    for (int d = 0; d < 3; ++d) {
        for (int c = 0; c < 3; ++c) b->inverse[c][d] = normal[d][c] / determinant;
        b->height[d] = b->volume / length(normal[d]);
        if (!(b->height[d] > 0.0) || !isfinite(b->height[d])) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "structure %d: found lattice vectors of volume %g, expected a size that can be inverted",
                             k, b->volume);
        }
    }
    return MLFF_OK;
}

mlff_status mlff_box_read(box *b, const mlff_structures *structures, int32_t k, mlff_error *error)
{
    MLFF_TRY(read_cell(b, structures, k, error));
    complete_lattice(b);
    return invert_lattice(b, k, error);
}

double mlff_box_expected_neighbours(const box *b, int32_t n_atoms, double cutoff)
{
    const double pi = 3.14159265358979323846;
    const double ball[4] = {0.0, 2.0 * cutoff, pi * cutoff * cutoff, 4.0 / 3.0 * pi * cutoff * cutoff * cutoff};
    const double n = n_atoms;
    const int n_periodic = b->periodic[0] + b->periodic[1] + b->periodic[2];
    double most = (n_periodic == 3 ? n * n : n) * ball[n_periodic] / b->volume;
    for (int d = 0; d < 3; ++d) {
        if (b->periodic[d]) most = fmax(most, n * ball[1] / b->vector[d]);
    }
    return most;
}

/* ------------------------------------------------------------------------------------------ bins */

int32_t mlff_box_measure(box *b, int32_t n_atoms, const int32_t *atoms, const double *x, double cutoff)
{
    double largest = 0.0, low[3] = {DBL_MAX, DBL_MAX, DBL_MAX}, high[3] = {-DBL_MAX, -DBL_MAX, -DBL_MAX};
    for (int32_t k = 0; k < n_atoms; ++k) {
        const double *position = x + 3 * (int64_t)atoms[k];
        double coordinate[3], image[3], wrapped[3], size;
        for (int c = 0; c < 3; ++c) {
            if (!(fabs(position[c]) <= BOX_FURTHEST_POSITION)) return k;
        }
        mlff_box_wrap(b, position, coordinate, image, wrapped);
        size = mlff_box_size_of(b, position, image);
        for (int d = 0; d < 3; ++d) {
            if (coordinate[d] < low[d]) low[d] = coordinate[d];
            if (coordinate[d] > high[d]) high[d] = coordinate[d];
        }
        if (size > largest) largest = size;
    }
    for (int d = 0; d < 3; ++d) {
        b->lowest[d] = b->periodic[d] ? 0.0 : low[d];
        b->extent[d] = b->periodic[d] ? 1.0 : high[d] - low[d];
    }
    b->margin = mlff_box_margin(b, largest, cutoff);
    return -1;
}
