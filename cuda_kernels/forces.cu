/* SPDX-License-Identifier: MIT */
/*
 * From the adjoints of edges to forces and virials, in double (docs/equations.md):
 *   G = d_adj u + (u_adj - (u_adj . u) u)/d;  F_i = sum over i's slots of G - sum over slots that name i of G
 *   virial = -sum r (x) G
 *
 * Launch   a thread an edge of a warp's row; a thread a row; a block a chunk of rows of one structure.
 * Order    rows: ascending slots; chunks: a fixed tree of 256 threads; the host adds chunks in their order.
 */
#include "state.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct gradient_arguments {
    int32_t N;
    const int64_t *first, *edge_slot;
    const int32_t *count;
    const edge<T> *edges;
    const edge_adjoint<T> *edge_adj;
    double *slot_gradient, *slot_virial, *row_virial;
    int *bad_row;
};

/* a warp a row: G of its slots, and the virial of the row */
template <typename T> __global__ void __launch_bounds__(256) gradients_kernel(gradient_arguments<T> a)
{
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= a.N) return;
    const int64_t first = a.first[row];
    double virial[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int q = lane; q < a.count[row]; q += 32) {
        const edge<T> r = a.edges[first + q];
        const edge_adjoint<T> adj = a.edge_adj[first + q];
        const int64_t slot = a.edge_slot[first + q];
        double along = 0, G[3];
        for (int c = 0; c < 3; c++) along += (double)adj.u[c] * (double)r.u[c];
        for (int c = 0; c < 3; c++) {
            G[c] = (double)adj.d * (double)r.u[c] + ((double)adj.u[c] - along * (double)r.u[c]) / (double)r.d;
            a.slot_gradient[3 * slot + c] = G[c];
        }
        for (int c = 0; c < 9; c++) {
            const double part = -(double)r.u[c / 3] * (double)r.d * G[c % 3];
            virial[c] += part;
            if (a.slot_virial) a.slot_virial[9 * slot + c] = part;
        }
    }
    bool good = true;
    for (int c = 0; c < 9; c++) {
        for (int half = 16; half > 0; half /= 2) virial[c] += __shfl_xor_sync(0xffffffffu, virial[c], half);
        good = good && isfinite(virial[c]);
        if (lane == c) a.row_virial[9 * (size_t)row + c] = virial[c];
    }
    if (!good && lane == 0) atomicMin(&a.bad_row[1], row);
}

/* a thread a row: its own slots, then those that name it */
__global__ void forces_kernel(int32_t N, int32_t R, const int64_t *first, const int64_t *incoming_first,
                              const int64_t *incoming, const int32_t *atom_of_row, const double *slot_gradient,
                              double *forces)
{
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= R) return;
    double F[3] = {0, 0, 0};
    if (row < N)
        for (int64_t slot = first[row]; slot < first[row + 1]; slot++)
            for (int c = 0; c < 3; c++) F[c] += slot_gradient[3 * slot + c];
    for (int64_t q = incoming_first[row]; q < incoming_first[row + 1]; q++)
        for (int c = 0; c < 3; c++) F[c] -= slot_gradient[3 * incoming[q] + c];
    for (int c = 0; c < 3; c++) forces[3 * (size_t)atom_of_row[row] + c] = F[c];
}

/* half of the row's own edges, half of those that name it */
__global__ void atom_virials_kernel(int32_t N, int32_t R, const int64_t *incoming_first, const int64_t *incoming,
                                    const int32_t *atom_of_row, const double *row_virial, const double *slot_virial,
                                    double *atom_virial)
{
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= R) return;
    double W[9];
    for (int c = 0; c < 9; c++) W[c] = row < N ? 0.5 * row_virial[9 * (size_t)row + c] : 0;
    for (int64_t q = incoming_first[row]; q < incoming_first[row + 1]; q++)
        for (int c = 0; c < 9; c++) W[c] += 0.5 * slot_virial[9 * incoming[q] + c];
    for (int c = 0; c < 9; c++) atom_virial[9 * (size_t)atom_of_row[row] + c] = W[c];
}

/* energy and virial of a chunk of rows */
__global__ void __launch_bounds__(256)
    sums_kernel(const chunk *chunks, const double *atom_energy, const double *row_virial, double *sums)
{
    __shared__ double part[256];
    const chunk mine = chunks[blockIdx.x];
    for (int c = 0; c < 10; c++) {
        double sum = 0;
        for (int row = mine.begin + threadIdx.x; row < mine.end; row += 256)
            sum += c == 0 ? atom_energy[row] : row_virial ? row_virial[9 * (size_t)row + c - 1] : 0;
        part[threadIdx.x] = sum;
        __syncthreads();
        for (int half = 128; half > 0; half /= 2) {
            if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0) sums[10 * (size_t)blockIdx.x + c] = part[0];
        __syncthreads();
    }
}

/* --------------------------------------------------------------------------------------------- launcher */

template <typename T> mlff_status forces(state<T> *s, int with_atom_virial, mlff_error *error)
{
    if (s->with_reverse && s->N > 0) {
        const gradient_arguments<T> a = {
            s->N,          s->first,    s->edge_slot,     s->count,
            s->edges,      s->edge_adj, s->slot_gradient, with_atom_virial ? s->slot_virial : nullptr,
            s->row_virial, s->bad_row};
        gradients_kernel<<<(s->N + 7) / 8, 256, 0, s->stream>>>(a);
        CUDA_TRY_LAUNCH("edge gradients");
    }
    if (s->with_reverse && s->R > 0) {
        forces_kernel<<<(s->R + 127) / 128, 128, 0, s->stream>>>(s->N, s->R, s->first, s->incoming_first, s->incoming,
                                                                 s->atom_of_row, s->slot_gradient, s->forces);
        CUDA_TRY_LAUNCH("forces");
        if (with_atom_virial)
            atom_virials_kernel<<<(s->R + 127) / 128, 128, 0, s->stream>>>(s->N, s->R, s->incoming_first, s->incoming,
                                                                           s->atom_of_row, s->row_virial,
                                                                           s->slot_virial, s->atom_virial);
        CUDA_TRY_LAUNCH("virials of atoms");
    }
    if (s->n_chunks > 0)
        sums_kernel<<<s->n_chunks, 256, 0, s->stream>>>(s->chunks, s->atom_energy,
                                                        s->with_reverse ? s->row_virial : nullptr, s->sums);
    CUDA_TRY_LAUNCH("sums");
    return MLFF_OK;
}

template mlff_status forces(state<float> *, int, mlff_error *);
template mlff_status forces(state<double> *, int, mlff_error *);

} // namespace mlff
