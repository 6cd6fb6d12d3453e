/* SPDX-License-Identifier: MIT */
#ifndef MLFF_SEEN_H
#define MLFF_SEEN_H
/*
 * The structures that a graph was made from, so that it serves again while no atom has moved by more than half the
 * skin: in a run of a small system most steps then need no search. Large systems are searched anew every time, which
 * costs them little and saves the memory of the skin's candidates.
 */
#include "mlff.h"

#define SEEN_MOST_ATOMS 4096
#define SEEN_SKIN 0.5 /* angstrom */

typedef struct mlff_seen {
    int32_t n_atoms, n_structures; /* n_atoms -1: nothing */
    int has_cell, has_periodic;
    char *block; /* positions, cells, species, first atoms, periodicity: as in the input */
    size_t bytes;
} mlff_seen;

/* 1 if structures are few and small enough for a skin. */
int mlff_seen_is_small(const mlff_input *input);

/* 1 if a graph with the skin, made from what was kept, has all neighbours of this input. */
int mlff_seen_holds(const mlff_seen *seen, const mlff_input *input);

/* Keeps the input, which the graph's maker has checked. Without memory nothing is kept. */
void mlff_seen_keep(mlff_seen *seen, const mlff_input *input);

void mlff_seen_forget(mlff_seen *seen);
void mlff_seen_free(mlff_seen *seen);

#endif
