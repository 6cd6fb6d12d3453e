/* SPDX-License-Identifier: MIT */
/*
 * Neighbours by cell lists: of plain structures, and of an engine's atoms whose engine has no list of them.
 *
 * Atoms are wrapped into the box of their structure (box.h) and sorted by bin. A neighbour of an atom lies within
 * `range` bins of the atom's own bin; a bin index beyond the grid is a bin of the image that floor division names,
 * so a cell shorter than the cutoff is nothing special.
 *
 * A pair is taken when |x_j - x_i + shift| < cutoff, from the positions as they were given and as every later reader
 * of the graph computes it. That is odd in (i, j), so each edge has its way back. Distances of the sorted wrapped
 * positions, which are quick to compute, decide all but the few pairs that rounding could turn: see box.margin.
 *
 * An engine's atoms are one structure without a cell: its ghosts are candidates, its owned atoms are what has slots.
 *
 * The order of slots follows bins and atoms only, never threads.
 */
#include "box.h"
#include "graph.h"
#include "order.h"
#include "status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* Slots, and bins to look at, beyond which a request is absurd. */
#define MOST_SLOTS 0x1p40
/* Slots beyond which memory is asked for before the time is spent counting. */
#define MANY_SLOTS 0x1p28

enum { RUN_LENGTH = 256 }; /* candidates whose distances are computed at once */

/* One structure's atoms: its items, and its part of the sorted atoms, which has the same bounds. */
typedef struct group {
    box box;
    int32_t first_item, n_items;
    double sure, possible; /* squares: below one a pair is taken, below the other it may be, angstrom^2 */
    double visits;         /* bins that all atoms together have to look at */
    int32_t *bin_first;    /* [bins + 1] sorted atoms of each bin */
    int32_t bad_item;      /* the first with a position that cannot be used, or -1 */
} group;

/* What a neighbour's slot is made from. */
typedef struct placed {
    double x[3];     /* as given, angstrom */
    double image[3]; /* whole numbers: the wrapped position is x - image . lattice */
    int32_t item, atom;
} placed;

/* Items are what is sorted: the rows, and after them the ghosts of an engine. */
typedef struct sorted_atoms {
    int32_t n_items;
    const int32_t *atom_of_item; /* [items] */
    group *groups;               /* [S] */
    placed *placed;              /* [items] */
    double *wrapped[3];          /* [items] each, angstrom */
    int32_t *bin_of_item;        /* [items] */
    int32_t *item_of_position;   /* [items] */
    int32_t *bin_first;          /* [items + S] */
    int32_t *listed;             /* [items] room for atom_of_item */
    char *order;                 /* [items] of mlff_order_scratch(1) bytes each */
} sorted_atoms;

/* ---------------------------------------------------------------------------------------- checks */

mlff_status mlff_graph_check_structures(const mlff_input *input, mlff_error *error)
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

