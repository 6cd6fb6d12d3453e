/* SPDX-License-Identifier: MIT */
#ifndef MLFF_BOX_H
#define MLFF_BOX_H
/*
 * The box of one structure: its lattice, in which directions that are not periodic are replaced by unit vectors
 * orthogonal to the rest, and a grid of bins along the three lattice directions. Lattice coordinates count in
 * lattice vectors: whole cells where periodic, angstrom along the unit vectors.
 */
#include "mlff.h"
#include "on_device.h"

#include <float.h>
#include <math.h>

/* Beyond this double precision resolves no more than 0.0001 angstrom. */
#define BOX_FURTHEST_POSITION 1e12

typedef struct box {
    int periodic[3];
    double lattice[3][3]; /* rows are the vectors, angstrom */
    double inverse[3][3]; /* lattice coordinate d of x: sum over c of x[c] inverse[c][d] */
    double vector[3];     /* lengths of the vectors, angstrom */
    double height[3];     /* distance between the planes of the other two vectors, angstrom */
    double volume;        /* of the periodic vectors alone: volume, area or length, in powers of angstrom */

    /* from the positions */
    double lowest[3]; /* least lattice coordinate, and ... */
    double extent[3]; /* ... width of what holds all atoms; 0 and 1 where periodic */
    double margin;    /* more than rounding can change a distance of wrapped positions, angstrom */

    /* Two atoms closer than cutoff + margin are in bins that differ by at most `range`. */
    int64_t bins[3], range[3];
} box;

/* Takes structure k's lattice and periodicity, completes and inverts it; fails with what is wrong with it. */
mlff_status mlff_box_read(box *box, const mlff_structures *structures, int32_t k, mlff_error *error);

/* Roughly how many neighbours n atoms have at least: lattice points in the sphere of the cutoff. */
double mlff_box_expected_neighbours(const box *box, int32_t n_atoms, double cutoff);

/* Measures the positions of n atoms. Returns -1, or which of them is not finite or too far away. */
int32_t mlff_box_measure(box *box, int32_t n_atoms, const int32_t *atoms /* [n_atoms] */,
                         const double *x /* [.][3], angstrom */, double cutoff);

/* Lattice coordinates of x, less whole cells where periodic: image holds those cells, wrapped the position. */
MLFF_ON_DEVICE static inline void mlff_box_wrap(const box *b, const double x[3], double coordinate[3], double image[3],
                                                double wrapped[3])
{
    for (int c = 0; c < 3; ++c) wrapped[c] = x[c];
    for (int d = 0; d < 3; ++d) {
        coordinate[d] = x[0] * b->inverse[0][d] + x[1] * b->inverse[1][d] + x[2] * b->inverse[2][d];
        image[d] = b->periodic[d] ? floor(coordinate[d]) : 0.0;
        coordinate[d] -= image[d];
        for (int c = 0; c < 3; ++c) wrapped[c] -= image[d] * b->lattice[d][c];
    }
}

/* The largest number that the wrapping of x meets, angstrom. */
MLFF_ON_DEVICE static inline double mlff_box_size_of(const box *b, const double x[3], const double image[3])
{
    double size = 0.0;
    for (int d = 0; d < 3; ++d) size += fabs(x[d]) + fabs(image[d]) * b->vector[d];
    return size;
}

/* The margin, from the largest size of an atom: a dozen operations lead to a distance, each wrong by half an epsilon of
 * its largest term at most. */
MLFF_ON_DEVICE static inline double mlff_box_margin(const box *b, double largest, double cutoff)
{
    for (int d = 0; d < 3; ++d) /* cells between neighbours */
        if (b->periodic[d]) largest += b->vector[d] * (cutoff / b->height[d] + 2.0);
    return 64.0 * DBL_EPSILON * (largest + cutoff);
}

/* Chooses a grid of at most n_atoms bins; bins are no thinner than the cutoff where that allows. */
MLFF_ON_DEVICE static inline void mlff_box_choose_bins(box *b, int32_t n_atoms, double cutoff)
{
    const double reach = cutoff + b->margin;
    double bins[3];
    for (int d = 0; d < 3; ++d) bins[d] = fmax(1.0, floor(b->height[d] * b->extent[d] / reach));
    while (bins[0] * bins[1] * bins[2] > fmax((double)n_atoms, 1.0)) {
        int most = bins[1] > bins[0] ? 1 : 0;
        if (bins[2] > bins[most]) most = 2;
        bins[most] = ceil(bins[most] / 2.0);
    }
    for (int d = 0; d < 3; ++d) {
        b->bins[d] = (int64_t)bins[d];
        if (b->periodic[d] || b->bins[d] > 1) {
            b->range[d] = (int64_t)ceil(reach / (b->height[d] * b->extent[d] / bins[d]));
        } else {
            b->range[d] = 0;
        }
    }
}

/* The bin of a wrapped lattice coordinate; the third direction runs fastest. */
MLFF_ON_DEVICE static inline int32_t mlff_box_bin(const box *b, const double coordinate[3])
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

/* Bins that one atom has to look at. */
MLFF_ON_DEVICE static inline double mlff_box_visits(const box *b)
{
    double visits = 1.0;
    for (int d = 0; d < 3; ++d) visits *= 2.0 * (double)b->range[d] + 1.0;
    return visits;
}

#endif
