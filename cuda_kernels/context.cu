/* SPDX-License-Identifier: MIT */
/*
 * Context of interactions l >= 1, atom by atom (docs/equations.md):
 *   h = W1 s + b1,  x = W2 silu(h) + b2 = (x_s, x_R, x_v),  features = (x_s, x_R, x_v v)
 *
 * Launch   dense layers, then a thread a feature of an atom.
 * Cost     4 F^2 multiply-adds an atom each way; 17 F values read or written besides the dense layers'.
 */
#include "dense.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T>
__global__ void features_kernel(int64_t n, int F, const T *__restrict__ x, const T *__restrict__ v, T *features, T *x_v)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const T *x_i = x + i * 3 * F + f, *v_i = v + i * 3 * F + f;
    T *out = features + i * 5 * F + f;
    const T scale = x_i[2 * F];
    out[0] = x_i[0];
    out[F] = x_i[F];
    for (int a = 0; a < 3; a++) out[(2 + a) * F] = scale * v_i[a * F];
    x_v[q] = scale;
}

template <typename T>
__global__ void features_reverse_kernel(int64_t n, int F, const T *__restrict__ features_adj, const T *__restrict__ v,
                                        const T *__restrict__ x_v, T *x_adj, T *adj)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t i = q / F;
    const int f = (int)(q % F);
    const T *in = features_adj + i * 5 * F + f, *v_i = v + i * 3 * F + f, scale = x_v[q];
    T sum = 0;
    for (int a = 0; a < 3; a++) {
        const T y_adj = in[(2 + a) * F];
        sum += y_adj * v_i[a * F];
        adj[i * 4 * F + (1 + a) * F + f] += y_adj * scale;
    }
    T *out = x_adj + i * 3 * F + f;
    out[0] = in[0];
    out[F] = in[F];
    out[2 * F] = sum;
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status context_forward(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const int F = s->w.F;
    const int64_t n = (int64_t)s->N * F;
    const layer_weights<T> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    T *h = s->scratch, *x = h + n; /* [N][F], [N][3F] */
    MLFF_TRY(dense_rows(w.context0, s->s, F, h, F, s->N, DENSE_SILU, t.context_slope, s->stream, error));
    MLFF_TRY(dense_rows<T>(w.context1, h, F, x, 3 * F, s->N, DENSE_STORE, nullptr, s->stream, error));
    features_kernel<<<blocks_of(n), 256, 0, s->stream>>>(n, F, x, t.v, t.features, t.x_v);
    CUDA_TRY_LAUNCH("context");
    return MLFF_OK;
}

template <typename T> mlff_status context_reverse(state<T> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const int F = s->w.F;
    const int64_t n = (int64_t)s->N * F;
    const layer_weights<T> &w = s->w.layer[l];
    const layer_tensors<T> &t = s->layer[l];
    T *h_adj = s->scratch, *x_adj = h_adj + n; /* [N][F], [N][3F] */
    features_reverse_kernel<<<blocks_of(n), 256, 0, s->stream>>>(n, F, t.features_adj, t.v, t.x_v, x_adj, s->adj);
    MLFF_TRY(dense_rows(w.context1_T, x_adj, 3 * F, h_adj, F, s->N, DENSE_SLOPE, t.context_slope, s->stream, error));
    MLFF_TRY(dense_rows<T>(w.context0_T, h_adj, F, s->adj, 4 * F, s->N, DENSE_ADD, nullptr, s->stream, error));
    CUDA_TRY_LAUNCH("context, reverse");
    return MLFF_OK;
}

template mlff_status context_forward(state<float> *, int, mlff_error *);
template mlff_status context_forward(state<double> *, int, mlff_error *);
template mlff_status context_reverse(state<float> *, int, mlff_error *);
template mlff_status context_reverse(state<double> *, int, mlff_error *);

} // namespace mlff
