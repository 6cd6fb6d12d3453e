/* SPDX-License-Identifier: MIT */
/*
 * Short range (docs/equations.md, core/src/short_range.h), in double. Before the layers: the distance g(d) that the
 * network sees takes the place of d in the edges, which is kept beside them. After the layers, which give dE/dg, half
 * of each directed edge to its row:
 *   e_i += sum over i's edges of 1/2 V S,   d_adj = g' g_adj + 1/2 (V' S + V S')
 * the edges' own d back in its place, and the edges that are closer than the training frames ever were.
 *
 * Launch   a warp a row, twice; then one warp for the first row with a close edge.
 * Bytes    an edge: its 4 real<T> and 4 + 4 bytes of row and species read, a real<T> written; then the latter three
 *          read; 32 bytes of its pair, from the cache. Edges below their outer distance are few.
 * Share    99,999 atoms, single: the distances 58 us (0.6 ns an atom; DRAM 39 % busy), the term itself 119 us (1.2 ns;
 *          DRAM 11 %), the first close edge 4 us (H200, driver 580.159.04, CUDA 13.0, 2026-11-22).
 * Order    of a row's energy: a lane's edges ascending, then a fixed tree over 32 lanes. Counting is in integers.
 */
#include "state.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct short_range_arguments {
    int32_t N;
    int n_elements;
    const int64_t *first;
    const int32_t *count, *edge_row, *species;
    const short_range_pair *pairs; /* [n_elements][n_elements] */
    edge<T> *edges;
    T *distance;
    edge_adjoint<T> *edge_adj; /* NULL without the reverse */
    double *atom_energy;
    close_record *close; /* zeros before */
    int *bad_row;
};

template <typename T>
__device__ inline const short_range_pair *pair_of(const short_range_arguments<T> &a, int row, int64_t e)
{
    return &a.pairs[a.species[row] * a.n_elements + a.species[a.edge_row[e]]];
}

template <typename T> __global__ void __launch_bounds__(256) limit_distances_kernel(short_range_arguments<T> a)
{
    const int row = (int)(((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
    if (row >= a.N) return;
    const int64_t first = a.first[row];
    const int edges = a.count[row];
    for (int q = lane; q < edges; q += 32) {
        const T d = a.edges[first + q].d;
        a.distance[first + q] = d;
        const short_range_pair *pair = pair_of(a, row, first + q);
        double slope;
        if ((double)d < pair->outer) a.edges[first + q].d = (T)mlff_seen_distance(pair, (double)d, &slope);
    }
}

template <typename T> __global__ void __launch_bounds__(256) short_range_kernel(short_range_arguments<T> a)
{
    const int row = (int)(((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
    if (row >= a.N) return;
    const int64_t first = a.first[row];
    const int edges = a.count[row];
    double energy = 0;
    int close = 0;
    for (int q = lane; q < edges; q += 32) {
        const short_range_pair *pair = pair_of(a, row, first + q);
        const double d = (double)a.distance[first + q];
        if (!(d < pair->outer)) continue;
        double slope, seen_slope;
        energy += 0.5 * mlff_short_range(pair, d, &slope);
        mlff_seen_distance(pair, d, &seen_slope);
        if (a.edge_adj) a.edge_adj[first + q].d = (T)((double)a.edge_adj[first + q].d * seen_slope + 0.5 * slope);
        a.edges[first + q].d = (T)d;
        close++;
    }
    if (!__any_sync(0xffffffffu, close > 0)) return;
    for (int half = 16; half > 0; half /= 2) {
        energy += __shfl_xor_sync(0xffffffffu, energy, half);
        close += __shfl_xor_sync(0xffffffffu, close, half);
    }
    if (lane) return;
    energy += a.atom_energy[row];
    a.atom_energy[row] = energy;
    if (!isfinite(energy)) atomicMin(&a.bad_row[1], row);
    atomicAdd(&a.close->count, (unsigned long long)close);
    atomicMax(&a.close->rows_to_end, a.N - row);
}

/* One warp: the first close edge of the first row that has one. */
template <typename T> __global__ void __launch_bounds__(32) first_close_kernel(short_range_arguments<T> a)
{
    if (a.close->count == 0) return;
    const int row = a.N - a.close->rows_to_end, lane = threadIdx.x;
    const int64_t first = a.first[row];
    const int edges = a.count[row];
    for (int begin = 0; begin < edges; begin += 32) {
        const int q = begin + lane;
        double d = 0, trained = 0; /* beyond the row's edges: not close */
        if (q < edges) {
            d = (double)a.distance[first + q];
            trained = pair_of(a, row, first + q)->outer;
        }
        const unsigned close = __ballot_sync(0xffffffffu, d < trained);
        if (!close) continue;
        if (lane == __ffs((int)close) - 1) {
            a.close->neighbour_row = a.edge_row[first + q];
            a.close->distance = d;
            a.close->trained = trained;
        }
        return;
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> static short_range_arguments<real<T>> arguments_of(const state<T> *s)
{
    return {s->N,           s->w.n_elements,  s->first,  s->count,    s->edge_row,
            s->species,     s->w.short_range, s->edges,  s->distance, s->with_reverse ? s->edge_adj : nullptr,
            s->atom_energy, s->close,         s->bad_row};
}

template <typename T> mlff_status limit_distances(state<T> *s, mlff_error *error)
{
    limit_distances_kernel<<<(unsigned)((s->N + (int64_t)7) / 8), 256, 0, s->stream>>>(arguments_of(s));
    CUDA_TRY_LAUNCH("distances that the network sees");
    return MLFF_OK;
}

template <typename T> mlff_status short_range(state<T> *s, mlff_error *error)
{
    CUDA_TRY(cudaMemsetAsync(s->close, 0, sizeof *s->close, s->stream));
    if (s->N == 0) return MLFF_OK;
    short_range_kernel<<<(unsigned)((s->N + (int64_t)7) / 8), 256, 0, s->stream>>>(arguments_of(s));
    CUDA_TRY_LAUNCH("short range");
    first_close_kernel<<<1, 32, 0, s->stream>>>(arguments_of(s));
    CUDA_TRY_LAUNCH("first close pair");
    return MLFF_OK;
}

template mlff_status limit_distances(state<float> *, mlff_error *);
template mlff_status limit_distances(state<double> *, mlff_error *);
template mlff_status limit_distances(state<__half> *, mlff_error *);
template mlff_status short_range(state<float> *, mlff_error *);
template mlff_status short_range(state<double> *, mlff_error *);
template mlff_status short_range(state<__half> *, mlff_error *);

} // namespace mlff
