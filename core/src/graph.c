/* SPDX-License-Identifier: MIT */
#include "graph.h"

#include "order.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>

/* What row_of_atom holds besides rows; only ROW_NONE is left when a graph is finished. */
enum { ROW_NONE = -1, ROW_LEFT_OUT = -2, ROW_GHOST = -3 };

void mlff_graph_clear(mlff_graph *graph)
{
    graph->n_local = graph->n_all = graph->n_owned = graph->n_rows = graph->n_structures = 0;
    graph->n_slots = 0;
    graph->on_device = 0;
}

void mlff_graph_free(mlff_graph *graph)
{
    if (!graph) return;
    free(graph->atom_of_row);
    free(graph->row_of_atom);
    free(graph->species);
    free(graph->structure_of_row);
    free(graph->first);
    free(graph->neighbour_row);
    free(graph->neighbour_atom);
    free(graph->shift);
    free(graph->incoming_first);
    free(graph->incoming);
    free(graph->scratch);
    memset(graph, 0, sizeof *graph);
}

size_t mlff_graph_memory(const mlff_graph *graph)
{
    const size_t row = 3 * sizeof(int32_t) + 2 * sizeof(int64_t), slot = 2 * sizeof(int32_t) + sizeof(int64_t);
    return graph->capacity_atoms * sizeof(int32_t) + graph->capacity_rows * row + graph->capacity_slots * slot +
           graph->capacity_shift * 3 * sizeof(double) + graph->capacity_scratch;
}

/* ------------------------------------------------------------------------------------------ room */

static mlff_status no_room(mlff_error *error, size_t count, size_t size, const char *what)
{
    return mlff_fail(error, MLFF_ERROR_MEMORY, "neighbour graph: no memory for %.0f bytes (%zu %s)",
                     (double)count * (double)size, count, what);
}

static size_t grown(size_t capacity, size_t needed)
{
    size_t larger = capacity + capacity / 2;
    return larger > needed ? larger : needed;
}

/* Resizes an array and keeps its contents; the old array stays valid when there is no room.
 * `pointer` is the address of any object pointer, copied as bytes because void ** cannot stand for all of them. */
static mlff_status resize(void *pointer, size_t count, size_t size, const char *what, mlff_error *error)
{
    void *array;
    memcpy(&array, pointer, sizeof array);
    array = count <= SIZE_MAX / size ? realloc(array, count * size) : NULL;
    if (!array) return no_room(error, count, size, what);
    memcpy(pointer, &array, sizeof array);
    return MLFF_OK;
}

/* The same without the contents, so that nothing is copied. */
static mlff_status replace(void *pointer, size_t count, size_t size, const char *what, mlff_error *error)
{
    void *array;
    memcpy(&array, pointer, sizeof array);
    free(array);
    array = count <= SIZE_MAX / size ? malloc(count * size) : NULL;
    memcpy(pointer, &array, sizeof array);
    return array ? MLFF_OK : no_room(error, count, size, what);
}

mlff_status mlff_graph_reserve_atoms(mlff_graph *graph, int32_t n_all, int32_t n_rows, mlff_error *error)
{
    /* never 0, so that the arrays of an empty graph are not NULL */
    size_t atoms = n_all > 0 ? (size_t)n_all : 1;
    size_t rows = n_rows > 0 ? (size_t)n_rows : 1;

    if (atoms > graph->capacity_atoms) {
        atoms = grown(graph->capacity_atoms, atoms);
        MLFF_TRY(resize(&graph->row_of_atom, atoms, sizeof(int32_t), "atoms", error));
        graph->capacity_atoms = atoms;
    }
    if (rows > graph->capacity_rows) {
        rows = grown(graph->capacity_rows, rows);
        MLFF_TRY(resize(&graph->atom_of_row, rows, sizeof(int32_t), "rows", error));
        MLFF_TRY(resize(&graph->species, rows, sizeof(int32_t), "rows", error));
        MLFF_TRY(resize(&graph->structure_of_row, rows, sizeof(int32_t), "rows", error));
        MLFF_TRY(resize(&graph->first, rows + 1, sizeof(int64_t), "rows", error));
        MLFF_TRY(resize(&graph->incoming_first, rows + 1, sizeof(int64_t), "rows", error));
        graph->capacity_rows = rows;
    }
    return MLFF_OK;
}

