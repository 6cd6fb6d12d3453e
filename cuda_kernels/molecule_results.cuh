/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_RESULTS_CUH
#define MLFF_CUDA_MOLECULE_RESULTS_CUH
/*
 * Energies, forces and virial of a structure (docs/equations.md, forces.cu), to where the host reads them. Each block
 * has the adjoints of all edges from its own columns; each adds up all blocks' for a share of the edges, and block 0
 * makes the sums over edges. In double but for the former.
 *
 * Order   parts of columns ascending; a row: a lane's edges ascending, then a fixed tree over 32 lanes; rows ascending.
 */
#include "molecule_message.cuh"
#include "warp_sums.cuh"

namespace mlff
{
namespace molecule
{

/* Of so many blocks edges rank, rank + blocks, ... are a block's share; one at least, which may be none, so that who
 * has all parts of its share has heard from every block. */
__host__ __device__ inline int share_of(int n_slots, int blocks, int rank)
{
    const int share = (n_slots - rank + blocks - 1) / blocks;
    return share > 0 ? share : 1;
}

/* Floats of the exchange buffers: parts of a share [parts][share][4]; gradients [E][4], then energies [parts][n] in
 * double. */
__host__ __device__ inline int results_floats(int n, int E, int blocks)
{
    const int all_parts = blocks * parts_of_block(blocks);
    const int parts = all_parts * share_of(E, blocks, 0) * 4, all = 4 * E + 2 * all_parts * n;
    return parts > all ? parts : all;
}

/* This block's adjoints of edges to the blocks whose share they are. */
template <typename B> __device__ inline void send_edge_parts(const B &b)
{
    constexpr int BLOCKS = B::BLOCKS;
    const int all = max(b.n_slots, BLOCKS);
#pragma unroll 1
    for (int q = threadIdx.x; q < B::EACH * all; q += THREADS) {
        const int part = q / all, e = q - part * all, owner = e % BLOCKS;
        const float4 zero = make_float4(0, 0, 0, 0);
        const float4 sum = e < b.n_slots ? b.quads(b.a.at.edge_adj)[part * b.n_slots + e] : zero;
        const int share = share_of(b.n_slots, BLOCKS, owner);
        float *to = b.exchange_now() + ((b.rank * B::EACH + part) * share + e / BLOCKS) * 4;
        send(to, owner, make_float2(sum.x, sum.y), b.arrivals_now());
        send(to + 2, owner, make_float2(sum.z, sum.w), b.arrivals_now());
    }
}

/* The edges' own distances in the place of those that the network sees; ends with a barrier. */
template <typename B> __device__ inline void restore_distances(const B &b)
{
    for (int e = threadIdx.x; e < b.n_slots; e += THREADS) b.quads(b.a.at.edges)[e].w = b.floats(b.a.at.distance)[e];
    __syncthreads();
}

/* dE/dd of an edge of a model with a short-range term (short_range.cu), from that of the distance that the network
 * sees. */
template <typename B> __device__ inline float with_short_range(const B &b, int rows, float d, float seen_adj)
{
    const short_range_pair *pair = short_range_of(b, centre_of(rows), neighbour_of(rows));
    if (!((double)d < pair->outer)) return seen_adj;
    double slope, seen_slope;
    mlff_short_range(pair, (double)d, &slope);
    mlff_seen_distance(pair, (double)d, &seen_slope);
    return (float)((double)seen_adj * seen_slope + 0.5 * slope);
}

/* dE/dr of this block's share of the edges, to block 0. */
template <typename B> __device__ inline void send_gradients(const B &b)
{
    constexpr int BLOCKS = B::BLOCKS;
    const int share = share_of(b.n_slots, BLOCKS, b.rank);
    const float4 *parts = (const float4 *)b.exchange_before();
#pragma unroll 1
    for (int q = threadIdx.x; q < share; q += THREADS) {
        const int e = q * BLOCKS + b.rank;
        if (e >= b.n_slots) break;
        float4 sum = parts[q];
#pragma unroll
        for (int part = 1; part < B::ALL_PARTS; part++) {
            const float4 x = parts[part * share + q];
            sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
        }
        const float4 u = b.quads(b.a.at.edges)[e];
        const int rows = b.ints(b.a.at.edge_rows)[e];
        if (b.a.short_range && rows >= 0) sum.w = with_short_range(b, rows, u.w, sum.w);
        const float along = sum.x * u.x + sum.y * u.y + sum.z * u.z, inverse = 1 / u.w;
        const float2 xy =
            make_float2(sum.w * u.x + (sum.x - along * u.x) * inverse, sum.w * u.y + (sum.y - along * u.y) * inverse);
        send(b.exchange_now() + 4 * e, 0, xy, b.arrivals_now());
        send(b.exchange_now() + 4 * e + 2, 0, make_float2(sum.w * u.z + (sum.z - along * u.z) * inverse, 0),
             b.arrivals_now());
    }
}

/* Where the parts of rows' energies arrive. */
template <typename B> __device__ inline int energies_place(const B &b)
{
    return b.a.with_reverse ? 4 * b.n_slots : 0;
}

template <typename B> __device__ inline void send_energies(const B &b)
{
    float *to = b.exchange_now() + energies_place(b) + 2 * b.rank * B::EACH * b.n;
    for (int q = threadIdx.x; q < B::EACH * b.n; q += THREADS)
        send(to + 2 * q, 0, two(b.floats(b.a.at.energy) + 2 * q), b.arrivals_now()); /* the bits of a double */
}

template <typename B> __device__ inline void collect_energies(const B &b)
{
    const auto &a = b.a;
    const double *parts = (const double *)(b.exchange_before() + energies_place(b));
    const int row = (int)threadIdx.x - (THREADS - MOST_ROWS); /* the last warp: the first have rows to collect */
    if (row >= 0 && row < b.n) {
        double sum = 0;
        for (int part = 0; part < B::ALL_PARTS; part++) sum += parts[part * b.n + row];
        sum = a.scale * (sum + a.readout1_bias) + a.atom_shift[b.ints(a.at.row_element)[row]];
        b.doubles(a.at.energy)[row] = sum;
        if (a.atom_energy) a.atom_energy[b.begin + row] = sum;
        if (!isfinite(sum)) atomicMin(b.ints(a.at.bad) + 1, b.begin + row);
    }
}

/* A warp a row: half of the short-range energy of its edges, how many are closer than any in training, and the first of
 * the first row that has one. */
template <typename B> __device__ inline void collect_short_range(const B &b, int structure)
{
    const auto &a = b.a;
    const int lane = threadIdx.x % 32;
    int *close = b.ints(a.at.close); /* their number, the first row */
    if (threadIdx.x < 2) close[threadIdx.x] = threadIdx.x == 0 ? 0 : NO_ROW;
    __syncthreads();
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        const int first = b.ints(a.at.row_first)[row], end = first + b.ints(a.at.row_count)[row];
        double energy = 0;
        int count = 0;
#pragma unroll 1
        for (int e = first + lane; e < end; e += 32) {
            const short_range_pair *pair = short_range_of(b, row, neighbour_of(b.ints(a.at.edge_rows)[e]));
            const double d = (double)b.quads(a.at.edges)[e].w;
            double slope;
            if (!(d < pair->outer)) continue;
            energy += 0.5 * mlff_short_range(pair, d, &slope);
            count++;
        }
        __syncwarp();
        if (!__any_sync(ALL_LANES, count > 0)) continue;
        for (int half = 16; half > 0; half /= 2) {
            energy += __shfl_xor_sync(ALL_LANES, energy, half);
            count += __shfl_xor_sync(ALL_LANES, count, half);
        }
        if (lane > 0) continue;
        energy += b.doubles(a.at.energy)[row];
        b.doubles(a.at.energy)[row] = energy;
        if (a.atom_energy) a.atom_energy[b.begin + row] = energy;
        if (!isfinite(energy)) atomicMin(b.ints(a.at.bad) + 1, b.begin + row);
        atomicAdd(&close[0], count);
        atomicMin(&close[1], row);
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    close_record record = {};
    record.count = (unsigned long long)close[0];
    for (int row = close[1], e = 0; row != NO_ROW && e < b.ints(a.at.row_count)[row]; e++) {
        const int at = b.ints(a.at.row_first)[row] + e, neighbour = neighbour_of(b.ints(a.at.edge_rows)[at]);
        const short_range_pair *pair = short_range_of(b, row, neighbour);
        const double d = (double)b.quads(a.at.edges)[at].w;
        if (!(d < pair->outer)) continue;
        record.rows_to_end = a.rows_in_all - (b.begin + row);
        record.neighbour_row = b.begin + neighbour;
        record.distance = d, record.trained = pair->outer;
        break;
    }
    a.close[structure] = record;
}

/* r (x) dE/dr of an edge, component [a][b] at 3 a + b. */
__device__ inline double virial_of(const float4 &edge, const float4 &G, int c)
{
    const double u[3] = {edge.x, edge.y, edge.z}, gradient[3] = {G.x, G.y, G.z};
    return u[c / 3] * (double)edge.w * gradient[c % 3];
}

/* A warp a row: virial of its own edges, force by its own edges and by those that name it. */
template <typename B> __device__ inline void collect_rows(const B &b)
{
    const auto &a = b.a;
    const int lane = threadIdx.x % 32;
    const float4 *gradients = (const float4 *)b.exchange_before(), *edges = b.quads(a.at.edges);
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        double sums[16] = {};
#pragma unroll 1
        for (int e = lane; e < b.n_slots; e += 32) {
            const int rows = b.ints(a.at.edge_rows)[e];
            const double own = rows >= 0 && centre_of(rows) == row;
            const double sign = own - (rows >= 0 && neighbour_of(rows) == row);
            if (own == 0 && sign == 0) continue;
            const float4 G = gradients[e];
#pragma unroll
            for (int c = 0; c < 9; c++) sums[c] -= own * virial_of(edges[e], G, c);
            sums[9] += sign * (double)G.x, sums[10] += sign * (double)G.y, sums[11] += sign * (double)G.z;
        }
        const double sum = transposed_sum(sums, lane);
        if (lane % 2 == 0 && lane / 2 < ROW_VALUES) b.doubles(a.at.row_sums)[row * ROW_VALUES + lane / 2] = sum;
        if (__any_sync(ALL_LANES, !isfinite(sum)) && lane == 0) atomicMin(b.ints(a.at.bad) + 1, b.begin + row);
    }
}

/* The same for the virials of atoms: half of every edge that the row is an end of. */
template <typename B> __device__ inline void collect_atom_virials(const B &b)
{
    const auto &a = b.a;
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        double sums[16] = {};
#pragma unroll 1
        for (int e = lane; e < b.n_slots; e += 32) {
            const int rows = b.ints(a.at.edge_rows)[e];
            if (rows < 0 || (centre_of(rows) != row && neighbour_of(rows) != row)) continue;
            const double half = centre_of(rows) == neighbour_of(rows) ? 1 : 0.5; /* an image of itself: both ends */
#pragma unroll
            for (int c = 0; c < 9; c++)
                sums[c] -= half * virial_of(b.quads(a.at.edges)[e], ((const float4 *)b.exchange_before())[e], c);
        }
        const double sum = transposed_sum(sums, lane);
        if (lane % 2 == 0 && lane / 2 < 9) a.atom_virial[9 * (size_t)a.atom_of_row[b.begin + row] + lane / 2] = sum;
    }
}

