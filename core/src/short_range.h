/* SPDX-License-Identifier: MIT */
#ifndef MLFF_SHORT_RANGE_H
#define MLFF_SHORT_RANGE_H
/*
 * Two atoms that are closer than in any training frame: they repel by the universal potential of Ziegler, Biersack and
 * Littmark (1985), and the network sees them at a distance that it knows; both begin smoothly at the shortest trained
 * distance (docs/equations.md). Both backends evaluate these functions, in double.
 */
#include "on_device.h"

#include <math.h>

/* Least outer distance, and least width of the switch: no slope of a switch is out of bounds. angstrom */
#define SHORT_RANGE_LEAST 0.01
/* The reach in angstrom before it is divided by Z_i^0.23 + Z_j^0.23: 0.88534 Bohr radii */
#define SHORT_RANGE_REACH 0.46850
#define SHORT_RANGE_COULOMB 14.3996454784 /* e^2/(4 pi eps0), eV angstrom */

/* Of a pair of elements. */
typedef struct short_range_pair {
    double inner, outer;  /* angstrom; outer 0: this pair has no term */
    double strength;      /* Z_i Z_j e^2/(4 pi eps0), eV angstrom */
    double inverse_reach; /* 1/a, 1/angstrom */
} short_range_pair;

static inline short_range_pair mlff_short_range_pair(int z_i, int z_j, double inner, double outer)
{
    short_range_pair p = {inner, outer, SHORT_RANGE_COULOMB * z_i * z_j,
                          (pow(z_i, 0.23) + pow(z_j, 0.23)) / SHORT_RANGE_REACH};
    return p;
}

/* The distance g(d) that the network sees of a pair at d < outer, angstrom; *slope: g'. */
MLFF_ON_DEVICE static inline double mlff_seen_distance(const short_range_pair *p, double d, double *slope)
{
    const double width = p->outer - p->inner, z = d > p->inner ? (d - p->inner) / width : 0;
    const double z3 = z * z * z, z6 = z3 * z3;
    *slope = z6 * (7 - 6 * z);
    return p->outer - width * (0.25 - z6 * z * (1 - 0.75 * z));
}

/* V S of a pair at d < outer, eV; *slope: its derivative, eV/angstrom. */
MLFF_ON_DEVICE static inline double mlff_short_range(const short_range_pair *p, double d, double *slope)
{
    const double c[4] = {0.18175, 0.50986, 0.28022, 0.02817}, b[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    double screening = 0, screening_slope = 0;
    for (int m = 0; m < 4; m++) {
        const double rate = b[m] * p->inverse_reach, part = c[m] * exp(-rate * d);
        screening += part;
        screening_slope -= rate * part;
    }
    const double coulomb = p->strength / d, V = coulomb * screening;
    const double V_slope = coulomb * screening_slope - V / d;
    double S = 1, S_slope = 0;
    if (d > p->inner) {
        const double width = p->outer - p->inner, y = (p->outer - d) / width;
        S = y * y * y * (10 - y * (15 - 6 * y));
        S_slope = -30 * y * y * (1 - y) * (1 - y) / width;
    }
    *slope = V_slope * S + V * S_slope;
    return V * S;
}

#endif
