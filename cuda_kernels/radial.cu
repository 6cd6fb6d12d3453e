/* SPDX-License-Identifier: MIT */
/*
 * Edges: the candidates within the cutoff, d = |x_j - x_i| < rc, u = (x_j - x_i)/d; positions are subtracted in double.
 *
 * Launch   a warp a row, 8 warps a block.
 * Bytes    candidates 8 + positions 24 (cached), edges 16 (single) + 12 written.
 * Share    99,999 atoms, single: 125 us, 1.2 ns an atom, 316 MB of DRAM, which is 53 % busy (H200, driver 580.159.04,
 *          CUDA 13.0, 2026-11-22).
 * Order    an edge keeps the order of its candidate: its place is a count of set bits, not an atomic.
 */
#include "state.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct edge_arguments {
    int32_t N;
    double cutoff;
    const double *x, *shift;
    const int64_t *first;
    const int32_t *atom_of_row, *neighbour_row, *neighbour_atom;
    int32_t *count, *edge_row;
    edge<T> *edges;
    edge_adjoint<T> *edge_adj;
    int32_t *slot_dropped;
    int *bad_row;
};

template <typename T> __global__ void __launch_bounds__(256) edges_kernel(edge_arguments<T> a)
{
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= a.N) return;
    const double *centre = a.x + 3 * (size_t)a.atom_of_row[row];
    const double x0 = centre[0], x1 = centre[1], x2 = centre[2];
    const int64_t begin = a.first[row], end = a.first[row + 1];
    bool good = isfinite(x0) && isfinite(x1) && isfinite(x2);
    int count = 0;
    for (int64_t base = begin; base < end; base += 32) {
        const int64_t slot = base + lane;
        double r[3] = {0, 0, 0}, d = INFINITY;
        if (slot < end) {
            const double *neighbour = a.x + 3 * (size_t)a.neighbour_atom[slot];
            r[0] = neighbour[0] - x0, r[1] = neighbour[1] - x1, r[2] = neighbour[2] - x2;
            if (a.shift)
                for (int q = 0; q < 3; q++) r[q] += a.shift[3 * slot + q];
            d = sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
            good = good && d > 0 && d < INFINITY;
        }
        const bool keep = d < a.cutoff;
        const unsigned kept = __ballot_sync(0xffffffffu, keep);
        if (keep) {
            const int64_t e = begin + count + __popc(kept & ((1u << lane) - 1));
            edge<T> out;
            for (int q = 0; q < 3; q++) out.u[q] = T(r[q] / d);
            out.d = T(d);
            a.edges[e] = out;
            a.edge_row[e] = a.neighbour_row[slot];
            if (a.edge_adj) a.edge_adj[e] = edge_adjoint<T>{};
            if (a.slot_dropped) a.slot_dropped[slot] = (int32_t)(slot - e);
        } else if (slot < end && a.slot_dropped) {
            a.slot_dropped[slot] = -1;
        }
        count += __popc(kept);
    }
    if (!__all_sync(0xffffffffu, good) && lane == 0) atomicMin(&a.bad_row[0], row);
    if (lane == 0) a.count[row] = count;
}

/* --------------------------------------------------------------------------------------------- launcher */

template <typename S> mlff_status radial_forward(state<S> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    s->clusters.n_rows = 0; /* they are of other edges */
    const edge_arguments<real<S>> a = {s->N,
                                       s->w.cutoff,
                                       s->x,
                                       s->shift,
                                       s->first,
                                       s->atom_of_row,
                                       s->neighbour_row,
                                       s->neighbour_atom,
                                       s->count,
                                       s->edge_row,
                                       s->edges,
                                       s->edge_adj,
                                       s->slot_dropped,
                                       s->bad_row};
    edges_kernel<<<(s->N + 7) / 8, 256, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("edges");
    return s->w.short_range ? limit_distances(s, error) : MLFF_OK;
}

template mlff_status radial_forward(state<float> *, mlff_error *);
template mlff_status radial_forward(state<double> *, mlff_error *);
template mlff_status radial_forward(state<__half> *, mlff_error *);

} // namespace mlff
