/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_RESULTS_CUH
#define MLFF_CUDA_MOLECULE_RESULTS_CUH
/*
 * Energies, forces and virial of a structure (docs/equations.md, forces.cu), by block 0 from all blocks' memory, to where the
 * host reads them. Sums in double.
 *
 * Order   parts of blocks ascending; a row: a lane's edges ascending, then a fixed tree over 32 lanes; rows ascending.
 */
#include "molecule_message.cuh"

namespace mlff
{
namespace molecule
{

__device__ inline void collect_energies(const block &b)
{
    const arguments &a = b.a;
    double *energy = b.at<double>(a.at.energy);
    for (int row = threadIdx.x; row < b.n; row += THREADS) {
        double sum = energy[row];
        for (int rank = 1; rank < BLOCKS; rank++) sum += load_from_block(energy + row, rank);
        sum = a.scale * (sum + a.readout1_bias) + a.atom_shift[b.at<int>(a.at.row_element)[row]];
        energy[row] = sum;
        if (a.atom_energy) a.atom_energy[b.begin + row] = sum;
        if (!isfinite(sum)) atomicMin(b.at<int>(a.at.bad) + 1, b.begin + row);
    }
}

/* dE/dr of edges in the place of their adjoints. */
__device__ inline void make_gradients(const block &b)
{
    float4 *adj = b.at<float4>(b.a.at.edge_adj);
    for (int e = threadIdx.x; e < b.n_slots; e += THREADS) {
        if (b.at<int>(b.a.at.edge_rows)[e] < 0) continue;
        float4 sum = adj[e];
        for (int rank = 1; rank < BLOCKS; rank++) {
            const float4 part = load_from_block(adj + e, rank);
            sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
        }
        const float4 u = b.at<float4>(b.a.at.edges)[e];
        const float along = sum.x * u.x + sum.y * u.y + sum.z * u.z, inverse = 1 / u.w;
        adj[e] =
            make_float4(sum.w * u.x + (sum.x - along * u.x) * inverse, sum.w * u.y + (sum.y - along * u.y) * inverse,
                        sum.w * u.z + (sum.z - along * u.z) * inverse, 0);
    }
}

/* A warp a row: virial of its own edges, force by its own edges and by those that name it. */
__device__ inline void collect_rows(const block &b)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        double sums[ROW_VALUES] = {};
        for (int e = lane; e < b.n_slots; e += 32) {
            const int rows = b.at<int>(a.at.edge_rows)[e];
            if (rows < 0) continue;
            const float4 G = b.at<float4>(a.at.edge_adj)[e], edge = b.at<float4>(a.at.edges)[e];
            const double gradient[3] = {G.x, G.y, G.z}, u[3] = {edge.x, edge.y, edge.z};
            if (centre_of(rows) == row) {
#pragma unroll
                for (int c = 0; c < 9; c++) sums[c] -= u[c / 3] * (double)edge.w * gradient[c % 3];
#pragma unroll
                for (int c = 0; c < 3; c++) sums[9 + c] += gradient[c];
            }
            if (neighbour_of(rows) == row)
#pragma unroll
                for (int c = 0; c < 3; c++) sums[9 + c] -= gradient[c];
        }
        bool good = true;
#pragma unroll
        for (int c = 0; c < ROW_VALUES; c++) {
            for (int half = 16; half > 0; half /= 2) sums[c] += __shfl_xor_sync(ALL_LANES, sums[c], half);
            good = good && isfinite(sums[c]);
            if (lane == c) b.at<double>(a.at.row_sums)[row * ROW_VALUES + c] = sums[c];
        }
        if (!good && lane == 0) atomicMin(b.at<int>(a.at.bad) + 1, b.begin + row);
    }
}

/* Own columns' adjoints of edges, tiles ascending, where block 0 reads them. */
__device__ inline void add_tiles(const block &b)
{
    if (b.a.w.tiles < 2) return;
    float4 *adj = b.at<float4>(b.a.at.edge_adj);
    for (int e = threadIdx.x; e < b.n_slots; e += THREADS) {
        const float4 x = adj[e], y = adj[b.n_slots + e];
        adj[e] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
    }
}

__device__ inline void write_results(const block &b, int structure)
{
    const arguments &a = b.a;
    const double *row_sums = b.at<double>(a.at.row_sums);
    if (a.with_reverse)
        for (int q = threadIdx.x; q < 3 * b.n; q += THREADS)
            a.forces[3 * (size_t)a.atom_of_row[b.begin + q / 3] + q % 3] = row_sums[q / 3 * ROW_VALUES + 9 + q % 3];
    const int value = THREADS - 1 - (int)threadIdx.x; /* the last warp: the first has forces to write */
    if (value < 10) {
        double sum = 0;
        for (int row = 0; row < b.n; row++)
            sum += value == 0       ? b.at<double>(a.at.energy)[row]
                   : a.with_reverse ? row_sums[row * ROW_VALUES + value - 1]
                                    : 0;
        a.sums[10 * (size_t)structure + value] = sum;
    }
    if (value == 10 || value == 11) a.marks[2 * (size_t)structure + value - 10] = b.at<int>(a.at.bad)[value - 10];
}

/* Every block is here until block 0 has read its memory. */
__device__ inline void results(const block &b, int structure)
{
    if (b.a.with_reverse) {
        __syncthreads();
        add_tiles(b);
    }
    cluster_arrive();
    cluster_wait();
    if (b.rank == 0) {
        collect_energies(b);
        if (b.a.with_reverse) {
            make_gradients(b);
            __syncthreads();
            collect_rows(b);
        }
    }
    cluster_arrive();
    if (b.rank == 0) {
        __syncthreads();
        write_results(b, structure);
    }
    cluster_wait();
}

} // namespace molecule
} // namespace mlff

#endif