mlff_status mlff_graph_reserve_slots(mlff_graph *graph, int64_t n_slots, int with_shift, mlff_error *error)
{
    size_t slots = n_slots > 0 ? (size_t)n_slots : 1;

    if (slots > graph->capacity_slots) {
        size_t count = grown(graph->capacity_slots, slots);
        graph->capacity_slots = 0; /* a failure below leaves some of them freed */
        MLFF_TRY(replace(&graph->neighbour_row, count, sizeof(int32_t), "neighbours", error));
        MLFF_TRY(replace(&graph->neighbour_atom, count, sizeof(int32_t), "neighbours", error));
        MLFF_TRY(replace(&graph->incoming, count, sizeof(int64_t), "neighbours", error));
        graph->capacity_slots = count;
    }
    if (!with_shift) { /* NULL is how a reader knows that there are none */
        free(graph->shift);
        graph->shift = NULL;
        graph->capacity_shift = 0;
    } else if (slots > graph->capacity_shift) {
        size_t count = grown(graph->capacity_shift, slots);
        graph->capacity_shift = 0;
        MLFF_TRY(replace(&graph->shift, count, 3 * sizeof(double), "shifts of neighbours", error));
        graph->capacity_shift = count;
    }
    return MLFF_OK;
}

mlff_status mlff_graph_reserve_scratch(mlff_graph *graph, size_t bytes, const char *what, mlff_error *error)
{
    if (bytes <= graph->capacity_scratch && graph->scratch) return MLFF_OK;
    size_t count = grown(graph->capacity_scratch, bytes > 0 ? bytes : 1);
    graph->capacity_scratch = 0;
    MLFF_TRY(replace(&graph->scratch, count, 1, what, error));
    graph->capacity_scratch = count;
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------- transpose */

/* A counting sort. While it fills, incoming_first[r] walks from the first slot of row r to that of row r+1. */
void mlff_graph_transpose(mlff_graph *graph)
{
    graph->version++;
    int64_t *first = graph->incoming_first;
    memset(first, 0, ((size_t)graph->n_rows + 1) * sizeof *first);
    for (int64_t slot = 0; slot < graph->n_slots; ++slot) ++first[graph->neighbour_row[slot] + 1];
    for (int32_t row = 0; row < graph->n_rows; ++row) first[row + 1] += first[row];

    for (int64_t slot = 0; slot < graph->n_slots; ++slot) graph->incoming[first[graph->neighbour_row[slot]]++] = slot;
    for (int32_t row = graph->n_rows; row > 0; --row) first[row] = first[row - 1];
    first[0] = 0;
}

/* ---------------------------------------------------------------------------------------- checks */

mlff_status mlff_graph_check_atoms(const mlff_input *input, int n_elements, mlff_error *error)
{
    if (input->n_local < 0) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "n_local: found %d, expected 0 or more", input->n_local);
    }
    if (input->n_all < input->n_local) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "n_all: found %d, expected n_local = %d or more", input->n_all,
                         input->n_local);
    }
    if (input->n_all > 0 && !input->x) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "x: found NULL, expected positions of %d atoms", input->n_all);
    }
    if (input->n_all > 0 && !input->species) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "species: found NULL, expected species of %d atoms", input->n_all);
    }
    uint32_t bad = 0; /* without a branch, because this is done at every call with structures */
    for (int32_t atom = 0; atom < input->n_all; ++atom)
        bad |= (uint32_t)input->species[atom] + 1 > (uint32_t)n_elements;
    for (int32_t atom = 0; bad && atom < input->n_all; ++atom) {
        int32_t species = input->species[atom];
        if (species < -1 || species >= n_elements) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "atom index %d: found species %d, expected -1 (left out) to %d", atom, species,
                             n_elements - 1);
        }
    }
    return MLFF_OK;
}

/* Ghosts as images of owned atoms: an edge would lose its way back if image and owner were not the same atom. */
static mlff_status check_owner(const mlff_input *input, const int32_t *owner, mlff_error *error)
{
    for (int32_t atom = 0; atom < input->n_local; ++atom) {
        if (owner[atom] != atom) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT, "atom index %d: found owner %d, expected %d (it is owned)",
                             atom, owner[atom], atom);
        }
    }
    for (int32_t atom = input->n_local; atom < input->n_all; ++atom) {
        if (owner[atom] < 0 || owner[atom] >= input->n_local) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "atom index %d: found owner %d, expected an owned atom, 0 to %d", atom, owner[atom],
                             input->n_local - 1);
        }
        if (input->species[atom] != input->species[owner[atom]]) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "atom index %d: found species %d, expected %d as its owner, atom index %d, has", atom,
                             input->species[atom], input->species[owner[atom]], owner[atom]);
        }
    }
    return MLFF_OK;
}

