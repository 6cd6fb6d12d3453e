/* SPDX-License-Identifier: MIT */
/*
 * Neighbours by cell lists, as core/src/neighbours.c finds them, with its words and functions (box.h, order.h).
 *
 *   measure   atoms: extents of each structure          boxes    structures: bins, margins, the order's grid
 *   order     sort by place on the curve: rows          items    sort by bin: what a search walks through
 *   count     a row's neighbours, and who is named      scan     first slots, and first incoming slots
 *   fill      a row's slots, ascending by row           incoming the slots that name a row, ascending
 *
 * Between scan and fill the host learns the number of slots, and the rows: the one wait.
 *
 * Launch   a warp a row for pairs, a thread an item else: search_rows.cu, search_pairs.cu.
 * Time     ns an atom, 1 million atoms, 52 neighbours, with shifts (H200, CUDA 13.0, 2026-11-21): fill 7.0, count 3.5,
 *          incoming 1.0, sorts 0.25, all else 0.25; transfers and the host 3.6: 15.6 in all. One of 9 atoms takes
 *          115 us, which are launches. What holds count and fill has not been profiled.
 */
#include "search.cuh"

#include <algorithm>
#include <stdlib.h>
#include <string.h>

namespace mlff
{

/* What the host knows before the device has seen an atom. */
struct request {
    int32_t n_atoms, n_local, n_structures, n_rows, n_items;
    const mlff_structures *structures; /* NULL: an engine's atoms */
    const int32_t *owner;
    double reach, expected_slots;
};

static const mlff_structures *structures_of(const mlff_input *in, mlff_structures *open)
{
    *open = {};
    open->n_structures = 1; /* an engine's atoms: no cell, ghosts are the images */
    return in->structures ? in->structures : open;
}

/* Boxes and numbers of the structures, in pinned memory. */
static mlff_status read_structures(searched *groups, request *r, const mlff_input *in, mlff_error *error)
{
    mlff_structures open;
    const mlff_structures *s = structures_of(in, &open);
    int32_t item = 0;
    for (int32_t k = 0; k < s->n_structures; k++) {
        searched *g = &groups[k];
        const int32_t first = in->structures ? s->first_atom[k] : 0,
                      end = in->structures ? s->first_atom[k + 1] : in->n_all;
        *g = {};
        g->first_atom = first, g->first_item = item, g->first_bin = item + k;
        int32_t n = 0, n_local = 0;
        for (int32_t atom = first; atom < end; atom++) {
            n += in->species[atom] >= 0;
            if (atom == in->n_local - 1) n_local = n;
        }
        g->n_items = n;
        item += n;
        r->n_rows += in->structures ? n : n_local;
        MLFF_TRY(mlff_box_read(&g->b, s, k, error));
        r->expected_slots += mlff_box_expected_neighbours(&g->b, n, r->reach);
    }
    r->n_items = item;
    return MLFF_OK;
}

static mlff_status check_amount(const request *r, mlff_error *error)
{
    const double bytes = r->expected_slots * (2 * sizeof(int32_t) + sizeof(int64_t) + 3 * sizeof(double));
    size_t free_bytes = 0, all_bytes = 0;
    if (r->expected_slots < MANY_SLOTS) return MLFF_OK;
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &all_bytes));
    if (r->expected_slots < MOST_SLOTS && bytes < 2.0 * (double)all_bytes) return MLFF_OK;
    return mlff_fail(error, MLFF_ERROR_MEMORY,
                     "neighbour graph: found cells so small for the cutoff that about %.3g neighbours need %.3g bytes, "
                     "expected at most %zu bytes, which this GPU has",
                     r->expected_slots, bytes, all_bytes);
}

