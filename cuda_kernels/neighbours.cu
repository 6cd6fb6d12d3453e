/* SPDX-License-Identifier: MIT */
/*
 * Neighbours by cell lists, as core/src/neighbours.c finds them, whose words and functions (box.h, order.h) this file uses.
 *
 *   measure   atoms: extents of each structure          boxes    structures: bins, margins, the order's grid
 *   order     sort by place on the curve: rows          items    sort by bin: what a search walks through
 *   count     a row's neighbours, and who is named      scan     first slots, and first incoming slots
 *   fill      a row's slots, ascending by row           incoming the slots that name a row, ascending
 *
 * Between scan and fill the host learns the number of slots, and the rows: the one wait.
 *
 * Launch   count and fill: a warp a row, its lanes along the atoms of consecutive bins; everything else a thread an item.
 * Bytes    an atom: 340 candidates of 24 bytes from L1 and L2, twice; slots 16, with shifts 40 each.
 * Order    integers are added, and minima taken, by atomics: no order changes them. What atomics put in a place in any
 *          order (incoming) is sorted afterwards.
 * Time     ns an atom, 1 million atoms, 52 neighbours, with shifts (H200, CUDA 13.0, 2026-11-21): fill 7.0, count 3.5,
 *          incoming 1.0, sorts 0.25, all else 0.25; transfers and the host 3.6: 15.6 in all. One of 9 atoms takes 115 us,
 *          which are launches. What holds count and fill has not been profiled.
 */
#include "neighbours.cuh"

#include "launch.cuh"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include <algorithm>
#include <cuda/std/functional>
#include <stdlib.h>
#include <string.h>

