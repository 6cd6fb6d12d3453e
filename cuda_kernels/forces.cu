/* SPDX-License-Identifier: MIT */
/*
 * From the adjoints of edges to forces and virials (docs/equations.md):
 *   G = d_adj u + (u_adj - (u_adj . u) u)/d;  F_i = sum over i's edges of G - sum over edges that name i of G
 *   virial = -sum r (x) G
 * G is made and kept in real<T>, in the place of the edge's adjoints; every sum is made in double.
 *
 * Launch   a warp a row for G and the sums over its own edges; 8 lanes a row for the edges that name it; a block a
 *          chunk of rows of one structure.
 * Bytes    an edge 8 real<T> read, 4 written; then 4 + 4 bytes a candidate and 4 real<T> an edge, gathered.
 * Share    0.8 ns an atom for G, 65 % of DRAM's throughput; 0.7 ns for the gather, 46 %; 0.1 ns for the sums (single,
 *          53 neighbours; H200, driver 580.159.04, CUDA 13.0, 2026-11-21).
 * Order    own edges: a lane's in ascending order, then a fixed tree over 32 lanes; edges that name a row: the same
 *          over 8 lanes; chunks: a thread's rows ascending, a fixed tree over the warp, the warps in order; the host
 *          adds chunks in their order.
 */
#include "state.cuh"
#include "warp_sums.cuh"

namespace mlff
{

constexpr int ROW_SUMS = 12; /* of a row: virial (9), dE/dr (3) */
constexpr int GATHER_LANES = 8;

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct gradient_arguments {
    int32_t N;
    const int64_t *first;
    const int32_t *count;
    const edge<T> *edges;
    edge_adjoint<T> *edge_adj; /* becomes (G, 0) */
    double *slot_virial, *row_sums;
    int *bad_row;
};

/* dE/dr of an edge, put in the place of its adjoints; adds to the row's sums. */
template <typename T>
__device__ inline void add_gradient(const gradient_arguments<T> &a, int64_t e, const edge<T> &r,
                                    const edge_adjoint<T> &adj, double (&sums)[16])
{
    const T along = adj.u[0] * r.u[0] + adj.u[1] * r.u[1] + adj.u[2] * r.u[2], inverse = 1 / r.d;
    edge_adjoint<T> G;
    for (int c = 0; c < 3; c++) G.u[c] = adj.d * r.u[c] + (adj.u[c] - along * r.u[c]) * inverse;
    G.d = 0;
    a.edge_adj[e] = G;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const double r_c = -(double)r.u[c] * (double)r.d;
#pragma unroll
        for (int b = 0; b < 3; b++) {
            sums[3 * c + b] += r_c * (double)G.u[b];
            if (a.slot_virial) a.slot_virial[9 * e + 3 * c + b] = r_c * (double)G.u[b];
        }
        sums[9 + c] += (double)G.u[c];
    }
}

template <typename T> __global__ void __launch_bounds__(256) gradients_kernel(gradient_arguments<T> a)
{
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= a.N) return;
    const int64_t first = a.first[row];
    const int edges = a.count[row];
    double sums[16] = {};
    for (int q = lane; q < edges; q += 64) { /* two edges on their way at a time */
        const int64_t e = first + q, other = q + 32 < edges ? e + 32 : e;
        const edge<T> r = a.edges[e], r_other = a.edges[other];
        const edge_adjoint<T> adj = a.edge_adj[e], adj_other = a.edge_adj[other];
        add_gradient(a, e, r, adj, sums);
        if (other != e) add_gradient(a, other, r_other, adj_other, sums);
    }
    const double sum = transposed_sum(sums, lane);
    if (lane % 2 == 0 && lane / 2 < ROW_SUMS) a.row_sums[ROW_SUMS * (size_t)row + lane / 2] = sum;
    if (__any_sync(0xffffffffu, !isfinite(sum)) && lane == 0) atomicMin(&a.bad_row[1], row);
}

template <typename T, typename Slot> struct gather_arguments {
    int32_t N, R;
    const int64_t *incoming_first;
    const Slot *incoming;
    const int32_t *slot_dropped, *atom_of_row;
    const edge_adjoint<T> *gradient;
    const double *row_sums, *slot_virial;
    double *forces, *atom_virial;
};