/* Room for everything but the slots. */
static mlff_status place_rows(device_search *d, search_view *a, const request *r, mlff_error *error)
{
    const size_t A = r->n_atoms, M = r->n_items, S = r->n_structures, N = r->n_rows;
    const size_t candidates = N + (size_t)(r->n_atoms - r->n_local), images = r->structures ? M : 0;
    MLFF_TRY(sorting_bytes(r->n_atoms + 1, &a->sorting_bytes, error));
    const tensor_row kept[] = {
        {&d->graph.first, N + 1, sizeof(int64_t), "first candidates"},
        {&d->graph.incoming_first, A + 1, sizeof(int64_t), "first incoming"},
        {&d->graph.atom_of_row, A, sizeof(int32_t), "atoms of rows"},
        {&d->graph.species, A, sizeof(int32_t), "species"},
    };
    MLFF_TRY(place_on_device(&d->rows, kept, sizeof kept / sizeof kept[0], error));
    const tensor_row table[] = {
        {&a->group, S, sizeof(searched), "structures"},
        {&a->first_atom, S + 1, sizeof(int32_t), "first atoms"},
        {&a->x, A * 3, sizeof(double), "positions"},
        {&a->species_of_atom, A, sizeof(int32_t), "species of atoms"},
        {&a->owner, r->owner ? A : 0, sizeof(int32_t), "owners"},
        {&a->low, S * LOWS, sizeof(uint64_t), "lower ends"},
        {&a->high, S * HIGHS, sizeof(uint64_t), "upper ends"},
        {&a->place, A, sizeof(uint64_t), "places"},
        {&a->place_sorted, A, sizeof(uint64_t), "sorted places"},
        {&a->atom, A, sizeof(int32_t), "atoms"},
        {&a->atom_sorted, A, sizeof(int32_t), "sorted atoms"},
        {&a->bin, candidates, sizeof(uint32_t), "bins"},
        {&a->bin_sorted, candidates, sizeof(uint32_t), "sorted bins"},
        {&a->item, candidates, sizeof(int32_t), "items"},
        {&a->item_sorted, candidates, sizeof(int32_t), "sorted items"},
        {&a->bin_first, M + S + 1, sizeof(int32_t), "first items of bins"},
        {&a->wrapped[0], M, sizeof(double), "wrapped x"},
        {&a->wrapped[1], M, sizeof(double), "wrapped y"},
        {&a->wrapped[2], M, sizeof(double), "wrapped z"},
        {&a->image[0], images, sizeof(double), "images along the first vector"},
        {&a->image[1], images, sizeof(double), "images along the second vector"},
        {&a->image[2], images, sizeof(double), "images along the third vector"},
        {&a->atom_of_item, M, sizeof(int32_t), "atoms of items"},
        {&a->target, r->structures ? 0 : M, sizeof(int32_t), "rows of items"},
        {&a->count, N + 1, sizeof(int32_t), "neighbours"},
        {&a->named, r->structures ? 0 : A + 1, sizeof(int32_t), "named"},
        {&a->named_row, A + 1, sizeof(int32_t), "named rows"},
        {&a->cursor, A, sizeof(int32_t), "cursors"},
        {&a->row_of_atom, A, sizeof(int32_t), "rows of atoms"},
        {&a->total, 1, sizeof(totals), "totals"},
        {&a->sorting, a->sorting_bytes, 1, "sorting"},
    };
    MLFF_TRY(place_on_device(&d->work, table, sizeof table / sizeof table[0], error));
    a->g = d->graph;
    return MLFF_OK;
}

/* Parts of the pinned memory. */
struct transfers {
    double *x;
    searched *groups;
    totals *total;
    int32_t *species, *owner, *first_atom, *atom_of_row, *row_of_atom;
};

static mlff_status pin_transfers(device_search *d, transfers *t, size_t A, size_t S, mlff_error *error)
{
    const size_t bytes =
        A * (3 * sizeof(double) + 4 * sizeof(int32_t)) + S * (sizeof(searched) + sizeof(int32_t)) + sizeof(totals) + 64;
    MLFF_TRY(pin_host_memory((void **)&d->host, &d->host_bytes, bytes, error));
    t->x = (double *)d->host;
    t->groups = (searched *)(t->x + 3 * A);
    t->total = (totals *)(t->groups + S);
    t->species = (int32_t *)(t->total + 1);
    t->owner = t->species + A;
    t->atom_of_row = t->owner + A;
    t->row_of_atom = t->atom_of_row + A;
    t->first_atom = t->row_of_atom + A;
    return MLFF_OK;
}