namespace mlff
{

enum { LEFT_OUT_BIN = -1, MOST_WARPS = 8, MOST_SHARED = 160 << 10, CURVE_SPARE_BITS = 18 };

/* Above so many slots the device's memory is asked before time is spent on counting; above the others nothing has it. */
#define MANY_SLOTS 0x1p28
#define MOST_SLOTS 0x1p40

/* A structure: its box, its rows, its bins. */
struct searched {
    box b;
    order_grid grid;         /* bits 0: nothing tells its atoms apart */
    double sure2, possible2; /* below one a pair is taken, below the other it may be, angstrom^2 */
    int32_t first_atom, first_item, n_items, first_bin;
};

/* What atoms of a structure say about its extents, doubles as whole numbers of the same order. */
enum { LOWS = 6, HIGHS = 7 };
struct totals {
    unsigned long long slots;
    int32_t most_neighbours, most_incoming, n_ghost_rows, bad_atom, flat_structure, too_flat;
};

/* The pointers of one search. A atoms, N owned rows, M items, S structures. */
struct search_view {
    int32_t A, n_local, N, M, S, place_shift, most_bits;
    double reach;
    const double *x; /* [A][3] */
    const int32_t *species_of_atom, *owner, *first_atom;
    searched *group;                /* [S] */
    unsigned long long *low, *high; /* [S][LOWS], [S][HIGHS] */
    uint64_t *place, *place_sorted; /* [A] */
    int32_t *atom, *atom_sorted;    /* [A] beside them */
    uint32_t *bin, *bin_sorted;     /* [M] */
    int32_t *item, *item_sorted;    /* [M] beside them: rows, then ghosts */
    int32_t *bin_first;             /* [M + S + 1] */
    double *wrapped[3], *image[3];  /* [M] of sorted items; no images with an engine's atoms */
    int32_t *atom_of_item, *target; /* [M] of sorted items; target: row, or N + a ghost that may get one */
    int32_t *count, *named;         /* [N+1], [A+1] neighbours of a row, slots that name a target; with structures each
                                       neighbour names back, and there is no `named` */
    int32_t *named_row, *cursor;    /* [A+1] slots that name a row; [A] */
    int32_t *row_of_atom;           /* [A] */
    totals *total;
    device_graph g;
};

/* ----------------------------------------------------------------------------------------- extents and boxes */

/* Keeps the order of doubles. */
__device__ unsigned long long ordered(double value)
{
    const unsigned long long bits = (unsigned long long)__double_as_longlong(value);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

__device__ double as_double(unsigned long long bits)
{
    return __longlong_as_double((long long)(bits >> 63 ? bits & ~(1ull << 63) : ~bits));
}

/* The structure of an atom: the last one that begins at it or before, and is not empty. */
__device__ int32_t structure_of(const search_view &a, int32_t atom)
{
    int32_t low = 0, high = a.S;
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        if (a.first_atom[middle] <= atom) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

__device__ unsigned long long warp_least(unsigned long long value)
{
    for (int half = 16; half > 0; half /= 2) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, value, half);
        value = other < value ? other : value;
    }
    return value;
}

/* Extents of structures: lattice coordinates, wrapped positions, and the largest size. A warp of one structure reduces
 * before it adds to the structure's. */
__global__ void __launch_bounds__(256) measure_kernel(search_view a)
{
    const int32_t i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    bool taken = i < a.A && a.species_of_atom[i] >= 0;
    double x[3] = {0, 0, 0}, coordinate[3], image[3], wrapped[3];
    for (int c = 0; c < 3 && taken; c++) x[c] = a.x[3 * (size_t)i + c];
    for (int c = 0; c < 3; c++)
        if (taken && !(fabs(x[c]) <= BOX_FURTHEST_POSITION)) {
            atomicMin(&a.total->bad_atom, i);
            taken = false;
        }
    const unsigned members = __ballot_sync(0xffffffffu, taken);
    if (members == 0) return;
    int32_t k = taken ? structure_of(a, i) : 0;
    const int32_t first = __shfl_sync(0xffffffffu, k, __ffs(members) - 1);
    const bool alone = __all_sync(0xffffffffu, !taken || k == first);
    unsigned long long low[LOWS], high[HIGHS];
    for (int q = 0; q < LOWS; q++) low[q] = ~0ull;
    for (int q = 0; q < HIGHS; q++) high[q] = 0;
    if (taken) {
        mlff_box_wrap(&a.group[k].b, x, coordinate, image, wrapped);
        for (int d = 0; d < 3; d++) {
            low[d] = high[d] = ordered(coordinate[d]);
            low[3 + d] = high[3 + d] = ordered(wrapped[d]);
        }
        high[6] = ordered(mlff_box_size_of(&a.group[k].b, x, image));
    }
    if (alone) {
        for (int q = 0; q < LOWS; q++) low[q] = warp_least(low[q]);
        for (int q = 0; q < HIGHS; q++) high[q] = ~warp_least(~high[q]);
        if (lane > 0) return;
        k = first;
    } else if (!taken) {
        return;
    }
    for (int q = 0; q < LOWS; q++) /* read first: in a large structure few warps have something to say */
        if (low[q] < a.low[(size_t)k * LOWS + q]) atomicMin(&a.low[(size_t)k * LOWS + q], low[q]);
    for (int q = 0; q < HIGHS; q++)
        if (high[q] > a.high[(size_t)k * HIGHS + q]) atomicMax(&a.high[(size_t)k * HIGHS + q], high[q]);
}

/* a thread a structure */
__global__ void boxes_kernel(search_view a)
{
    const int32_t k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= a.S || a.group[k].n_items == 0) return;
    searched *g = &a.group[k];
    const unsigned long long *low = a.low + (size_t)k * LOWS, *high = a.high + (size_t)k * HIGHS;
    double extent[3];
    for (int d = 0; d < 3; d++) {
        g->b.lowest[d] = g->b.periodic[d] ? 0.0 : as_double(low[d]);
        g->b.extent[d] = g->b.periodic[d] ? 1.0 : as_double(high[d]) - g->b.lowest[d];
        g->grid.low[d] = as_double(low[3 + d]);
        extent[d] = as_double(high[3 + d]) - g->grid.low[d];
    }
    g->b.margin = mlff_box_margin(&g->b, as_double(high[6]), a.reach);
    const double sure = fmax(a.reach - g->b.margin, 0.0), possible = a.reach + g->b.margin;
    g->sure2 = sure * sure, g->possible2 = possible * possible;
    mlff_box_choose_bins(&g->b, g->n_items, a.reach);
    if (g->n_items * mlff_box_visits(&g->b) > MOST_SLOTS) atomicMin(&a.total->flat_structure, k);
    for (int d = 0; d < 3; d++)
        if (g->b.range[d] > 1 << 28) atomicMax(&a.total->too_flat, 1);
    if (extent[0] + extent[1] + extent[2] > 0.0) {
        mlff_order_choose_grid(&g->grid, extent, a.most_bits);
    } else {
        g->grid.bits = 0;
    }
}

