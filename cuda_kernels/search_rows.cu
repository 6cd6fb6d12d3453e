/* SPDX-License-Identifier: MIT */
/*
 * The search: from atoms to rows, in their order in space, and to items sorted by bin.
 *
 * Launch   a thread an atom, a structure, a row or an item.
 * Order    minima and maxima of doubles as whole numbers, by atomics: no order changes them. Sorts are stable.
 */
#include "launch.cuh"
#include "search.cuh"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cuda/std/functional>

namespace mlff
{

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

/* ----------------------------------------------------------------------------------------------- launchers */

mlff_status sorting_bytes(int32_t n, size_t *bytes, mlff_error *error)
{
    size_t places = 0, bins = 0, sums = 0;
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(nullptr, places, (uint64_t *)nullptr, (uint64_t *)nullptr,
                                             (int32_t *)nullptr, (int32_t *)nullptr, n, 0, 64));
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(nullptr, bins, (uint32_t *)nullptr, (uint32_t *)nullptr,
                                             (int32_t *)nullptr, (int32_t *)nullptr, n, 0, 32));
    CUDA_TRY(cub::DeviceScan::ExclusiveScan(nullptr, sums, (int32_t *)nullptr, (int64_t *)nullptr,
                                            cuda::std::plus<int64_t>(), (int64_t)0, n + 1));
    *bytes = places > bins ? places : bins;
    if (sums > *bytes) *bytes = sums;
    return MLFF_OK;
}

mlff_status sort_by_place(const search_view &a, int32_t n, cudaStream_t stream, mlff_error *error)
{
    size_t bytes = a.sorting_bytes;
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(a.sorting, bytes, a.place, a.place_sorted, a.atom, a.atom_sorted, n, 0, 64,
                                             stream));
    return MLFF_OK;
}

static mlff_status sort_by_bin(const search_view &a, int32_t n, cudaStream_t stream, mlff_error *error)
{
    size_t bytes = a.sorting_bytes;
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(a.sorting, bytes, a.bin, a.bin_sorted, a.item, a.item_sorted, n, 0, 32,
                                             stream));
    return MLFF_OK;
}

mlff_status order_atoms(const search_view &a, cudaStream_t stream, mlff_error *error)
{
    const int32_t n_ghosts = a.A - a.n_local, candidates = a.N + n_ghosts;
    measure_kernel<<<blocks_of(a.A), 256, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("extents");
    boxes_kernel<<<blocks_of(a.S), 256, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("boxes");
    if (a.n_local > 0) {
        places_kernel<<<blocks_of(a.n_local), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("places");
        MLFF_TRY(sort_by_place(a, a.n_local, stream, error));
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
        MLFF_TRY(sort_by_bin(a, candidates, stream, error));
    }
    items_kernel<<<blocks_of((int64_t)a.M + a.S + 1), 256, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("sorted items");
    return MLFF_OK;
}

} // namespace mlff