static mlff_status send_atoms(const search_view *a, const transfers *t, const request *r, const mlff_input *in,
                              cudaStream_t stream, mlff_error *error)
{
    const size_t A = r->n_atoms, S = r->n_structures;
    memcpy(t->x, in->x, A * 3 * sizeof(double));
    memcpy(t->species, in->species, A * sizeof(int32_t));
    if (r->owner) memcpy(t->owner, r->owner, A * sizeof(int32_t));
    for (size_t k = 0; k < S; k++) t->first_atom[k] = t->groups[k].first_atom;
    t->first_atom[S] = r->n_atoms;
    const cudaMemcpyKind up = cudaMemcpyHostToDevice;
    CUDA_TRY(cudaMemcpyAsync((void *)a->x, t->x, A * 3 * sizeof(double), up, stream));
    CUDA_TRY(cudaMemcpyAsync((void *)a->species_of_atom, t->species, A * sizeof(int32_t), up, stream));
    if (r->owner) CUDA_TRY(cudaMemcpyAsync((void *)a->owner, t->owner, A * sizeof(int32_t), up, stream));
    CUDA_TRY(cudaMemcpyAsync((void *)a->first_atom, t->first_atom, (S + 1) * sizeof(int32_t), up, stream));
    CUDA_TRY(cudaMemcpyAsync(a->group, t->groups, S * sizeof(searched), up, stream));
    *t->total = {};
    t->total->bad_atom = t->total->flat_structure = INT32_MAX;
    CUDA_TRY(cudaMemcpyAsync(a->total, t->total, sizeof(totals), up, stream));
    CUDA_TRY(cudaMemsetAsync(a->low, 0xff, S * LOWS * sizeof(uint64_t), stream));
    CUDA_TRY(cudaMemsetAsync(a->high, 0, S * HIGHS * sizeof(uint64_t), stream));
    CUDA_TRY(cudaMemsetAsync(a->row_of_atom, 0xff, A * sizeof(int32_t), stream));
    CUDA_TRY(cudaMemsetAsync(a->g.atom_of_row, 0, A * sizeof(int32_t), stream)); /* all of it goes down */
    CUDA_TRY(cudaMemsetAsync(a->count, 0, ((size_t)r->n_rows + 1) * sizeof(int32_t), stream));
    if (a->named) CUDA_TRY(cudaMemsetAsync(a->named, 0, (A + 1) * sizeof(int32_t), stream));
    CUDA_TRY(cudaMemsetAsync(a->named_row, 0, (A + 1) * sizeof(int32_t), stream));
    CUDA_TRY(cudaMemsetAsync(a->cursor, 0, A * sizeof(int32_t), stream));
    return MLFF_OK;
}

/* What the device found wrong. */
static mlff_status check_totals(const totals *t, const mlff_input *in, mlff_error *error)
{
    if (t->bad_atom < in->n_all) {
        const double *x = in->x + 3 * (size_t)t->bad_atom;
        return mlff_fail(error, MLFF_ERROR_NUMERICS,
                         "atom index %d: found position (%g, %g, %g), expected finite numbers within %g angstrom",
                         (int)t->bad_atom, x[0], x[1], x[2], BOX_FURTHEST_POSITION);
    }
    if (t->flat_structure < INT32_MAX)
        return mlff_fail(
            error, MLFF_ERROR_UNSUPPORTED,
            "structure %d: found a cell so flat that too many image cells have to be searched, expected at "
            "most %.3g",
            (int)t->flat_structure, MOST_SLOTS);
    return MLFF_OK;
}

static mlff_status place_slots(device_search *d, search_view *a, size_t E, int with_shift, mlff_error *error)
{
    const size_t wide = E > INT32_MAX ? E : 0; /* slots in the width that their number needs */
    const tensor_row table[] = {
        {&d->graph.neighbour_row, E, sizeof(int32_t), "neighbour rows"},
        {&d->graph.neighbour_atom, E, sizeof(int32_t), "neighbour atoms"},
        {&d->graph.incoming, E - wide, sizeof(int32_t), "incoming"},
        {&d->graph.incoming_wide, wide, sizeof(int64_t), "incoming"},
        {&d->graph.shift, with_shift ? E * 3 : 0, sizeof(double), "image shifts"},
    };
    d->n_slots = (int64_t)E;
    MLFF_TRY(place_on_device(&d->slots, table, sizeof table / sizeof table[0], error));
    a->g = d->graph;
    return MLFF_OK;
}

/* The host's arrays of atoms and rows. */
static mlff_status fill_host(mlff_graph *graph, const request *r, const transfers *t, int32_t R, mlff_error *error)
{
    graph->n_local = r->n_local, graph->n_all = r->n_atoms, graph->n_structures = r->n_structures;
    MLFF_TRY(mlff_graph_reserve_atoms(graph, r->n_atoms, R, error));
    graph->n_owned = r->n_rows, graph->n_rows = R;
    memcpy(graph->atom_of_row, t->atom_of_row, (size_t)R * sizeof(int32_t));
    memcpy(graph->row_of_atom, t->row_of_atom, (size_t)r->n_atoms * sizeof(int32_t));
    for (int32_t k = 0; k < r->n_structures; k++) {
        const int32_t end = r->structures ? t->groups[k].first_item + t->groups[k].n_items : r->n_rows;
        std::fill(graph->structure_of_row + t->groups[k].first_item, graph->structure_of_row + end, k);
    }
    graph->n_slots = (int64_t)t->total->slots;
    graph->on_device = 1;
    graph->version++;
    return MLFF_OK;
}