/* ------------------------------------------------------------------------------------------ rows and items */

__device__ uint64_t place_of(const search_view &a, const searched &g, int32_t atom)
{
    if (g.n_items < ORDER_LEAST_ATOMS) return (uint64_t)(atom - g.first_atom);
    if (g.grid.bits == 0) return 0;
    double coordinate[3], image[3], wrapped[3];
    mlff_box_wrap(&g.b, a.x + 3 * (size_t)atom, coordinate, image, wrapped);
    return mlff_order_place(&g.grid, wrapped);
}

/* owned atoms: structures in their order, then places on the curve */
__global__ void places_kernel(search_view a)
{
    const int32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.n_local) return;
    uint64_t place = ~(uint64_t)0;
    if (a.species_of_atom[i] >= 0) {
        const int32_t k = structure_of(a, i);
        place = (uint64_t)k << a.place_shift | place_of(a, a.group[k], i);
    }
    a.place[i] = place;
    a.atom[i] = i;
}

__global__ void rows_kernel(search_view a)
{
    const int32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= a.N) return;
    const int32_t atom = a.atom_sorted[row];
    a.g.atom_of_row[row] = atom;
    a.g.species[row] = a.species_of_atom[atom];
    a.row_of_atom[atom] = row;
}

/* ghosts that are images of owned atoms */
__global__ void images_kernel(search_view a)
{
    const int32_t i = a.n_local + blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.A) a.row_of_atom[i] = a.row_of_atom[a.owner[i]];
}

__device__ int32_t atom_of_item(const search_view &a, int32_t item)
{
    return item < a.N ? a.atom_sorted[item] : a.n_local + item - a.N;
}

/* bins of rows and ghosts; an atom left out comes last */
__global__ void bins_kernel(search_view a, int32_t n)
{
    const int32_t item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= n) return;
    const int32_t atom = atom_of_item(a, item);
    uint32_t bin = (uint32_t)LEFT_OUT_BIN;
    if (a.species_of_atom[atom] >= 0) {
        const searched &g = a.group[item < a.N ? structure_of(a, atom) : 0];
        double coordinate[3], image[3], wrapped[3];
        mlff_box_wrap(&g.b, a.x + 3 * (size_t)atom, coordinate, image, wrapped);
        bin = (uint32_t)(g.first_bin + mlff_box_bin(&g.b, coordinate));
    }
    a.bin[item] = bin;
    a.item[item] = item;
}

/* sorted items, and the first of each bin */
__global__ void items_kernel(search_view a)
{
    const int32_t k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < a.M) {
        const int32_t item = a.item_sorted[k], atom = atom_of_item(a, item);
        const searched &g = a.group[item < a.N ? structure_of(a, atom) : 0];
        double coordinate[3], image[3], wrapped[3];
        mlff_box_wrap(&g.b, a.x + 3 * (size_t)atom, coordinate, image, wrapped);
        for (int d = 0; d < 3; d++) {
            a.wrapped[d][k] = wrapped[d];
            if (a.image[0]) a.image[d][k] = image[d];
        }
        a.atom_of_item[k] = atom;
        if (a.target) a.target[k] = item < a.N ? item : a.owner ? a.row_of_atom[atom] : item;
    }
    if (k > a.M + a.S) return;
    int32_t low = 0, high = a.M; /* the first item whose bin is k or above */
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (a.bin_sorted[middle] < (uint32_t)k) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    a.bin_first[k] = low;
}