/* 8 lanes a row: the sum over its own edges is there, the edges that name it are gathered */
template <typename T, typename Slot> __global__ void __launch_bounds__(256) forces_kernel(gather_arguments<T, Slot> a)
{
    const int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / GATHER_LANES;
    const int lane = threadIdx.x % GATHER_LANES;
    const bool valid = row < a.R;
    double F[3] = {0, 0, 0};
    const int64_t end = valid ? a.incoming_first[row + 1] : 0;
#pragma unroll 4
    for (int64_t q = valid ? a.incoming_first[row] + lane : 0; q < end; q += GATHER_LANES) {
        const Slot slot = a.incoming[q];
        const int32_t dropped = a.slot_dropped[slot];
        if (dropped < 0) continue;
        const edge_adjoint<T> G = a.gradient[slot - dropped];
        for (int c = 0; c < 3; c++) F[c] -= (double)G.u[c];
    }
    for (int c = 0; c < 3; c++)
        for (int half = GATHER_LANES / 2; half > 0; half /= 2) F[c] += __shfl_xor_sync(0xffffffffu, F[c], half);
    if (valid && lane < 3)
        a.forces[3 * (size_t)a.atom_of_row[row] + lane] =
            (row < a.N ? a.row_sums[ROW_SUMS * (size_t)row + 9 + lane] : 0) + (lane == 0   ? F[0]
                                                                               : lane == 1 ? F[1]
                                                                                           : F[2]);
}

/* half of the row's own edges, half of those that name it */
template <typename T, typename Slot> __global__ void atom_virials_kernel(gather_arguments<T, Slot> a)
{
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= a.R) return;
    double W[9];
    for (int c = 0; c < 9; c++) W[c] = row < a.N ? 0.5 * a.row_sums[ROW_SUMS * (size_t)row + c] : 0;
    for (int64_t q = a.incoming_first[row]; q < a.incoming_first[row + 1]; q++) {
        const Slot slot = a.incoming[q];
        const int32_t dropped = a.slot_dropped[slot];
        if (dropped < 0) continue;
        for (int c = 0; c < 9; c++) W[c] += 0.5 * a.slot_virial[9 * (size_t)(slot - dropped) + c];
    }
    for (int c = 0; c < 9; c++) a.atom_virial[9 * (size_t)a.atom_of_row[row] + c] = W[c];
}

/* energy and virial of a chunk of rows */
__global__ void __launch_bounds__(256)
    sums_kernel(const chunk *chunks, const double *atom_energy, const double *row_sums, double *sums)
{
    __shared__ double part[8][10];
    const chunk mine = chunks[blockIdx.x];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double total[16] = {};
    for (int row = mine.begin + threadIdx.x; row < mine.end; row += 256) {
        total[0] += atom_energy[row];
        if (row_sums)
#pragma unroll
            for (int c = 0; c < 9; c++) total[1 + c] += row_sums[ROW_SUMS * (size_t)row + c];
    }
    const double sum = transposed_sum(total, lane);
    if (lane % 2 == 0 && lane / 2 < 10) part[warp][lane / 2] = sum;
    __syncthreads();
    if (threadIdx.x >= 10) return;
    double all = 0;
    for (int w = 0; w < 8; w++) all += part[w][threadIdx.x];
    sums[10 * (size_t)blockIdx.x + threadIdx.x] = all;
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T, typename Slot>
static mlff_status gather(const state<T> *s, const Slot *incoming, int with_atom_virial, mlff_error *error)
{
    const gather_arguments<real<T>, Slot> a = {
        s->N,        s->R,        s->incoming_first, incoming,  s->slot_dropped, s->atom_of_row,
        s->edge_adj, s->row_sums, s->slot_virial,    s->forces, s->atom_virial};
    const int64_t threads = (int64_t)s->R * GATHER_LANES;
    forces_kernel<<<(unsigned)((threads + 255) / 256), 256, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("forces");
    if (with_atom_virial) atom_virials_kernel<<<(s->R + 127) / 128, 128, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("virials of atoms");
    return MLFF_OK;
}

template <typename T> mlff_status forces(state<T> *s, int with_atom_virial, mlff_error *error)
{
    if (s->with_reverse && s->N > 0) {
        const gradient_arguments<real<T>> a = {s->N,        s->first,    s->count,
                                               s->edges,    s->edge_adj, with_atom_virial ? s->slot_virial : nullptr,
                                               s->row_sums, s->bad_row};
        gradients_kernel<<<(s->N + 7) / 8, 256, 0, s->stream>>>(a);
        CUDA_TRY_LAUNCH("edge gradients");
    }
    if (s->with_reverse && s->R > 0)
        MLFF_TRY(s->incoming_wide ? gather(s, s->incoming_wide, with_atom_virial, error)
                                  : gather(s, s->incoming, with_atom_virial, error));
    if (s->n_chunks > 0)
        sums_kernel<<<s->n_chunks, 256, 0, s->stream>>>(s->chunks, s->atom_energy,
                                                        s->with_reverse ? s->row_sums : nullptr, s->sums);
    CUDA_TRY_LAUNCH("sums");
    return MLFF_OK;
}

template mlff_status forces(state<float> *, int, mlff_error *);
template mlff_status forces(state<double> *, int, mlff_error *);
template mlff_status forces(state<__half> *, int, mlff_error *);

} // namespace mlff