static mlff_status search_on_host(mlff_graph *graph, const mlff_input *in, int n_elements, double reach,
                                  mlff_error *error)
{
    return in->structures ? mlff_graph_from_structures(graph, in, n_elements, reach, 0, error)
                          : mlff_graph_from_search(graph, in, n_elements, 0, error);
}

/* The number of bits that numbers below n have. */
static int bits_of(int32_t n)
{
    int bits = 0;
    while (bits < 31 && (int64_t)1 << bits < n) bits++;
    return bits;
}

static mlff_status search(device_search *d, cudaStream_t stream, mlff_graph *graph, const mlff_input *in,
                          int n_elements, request *r, mlff_error *error)
{
    transfers t;
    search_view a = {};
    d->n_slots = 0;
    MLFF_TRY(pin_transfers(d, &t, (size_t)r->n_atoms, (size_t)r->n_structures, error));
    MLFF_TRY(read_structures(t.groups, r, in, error));
    MLFF_TRY(check_amount(r, error));
    MLFF_TRY(place_rows(d, &a, r, error));
    a.A = r->n_atoms, a.n_local = r->n_local, a.N = r->n_rows, a.M = r->n_items, a.S = r->n_structures;
    a.reach = r->reach;
    const int structure_bits = bits_of(r->n_structures);
    a.most_bits = (63 - CURVE_SPARE_BITS - structure_bits) / 3;
    if (a.most_bits > ORDER_MOST_BITS) a.most_bits = ORDER_MOST_BITS;
    a.place_shift = 3 * a.most_bits + CURVE_SPARE_BITS;

    MLFF_TRY(send_atoms(&a, &t, r, in, stream, error));
    MLFF_TRY(order_atoms(a, stream, error));
    MLFF_TRY(count_slots(a, stream, error));
    const cudaMemcpyKind down = cudaMemcpyDeviceToHost;
    const size_t row_bytes = (size_t)r->n_atoms * sizeof(int32_t);
    CUDA_TRY(cudaMemcpyAsync(t.total, a.total, sizeof(totals), down, stream));
    CUDA_TRY(cudaMemcpyAsync(&t.total->slots, a.g.first + a.N, sizeof(int64_t), down, stream));
    CUDA_TRY(cudaMemcpyAsync(t.atom_of_row, a.g.atom_of_row, row_bytes, down, stream));
    CUDA_TRY(cudaMemcpyAsync(t.row_of_atom, a.row_of_atom, row_bytes, down, stream));
    CUDA_TRY(cudaStreamSynchronize(stream));
    MLFF_TRY(check_totals(t.total, in, error));
    if (t.total->too_flat || !warps_with(t.total->most_neighbours * sizeof(found)) ||
        !warps_with(t.total->most_incoming * sizeof(int64_t)))
        return search_on_host(graph, in, n_elements, r->reach, error);
    const int32_t R = r->n_rows + t.total->n_ghost_rows;
    MLFF_TRY(place_slots(d, &a, t.total->slots, r->structures != NULL, error));
    if (t.total->slots > 0) MLFF_TRY(fill_slots(a, t.total, R, stream, error));
    return fill_host(graph, r, &t, R, error);
}

mlff_status search_on_device(device_search *d, cudaStream_t stream, mlff_graph *graph, const mlff_input *in,
                             int n_elements, double reach, mlff_error *error)
{
    mlff_graph_clear(graph);
    MLFF_TRY(mlff_graph_check_atoms(in, n_elements, error));
    MLFF_TRY(in->neighbours ? mlff_graph_check_list(in, error) : mlff_graph_check_structures(in, error));
    if (in->n_local == 0) return search_on_host(graph, in, n_elements, reach, error); /* no row: nothing to launch */
    request r = {in->n_all, in->n_local, 1};
    r.structures = in->structures;
    r.owner = in->structures ? NULL : in->neighbours->owner;
    if (in->structures) r.n_structures = in->structures->n_structures;
    r.reach = reach;
    const mlff_status status = search(d, stream, graph, in, n_elements, &r, error);
    if (status != MLFF_OK) mlff_graph_clear(graph);
    return status;
}

void device_search_free(device_search *d)
{
    cudaFree(d->rows.memory);
    cudaFree(d->slots.memory);
    cudaFree(d->work.memory);
    cudaFreeHost(d->host);
    *d = {};
}

size_t device_search_memory(const device_search *d)
{
    return d->rows.bytes + d->slots.bytes + d->work.bytes;
}

size_t device_search_wanted(const device_search *d)
{
    return d->rows.wanted + d->slots.wanted + d->work.wanted;
}

} // namespace mlff
