/* SPDX-License-Identifier: MIT */
/*
 * Update, atom by atom (docs/equations.md):
 *   V = Wv v, U = Wu v (+ bias);  n = sqrt(|V|^2 + epsilon);  y = A2 silu(A1 [s, n] + a1) + a2 = (y_s, y_sv, y_v)
 *   s += y_s + y_sv (U.V);  v += y_v U (not in the last layer)
 *
 * Launch   dense layers, then a thread a feature of an atom.
 * Cost     11 F^2 multiply-adds an atom each way (10 in the last layer).
 */
#include "dense.cuh"
#include "silu.cuh"

namespace mlff
{

__device__ inline float square_root(float x)
{
    return sqrtf(x);
}

__device__ inline double square_root(double x)
{
    return sqrt(x);
}

/* ---------------------------------------------------------------------------------------------- kernels */

/* in = [s, n] */
template <typename T>
__global__ void norms_kernel(int64_t rows, int F, T epsilon, const T *__restrict__ VU, const T *__restrict__ s, T *in)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    T square = epsilon;
    for (int a = 0; a < 3; a++) {
        const T V = VU[(i * 3 + a) * 2 * F + f];
        square += V * V;
    }
    in[i * 2 * F + f] = s[q];
    in[i * 2 * F + F + f] = square_root(square);
}

template <typename T> struct apply_arguments {
    int64_t rows;
    int F, last;
    const T *y, *VU, *v_mid; /* [N][3F or 2F], [N][3][2][F], [N][3][F] */
    T *s, *y_sv, *y_v, *v_out;
};

template <typename T> __global__ void apply_kernel(apply_arguments<T> a)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int F = a.F;
    if (q >= a.rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const T *y = a.y + i * (a.last ? 2 : 3) * F + f;
    T U[3], UV = 0;
    for (int c = 0; c < 3; c++) {
        U[c] = a.VU[((i * 3 + c) * 2 + 1) * F + f];
        UV += U[c] * a.VU[(i * 3 + c) * 2 * F + f];
    }
    a.s[q] += y[0] + y[F] * UV;
    a.y_sv[q] = y[F];
    if (a.last) return;
    const T y_v = y[2 * F];
    a.y_v[q] = y_v;
    for (int c = 0; c < 3; c++) {
        const int64_t place = (i * 3 + c) * F + f;
        a.v_out[place] = a.v_mid[place] + y_v * U[c];
    }
}

/* y_adj from the adjoints of the outputs */
template <typename T>
__global__ void outputs_reverse_kernel(int64_t rows, int F, int last, const T *__restrict__ VU,
                                       const T *__restrict__ adj, T *y_adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const T s_adj = adj[i * 4 * F + f];
    T UV = 0, Uv = 0;
    for (int c = 0; c < 3; c++) {
        const T U = VU[((i * 3 + c) * 2 + 1) * F + f];
        UV += U * VU[(i * 3 + c) * 2 * F + f];
        Uv += U * adj[(i * 4 + 1 + c) * F + f];
    }
    T *out = y_adj + i * (last ? 2 : 3) * F + f;
    out[0] = s_adj;
    out[F] = s_adj * UV;
    if (!last) out[2 * F] = Uv;
}

/* (V_adj, U_adj), and s_adj += the first half of in_adj */
template <typename T>
__global__ void products_reverse_kernel(int64_t rows, int F, int last, T epsilon, const T *__restrict__ VU,
                                        const T *__restrict__ in_adj, const T *__restrict__ y_sv,
                                        const T *__restrict__ y_v, T *adj, T *VU_adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * F) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    T V[3], square = epsilon;
    for (int c = 0; c < 3; c++) {
        V[c] = VU[(i * 3 + c) * 2 * F + f];
        square += V[c] * V[c];
    }
    const T n = square_root(square), along = n > 0 ? in_adj[i * 2 * F + F + f] / n : T(0);
    const T s_adj = adj[i * 4 * F + f], across = s_adj * y_sv[q], y = last ? T(0) : y_v[q];
    for (int c = 0; c < 3; c++) {
        const int64_t place = (i * 3 + c) * 2 * F + f;
        const T v_adj = last ? T(0) : adj[(i * 4 + 1 + c) * F + f];
        VU_adj[place] = along * V[c] + across * VU[place + F];
        VU_adj[place + F] = across * V[c] + v_adj * y;
    }
    adj[i * 4 * F + f] = s_adj + in_adj[i * 2 * F + f];
}