/* --------------------------------------------------------------------------------------------------- pairs */

/* Each product and sum rounded as the host rounds it, so that both say the same of a pair at the very cutoff. */
__device__ double lattice_shift(const box &b, const double cells[3], int c)
{
    const double first = __dmul_rn(cells[0], b.lattice[0][c]), second = __dmul_rn(cells[1], b.lattice[1][c]);
    return __dadd_rn(__dadd_rn(first, second), __dmul_rn(cells[2], b.lattice[2][c]));
}

/* Whole cells from where sorted item `other` was given to where item `self` sees it. */
__device__ void cells_between(const search_view &a, int32_t self, int32_t other, const int32_t seen[3], double cells[3])
{
    for (int d = 0; d < 3; d++) cells[d] = (double)seen[d] + (a.image[0] ? a.image[d][self] - a.image[d][other] : 0.0);
}

/* The contract's own test, for pairs within rounding of the cutoff. */
__device__ bool is_within_reach(const search_view &a, const searched &g, int32_t self, int32_t other,
                                const int32_t seen[3])
{
    const double *x_i = a.x + 3 * (size_t)a.atom_of_item[self], *x_j = a.x + 3 * (size_t)a.atom_of_item[other];
    double cells[3], d2 = 0.0;
    cells_between(a, self, other, seen, cells);
    for (int c = 0; c < 3; c++) {
        const double r = __dadd_rn(__dsub_rn(x_j[c], x_i[c]), lattice_shift(g.b, cells, c));
        d2 = __dadd_rn(d2, __dmul_rn(r, r));
    }
    return d2 < __dmul_rn(a.reach, a.reach);
}

/* Floor of value / divisor. */
__device__ int32_t floor_divide(int32_t value, int32_t divisor)
{
    if (value >= 0 && value < divisor) return 0;
    return value / divisor - (value % divisor < 0);
}

/* Where sorted item `self` stands for items that are displaced by whole cells. */
__device__ void displaced(const search_view &a, const box &b, int32_t self, const int32_t cells[3], double centre[3])
{
    for (int c = 0; c < 3; c++) centre[c] = a.wrapped[c][self];
    if ((cells[0] | cells[1] | cells[2]) == 0) return;
    for (int c = 0; c < 3; c++)
        centre[c] -= cells[0] * b.lattice[0][c] + cells[1] * b.lattice[1][c] + cells[2] * b.lattice[2][c];
}

/* Calls take(near, other, cells) for items begin .. end-1, seen in other cells, with the whole warp. */
template <typename Take>
__device__ void walk_run(const search_view &a, const searched &g, int32_t self, int32_t begin, int32_t end,
                         const int32_t cells[3], Take take)
{
    double centre[3];
    displaced(a, g.b, self, cells, centre);
    const bool home = (cells[0] | cells[1] | cells[2]) == 0;
    for (int32_t other = begin + threadIdx.x % 32; other - (int32_t)(threadIdx.x % 32) < end; other += 32) {
        bool near = false;
        if (other < end) {
            const double dx = a.wrapped[0][other] - centre[0], dy = a.wrapped[1][other] - centre[1],
                         dz = a.wrapped[2][other] - centre[2], d2 = dx * dx + dy * dy + dz * dz;
            near = d2 < g.possible2 && !(home && other == self);
            if (near && !(d2 < g.sure2)) near = is_within_reach(a, g, self, other, cells);
        }
        take(near, other, cells);
    }
}