static mlff_status check_listed(const mlff_input *input, const mlff_neighbour_list *list, mlff_error *error)
{
    if (list->n_listed < 0 || list->n_listed > input->n_local) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "neighbours: found n_listed %d, expected 0 to n_local = %d",
                         list->n_listed, input->n_local);
    }
    if (list->n_listed > 0 && (!list->ilist || !list->numneigh || !list->firstneigh)) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "neighbours: found NULL for %s, expected an array, because n_listed is %d",
                         !list->ilist      ? "ilist"
                         : !list->numneigh ? "numneigh"
                                           : "firstneigh",
                         list->n_listed);
    }
    if (list->n_listed > 0 && list->index_mask == 0) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "neighbours: found index_mask 0, expected the bits of a neighbour that are its index");
    }
    return MLFF_OK;
}

static mlff_status check_reach(const mlff_neighbour_list *list, mlff_error *error)
{
    if (list->reach > 0 && isfinite(list->reach)) return MLFF_OK;
    return mlff_fail(error, MLFF_ERROR_ARGUMENT, "neighbours: found reach %g, expected the cutoff and a skin, angstrom",
                     list->reach);
}

mlff_status mlff_graph_check_list(const mlff_input *input, mlff_error *error)
{
    const mlff_neighbour_list *list = input->neighbours;
    if (!list) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "neighbours: found NULL, expected a neighbour list");
    }
    if (mlff_graph_is_search(list)) {
        MLFF_TRY(check_reach(list, error));
    } else {
        MLFF_TRY(check_listed(input, list, error));
    }
    if (list->owner) return check_owner(input, list->owner, error);
    if (input->n_all > input->n_local && !input->halo) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "neighbours: found %d ghost atoms with neither owner nor halo, expected one of them",
                         input->n_all - input->n_local);
    }
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------- an engine's list */

/* Positions as the order in space reads them. */
typedef struct listed_atoms {
    const double *x;
    const int32_t *atoms;
} listed_atoms;

static void position_of(const void *context, int32_t k, double r[3])
{
    const listed_atoms *listed = context;
    memcpy(r, listed->x + 3 * (size_t)listed->atoms[k], 3 * sizeof *r);
}

/* Rows first .. end-1 in their order in space. */
static mlff_status order_rows(mlff_graph *graph, const double *x, int32_t first, int32_t end, mlff_error *error)
{
    int32_t *atoms = graph->atom_of_row + first;
    MLFF_TRY(mlff_graph_reserve_scratch(graph, mlff_order_scratch((size_t)(end - first)), "bytes to sort", error));
    mlff_order_in_space(end - first, atoms, position_of, &(listed_atoms){x, atoms}, graph->scratch);
    for (int32_t row = first; row < end; ++row) graph->row_of_atom[graph->atom_of_row[row]] = row;
    return MLFF_OK;
}

/* Rows of the owned atoms; images get the rows of their owners. */
static mlff_status number_owned(mlff_graph *graph, const mlff_input *input, mlff_error *error)
{
    const mlff_neighbour_list *list = input->neighbours;
    int32_t *row_of_atom = graph->row_of_atom;
    for (int32_t atom = 0; atom < input->n_all; ++atom) row_of_atom[atom] = ROW_NONE;

    const int search = mlff_graph_is_search(list);
    const int32_t n_listed = search ? input->n_local : list->n_listed;
    graph->n_owned = 0;
    for (int32_t k = 0; k < n_listed; ++k) {
        int32_t atom = search ? k : list->ilist[k];
        if (atom < 0 || atom >= input->n_local) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "neighbours: found atom index %d at ilist[%d], expected an owned atom, 0 to %d", atom, k,
                             input->n_local - 1);
        }
        if (row_of_atom[atom] != ROW_NONE) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "neighbours: found atom index %d a second time at ilist[%d], expected each atom once",
                             atom, k);
        }
        if (input->species[atom] < 0) {
            row_of_atom[atom] = ROW_LEFT_OUT;
            continue;
        }
        graph->atom_of_row[graph->n_owned] = atom;
        graph->structure_of_row[graph->n_owned] = 0;
        row_of_atom[atom] = graph->n_owned++;
    }
    for (int32_t atom = 0; atom < input->n_local; ++atom) {
        if (row_of_atom[atom] == ROW_LEFT_OUT) row_of_atom[atom] = ROW_NONE;
    }
    MLFF_TRY(order_rows(graph, input->x, 0, graph->n_owned, error));
    if (list->owner) {
        for (int32_t atom = input->n_local; atom < input->n_all; ++atom) {
            row_of_atom[atom] = row_of_atom[list->owner[atom]];
        }
    }
    return MLFF_OK;
}

