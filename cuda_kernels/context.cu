/* SPDX-License-Identifier: MIT */
/*
 * Context of interactions l >= 1, atom by atom (docs/equations.md):
 *   h = W1 s + b1,  x = W2 silu(h) + b2 = (x_s, x_R, x_v),  features = (x_s, x_R, x_v v)
 *
 * The general path: double, and widths that do not fit the matrix units' fragments; others are in context_fused.cu.
 *
 * Launch   dense layers, then a thread a feature of an atom; pieces of PIECE_ROWS atoms.
 * Cost     4 F^2 multiply-adds an atom each way; 17 F values read or written besides the dense layers'.
 * Share    double, F = 128, 110,592 atoms: 13 ns an atom, 15 in reverse, 18 and 26 % of DRAM's limit (H200, driver
 *          580.159.04, CUDA 13.0, 2026-11-22).
 */
#include "dense.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T>
__global__ void features_kernel(int64_t n, int F, const real<T> *x, const T *v, T *features, T *x_v)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const real<T> *x_i = x + i * 3 * F + f;
    const T *v_i = v + i * 3 * F + f;
    T *out = features + i * 5 * F + sliced(5, f);
    const real<T> scale = x_i[2 * F];
    out[0] = T(x_i[0]);
    out[SLICE] = T(x_i[F]);
    for (int a = 0; a < 3; a++) out[(2 + a) * SLICE] = T(scale * real<T>(v_i[a * F]));
    x_v[q] = T(scale);
}

template <typename T>
__global__ void features_reverse_kernel(int64_t n, int F, const T *features_adj, const T *v, const T *x_v,
                                        real<T> *x_adj, T *adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const T *in = features_adj + i * 5 * F + sliced(5, f), *v_i = v + i * 3 * F + f;
    const real<T> scale = x_v[q];
    real<T> sum = 0;
    for (int a = 0; a < 3; a++) {
        const real<T> y_adj = in[(2 + a) * SLICE];
        T *v_adj = adj + i * 4 * F + sliced(4, f) + (1 + a) * SLICE;
        sum += y_adj * real<T>(v_i[a * F]);
        *v_adj = T(real<T>(*v_adj) + y_adj * scale);
    }
    real<T> *out = x_adj + i * 3 * F + f;
    out[0] = in[0];
    out[F] = in[SLICE];
    out[2 * F] = sum;
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T>
static mlff_status forward_piece(state<T> *s, int l, int64_t begin, int64_t rows, mlff_error *error)
{
    const int F = s->w.F;
    const int64_t n = rows * F, at = begin * F;
    const layer_weights<real<T>> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    real<T> *h = s->scratch, *x = h + n, *none = nullptr; /* [rows][F], [rows][3F] */
    MLFF_TRY(dense_rows(w.context0, (const real<T> *)s->s + at, F, h, F, rows, DENSE_SILU, t.context_slope + at,
                        s->stream, error));
    MLFF_TRY(dense_rows(w.context1, (const real<T> *)h, F, x, 3 * F, rows, DENSE_STORE, none, s->stream, error));
    features_kernel<T><<<blocks_of(n), 256, 0, s->stream>>>(n, F, x, t.v + 3 * at, t.features + 5 * at, t.x_v + at);
    CUDA_TRY_LAUNCH("context");
    return MLFF_OK;
}

template <typename T> mlff_status context_forward(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(T) != sizeof(double))
        if (fragments_fit<T>(s->w)) return fused_context_forward(s, l, error);
    for (int64_t begin = 0; begin < s->N; begin += PIECE_ROWS)
        MLFF_TRY(forward_piece(s, l, begin, rows_of_piece(s->N, begin), error));
    return MLFF_OK;
}

template <typename T>
static mlff_status reverse_piece(state<T> *s, int l, int64_t begin, int64_t rows, mlff_error *error)
{
    const int F = s->w.F;
    const int64_t n = rows * F, at = begin * F;
    const layer_weights<real<T>> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    real<T> *h_adj = s->scratch, *x_adj = h_adj + n; /* [rows][F], [rows][3F] */
    T *adj = s->adj + 4 * at;
    features_reverse_kernel<T>
        <<<blocks_of(n), 256, 0, s->stream>>>(n, F, t.features_adj + 5 * at, t.v + 3 * at, t.x_v + at, x_adj, adj);
    MLFF_TRY(dense_rows(w.context1_T, (const real<T> *)x_adj, 3 * F, h_adj, F, rows, DENSE_SLOPE, t.context_slope + at,
                        s->stream, error));
    MLFF_TRY(dense_rows(w.context0_T, (const real<T> *)h_adj, F, adj, 4 * F, rows, DENSE_ADD, (T *)nullptr, s->stream,
                        error));
    CUDA_TRY_LAUNCH("context, reverse");
    return MLFF_OK;
}

template <typename T> mlff_status context_reverse(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(T) != sizeof(double))
        if (fragments_fit<T>(s->w)) return fused_context_reverse(s, l, error);
    for (int64_t begin = 0; begin < s->N; begin += PIECE_ROWS)
        MLFF_TRY(reverse_piece(s, l, begin, rows_of_piece(s->N, begin), error));
    return MLFF_OK;
}

template mlff_status context_forward(state<float> *, int, mlff_error *);
template mlff_status context_forward(state<double> *, int, mlff_error *);
template mlff_status context_forward(state<__half> *, int, mlff_error *);
template mlff_status context_reverse(state<float> *, int, mlff_error *);
template mlff_status context_reverse(state<double> *, int, mlff_error *);
template mlff_status context_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