/* adj's v_adj += v_part [N][3][F] */
template <typename T> __global__ void add_vectors_kernel(int64_t rows, int F, const T *__restrict__ v_part, T *adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rows * 3 * F) return;
    const int64_t i = q / (3 * F);
    adj[i * 4 * F + F + q % (3 * F)] += v_part[q];
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status update_forward(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const int F = s->w.F, last = l == s->w.L - 1;
    const int64_t N = s->N, n = N * F;
    const layer_weights<T> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    T *in = s->scratch, *h = in + 2 * n, *y = h + n; /* [N][2F], [N][F], [N][3F] */
    MLFF_TRY(dense_rows<T>(w.mix, s->v_mid, F, t.VU, 2 * F, 3 * N, DENSE_STORE, nullptr, s->stream, error));
    norms_kernel<<<blocks_of(n), 256, 0, s->stream>>>(N, F, s->w.epsilon, t.VU, s->s, in);
    MLFF_TRY(dense_rows(w.dense0, in, 2 * F, h, F, N, DENSE_SILU, t.dense_slope, s->stream, error));
    MLFF_TRY(dense_rows<T>(w.dense1, h, F, y, last ? 2 * F : 3 * F, N, DENSE_STORE, nullptr, s->stream, error));
    const apply_arguments<T> a = {N,        F,    last,   y,     t.VU,
                                  s->v_mid, s->s, t.y_sv, t.y_v, last ? nullptr : s->layer[l + 1].v};
    apply_kernel<<<blocks_of(n), 256, 0, s->stream>>>(a);
    CUDA_TRY_LAUNCH("update");
    return MLFF_OK;
}

template <typename T> mlff_status update_reverse(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const int F = s->w.F, last = l == s->w.L - 1, y_width = last ? 2 * F : 3 * F;
    const int64_t N = s->N, n = N * F;
    const layer_weights<T> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    T *in_adj = s->scratch, *h_adj = in_adj + 2 * n, *y_adj = h_adj + n, *VU_adj = y_adj + 3 * n,
      *v_part = y_adj; /* [N][2F], [N][F], [N][3F], [N][3][2F]; y_adj is done with when v_part is made */
    outputs_reverse_kernel<<<blocks_of(n), 256, 0, s->stream>>>(N, F, last, t.VU, s->adj, y_adj);
    MLFF_TRY(dense_rows(w.dense1_T, y_adj, y_width, h_adj, F, N, DENSE_SLOPE, t.dense_slope, s->stream, error));
    MLFF_TRY(dense_rows<T>(w.dense0_T, h_adj, F, in_adj, 2 * F, N, DENSE_STORE, nullptr, s->stream, error));
    products_reverse_kernel<<<blocks_of(n), 256, 0, s->stream>>>(N, F, last, s->w.epsilon, t.VU, in_adj, t.y_sv, t.y_v,
                                                                 s->adj, VU_adj);
    MLFF_TRY(dense_rows<T>(w.mix_T, VU_adj, 2 * F, v_part, F, 3 * N, DENSE_STORE, nullptr, s->stream, error));
    add_vectors_kernel<<<blocks_of(3 * n), 256, 0, s->stream>>>(N, F, v_part, s->adj);
    CUDA_TRY_LAUNCH("update, reverse");
    return MLFF_OK;
}

template mlff_status update_forward(state<float> *, int, mlff_error *);
template mlff_status update_forward(state<double> *, int, mlff_error *);
template mlff_status update_reverse(state<float> *, int, mlff_error *);
template mlff_status update_reverse(state<double> *, int, mlff_error *);

} // namespace mlff
