/* SPDX-License-Identifier: MIT */
/*
 * Short-range repulsion (docs/equations.md, core/src/short_range.h), half of each directed edge to its row, in double:
 *   e_i += sum over i's edges of 1/2 V S,   d_adj += 1/2 (V' S + V S')
 * and the edges that are closer than the training frames ever were.
 *
 * Launch   a warp a row; then one warp for the first row with a close edge.
 * Bytes    an edge its 4 real<T> and 4 + 4 bytes of row and species; 32 bytes of its pair, from the cache. Edges below
 *          their outer distance, which are few, read and write d_adj.
 * Share    not measured yet.
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
    const edge<T> *edges;
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
        const double d = (double)a.edges[first + q].d;
        if (!(d < pair->outer)) continue;
        double slope;
        energy += 0.5 * mlff_short_range(pair, d, &slope);
        if (a.edge_adj) a.edge_adj[first + q].d += (T)(0.5 * slope);
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
            d = (double)a.edges[first + q].d;
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

template <typename T> mlff_status short_range(state<T> *s, mlff_error *error)
{
    CUDA_TRY(cudaMemsetAsync(s->close, 0, sizeof *s->close, s->stream));
    if (s->N == 0) return MLFF_OK;
    const short_range_arguments<real<T>> a = {s->N,
                                              s->w.n_elements,
                                              s->first,
                                              s->count,
                                              s->edge_row,
                                              s->species,
                                              s->w.short_range,
                                              s->edges,
                                              s->with_reverse ? s->edge_adj : nullptr,
                                              s->atom_energy,
                                              s->close,
                                              s->bad_row};
    short_range_kernel<<<(unsigned)((s->N + (int64_t)7) / 8), 256, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("short range");
    first_close_kernel<<<1, 32, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("first close pair");
    return MLFF_OK;
}

template mlff_status short_range(state<float> *, mlff_error *);
template mlff_status short_range(state<double> *, mlff_error *);
template mlff_status short_range(state<__half> *, mlff_error *);

} // namespace mlff
