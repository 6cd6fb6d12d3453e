/* SPDX-License-Identifier: MIT */
/*
 * Update, atom by atom (docs/equations.md):
 *   V = Wv v, U = Wu v (+ bias);  n = sqrt(|V|^2 + epsilon);  y = A2 silu(A1 [s, n] + a1) + a2 = (y_s, y_sv, y_v)
 *   s += y_s + y_sv (U.V);  v += y_v U (not in the last layer)
 *
 * The general path: double, and widths that do not fit the matrix units' fragments; others are in update_fused.cu.
 *
 * Launch   dense layers, then a thread a feature of an atom; pieces of PIECE_ROWS atoms.
 * Cost     11 F^2 multiply-adds an atom each way (10 in the last layer).
 * Share    double, F = 128, 110,592 atoms: 32 ns an atom, 28 in the last layer, in reverse 37 and 34: 14 to 17 % of
 *          what the units for double need (H200, driver 580.159.04, CUDA 13.0, 2026-11-22).
 */
#include "dense.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

/* in = [s, n] */
template <typename T>
__global__ void norms_kernel(int64_t rows, int F, real<T> epsilon, const T *VU, const real<T> *s, real<T> *in)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    real<T> square = epsilon;
    for (int a = 0; a < 3; a++) {
        const real<T> V = VU[(i * 3 + a) * 2 * F + f];
        square += V * V;
    }
    in[i * 2 * F + f] = s[q];
    in[i * 2 * F + F + f] = sqrt(square);
}

template <typename T> struct apply_arguments {
    int64_t rows;
    int F, last;
    const real<T> *y;    /* [N][3F or 2F] */
    const T *VU, *v_mid; /* [N][3][2][F], [N][3][F] */
    real<T> *s;
    T *y_sv, *y_v, *v_out;
};

template <typename T> __global__ void apply_kernel(apply_arguments<T> a)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int F = a.F;
    if (q >= a.rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const real<T> *y = a.y + i * (a.last ? 2 : 3) * F + f;
    real<T> U[3], UV = 0;
    for (int c = 0; c < 3; c++) {
        U[c] = a.VU[((i * 3 + c) * 2 + 1) * F + f];
        UV += U[c] * real<T>(a.VU[(i * 3 + c) * 2 * F + f]);
    }
    a.s[q] += y[0] + y[F] * UV;
    a.y_sv[q] = T(y[F]);
    if (a.last) return;
    const real<T> y_v = y[2 * F];
    a.y_v[q] = T(y_v);
    for (int c = 0; c < 3; c++) {
        const int64_t place = (i * 3 + c) * F + f;
        a.v_out[place] = T(real<T>(a.v_mid[place]) + y_v * U[c]);
    }
}

/* y_adj from the adjoints of the outputs */
template <typename T>
__global__ void outputs_reverse_kernel(int64_t rows, int F, int last, const T *VU, const T *adj, real<T> *y_adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const real<T> s_adj = adj[i * 4 * F + sliced(4, f)];
    real<T> UV = 0, Uv = 0;
    for (int c = 0; c < 3; c++) {
        const real<T> U = VU[((i * 3 + c) * 2 + 1) * F + f];
        UV += U * real<T>(VU[(i * 3 + c) * 2 * F + f]);
        Uv += U * real<T>(adj[i * 4 * F + sliced(4, f) + (1 + c) * SLICE]);
    }
    real<T> *out = y_adj + i * (last ? 2 : 3) * F + f;
    out[0] = s_adj;
    out[F] = s_adj * UV;
    if (!last) out[2 * F] = Uv;
}

template <typename T> struct products_reverse_arguments {
    int64_t rows;
    int F, last;
    real<T> epsilon;
    const T *VU;
    const real<T> *in_adj; /* [N][2F] */
    const T *y_sv, *y_v;
    T *adj;
    real<T> *VU_adj; /* [N][3][2][F] */
};

/* (V_adj, U_adj), and s_adj += the first half of in_adj */
template <typename T> __global__ void products_reverse_kernel(products_reverse_arguments<T> a)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int F = a.F;
    if (q >= a.rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    real<T> V[3], square = a.epsilon;
    for (int c = 0; c < 3; c++) {
        V[c] = a.VU[(i * 3 + c) * 2 * F + f];
        square += V[c] * V[c];
    }
    const real<T> n = sqrt(square), along = n > 0 ? a.in_adj[i * 2 * F + F + f] / n : real<T>(0);
    T *adj = a.adj + i * 4 * F + sliced(4, f);
    const real<T> s_adj = adj[0], across = s_adj * real<T>(a.y_sv[q]), y = a.last ? real<T>(0) : real<T>(a.y_v[q]);
    for (int c = 0; c < 3; c++) {
        const int64_t place = (i * 3 + c) * 2 * F + f;
        const real<T> v_adj = a.last ? real<T>(0) : real<T>(adj[(1 + c) * SLICE]);
        a.VU_adj[place] = along * V[c] + across * real<T>(a.VU[place + F]);
        a.VU_adj[place + F] = across * V[c] + v_adj * y;
    }
    adj[0] = T(s_adj + a.in_adj[i * 2 * F + f]);
}

