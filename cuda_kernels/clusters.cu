/* SPDX-License-Identifier: MIT */
/*
 * Clusters of consecutive rows and the neighbours that each has in all: what the message kernels bring to shared
 * memory. Rows lie in spatial order, so 10 of them with 53 neighbours each have about 160 neighbours instead of 530.
 *
 * Seat     a neighbour's place in shared memory. Row and seat are of the same kind, their number modulo 4, and a row's
 *          edges are ordered so that the kinds take turns: neighbouring lanes then meet different banks.
 * Launch   a block of 128 threads a cluster; the set of neighbours is a hash table in shared memory.
 * Beside   other layers, with what these leave free (message_matrix_start_list).
 * Bytes    edge rows 4 read, places 4 written an edge.
 * Measured 1.2 ns an atom (reverse: 7 rows) and 1.1 (10 rows) at 99,999 atoms, alone; 1.3 and 1.1 when 16 lanes met one
 *          bank of the table (H200, driver 580.159.04, CUDA 13.0, 2026-11-22).
 * Order    which seat a neighbour gets depends on the race for the table; the order of a row's edges, and so of every
 *          sum, does not.
 */
#include "clusters.cuh"
#include "launch.cuh"

namespace mlff
{

constexpr int THREADS = 128, TABLE = 2048, PROBES = 32, EACH = TABLE / THREADS, KINDS = 4;

struct cluster_arguments {
    int32_t N;
    const int64_t *first;
    const int32_t *count, *edge_row;
    cluster_list to;
};

/* ---------------------------------------------------------------------------------------------- kernels */

__device__ inline unsigned hash_of(int32_t row)
{
    return (unsigned)row * 2654435761u >> 21; /* the upper 11 bits: TABLE */
}

/* Where the row stands in the table; TABLE when it found no place there. */
__device__ inline int find(const int32_t *table, int32_t row)
{
    unsigned at = hash_of(row);
    for (int probe = 0; probe < PROBES; probe++, at = (at + 1) % TABLE)
        if (table[at] == row) return (int)at;
    return TABLE;
}

__device__ inline void insert(int32_t *table, int32_t row)
{
    unsigned at = hash_of(row);
    for (int probe = 0; probe < PROBES; probe++, at = (at + 1) % TABLE) {
        const int32_t old = atomicCAS(&table[at], -1, row);
        if (old == -1 || old == row) return;
    }
}

__device__ inline int kind_of(int32_t row)
{
    static_assert(KINDS == 4, "two bits");
    return row & 3;
}

/* Numbers of the four kinds, 16 bits each. */
__device__ inline uint64_t one_of(int kind)
{
    return 1ull << 16 * kind;
}

__device__ inline int number_of(uint64_t numbers, int kind)
{
    return (int)(numbers >> 16 * kind & 0xffff);
}

/* Numbers of the threads before this one, and of all. */
__device__ inline uint64_t sum_before(uint64_t mine, uint64_t *total)
{
    __shared__ uint64_t of_warp[THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = mine;
    for (int step = 1; step < 32; step *= 2) {
        const uint64_t before = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += before;
    }
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();
    sum -= mine;
    *total = 0;
    for (int other = 0; other < THREADS / 32; other++) {
        if (other < warp) sum += of_warp[other];
        *total += of_warp[other];
    }
    return sum;
}

/* Seats for everything in the table, and the list of who sits where. A thread has every 128th place of the table: with
 * 16 neighbouring ones each, 16 lanes met one bank. */
__device__ inline void take_seats(const int32_t *table, uint16_t *seat, const cluster_list &to, int cluster)
{
    const int thread = threadIdx.x;
    uint64_t mine = 0, total;
    for (int q = 0; q < EACH; q++) {
        const int32_t row = table[thread + q * THREADS];
        mine += row < 0 ? 0 : one_of(kind_of(row));
    }
    uint64_t next = sum_before(mine, &total);
    int most = 0;
    for (int kind = 0; kind < KINDS; kind++) most = max(most, number_of(total, kind));
    int32_t *list = to.rows + (size_t)cluster * to.seats;
    const int taken = min(to.seats, KINDS * most);
    for (int q = thread; q < taken; q += THREADS) list[q] = -1; /* the rarer kinds leave seats empty */
    __syncthreads();
    for (int q = 0; q < EACH; q++) {
        const int32_t row = table[thread + q * THREADS];
        if (row < 0) continue;
        const int at = KINDS * number_of(next, kind_of(row)) + kind_of(row);
        next += one_of(kind_of(row));
        seat[thread + q * THREADS] = (uint16_t)(at < to.seats ? at : NO_SEAT);
        if (at < to.seats) list[at] = row;
    }
    if (thread == 0) to.taken[cluster] = taken;
}

/* Where the rank-th edge of a kind stands when the kinds take turns as long as they last. */
__device__ inline int turn_of(uint64_t total, int kind, int rank)
{
    int at = 0;
    for (int other = 0; other < KINDS; other++) at += min(number_of(total, other), rank + (other < kind));
    return at;
}

/* A warp puts one row's edges in their order; returns whether all have a seat. */
__device__ inline bool order_edges(const cluster_arguments &a, int row, const int32_t *table, const uint16_t *seat)
{
    const int lane = threadIdx.x % 32, edges = a.count[row];
    const int64_t first = a.first[row];
    const unsigned below = (1u << lane) - 1;
    uint64_t total = 0, seen = 0;
    bool all = true;
    for (int sweep = 0; sweep < 2; sweep++) /* first the numbers of the kinds, then the places */
        for (int base = 0; base < edges; base += 32) {
            const int e = base + lane;
            const int32_t neighbour = e < edges ? a.edge_row[first + e] : -1;
            const unsigned valid = __ballot_sync(0xffffffffu, neighbour >= 0);
            const unsigned odd = __ballot_sync(0xffffffffu, neighbour & 1),
                           high = __ballot_sync(0xffffffffu, neighbour & 2);
            const auto of_kind = [=](int kind) { return valid & (kind & 1 ? odd : ~odd) & (kind & 2 ? high : ~high); };
            const int kind = kind_of(neighbour), rank = number_of(seen, kind) + __popc(of_kind(kind) & below);
            for (int q = 0; q < KINDS; q++) (sweep == 0 ? total : seen) += (uint64_t)__popc(of_kind(q)) << 16 * q;
            if (sweep == 0 || neighbour < 0) continue;
            const int at = find(table, neighbour), place = at < TABLE ? seat[at] : NO_SEAT;
            all = all && place != NO_SEAT;
            a.to.places[first + turn_of(total, kind, rank)] = (uint32_t)e << 16 | (uint32_t)place;
        }
    return all;
}

__global__ void __launch_bounds__(THREADS) clusters_kernel(cluster_arguments a)
{
    __shared__ __align__(16) int32_t table[TABLE];
    __shared__ uint16_t seat[TABLE];
    const int thread = threadIdx.x, begin = blockIdx.x * a.to.n_rows, end = min(a.N, begin + a.to.n_rows);
    for (int q = thread; q < TABLE / 4; q += THREADS) ((int4 *)table)[q] = make_int4(-1, -1, -1, -1);
    __syncthreads();
    for (int row = begin + thread / 32; row < end; row += THREADS / 32)
        for (int e = thread % 32; e < a.count[row]; e += 32) insert(table, a.edge_row[a.first[row] + e]);
    __syncthreads();
    take_seats(table, seat, a.to, blockIdx.x);
    __syncthreads();
    bool all = true;
    for (int row = begin + thread / 32; row < end; row += THREADS / 32) all = order_edges(a, row, table, seat) && all;
    all = __syncthreads_and(all);
    if (thread == 0 && !all) a.to.taken[blockIdx.x] = -a.to.taken[blockIdx.x];
}

/* --------------------------------------------------------------------------------------------- launcher */

template <typename T>
mlff_status clusters_make(const state<T> *s, const cluster_list &to, cudaStream_t stream, mlff_error *error)
{
    const cluster_arguments a = {s->N, s->first, s->count, s->edge_row, to};
    clusters_kernel<<<(s->N + to.n_rows - 1) / to.n_rows, THREADS, 0, stream>>>(a);
    CUDA_TRY_LAUNCH("clusters");
    return MLFF_OK;
}

template mlff_status clusters_make(const state<float> *, const cluster_list &, cudaStream_t, mlff_error *);
template mlff_status clusters_make(const state<__half> *, const cluster_list &, cudaStream_t, mlff_error *);

} // namespace mlff
