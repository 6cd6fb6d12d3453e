/* SPDX-License-Identifier: MIT */
#ifndef MLFF_BOX_H
#define MLFF_BOX_H
/*
 * The box of one structure: its lattice, in which directions that are not periodic are replaced by unit vectors
 * orthogonal to the rest, and a grid of bins along the three lattice directions. Lattice coordinates count in
 * lattice vectors: whole cells where periodic, angstrom along the unit vectors.
 */
#include "mlff.h"

/* Beyond this double precision resolves no more than 0.0001 angstrom. */
#define BOX_FURTHEST_POSITION 1e12

typedef struct box {
    int periodic[3];
    double lattice[3][3]; /* rows are the vectors, angstrom */
    double inverse[3][3]; /* lattice coordinate d of x: sum over c of x[c] inverse[c][d] */
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

/* Chooses a grid of at most n_atoms bins; bins are no thinner than the cutoff where that allows. */
void mlff_box_choose_bins(box *box, int32_t n_atoms, double cutoff);

/* Lattice coordinates of x, less whole cells where periodic: image holds those cells, wrapped the position. */
void mlff_box_wrap(const box *box, const double x[3], double coordinate[3], double image[3], double wrapped[3]);

/* The bin of a wrapped lattice coordinate; the third direction runs fastest. */
int32_t mlff_box_bin(const box *box, const double coordinate[3]);

#endif