/* Checks one atom's neighbours, counts those that stay and marks the ghosts of other ranks among them. */
static mlff_status count_neighbours(mlff_graph *graph, const mlff_input *input, int32_t atom, int64_t *count,
                                    mlff_error *error)
{
    const mlff_neighbour_list *list = input->neighbours;
    const int32_t n = list->numneigh[atom];
    const int32_t *neighbours = list->firstneigh[atom];
    *count = 0;
    if (n < 0) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "neighbours of atom index %d: found numneigh %d, expected 0 or more", atom, n);
    }
    if (n > 0 && !neighbours) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "neighbours of atom index %d: found NULL, expected %d neighbours",
                         atom, n);
    }
    for (int32_t k = 0; k < n; ++k) {
        int32_t neighbour = neighbours[k] & list->index_mask;
        if (neighbour < 0 || neighbour >= input->n_all) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "neighbours of atom index %d: found %d, expected an atom index, 0 to %d", atom, neighbour,
                             input->n_all - 1);
        }
        if (neighbour == atom) {
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "neighbours of atom index %d: found the atom itself, expected other atoms", atom);
        }
        int32_t *row = &graph->row_of_atom[neighbour];
        if (*row == ROW_NONE && neighbour >= input->n_local && !list->owner && input->species[neighbour] >= 0) {
            *row = ROW_GHOST;
        }
        *count += *row != ROW_NONE;
    }
    return MLFF_OK;
}

/* Rows of the ghosts that other ranks own, after the owned ones. */
static mlff_status number_ghosts(mlff_graph *graph, const mlff_input *input, mlff_error *error)
{
    int32_t n_ghosts = 0;
    for (int32_t atom = input->n_local; atom < input->n_all; ++atom) {
        n_ghosts += graph->row_of_atom[atom] == ROW_GHOST;
    }
    MLFF_TRY(mlff_graph_reserve_atoms(graph, input->n_all, graph->n_owned + n_ghosts, error));

    graph->n_rows = graph->n_owned;
    for (int32_t atom = input->n_local; atom < input->n_all && n_ghosts > 0; ++atom) {
        if (graph->row_of_atom[atom] != ROW_GHOST) continue;
        graph->atom_of_row[graph->n_rows] = atom;
        graph->row_of_atom[atom] = graph->n_rows++;
    }
    return order_rows(graph, input->x, graph->n_owned, graph->n_rows, error);
}

/* Checks the list, and numbers the owned rows. */
static mlff_status begin_list(mlff_graph *graph, const mlff_input *input, int n_elements, mlff_error *error)
{
    MLFF_TRY(mlff_graph_check_atoms(input, n_elements, error));
    MLFF_TRY(mlff_graph_check_list(input, error));
    MLFF_TRY(mlff_graph_reserve_atoms(graph, input->n_all, input->n_local, error));
    graph->n_local = input->n_local;
    graph->n_all = input->n_all;
    graph->n_structures = 1;
    return number_owned(graph, input, error);
}

/* Numbers the ghosts that are marked, and completes the rows. */
static mlff_status finish_rows(mlff_graph *graph, const mlff_input *input, mlff_error *error)
{
    MLFF_TRY(number_ghosts(graph, input, error));
    for (int32_t row = 0; row < graph->n_rows; ++row) graph->species[row] = input->species[graph->atom_of_row[row]];
    return MLFF_OK;
}

static mlff_status from_list(mlff_graph *graph, const mlff_input *input, int n_elements, mlff_error *error)
{
    MLFF_TRY(begin_list(graph, input, n_elements, error));
    const mlff_neighbour_list *list = input->neighbours;
    graph->first[0] = 0;
    for (int32_t row = 0; row < graph->n_owned; ++row) {
        int64_t count;
        MLFF_TRY(count_neighbours(graph, input, graph->atom_of_row[row], &count, error));
        graph->first[row + 1] = graph->first[row] + count;
    }
    MLFF_TRY(finish_rows(graph, input, error));

    MLFF_TRY(mlff_graph_reserve_slots(graph, graph->first[graph->n_owned], 0, error));
    graph->n_slots = graph->first[graph->n_owned];
    int64_t slot = 0;
    for (int32_t row = 0; row < graph->n_owned; ++row) {
        const int32_t atom = graph->atom_of_row[row];
        for (int32_t k = 0; k < list->numneigh[atom]; ++k) {
            int32_t neighbour = list->firstneigh[atom][k] & list->index_mask;
            if (graph->row_of_atom[neighbour] == ROW_NONE) continue;
            graph->neighbour_row[slot] = graph->row_of_atom[neighbour];
            graph->neighbour_atom[slot] = neighbour;
            ++slot;
        }
    }
    mlff_graph_transpose(graph);
    return MLFF_OK;
}