/* Owned rows, for now in the order of atoms, and each structure's part of them. */
static void number_rows(mlff_graph *graph, const mlff_input *input, group *groups)
{
    const mlff_structures *s = input->structures;
    int32_t row = 0;
    for (int32_t k = 0; k < s->n_structures; ++k) {
        groups[k].first_item = row;
        for (int32_t atom = s->first_atom[k]; atom < s->first_atom[k + 1]; ++atom) {
            if (input->species[atom] < 0) {
                graph->row_of_atom[atom] = -1;
                continue;
            }
            graph->row_of_atom[atom] = row;
            graph->atom_of_row[row] = atom;
            graph->structure_of_row[row++] = k;
        }
        groups[k].n_items = row - groups[k].first_item;
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

static size_t place_all(sorted_atoms *a, char *block, size_t n_items, size_t n_structures)
{
    size_t offset = 0;
    a->groups = place(block, &offset, n_structures, sizeof(group));
    a->placed = place(block, &offset, n_items, sizeof(placed));
    for (int d = 0; d < 3; ++d) a->wrapped[d] = place(block, &offset, n_items, sizeof(double));
    a->bin_of_item = place(block, &offset, n_items, sizeof(int32_t));
    a->item_of_position = place(block, &offset, n_items, sizeof(int32_t));
    a->bin_first = place(block, &offset, n_items + n_structures, sizeof(int32_t));
    a->listed = place(block, &offset, n_items, sizeof(int32_t));
    a->order = place(block, &offset, n_items, mlff_order_scratch(1));
    return offset;
}

static mlff_status reserve_scratch(mlff_graph *graph, sorted_atoms *a, size_t n_items, size_t n_structures,
                                   mlff_error *error)
{
    const size_t bytes = place_all(a, NULL, n_items, n_structures);
    MLFF_TRY(mlff_graph_reserve_scratch(graph, bytes, "bytes of cell lists", error));
    place_all(a, graph->scratch, n_items, n_structures);
    return MLFF_OK;
}

/* One structure's atoms as the order in space reads them: as if all were in the cell. */
typedef struct wrapped_atoms {
    const box *box;
    const double *x;
    const int32_t *atoms;
} wrapped_atoms;

static void wrapped_position(const void *context, int32_t k, double r[3])
{
    const wrapped_atoms *w = context;
    double coordinate[3], image[3];
    mlff_box_wrap(w->box, w->x + 3 * (int64_t)w->atoms[k], coordinate, image, r);
}

static void order_group(const group *g, const sorted_atoms *a, mlff_graph *graph, const mlff_input *input)
{
    int32_t *atoms = graph->atom_of_row + g->first_item;
    const wrapped_atoms wrapped = {&g->box, input->x, atoms};
    mlff_order_in_space(g->n_items, atoms, wrapped_position, &wrapped,
                        a->order + mlff_order_scratch((size_t)g->first_item));
    for (int32_t row = g->first_item; row < g->first_item + g->n_items; ++row) {
        const int32_t atom = graph->atom_of_row[row];
        graph->row_of_atom[atom] = row;
        graph->species[row] = input->species[atom];
    }
}

/* Sorts one structure's atoms by bin, within a bin by item. */
static void sort_group(const group *g, const sorted_atoms *a, const double *x)
{
    const int64_t n_bins = g->box.bins[0] * g->box.bins[1] * g->box.bins[2];
    const int32_t end = g->first_item + g->n_items;
    int32_t *first = g->bin_first;
    double coordinate[3], image[3], wrapped[3];

    for (int64_t bin = 0; bin <= n_bins; ++bin) first[bin] = 0;
    for (int32_t item = g->first_item; item < end; ++item) {
        mlff_box_wrap(&g->box, x + 3 * (int64_t)a->atom_of_item[item], coordinate, image, wrapped);
        a->bin_of_item[item] = mlff_box_bin(&g->box, coordinate);
        ++first[a->bin_of_item[item]];
    }
    /* to the end of each bin, then back to its beginning while it fills from behind */
    first[0] += g->first_item;
    for (int64_t bin = 1; bin <= n_bins; ++bin) first[bin] += first[bin - 1];
    for (int32_t item = end - 1; item >= g->first_item; --item)
        a->item_of_position[--first[a->bin_of_item[item]]] = item;

    for (int32_t k = g->first_item; k < end; ++k) {
        placed *p = &a->placed[k];
        p->item = a->item_of_position[k];
        p->atom = a->atom_of_item[p->item];
        for (int c = 0; c < 3; ++c) p->x[c] = x[3 * (int64_t)p->atom + c];
        mlff_box_wrap(&g->box, p->x, coordinate, p->image, wrapped);
        for (int c = 0; c < 3; ++c) a->wrapped[c][k] = wrapped[c];
    }
}

/* ----------------------------------------------------------------------------------------- pairs */

/* How sorted atom `self` sees a run of candidates: displaced by whole cells. */
typedef struct view {
    const sorted_atoms *atoms;
    const group *group;
    int32_t self;
    double cells[3]; /* whole numbers */
    double cutoff;
} view;

/* Squared distances of at most RUN_LENGTH candidates. Never inlined: counting and storing must see the same bits,
 * which two copies of machine code need not give. */
static __attribute__((noinline)) void squared_distances(const view *v, int32_t begin, int n, double *restrict d2)
{
    const double *wx = v->atoms->wrapped[0] + begin;
    const double *wy = v->atoms->wrapped[1] + begin;
    const double *wz = v->atoms->wrapped[2] + begin;
    double centre[3];
    for (int c = 0; c < 3; ++c) {
        const double *lattice = &v->group->box.lattice[0][c];
        centre[c] = v->atoms->wrapped[c][v->self] -
                    (v->cells[0] * lattice[0] + v->cells[1] * lattice[3] + v->cells[2] * lattice[6]);
    }
    for (int m = 0; m < n; ++m) {
        const double dx = wx[m] - centre[0], dy = wy[m] - centre[1], dz = wz[m] - centre[2];
        d2[m] = dx * dx + dy * dy + dz * dz;
    }
}

/* Whole cells from where sorted atom `other` was given to where it is seen. */
static void cells_between(const view *v, int32_t other, double cells[3])
{
    const placed *i = &v->atoms->placed[v->self], *j = &v->atoms->placed[other];
    for (int d = 0; d < 3; ++d) cells[d] = v->cells[d] + (i->image[d] - j->image[d]);
}

static void shift_by(const box *b, const double cells[3], double shift[3])
{
    for (int c = 0; c < 3; ++c)
        shift[c] = cells[0] * b->lattice[0][c] + cells[1] * b->lattice[1][c] + cells[2] * b->lattice[2][c];
}

/* The contract's own test, for pairs that are within rounding of the cutoff. Not inlined for the same reason. */
static __attribute__((noinline)) int is_within_cutoff(const view *v, int32_t other)
{
    const double *x_i = v->atoms->placed[v->self].x, *x_j = v->atoms->placed[other].x;
    double cells[3], shift[3], d2 = 0.0;
    cells_between(v, other, cells);
    shift_by(&v->group->box, cells, shift);
    for (int c = 0; c < 3; ++c) {
        const double difference = (x_j[c] - x_i[c]) + shift[c];
        d2 += difference * difference;
    }
    return d2 < v->cutoff * v->cutoff;
}

static int is_self(const view *v, int32_t other)
{
    return other == v->self && v->cells[0] == 0.0 && v->cells[1] == 0.0 && v->cells[2] == 0.0;
}

static int64_t count_run(const view *v, int32_t begin, int n)
{
    const double sure = v->group->sure, possible = v->group->possible;
    int64_t n_sure = 0, n_possible = 0; /* as wide as the numbers compared, for vector instructions */
    double d2[RUN_LENGTH];
    squared_distances(v, begin, n, d2);
    for (int m = 0; m < n; ++m) {
        n_sure += d2[m] < sure;
        n_possible += d2[m] < possible;
    }
    int64_t count = n_sure;
    for (int m = 0; m < n && n_possible > n_sure; ++m) {
        if (d2[m] < sure || !(d2[m] < possible)) continue;
        count += is_within_cutoff(v, begin + m);
    }
    if (v->self >= begin && v->self < begin + n && is_self(v, v->self)) --count;
    return count;
}

static int64_t store_run(const view *v, int32_t begin, int n, mlff_graph *graph, int64_t slot)
{
    const double sure = v->group->sure, possible = v->group->possible;
    double d2[RUN_LENGTH], cells[3], last[3] = {0.0, 0.0, 0.0}, shift[3] = {0.0, 0.0, 0.0};
    int32_t found[RUN_LENGTH];
    squared_distances(v, begin, n, d2);
    int n_found = 0;
    for (int m = 0; m < n; ++m) { /* without a branch, as many of them would be guessed wrong */
        found[n_found] = m;
        n_found += d2[m] < possible;
    }
    for (int f = 0; f < n_found; ++f) {
        const int32_t other = begin + found[f];
        if (is_self(v, other)) continue;
        if (!(d2[found[f]] < sure) && !is_within_cutoff(v, other)) continue;
        cells_between(v, other, cells);
        if (cells[0] != last[0] || cells[1] != last[1] || cells[2] != last[2]) {
            shift_by(&v->group->box, cells, shift);
            memcpy(last, cells, sizeof last);
        }
        graph->neighbour_row[slot] = v->atoms->placed[other].item;
        graph->neighbour_atom[slot] = v->atoms->placed[other].atom;
        if (graph->shift) memcpy(graph->shift + 3 * slot, shift, sizeof shift);
        ++slot;
    }
    return slot;
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

/* Stores the neighbours of the view's atom from `slot` on, or counts them if graph is NULL; returns the slot after
 * them, or their number. Bins along the third direction follow each other, so they are taken in runs. */
static int64_t take_neighbours(view *v, mlff_graph *graph, int64_t slot)
{
    const group *g = v->group;
    const box *b = &g->box;
    const int64_t *bins = b->bins;
    const int64_t bin = v->atoms->bin_of_item[v->atoms->placed[v->self].item];
    int64_t low[3], high[3];
    bins_around(b, 0, bin / (bins[1] * bins[2]), &low[0], &high[0]);
    bins_around(b, 1, bin / bins[2] % bins[1], &low[1], &high[1]);
    bins_around(b, 2, bin % bins[2], &low[2], &high[2]);

    for (int64_t i = low[0]; i <= high[0]; ++i) {
        const int64_t cell0 = floor_divide(i, bins[0]);
        v->cells[0] = (double)cell0;
        for (int64_t j = low[1]; j <= high[1]; ++j) {
            const int64_t cell1 = floor_divide(j, bins[1]);
            const int64_t base = ((i - cell0 * bins[0]) * bins[1] + (j - cell1 * bins[1])) * bins[2];
            v->cells[1] = (double)cell1;
            for (int64_t cell2 = floor_divide(low[2], bins[2]); cell2 * bins[2] <= high[2]; ++cell2) {
                const int64_t from = low[2] - cell2 * bins[2], to = high[2] - cell2 * bins[2];
                const int32_t end = g->bin_first[base + (to < bins[2] ? to + 1 : bins[2])];
                v->cells[2] = (double)cell2;
                for (int32_t begin = g->bin_first[base + (from > 0 ? from : 0)]; begin < end; begin += RUN_LENGTH) {
                    const int n = end - begin < RUN_LENGTH ? end - begin : RUN_LENGTH;
                    slot = graph ? store_run(v, begin, n, graph, slot) : slot + count_run(v, begin, n);
                }
            }
        }
    }
    return slot;
}

/* One pass over all atoms: counts into first[row + 1], or stores from first[row] on. */
static void for_all_atoms(mlff_graph *graph, const sorted_atoms *a, double cutoff, int store, int threads)
{
    (void)threads;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int32_t k = 0; k < a->n_items; ++k) {
        const int32_t row = a->placed[k].item;
        if (row >= graph->n_owned) continue;
        view v = {a, &a->groups[graph->structure_of_row[row]], k, {0.0, 0.0, 0.0}, cutoff};
        if (store) {
            take_neighbours(&v, graph, graph->first[row]);
        } else {
            graph->first[row + 1] = take_neighbours(&v, NULL, 0);
        }
    }
}

/* ----------------------------------------------------------------------------------------- whole */

/* What the threads found, in the order of structures. */
static mlff_status check_groups(const sorted_atoms *a, int32_t n_groups, const mlff_input *input, mlff_error *error)
{
    for (int32_t k = 0; k < n_groups; ++k) {
        if (a->groups[k].bad_item >= 0) {
            const int32_t atom = a->atom_of_item[a->groups[k].bad_item];
            const double *x = input->x + 3 * (int64_t)atom;
            return mlff_fail(error, MLFF_ERROR_NUMERICS,
                             "atom index %d: found position (%g, %g, %g), expected finite numbers within %g angstrom",
                             atom, x[0], x[1], x[2], BOX_FURTHEST_POSITION);
        }
        if (a->groups[k].visits > MOST_SLOTS) {
            return mlff_fail(error, MLFF_ERROR_UNSUPPORTED,
                             "structure %d: found a cell so flat that %.3g image cells have to be searched, expected "
                             "at most %.3g",
                             k, a->groups[k].visits, MOST_SLOTS);
        }
    }
    return MLFF_OK;
}

/* Wraps, orders, bins and sorts one structure's atoms. */
static void place_group(group *g, const sorted_atoms *a, mlff_graph *graph, const mlff_input *input, double cutoff)
{
    const double *x = input->x;
    g->visits = 0.0;
    g->bad_item = -1;
    if (g->n_items == 0) return;
    const int32_t bad = mlff_box_measure(&g->box, g->n_items, a->atom_of_item + g->first_item, x, cutoff);
    if (bad >= 0) {
        g->bad_item = g->first_item + bad;
        return;
    }
    if (input->structures) order_group(g, a, graph, input);
    const double sure = fmax(cutoff - g->box.margin, 0.0), possible = cutoff + g->box.margin;
    g->sure = sure * sure;
    g->possible = possible * possible;
    mlff_box_choose_bins(&g->box, g->n_items, cutoff);
    g->visits = g->n_items * mlff_box_visits(&g->box);
    sort_group(g, a, x);
}

static mlff_status place_atoms(mlff_graph *graph, const mlff_input *input, sorted_atoms *a, double cutoff, int threads,
                               mlff_error *error)
{
    const int32_t n_structures = input->structures->n_structures;
    double slots = 0.0;
    for (int32_t k = 0; k < n_structures; ++k) {
        group *g = &a->groups[k];
        MLFF_TRY(mlff_box_read(&g->box, input->structures, k, error));
        slots += mlff_box_expected_neighbours(&g->box, g->n_items, cutoff);
        g->bin_first = a->bin_first + g->first_item + k; /* bins are not more than rows */
    }
    MLFF_TRY(check_amount(graph, slots, error));

    (void)threads;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int32_t k = 0; k < n_structures; ++k) place_group(&a->groups[k], a, graph, input, cutoff);
    return check_groups(a, n_structures, input, error);
}

/* Counts, makes room, stores. */
static mlff_status find_all(mlff_graph *graph, const sorted_atoms *a, double cutoff, int with_shift, int threads,
                            mlff_error *error)
{
    graph->first[0] = 0;
    for_all_atoms(graph, a, cutoff, 0, threads);
    for (int32_t row = 0; row < graph->n_owned; ++row) graph->first[row + 1] += graph->first[row];
    MLFF_TRY(mlff_graph_reserve_slots(graph, graph->first[graph->n_owned], with_shift, error));
    graph->n_slots = graph->first[graph->n_owned];
    for_all_atoms(graph, a, cutoff, 1, threads);
    return MLFF_OK;
}

static int threads_of(int threads)
{
#ifdef _OPENMP
    if (threads < 1) threads = omp_get_max_threads();
#endif
    return threads;
}

static mlff_status from_structures(mlff_graph *graph, const mlff_input *input, int n_elements, double cutoff,
                                   int threads, mlff_error *error)
{
    MLFF_TRY(mlff_graph_check_atoms(input, n_elements, error));
    MLFF_TRY(mlff_graph_check_structures(input, error));
    const int32_t n_structures = input->structures->n_structures;
    threads = threads_of(threads);
    MLFF_TRY(mlff_graph_reserve_atoms(graph, input->n_all, input->n_local, error));
    sorted_atoms atoms;
    MLFF_TRY(reserve_scratch(graph, &atoms, (size_t)input->n_local, (size_t)n_structures, error));
    graph->n_local = graph->n_all = input->n_local;
    graph->n_structures = n_structures;
    number_rows(graph, input, atoms.groups);
    atoms.n_items = graph->n_owned;
    atoms.atom_of_item = graph->atom_of_row;
    MLFF_TRY(place_atoms(graph, input, &atoms, cutoff, threads, error));

    MLFF_TRY(find_all(graph, &atoms, cutoff, 1, threads, error));
    mlff_graph_transpose(graph);
    return MLFF_OK;
}

mlff_status mlff_graph_from_structures(mlff_graph *graph, const mlff_input *input, int n_elements, double cutoff,
                                       int threads, mlff_error *error)
{
    mlff_graph_clear(graph);
    mlff_status status = from_structures(graph, input, n_elements, cutoff, threads, error);
    if (status != MLFF_OK) mlff_graph_clear(graph);
    return status;
}

mlff_status mlff_graph_search(mlff_graph *graph, const mlff_input *input, int threads, mlff_error *error)
{
    int32_t n_items = graph->n_owned;
    for (int32_t atom = input->n_local; atom < input->n_all; ++atom) n_items += input->species[atom] >= 0;
    sorted_atoms atoms;
    MLFF_TRY(reserve_scratch(graph, &atoms, (size_t)n_items, 1, error));
    int32_t *atom_of_item = atoms.listed;
    memcpy(atom_of_item, graph->atom_of_row, (size_t)graph->n_owned * sizeof *atom_of_item);
    n_items = graph->n_owned;
    for (int32_t atom = input->n_local; atom < input->n_all; ++atom)
        if (input->species[atom] >= 0) atom_of_item[n_items++] = atom;

    const mlff_structures open = {.n_structures = 1}; /* no cell: ghosts are the images */
    group *g = atoms.groups;
    MLFF_TRY(mlff_box_read(&g->box, &open, 0, error));
    atoms.n_items = g->n_items = n_items;
    atoms.atom_of_item = atom_of_item;
    g->first_item = 0;
    g->bin_first = atoms.bin_first;
    place_group(g, &atoms, graph, input, input->neighbours->reach);
    MLFF_TRY(check_groups(&atoms, 1, input, error));
    return find_all(graph, &atoms, input->neighbours->reach, 0, threads_of(threads), error);
}