/* The same for all candidates of sorted item `self`, in an order that depends on the item alone. */
template <typename Take> __device__ void walk(const search_view &a, const searched &g, int32_t self, Take take)
{
    const box &b = g.b;
    const int32_t bins[3] = {(int32_t)b.bins[0], (int32_t)b.bins[1], (int32_t)b.bins[2]};
    const int32_t bin = (int32_t)a.bin_sorted[self] - g.first_bin;
    int32_t low[3] = {bin / (bins[1] * bins[2]), bin / bins[2] % bins[1], bin % bins[2]}, high[3], cells[3];
    for (int d = 0; d < 3; d++) {
        const int32_t range = (int32_t)b.range[d];
        high[d] = low[d] + range, low[d] -= range;
        if (b.periodic[d]) continue;
        low[d] = low[d] < 0 ? 0 : low[d];
        high[d] = high[d] > bins[d] - 1 ? bins[d] - 1 : high[d];
    }
    for (int32_t i = low[0]; i <= high[0]; i++) {
        cells[0] = floor_divide(i, bins[0]);
        for (int32_t j = low[1]; j <= high[1]; j++) {
            cells[1] = floor_divide(j, bins[1]);
            const int32_t line = (i - cells[0] * bins[0]) * bins[1] + (j - cells[1] * bins[1]);
            const int32_t *first = a.bin_first + g.first_bin + line * bins[2];
            for (cells[2] = floor_divide(low[2], bins[2]); cells[2] * bins[2] <= high[2]; cells[2]++) {
                const int32_t from = low[2] - cells[2] * bins[2], to = high[2] - cells[2] * bins[2];
                walk_run(a, g, self, first[from > 0 ? from : 0], first[to < bins[2] ? to + 1 : bins[2]], cells, take);
            }
        }
    }
}

