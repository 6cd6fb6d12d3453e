/* SPDX-License-Identifier: MIT */
#ifndef MLFF_GRAPH_H
#define MLFF_GRAPH_H
/*
 * The graph of candidate neighbours, in the host's memory: who may be within the cutoff of whom until the
 * list is rebuilt. Atoms that are left out (species -1) do not appear; what remains is numbered in rows:
 * owned atoms first, then, on several ranks, ghosts that some owned atom has as a neighbour candidate.
 * Where ghosts are images of owned atoms they have no row: a slot names the owner's row and the position of
 * the image. Owned rows of a structure follow each other, and among them, as among ghosts, rows lie in space as order.h
 * says.
 *
 * A slot is one directed candidate: row i has the slots first[i] .. first[i+1]-1, in a fixed order.
 */
#include "mlff.h"

#include <math.h>

typedef struct mlff_graph {
    int32_t n_local, n_all; /* N, A of the input it was made from */
    int32_t n_owned;        /* rows of owned atoms that take part */
    int32_t n_rows;         /* owned and ghost rows */
    int32_t n_structures;
    int64_t n_slots;

    int32_t *atom_of_row;      /* [n_rows] the caller's atom */
    int32_t *row_of_atom;      /* [n_all] or -1; an image has its owner's row */
    int32_t *species;          /* [n_rows] */
    int32_t *structure_of_row; /* [n_owned] */

    int64_t *first;          /* [n_owned+1] */
    int32_t *neighbour_row;  /* [n_slots] row whose features arrive through this slot */
    int32_t *neighbour_atom; /* [n_slots] caller's atom whose position it is (a ghost for an image) */
    double *shift;           /* [n_slots][3] added to that position, angstrom; NULL with an engine's list */

    /* The transpose: slots that name a row as neighbour, ascending. Sums over it have a fixed order. */
    int64_t *incoming_first; /* [n_rows+1] */
    int64_t *incoming;       /* [n_slots] */

    int on_device;    /* slots and species are in a device's memory alone: none of the arrays of slots above is valid */
    uint64_t version; /* changes with every rebuild: a device keeps a copy of one version */

    /* capacities of the arrays above, which only grow */
    size_t capacity_atoms, capacity_rows, capacity_slots, capacity_shift;

    /* room while a graph is made, kept because that may be at every step */
    void *scratch;
    size_t capacity_scratch; /* bytes */
} mlff_graph;

void mlff_graph_free(mlff_graph *graph);

/* Without rows and slots; keeps its room. */
void mlff_graph_clear(mlff_graph *graph);

/* Bytes that the arrays take. */
size_t mlff_graph_memory(const mlff_graph *graph);

/* Both makers include the transpose. A graph begins as zeros and may be made again, also after a failure, which
 * leaves it empty. */

/* Makes the graph from an engine's list (slots are all of the list's neighbours, skin included). */
mlff_status mlff_graph_from_list(mlff_graph *graph, const mlff_input *input, int n_elements, mlff_error *error);

/* The same for an engine that leaves the search to the library (mlff_graph_is_search): slots are all atoms within the
 * list's reach. */
mlff_status mlff_graph_from_search(mlff_graph *graph, const mlff_input *input, int n_elements, int threads,
                                   mlff_error *error);

static inline int mlff_graph_is_search(const mlff_neighbour_list *list)
{
    return !list->firstneigh && list->reach != 0;
}

/* Makes the graph from structures: cell lists, every image within the cutoff, any cell. */
mlff_status mlff_graph_from_structures(mlff_graph *graph, const mlff_input *input, int n_elements, double cutoff,
                                       int threads, mlff_error *error);

/* Used by both: the check of counts, positions' pointer and species; room for the arrays (what is in the arrays of
 * atoms and rows survives, what is in those of slots does not); the transpose once first and neighbour_row are
 * filled. */
mlff_status mlff_graph_check_atoms(const mlff_input *input, int n_elements, mlff_error *error);
mlff_status mlff_graph_reserve_atoms(mlff_graph *graph, int32_t n_all, int32_t n_rows, mlff_error *error);
mlff_status mlff_graph_reserve_slots(mlff_graph *graph, int64_t n_slots, int with_shift, mlff_error *error);
mlff_status mlff_graph_reserve_scratch(mlff_graph *graph, size_t bytes, const char *what, mlff_error *error);
void mlff_graph_transpose(mlff_graph *graph);

/* Fills first and, for each slot, neighbour_atom by a search around the owned rows; scratch is written anew. */
mlff_status mlff_graph_search(mlff_graph *graph, const mlff_input *input, int threads, mlff_error *error);

/* Checks of an engine's list or request to search, but for its neighbours; of structures. */
mlff_status mlff_graph_check_list(const mlff_input *input, mlff_error *error);
mlff_status mlff_graph_check_structures(const mlff_input *input, mlff_error *error);

/* r [3] from the atom at `centre` [3] to a neighbour at `neighbour` [3] + shift [3], which may be NULL; returns its
 * length. angstrom */
static inline double mlff_separation(const double *neighbour, const double *shift, const double *centre, double *r)
{
    for (int a = 0; a < 3; a++) {
        r[a] = neighbour[a] - centre[a];
        if (shift) r[a] += shift[a];
    }
    return sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
}

/* The same to the slot's neighbour, x [n_all][3]. */
static inline double mlff_graph_separation(const mlff_graph *graph, const double *x, int64_t slot, const double *centre,
                                           double *r)
{
    return mlff_separation(x + 3 * (size_t)graph->neighbour_atom[slot], graph->shift ? graph->shift + 3 * slot : NULL,
                           centre, r);
}

/* Why a row's edges cannot be used: an atom whose position is not finite, or two atoms at the same place. The second
 * one takes the row's slots [n] from its caller. */
mlff_status mlff_graph_explain_row(const mlff_graph *graph, const double *x, int64_t row, mlff_error *error);
mlff_status mlff_graph_explain_slots(const mlff_graph *graph, const double *x, int64_t row, int64_t n,
                                     const int32_t *neighbour_atom, const double *shift, mlff_error *error);

#endif
