/* SPDX-License-Identifier: MIT */
/*
 * Readout (docs/equations.md): e_i = scale (w2 . silu(w1 s + b1) + b2) + atom_shift(Z_i), the last sum in double.
 * Reverse: s_adj = W1^T (scale w2 silu'(h)), v_adj = 0.
 *
 * The general path: double, and widths that do not fit the matrix units' fragments; others are in readout_fused.cu.
 *
 * Launch   a dense layer, then a warp a row; pieces of PIECE_ROWS atoms.
 * Share    double, F = 128, 110,592 atoms: 1.8 ns an atom, 3.3 in reverse, 18 and 29 % of DRAM's limit (H200, driver
 *          580.159.04, CUDA 13.0, 2026-11-22).
 * Order    of the last sum: a fixed tree over the 32 lanes.
 */
#include "dense.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct energy_arguments {
    int64_t begin, rows;
    int H;
    double scale, bias;
    const real<T> *h, *weights; /* [rows][H], [H] */
    const double *atom_shift;
    const int32_t *species;
    T *slope;            /* [N][H] */
    double *atom_energy; /* [N] */
    int *bad_row;
};

template <typename T> __global__ void __launch_bounds__(256) energy_kernel(energy_arguments<T> a)
{
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32, row = a.begin + at;
    const int lane = threadIdx.x % 32;
    if (at >= a.rows) return;
    double sum = 0;
    for (int q = lane; q < a.H; q += 32) {
        real<T> slope;
        sum += (double)silu(a.h[at * a.H + q], &slope) * (double)a.weights[q];
        a.slope[row * a.H + q] = T(slope);
    }
    for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    if (lane) return;
    const double energy = a.scale * (sum + a.bias) + a.atom_shift[a.species[row]];
    a.atom_energy[row] = energy;
    if (!isfinite(energy)) atomicMin(&a.bad_row[1], (int)row);
}

template <typename T>
__global__ void seed_kernel(int64_t n, int H, real<T> scale, const real<T> *weights, const T *slope, real<T> *h_adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q < n) h_adj[q] = scale * weights[q % H] * real<T>(slope[q]);
}

/* v_adj = 0 */
template <typename T> __global__ void clear_vectors_kernel(int64_t n, int F, T *adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q < n) adj[q / (3 * F) * 4 * F + sliced(4, (int)(q % F)) + (1 + q / F % 3) * SLICE] = T(0);
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status readout_forward(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(T) != sizeof(double))
        if (fragments_fit<T>(s->w)) return fused_readout_forward(s, error);
    const weights<real<T>> &w = s->w;
    real<T> *h = s->scratch, *none = nullptr; /* [rows][H] */
    for (int64_t begin = 0; begin < s->N; begin += PIECE_ROWS) {
        const int64_t rows = rows_of_piece(s->N, begin);
        MLFF_TRY(dense_rows(w.readout0, (const real<T> *)s->s + begin * w.F, w.F, h, w.H, rows, DENSE_STORE, none,
                            s->stream, error));
        const energy_arguments<T> a = {
            begin,      rows,         w.H,        w.scale,          w.readout1_bias, h,
            w.readout1, w.atom_shift, s->species, s->readout_slope, s->atom_energy,  s->bad_row};
        energy_kernel<<<(unsigned)((rows + 7) / 8), 256, 0, s->stream>>>(a);
    }
    CUDA_TRY_LAUNCH("readout");
    return MLFF_OK;
}

template <typename T> mlff_status readout_reverse(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(T) != sizeof(double))
        if (fragments_fit<T>(s->w)) return fused_readout_reverse(s, error);
    const int F = s->w.F, H = s->w.H;
    const int64_t n_v = (int64_t)s->N * 3 * F;
    const real<T> seed = real<T>(s->w.scale) * adjoint_scale<T>;
    real<T> *h_adj = s->scratch; /* [rows][H] */
    for (int64_t begin = 0; begin < s->N; begin += PIECE_ROWS) {
        const int64_t rows = rows_of_piece(s->N, begin), n = rows * H;
        seed_kernel<T>
            <<<blocks_of(n), 256, 0, s->stream>>>(n, H, seed, s->w.readout1, s->readout_slope + begin * H, h_adj);
        MLFF_TRY(dense_rows(s->w.readout0_T, (const real<T> *)h_adj, H, s->adj + begin * 4 * F, 4 * F, rows,
                            DENSE_STORE, (T *)nullptr, s->stream, error));
    }
    clear_vectors_kernel<<<blocks_of(n_v), 256, 0, s->stream>>>(n_v, F, s->adj);
    CUDA_TRY_LAUNCH("readout, reverse");
    return MLFF_OK;
}

template mlff_status readout_forward(state<float> *, mlff_error *);
template mlff_status readout_forward(state<double> *, mlff_error *);
template mlff_status readout_forward(state<__half> *, mlff_error *);
template mlff_status readout_reverse(state<float> *, mlff_error *);
template mlff_status readout_reverse(state<double> *, mlff_error *);
template mlff_status readout_reverse(state<__half> *, mlff_error *);

} // namespace mlff