/* adj's v_adj += v_part [N][3][F] */
template <typename T> __global__ void add_vectors_kernel(int64_t rows, int F, const real<T> *v_part, T *adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * 3 * F) return;
    const int64_t i = q / (3 * F);
    T *place = adj + i * 4 * F + sliced(4, (int)(q % F)) + (1 + q / F % 3) * SLICE;
    *place = T(real<T>(*place) + v_part[q]);
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T>
static mlff_status forward_piece(state<T> *s, int l, int64_t begin, int64_t rows, mlff_error *error)
{
    const int F = s->w.F, last = l == s->w.L - 1;
    const int64_t n = rows * F, at = begin * F;
    const layer_weights<real<T>> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    real<T> *in = s->scratch, *h = in + 2 * n, *y = h + n, *none = nullptr; /* [rows][2F], [rows][F], [rows][3F] */
    T *VU = t.VU + 6 * at, *v_mid = s->v_mid + 3 * at;
    MLFF_TRY(dense_rows(w.mix, (const T *)v_mid, F, VU, 2 * F, 3 * rows, DENSE_STORE, (T *)nullptr, s->stream, error));
    norms_kernel<T><<<blocks_of(n), 256, 0, s->stream>>>(rows, F, s->w.epsilon, VU, s->s + at, in);
    MLFF_TRY(
        dense_rows(w.dense0, (const real<T> *)in, 2 * F, h, F, rows, DENSE_SILU, t.dense_slope + at, s->stream, error));
    MLFF_TRY(dense_rows(w.dense1, (const real<T> *)h, F, y, last ? 2 * F : 3 * F, rows, DENSE_STORE, none, s->stream,
                        error));
    const apply_arguments<T> a = {
        rows, F, last, y, VU, v_mid, s->s + at, t.y_sv + at, t.y_v + at, last ? nullptr : s->layer[l + 1].v + 3 * at};
    apply_kernel<<<blocks_of(n), 256, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("update");
    return MLFF_OK;
}

template <typename T> mlff_status update_forward(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(T) != sizeof(double))
        if (fragments_fit<T>(s->w)) return fused_update_forward(s, l, error);
    for (int64_t begin = 0; begin < s->N; begin += PIECE_ROWS)
        MLFF_TRY(forward_piece(s, l, begin, rows_of_piece(s->N, begin), error));
    return MLFF_OK;
}

template <typename T>
static mlff_status reverse_piece(state<T> *s, int l, int64_t begin, int64_t rows, mlff_error *error)
{
    const int F = s->w.F, last = l == s->w.L - 1, y_width = last ? 2 * F : 3 * F;
    const int64_t n = rows * F, at = begin * F;
    const layer_weights<real<T>> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    real<T> *in_adj = s->scratch, *h_adj = in_adj + 2 * n, *y_adj = h_adj + n, *VU_adj = y_adj + 3 * n, *v_part = y_adj,
            *none =
                nullptr; /* [rows][2F], [rows][F], [rows][3F], [rows][3][2F]; y_adj is done with when v_part is made */
    const T *VU = t.VU + 6 * at;
    T *adj = s->adj + 4 * at;
    outputs_reverse_kernel<T><<<blocks_of(n), 256, 0, s->stream>>>(rows, F, last, VU, adj, y_adj);
    MLFF_TRY(dense_rows(w.dense1_T, (const real<T> *)y_adj, y_width, h_adj, F, rows, DENSE_SLOPE, t.dense_slope + at,
                        s->stream, error));
    MLFF_TRY(
        dense_rows(w.dense0_T, (const real<T> *)h_adj, F, in_adj, 2 * F, rows, DENSE_STORE, none, s->stream, error));
    const products_reverse_arguments<T> a = {rows,   F,           last,       s->w.epsilon, VU,
                                             in_adj, t.y_sv + at, t.y_v + at, adj,          VU_adj};
    products_reverse_kernel<<<blocks_of(n), 256, 0, s->stream>>>(a);
    MLFF_TRY(
        dense_rows(w.mix_T, (const real<T> *)VU_adj, 2 * F, v_part, F, 3 * rows, DENSE_STORE, none, s->stream, error));
    add_vectors_kernel<T><<<blocks_of(3 * n), 256, 0, s->stream>>>(rows, F, v_part, adj);
    CUDA_TRY_LAUNCH("update, reverse");
    return MLFF_OK;
}

template <typename T> mlff_status update_reverse(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(T) != sizeof(double))
        if (fragments_fit<T>(s->w)) return fused_update_reverse(s, l, error);
    for (int64_t begin = 0; begin < s->N; begin += PIECE_ROWS)
        MLFF_TRY(reverse_piece(s, l, begin, rows_of_piece(s->N, begin), error));
    return MLFF_OK;
}

template mlff_status update_forward(state<float> *, int, mlff_error *);
template mlff_status update_forward(state<double> *, int, mlff_error *);
template mlff_status update_forward(state<__half> *, int, mlff_error *);
template mlff_status update_reverse(state<float> *, int, mlff_error *);
template mlff_status update_reverse(state<double> *, int, mlff_error *);
template mlff_status update_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