mlff_status mlff_graph_from_list(mlff_graph *graph, const mlff_input *input, int n_elements, mlff_error *error)
{
    mlff_graph_clear(graph);
    mlff_status status = from_list(graph, input, n_elements, error);
    if (status != MLFF_OK) mlff_graph_clear(graph);
    return status;
}

static mlff_status from_search(mlff_graph *graph, const mlff_input *input, int n_elements, int threads,
                               mlff_error *error)
{
    MLFF_TRY(begin_list(graph, input, n_elements, error));
    MLFF_TRY(mlff_graph_search(graph, input, threads, error));
    for (int64_t slot = 0; slot < graph->n_slots && !input->neighbours->owner; ++slot) {
        int32_t *row = &graph->row_of_atom[graph->neighbour_atom[slot]];
        if (*row == ROW_NONE) *row = ROW_GHOST;
    }
    MLFF_TRY(finish_rows(graph, input, error));
    for (int64_t slot = 0; slot < graph->n_slots; ++slot)
        graph->neighbour_row[slot] = graph->row_of_atom[graph->neighbour_atom[slot]];
    mlff_graph_transpose(graph);
    return MLFF_OK;
}

mlff_status mlff_graph_from_search(mlff_graph *graph, const mlff_input *input, int n_elements, int threads,
                                   mlff_error *error)
{
    mlff_graph_clear(graph);
    mlff_status status = from_search(graph, input, n_elements, threads, error);
    if (status != MLFF_OK) mlff_graph_clear(graph);
    return status;
}

/* ------------------------------------------------------------------------------------------ faults */

/* A number of the wrong kind gives a distance that is not finite; which of the two atoms has it? */
static int atom_with_bad_position(const double *x, int i, int j)
{
    for (int a = 0; a < 3; a++)
        if (!isfinite(x[3 * (size_t)i + a])) return i;
    return j;
}

mlff_status mlff_graph_explain_slots(const mlff_graph *g, const double *x, int64_t row, int64_t n,
                                     const int32_t *neighbour_atom, const double *shift, mlff_error *error)
{
    const int i = g->atom_of_row[row];
    const double *centre = x + 3 * (size_t)i;
    if (!isfinite(centre[0]) || !isfinite(centre[1]) || !isfinite(centre[2]))
        return mlff_fail(error, MLFF_ERROR_NUMERICS, "atom index %d: position (%g, %g, %g), expected finite numbers", i,
                         centre[0], centre[1], centre[2]);
    for (int64_t k = 0; k < n; k++) {
        const int j = neighbour_atom[k];
        double r[3], d = mlff_separation(x + 3 * (size_t)j, shift ? shift + 3 * k : NULL, centre, r);
        if (!isfinite(d)) {
            const int bad = atom_with_bad_position(x, i, j);
            return mlff_fail(error, MLFF_ERROR_NUMERICS,
                             "atom index %d: position (%g, %g, %g), expected finite numbers", bad, x[3 * (size_t)bad],
                             x[3 * (size_t)bad + 1], x[3 * (size_t)bad + 2]);
        }
        if (d == 0)
            return mlff_fail(
                error, MLFF_ERROR_NUMERICS,
                "atom index %d and atom index %d: at the same place (%g, %g, %g), expected a distance above 0", i, j,
                centre[0], centre[1], centre[2]);
    }
    return mlff_fail(error, MLFF_ERROR_NUMERICS, "atom index %d: its neighbours' distances are not usable", i);
}

mlff_status mlff_graph_explain_row(const mlff_graph *g, const double *x, int64_t row, mlff_error *error)
{
    const int64_t first = g->first[row];
    return mlff_graph_explain_slots(g, x, row, g->first[row + 1] - first, g->neighbour_atom + first,
                                    g->shift ? g->shift + 3 * first : NULL, error);
}