template <typename B> __device__ inline void write_results(const B &b, int structure)
{
    const auto &a = b.a;
    const double *row_sums = b.doubles(a.at.row_sums);
    if (a.with_reverse)
#pragma unroll 1
        for (int q = threadIdx.x; q < 3 * b.n; q += THREADS)
            a.forces[3 * (size_t)a.atom_of_row[b.begin + q / 3] + q % 3] = row_sums[q / 3 * ROW_VALUES + 9 + q % 3];
    const int value = THREADS - 1 - (int)threadIdx.x; /* the last warp: the first has forces to write */
    if (value < 10) {
        const double *from = value == 0 ? b.doubles(a.at.energy) : row_sums + value - 1;
        const int stride = value == 0 ? 1 : ROW_VALUES, rows = value == 0 || a.with_reverse ? b.n : 0;
        double sum = 0;
#pragma unroll 4 /* loads of several rows together */
        for (int row = 0; row < rows; row++) sum += from[row * stride];
        a.sums[10 * (size_t)structure + value] = sum;
    }
    if (value == 10 || value == 11) a.marks[2 * (size_t)structure + value - 10] = b.ints(a.at.bad)[value - 10];
}

template <typename B> __device__ inline void results(B &b, int structure)
{
    int count = 2 * B::ALL_PARTS * b.n;
    __syncthreads();
    if (b.a.short_range) restore_distances(b);
    if (b.a.with_reverse) {
        send_edge_parts(b);
        exchange(b, B::ALL_PARTS * share_of(b.n_slots, B::BLOCKS, b.rank) * 4);
        send_gradients(b);
        count += 4 * b.n_slots;
    }
    send_energies(b);
    if (b.rank > 0) return; /* nobody sends to the others any more */
    exchange(b, count);
    collect_energies(b);
    if (b.a.short_range) {
        __syncthreads();
        collect_short_range(b, structure);
    }
    if (b.a.with_reverse) collect_rows(b);
    if (b.a.atom_virial) collect_atom_virials(b);
    __syncthreads();
    write_results(b, structure);
}

} // namespace molecule
} // namespace mlff

#endif
