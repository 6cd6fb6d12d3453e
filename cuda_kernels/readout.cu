/* SPDX-License-Identifier: MIT */
/*
 * Readout (docs/equations.md): e_i = scale (w2 . silu(w1 s + b1) + b2) + atom_shift(Z_i), the last sum in double.
 * Reverse: s_adj = W1^T (scale w2 silu'(h)), v_adj = 0.
 *
 * Launch   a dense layer, then a warp a row.
 * Order    of the last sum: a fixed tree over the 32 lanes.
 */
#include "dense.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct readout_arguments {
    int32_t N;
    int H;
    double scale, bias;
    const T *h, *weights;
    const double *atom_shift;
    const int32_t *species;
    T *slope;
    double *atom_energy;
    int *bad_row;
};

template <typename T> __global__ void __launch_bounds__(256) energy_kernel(readout_arguments<T> a)
{
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= a.N) return;
    double sum = 0;
    for (int q = lane; q < a.H; q += 32)
        sum += (double)silu(a.h[(size_t)row * a.H + q], &a.slope[(size_t)row * a.H + q]) * (double)a.weights[q];
    for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    if (lane) return;
    const double energy = a.scale * (sum + a.bias) + a.atom_shift[a.species[row]];
    a.atom_energy[row] = energy;
    if (!isfinite(energy)) atomicMin(&a.bad_row[1], row);
}

template <typename T> __global__ void seed_kernel(int64_t n, int H, T scale, const T *weights, const T *slope, T *h_adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q < n) h_adj[q] = scale * weights[q % H] * slope[q];
}

/* v_adj = 0 */
template <typename T> __global__ void clear_vectors_kernel(int64_t n, int F, T *adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q < n) adj[q / (3 * F) * 4 * F + F + q % (3 * F)] = 0;
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status readout_forward(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    T *h = s->scratch; /* [N][H] */
    MLFF_TRY(dense_rows<T>(s->w.readout0, s->s, s->w.F, h, s->w.H, s->N, DENSE_STORE, nullptr, s->stream, error));
    const readout_arguments<T> a = {s->N,          s->w.H,          s->w.scale, s->w.readout1_bias, h,
                                    s->w.readout1, s->w.atom_shift, s->species, s->readout_slope,   s->atom_energy,
                                    s->bad_row};
    energy_kernel<<<(s->N + 7) / 8, 256, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("readout");
    return MLFF_OK;
}

template <typename T> mlff_status readout_reverse(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const int F = s->w.F, H = s->w.H;
    const int64_t n = (int64_t)s->N * H, n_v = (int64_t)s->N * 3 * F;
    T *h_adj = s->scratch; /* [N][H] */
    seed_kernel<<<blocks_of(n), 256, 0, s->stream>>>(n, H, T(s->w.scale), s->w.readout1, s->readout_slope, h_adj);
    MLFF_TRY(dense_rows<T>(s->w.readout0_T, h_adj, H, s->adj, 4 * F, s->N, DENSE_STORE, nullptr, s->stream, error));
    clear_vectors_kernel<<<blocks_of(n_v), 256, 0, s->stream>>>(n_v, F, s->adj);
    CUDA_TRY_LAUNCH("readout, reverse");
    return MLFF_OK;
}

template mlff_status readout_forward(state<float> *, mlff_error *);
template mlff_status readout_forward(state<double> *, mlff_error *);
template mlff_status readout_reverse(state<float> *, mlff_error *);
template mlff_status readout_reverse(state<double> *, mlff_error *);

} // namespace mlff