/* The sorted item of this warp if it is a row, else -1. */
__device__ int32_t row_item(const search_view &a)
{
    const int32_t k = (int32_t)(((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32);
    return k < a.M && a.item_sorted[k] < a.N ? k : -1;
}

__global__ void __launch_bounds__(256) count_kernel(search_view a)
{
    const int32_t self = row_item(a), lane = threadIdx.x % 32;
    const bool is_wrong = a.total->bad_atom < a.A || a.total->flat_structure < a.S || a.total->too_flat;
    if (self < 0 || is_wrong) return;
    const int32_t row = a.item_sorted[self];
    int32_t count = 0;
    walk(a, a.group[structure_of(a, a.atom_of_item[self])], self, [&](bool near, int32_t other, const int32_t *) {
        count += __popc(__ballot_sync(0xffffffffu, near));
        if (near && a.named) atomicAdd(&a.named[a.target[other]], 1);
    });
    if (lane > 0) return;
    a.count[row] = count;
    if (count > a.total->most_neighbours) atomicMax(&a.total->most_neighbours, count);
}

/* A neighbour while its row's slots are sorted. */
struct found {
    int32_t row, item, cells[3];
};

/* The place of each key among n: keys below it, and equal ones before it. */
template <typename Below> __device__ int32_t rank_of(int32_t mine, int32_t n, Below below)
{
    int32_t rank = 0;
    for (int32_t q = 0; q < n; q++) rank += below(q, mine);
    return rank;
}

__global__ void fill_kernel(search_view a, int32_t room)
{
    extern __shared__ char shared[];
    const int32_t self = row_item(a), lane = threadIdx.x % 32;
    if (self < 0) return;
    found *list = (found *)shared + (size_t)(threadIdx.x / 32) * room;
    const int32_t row = a.item_sorted[self];
    const searched &g = a.group[structure_of(a, a.atom_of_item[self])];
    int32_t n = 0;
    walk(a, g, self, [&](bool near, int32_t other, const int32_t *cells) {
        const unsigned kept = __ballot_sync(0xffffffffu, near);
        if (near)
            list[n + __popc(kept & ((1u << lane) - 1))] = {
                a.row_of_atom[a.atom_of_item[other]], other, {cells[0], cells[1], cells[2]}};
        n += __popc(kept);
    });
    __syncwarp();
    const int64_t first = a.g.first[row];
    for (int32_t q = lane; q < n; q += 32) {
        const found f = list[q];
        const int64_t slot = first + rank_of(q, n, [&](int32_t other, int32_t mine) {
                                 return list[other].row < f.row || (list[other].row == f.row && other < mine);
                             });
        a.g.neighbour_row[slot] = f.row;
        a.g.neighbour_atom[slot] = a.atom_of_item[f.item];
        if (a.g.shift) {
            double cells[3];
            cells_between(a, self, f.item, f.cells, cells);
            for (int c = 0; c < 3; c++) a.g.shift[3 * slot + c] = lattice_shift(g.b, cells, c);
        }
        a.g.incoming[a.g.incoming_first[f.row] + atomicAdd(&a.cursor[f.row], 1)] = slot;
    }
}

/* a warp a row: its incoming slots, ascending */
__global__ void incoming_kernel(search_view a, int32_t R, int32_t room)
{
    extern __shared__ char shared[];
    const int32_t row = (int32_t)(((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
    if (row >= R) return;
    int64_t *list = (int64_t *)shared + (size_t)(threadIdx.x / 32) * room;
    const int64_t first = a.g.incoming_first[row];
    const int32_t n = (int32_t)(a.g.incoming_first[row + 1] - first);
    for (int32_t q = lane; q < n; q += 32) list[q] = a.g.incoming[first + q];
    __syncwarp();
    for (int32_t q = lane; q < n; q += 32) {
        const int64_t slot = list[q];
        a.g.incoming[first + rank_of(q, n, [&](int32_t other, int32_t) { return list[other] < slot; })] = slot;
    }
}

/* ----------------------------------------------------------------------------------- ghosts of other ranks */

/* places of ghosts that somebody names; they may lie outside of the owned atoms' extents, but all were measured */
__global__ void ghost_places_kernel(search_view a)
{
    const int32_t k = blockIdx.x * blockDim.x + threadIdx.x;
    if (a.n_local + k >= a.A) return;
    const bool named = a.named[a.N + k] > 0;
    if (named) atomicAdd(&a.total->n_ghost_rows, 1);
    const searched &g = a.group[0];
    double coordinate[3], image[3], wrapped[3];
    uint64_t place = ~(uint64_t)0;
    if (named) {
        mlff_box_wrap(&g.b, a.x + 3 * (size_t)(a.n_local + k), coordinate, image, wrapped);
        place = g.grid.bits == 0 ? 0 : mlff_order_place(&g.grid, wrapped);
    }
    a.place[k] = place;
    a.atom[k] = a.n_local + k;
}

__global__ void ghost_rows_kernel(search_view a)
{
    const int32_t k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= a.total->n_ghost_rows) return;
    const int32_t atom = a.atom_sorted[k], row = a.N + k;
    a.g.atom_of_row[row] = atom;
    a.g.species[row] = a.species_of_atom[atom];
    a.row_of_atom[atom] = row;
    a.named_row[row] = a.named[a.N + atom - a.n_local];
}

/* owned rows are their own targets */
__global__ void named_rows_kernel(search_view a)
{
    const int32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < a.N) a.named_row[row] = a.named ? a.named[row] : a.count[row];
}

__global__ void most_kernel(search_view a, int32_t n)
{
    const int32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    const int32_t most = __reduce_max_sync(0xffffffffu, row < n ? a.named_row[row] : 0);
    if (threadIdx.x % 32 == 0 && most > a.total->most_incoming) atomicMax(&a.total->most_incoming, most);
}

/* ----------------------------------------------------------------------------------------------- launchers */

/* Blocks of 256 threads, a warp an item. */
static unsigned blocks_of_warps(int64_t n, int warps)
{
    return (unsigned)((n + warps - 1) / warps);
}

template <typename Key>
static mlff_status sort(void *work, size_t bytes, const Key *keys, Key *keys_out, const int32_t *values,
                        int32_t *values_out, int32_t n, int bits, cudaStream_t stream, mlff_error *error)
{
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(work, bytes, keys, keys_out, values, values_out, n, 0, bits, stream));
    return MLFF_OK;
}

/* to [n] = sums of what comes before in from [n] */
static mlff_status scan(void *work, size_t bytes, const int32_t *from, int64_t *to, int32_t n, cudaStream_t stream,
                        mlff_error *error)
{
    CUDA_TRY(cub::DeviceScan::ExclusiveScan(work, bytes, from, to, cuda::std::plus<int64_t>(), (int64_t)0, n, stream));
    return MLFF_OK;
}

static mlff_status work_bytes(int32_t n, size_t *bytes, mlff_error *error)
{
    size_t places = 0, bins = 0, scans = 0;
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(nullptr, places, (uint64_t *)nullptr, (uint64_t *)nullptr,
                                             (int32_t *)nullptr, (int32_t *)nullptr, n, 0, 64));
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(nullptr, bins, (uint32_t *)nullptr, (uint32_t *)nullptr,
                                             (int32_t *)nullptr, (int32_t *)nullptr, n, 0, 32));
    CUDA_TRY(cub::DeviceScan::ExclusiveScan(nullptr, scans, (int32_t *)nullptr, (int64_t *)nullptr,
                                            cuda::std::plus<int64_t>(), (int64_t)0, n + 1));
    *bytes = places > bins ? places : bins;
    if (scans > *bytes) *bytes = scans;
    return MLFF_OK;
}

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

