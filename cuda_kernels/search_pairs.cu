/* SPDX-License-Identifier: MIT */
/*
 * The search: pairs of sorted items within reach, counted, then stored; the slots that name a row; rows of ghosts.
 *
 * Launch   count and fill: a warp a row, its lanes along the atoms of consecutive bins; incoming: a warp a row.
 * Bytes    an atom: 340 candidates of 24 bytes from L1 and L2, twice; slots 16, with shifts 40 each.
 * Order    a row's slots ascend by row, images of one row by cells. Atomics add integers; what they put in a place in
 *          any order (incoming) is sorted afterwards.
 */
#include "launch.cuh"
#include "search.cuh"

#include <cub/device/device_scan.cuh>
#include <cuda/std/functional>

namespace mlff
{

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

/* The place of each key among n: keys below it, and equal ones before it. */
template <typename Below> __device__ int32_t rank_of(int32_t mine, int32_t n, Below below)
{
    int32_t rank = 0;
    for (int32_t q = 0; q < n; q++) rank += below(q, mine);
    return rank;
}

template <typename Slot> __global__ void fill_kernel(search_view a, int32_t room, Slot *incoming)
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
        incoming[a.g.incoming_first[f.row] + atomicAdd(&a.cursor[f.row], 1)] = (Slot)slot;
    }
}

/* a warp a row: its incoming slots, ascending */
template <typename Slot> __global__ void incoming_kernel(search_view a, int32_t R, int32_t room, Slot *incoming)
{
    extern __shared__ char shared[];
    const int32_t row = (int32_t)(((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
    if (row >= R) return;
    Slot *list = (Slot *)shared + (size_t)(threadIdx.x / 32) * room;
    const int64_t first = a.g.incoming_first[row];
    const int32_t n = (int32_t)(a.g.incoming_first[row + 1] - first);
    for (int32_t q = lane; q < n; q += 32) list[q] = incoming[first + q];
    __syncwarp();
    for (int32_t q = lane; q < n; q += 32) {
        const Slot slot = list[q];
        incoming[first + rank_of(q, n, [&](int32_t other, int32_t) { return list[other] < slot; })] = slot;
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

/* Blocks of so many warps, a warp an item. */
static unsigned blocks_of_warps(int64_t n, int warps)
{
    return (unsigned)((n + warps - 1) / warps);
}

/* to [n] = sums of what comes before in from [n] */
static mlff_status scan(const search_view &a, const int32_t *from, int64_t *to, int32_t n, cudaStream_t stream,
                        mlff_error *error)
{
    size_t bytes = a.sorting_bytes;
    CUDA_TRY(
        cub::DeviceScan::ExclusiveScan(a.sorting, bytes, from, to, cuda::std::plus<int64_t>(), (int64_t)0, n, stream));
    return MLFF_OK;
}

mlff_status count_slots(const search_view &a, cudaStream_t stream, mlff_error *error)
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
        MLFF_TRY(sort_by_place(a, n_ghosts, stream, error));
        ghost_rows_kernel<<<blocks_of(n_ghosts), 256, 0, stream>>>(a);
        CUDA_TRY_LAUNCH("rows of ghosts");
    }
    if (most_rows > 0) {
        most_kernel<<<blocks_of(most_rows), 256, 0, stream>>>(a, most_rows);
        CUDA_TRY_LAUNCH("most named");
    }
    MLFF_TRY(scan(a, a.count, a.g.first, a.N + 1, stream, error));
    return scan(a, a.named_row, a.g.incoming_first, most_rows + 1, stream, error);
}

int warps_with(size_t bytes)
{
    const size_t warps = bytes > 0 ? MOST_SHARED / bytes : MOST_WARPS;
    return warps > MOST_WARPS ? MOST_WARPS : (int)warps;
}

template <typename Slot>
static mlff_status fill(const search_view &a, const totals *t, int32_t R, Slot *incoming, cudaStream_t stream,
                        mlff_error *error)
{
    const size_t row_bytes = t->most_neighbours * sizeof(found), in_bytes = t->most_incoming * sizeof(Slot);
    int warps = warps_with(row_bytes);
    CUDA_TRY(cudaFuncSetAttribute(fill_kernel<Slot>, cudaFuncAttributeMaxDynamicSharedMemorySize, MOST_SHARED));
    fill_kernel<Slot>
        <<<blocks_of_warps(a.M, warps), 32 * warps, warps * row_bytes, stream>>>(a, t->most_neighbours, incoming);
    CUDA_TRY_LAUNCH("neighbours");
    warps = warps_with(in_bytes);
    CUDA_TRY(cudaFuncSetAttribute(incoming_kernel<Slot>, cudaFuncAttributeMaxDynamicSharedMemorySize, MOST_SHARED));
    incoming_kernel<Slot>
        <<<blocks_of_warps(R, warps), 32 * warps, warps * in_bytes, stream>>>(a, R, t->most_incoming, incoming);
    CUDA_TRY_LAUNCH("incoming");
    return MLFF_OK;
}

mlff_status fill_slots(const search_view &a, const totals *t, int32_t R, cudaStream_t stream, mlff_error *error)
{
    return a.g.incoming_wide ? fill(a, t, R, a.g.incoming_wide, stream, error)
                             : fill(a, t, R, a.g.incoming, stream, error);
}

} // namespace mlff