/* Room for everything but the slots, and what goes up. */
static mlff_status place_rows(device_search *d, search_view *a, const request *r, size_t *sorting_bytes, void **sorting,
                              mlff_error *error)
{
    const size_t A = r->n_atoms, M = r->n_items, S = r->n_structures, N = r->n_rows;
    const size_t candidates = N + (size_t)(r->n_atoms - r->n_local), images = r->structures ? M : 0;
    MLFF_TRY(work_bytes(r->n_atoms + 1, sorting_bytes, error));
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
        {sorting, *sorting_bytes, 1, "sorting"},
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

/* From atoms to sorted items. */
static mlff_status order_atoms(const search_view &a, void *sorting, size_t bytes, cudaStream_t stream,
                               mlff_error *error)
{
    const int32_t n_ghosts = a.A - a.n_local, candidates = a.N + n_ghosts;
    measure_kernel<<<blocks_of(a.A), 256, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("extents");
    boxes_kernel<<<blocks_of(a.S), 256, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("boxes");
    if (a.n_local > 0) {
        places_kernel<<<blocks_of(a.n_local), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("places");
        MLFF_TRY(sort(sorting, bytes, a.place, a.place_sorted, a.atom, a.atom_sorted, a.n_local, 64, stream, error));
    }
    if (a.N > 0) {
        rows_kernel<<<blocks_of(a.N), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("rows");
    }
    if (a.owner && n_ghosts > 0) {
        images_kernel<<<blocks_of(n_ghosts), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("rows of images");
    }
    if (candidates > 0) {
        bins_kernel<<<blocks_of(candidates), 256, 0, stream>>>(a, candidates);
        CUDA_TRY_LAUNCH("bins");
        MLFF_TRY(sort(sorting, bytes, a.bin, a.bin_sorted, a.item, a.item_sorted, candidates, 32, stream, error));
    }
    items_kernel<<<blocks_of((int64_t)a.M + a.S + 1), 256, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("sorted items");
    return MLFF_OK;
}

/* Counts, and sums of counts; on several ranks also the rows of ghosts. */
static mlff_status count_slots(const search_view &a, void *sorting, size_t bytes, cudaStream_t stream,
                               mlff_error *error)
{
    const int32_t n_ghosts = a.owner ? 0 : a.A - a.n_local, most_rows = a.N + n_ghosts;
    if (a.M > 0) {
        count_kernel<<<blocks_of_warps(a.M, 8), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("neighbour counts");
    }
    if (a.N > 0) {
        named_rows_kernel<<<blocks_of(a.N), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("named rows");
    }
    if (n_ghosts > 0) {
        ghost_places_kernel<<<blocks_of(n_ghosts), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("places of ghosts");
        MLFF_TRY(sort(sorting, bytes, a.place, a.place_sorted, a.atom, a.atom_sorted, n_ghosts, 64, stream, error));
        ghost_rows_kernel<<<blocks_of(n_ghosts), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("rows of ghosts");
    }
    if (most_rows > 0) {
        most_kernel<<<blocks_of(most_rows), 256, 0, stream>>>(a, most_rows);
        CUDA_TRY_LAUNCH("most named");
    }
    MLFF_TRY(scan(sorting, bytes, a.count, a.g.first, a.N + 1, stream, error));
    return scan(sorting, bytes, a.named_row, a.g.incoming_first, most_rows + 1, stream, error);
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

/* Warps of a block that have `bytes` each of shared memory, 0: not even one. */
static int warps_with(size_t bytes)
{
    const size_t warps = bytes > 0 ? MOST_SHARED / bytes : MOST_WARPS;
    return warps > MOST_WARPS ? MOST_WARPS : (int)warps;
}

static mlff_status fill_slots(device_search *d, search_view *a, const totals *t, int32_t R, int with_shift,
                              cudaStream_t stream, mlff_error *error)
{
    const size_t E = t->slots;
    const tensor_row table[] = {
        {&d->graph.neighbour_row, E, sizeof(int32_t), "neighbour rows"},
        {&d->graph.neighbour_atom, E, sizeof(int32_t), "neighbour atoms"},
        {&d->graph.incoming, E, sizeof(int64_t), "incoming"},
        {&d->graph.shift, with_shift ? E * 3 : 0, sizeof(double), "image shifts"},
    };
    MLFF_TRY(place_on_device(&d->slots, table, sizeof table / sizeof table[0], error));
    a->g = d->graph;
    if (E == 0) return MLFF_OK;
    const size_t row_bytes = t->most_neighbours * sizeof(found), in_bytes = t->most_incoming * sizeof(int64_t);
    int warps = warps_with(row_bytes);
    CUDA_TRY(cudaFuncSetAttribute(fill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MOST_SHARED));
    fill_kernel<<<blocks_of_warps(a->M, warps), 32 * warps, warps * row_bytes, stream>>>(*a, t->most_neighbours);
    CUDA_TRY_LAUNCH("neighbours");
    warps = warps_with(in_bytes);
    CUDA_TRY(cudaFuncSetAttribute(incoming_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MOST_SHARED));
    incoming_kernel<<<blocks_of_warps(R, warps), 32 * warps, warps * in_bytes, stream>>>(*a, R, t->most_incoming);
    CUDA_TRY_LAUNCH("incoming");
    return MLFF_OK;
}

/* The host's arrays of atoms and rows; `device` says that slots are elsewhere. */
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
    void *sorting = NULL;
    size_t bytes = 0;
    MLFF_TRY(pin_transfers(d, &t, (size_t)r->n_atoms, (size_t)r->n_structures, error));
    MLFF_TRY(read_structures(t.groups, r, in, error));
    MLFF_TRY(check_amount(r, error));
    MLFF_TRY(place_rows(d, &a, r, &bytes, &sorting, error));
    a.A = r->n_atoms, a.n_local = r->n_local, a.N = r->n_rows, a.M = r->n_items, a.S = r->n_structures;
    a.reach = r->reach;
    const int structure_bits = bits_of(r->n_structures);
    a.most_bits = (63 - CURVE_SPARE_BITS - structure_bits) / 3;
    if (a.most_bits > ORDER_MOST_BITS) a.most_bits = ORDER_MOST_BITS;
    a.place_shift = 3 * a.most_bits + CURVE_SPARE_BITS;

    MLFF_TRY(send_atoms(&a, &t, r, in, stream, error));
    MLFF_TRY(order_atoms(a, sorting, bytes, stream, error));
    MLFF_TRY(count_slots(a, sorting, bytes, stream, error));
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
    MLFF_TRY(fill_slots(d, &a, t.total, R, r->structures != NULL, stream, error));
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

} // namespace mlff
