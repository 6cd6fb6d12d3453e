/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_LAYERS_CUH
#define MLFF_CUDA_MOLECULE_LAYERS_CUH
/* Contexts, updates and readout forward, own columns between dense layers (docs/equations.md). */
#include "molecule_message.cuh"
#include "silu.cuh"

namespace mlff
{
namespace molecule
{

/* ------------------------------------------------------------------------------------------------ biases */

/* `parts` parts of a bias, own columns. */
__device__ inline void load_bias(float *to, const float *bias, int own, int parts, int part_width, int rank)
{
#pragma unroll 1
    for (int v = threadIdx.x; v < parts * own; v += THREADS)
        to[v] = bias ? __ldg(bias + column_of(v, own, rank * own, part_width)) : 0;
}

template <typename B> __device__ inline void load_biases(const B &b)
{
    const arguments &a = b.a;
    const int own = b.own(), F = b.F(), L = a.w.L;
    float *to = b.floats(a.at.biases);
#pragma unroll 1
    for (int l = 0; l < L; l++, to += BIASES * own) {
        const layer_pointers &w = a.layer[l];
        load_bias(to + BIAS_CONTEXT0 * own, w.context0_bias, own, 1, F, b.rank);
        load_bias(to + BIAS_CONTEXT1 * own, w.context1_bias, own, 3, F, b.rank);
        load_bias(to + BIAS_MIX * own, w.mix_bias, own, 2, F, b.rank);
        load_bias(to + BIAS_DENSE0 * own, w.dense0_bias, own, 1, F, b.rank);
        load_bias(to + BIAS_DENSE1 * own, w.dense1_bias, own, l < L - 1 ? 3 : 2, F, b.rank);
    }
    load_bias(to, a.readout0_bias, a.w.own_readout, 1, a.w.H, b.rank);
    load_bias(to + a.w.own_readout, a.readout1, a.w.own_readout, 1, a.w.H, b.rank);
}

template <typename B> __device__ inline const float *bias_of(const B &b, int l, int which)
{
    return b.floats(b.a.at.biases) + (l * BIASES + which) * b.own();
}

__device__ inline float2 silu_of_two(float2 x, float2 *slope)
{
    float2 y;
    y.x = silu(x.x, &slope->x);
    y.y = silu(x.y, &slope->y);
    return y;
}

/* The hidden part of a context or an update: silu, its slope kept, into all blocks. */
template <typename B>
__device__ inline void put_hidden(const B &b, const slice_sums &sums, int begin, int rows, const float *bias,
                                  float *slopes)
{
    const int own = b.own(), in_all = stride_of(b.F());
    float *to = b.exchange_now() + b.first_column;
    for_pairs(begin, rows, own, [&](int row, int f) {
        float2 slope;
        const float2 h = silu_of_two(sums(row - begin, f) + two(bias + f), &slope);
        put_two(slopes + row * own + f, slope);
        send_to_all(b, to + row * in_all + f, h);
    });
}

/* ----------------------------------------------------------------------------------------------- context */

/* From s of all, which has arrived; `w` are the weights of context0. Ends with features and filter in their places, and
 * the weights of V and U in `mix`. */
template <typename B> __device__ inline void context(B &b, int l, const warp_weights<2, 1> &w, warp_weights<2, 2> &mix)
{
    const arguments &a = b.a;
    const int own = b.own(), F = b.F(), in_all = stride_of(F), stride = stride_of(5 * own);
    const layer_memory m = layer_of(b, l);
    warp_weights<2, 3> w1;
    load_gathered(w1, a.layer[l].context1, F, own, 3, F, b.rank);
    gathered(b, w, b.exchange_before(), in_all, F, own, b.n, [&](int begin, int rows, slice_sums sums) {
        put_hidden(b, sums, begin, rows, bias_of(b, l, BIAS_CONTEXT0), m.context_slope);
    });
    load_filter(b, l);
    exchange(b, b.n * F);
    load_gathered(mix, a.layer[l].mix, F, own, 2, F, b.rank);
    const float *bias = bias_of(b, l, BIAS_CONTEXT1);
    gathered(b, w1, b.exchange_before(), in_all, F, 3 * own, b.n, [&](int begin, int rows, slice_sums sums) {
        for_pairs(begin, rows, own, [&](int row, int f) {
            float *x = m.features + row * stride + f;
            const float2 x_v = sums(row - begin, 2 * own + f) + two(bias + 2 * own + f);
            put_two(x, sums(row - begin, f) + two(bias + f));
            put_two(x + own, sums(row - begin, own + f) + two(bias + own + f));
            for (int c = 0; c < 3; c++) put_two(x + (2 + c) * own, x_v * two(m.v + (3 * row + c) * own + f));
            put_two(m.x_v + row * own + f, x_v);
        });
    });
    wait_for_copies();
    __syncthreads();
}

/* ------------------------------------------------------------------------------------------------ update */

/* V, U and n; s and n into all blocks. */
template <typename B>
__device__ inline void put_norms(const B &b, const layer_memory &m, const slice_sums &sums, int begin, int rows,
                                 const float *bias)
{
    const int own = b.own(), F = b.F(), in_all = stride_of(2 * F);
    float *to = b.exchange_now() + b.first_column;
    for_pairs(begin / 3, rows / 3, own, [&](int row, int f) {
        float2 square = make_float2(b.a.epsilon, b.a.epsilon);
        for (int c = 0; c < 3; c++) {
            const float2 V = sums(3 * row + c - begin, f) + two(bias + f);
            const float2 U = sums(3 * row + c - begin, own + f) + two(bias + own + f);
            put_two(m.VU + (3 * row + c) * 2 * own + f, V);
            put_two(m.VU + (3 * row + c) * 2 * own + own + f, U);
            square = square + V * V;
        }
        send_to_all(b, to + row * in_all + f, two(b.floats(b.a.at.s) + row * own + f));
        send_to_all(b, to + row * in_all + F + f, make_float2(sqrtf(square.x), sqrtf(square.y)));
    });
}

/* s += y_s + y_sv (U.V), into all blocks; v += y_v U, the next layer's. */
template <typename B> __device__ inline void put_update(const B &b, int l, const slice_sums &sums, int begin, int rows)
{
    const int own = b.own(), in_all = stride_of(b.F()), last = l == b.a.w.L - 1;
    const layer_memory m = layer_of(b, l), next = layer_of(b, last ? l : l + 1);
    const float *bias = bias_of(b, l, BIAS_DENSE1), *v = b.floats(b.a.at.v);
    float *to = b.exchange_now() + b.first_column, *s = b.floats(b.a.at.s);
    for_pairs(begin, rows, own, [&](int row, int f) {
        const float *VU = m.VU + 6 * row * own + f;
        float2 UV = make_float2(0, 0);
        for (int c = 0; c < 3; c++) UV = UV + two(VU + 2 * c * own) * two(VU + (2 * c + 1) * own);
        const float2 y_s = sums(row - begin, f) + two(bias + f);
        const float2 y_sv = sums(row - begin, own + f) + two(bias + own + f);
        const float2 sum = two(s + row * own + f) + y_s + y_sv * UV;
        put_two(s + row * own + f, sum);
        send_to_all(b, to + row * in_all + f, sum);
        put_two(m.y_sv + row * own + f, y_sv);
        if (last) return;
        const float2 y_v = sums(row - begin, 2 * own + f) + two(bias + 2 * own + f);
        put_two(m.y_v + row * own + f, y_v);
        for (int c = 0; c < 3; c++)
            put_two(next.v + (3 * row + c) * own + f,
                    two(v + (3 * row + c) * own + f) + y_v * two(VU + (2 * c + 1) * own));
    });
}

/* From v of all, which has arrived; `w` are the weights of V and U, load_next() loads those of the layer after. Ends
 * with s on its way to all. */
template <typename B, typename LoadNext>
__device__ inline void update(B &b, int l, const warp_weights<2, 2> &w, LoadNext load_next)
{
    const arguments &a = b.a;
    const int own = b.own(), F = b.F(), parts = l < a.w.L - 1 ? 3 : 2;
    const layer_memory m = layer_of(b, l);
    warp_weights<4, 1> w0;
    load_gathered(w0, a.layer[l].dense0, 2 * F, own, 1, F, b.rank);
    gathered(b, w, b.exchange_before(), stride_of(F), F, 2 * own, 3 * b.n, [&](int begin, int rows, slice_sums sums) {
        put_norms(b, m, sums, begin, rows, bias_of(b, l, BIAS_MIX));
    });
    exchange(b, 2 * b.n * F);
    warp_weights<2, 3> w1;
    load_gathered(w1, a.layer[l].dense1, F, own, parts, F, b.rank);
    gathered(b, w0, b.exchange_before(), stride_of(2 * F), 2 * F, own, b.n, [&](int begin, int rows, slice_sums sums) {
        put_hidden(b, sums, begin, rows, bias_of(b, l, BIAS_DENSE0), m.dense_slope);
    });
    exchange(b, b.n * F);
    load_next();
    gathered(b, w1, b.exchange_before(), stride_of(F), F, parts * own, b.n,
             [&](int begin, int rows, slice_sums sums) { put_update(b, l, sums, begin, rows); });
}

/* ----------------------------------------------------------------------------------------------- readout */

/* From s of all, which has arrived: the energies of own readout columns, and the operand of the reverse. */
template <typename B> __device__ inline void readout(const B &b, const warp_weights<2, 2> &w)
{
    const arguments &a = b.a;
    const int own = a.w.own_readout, stride = stride_of(own), F = b.F();
    const float *bias = bias_of(b, a.w.L, 0), *weights = bias + own, scale = (float)a.scale;
    double *terms = b.doubles(a.at.energy_terms);
    gathered(b, w, b.exchange_before(), stride_of(F), F, own, b.n, [&](int begin, int rows, slice_sums sums) {
        for_pairs(begin, rows, own, [&](int row, int f) {
            const float2 w1 = two(weights + f);
            float2 slope;
            const float2 h = silu_of_two(sums(row - begin, f) + two(bias + f), &slope);
            terms[(row * own + f) / 2] = (double)h.x * (double)w1.x + (double)h.y * (double)w1.y;
            put_two(b.floats(a.at.operand) + row * stride + f, scale * w1 * slope);
        });
    });
    __syncthreads();
#pragma unroll 1
    for (int row = threadIdx.x; row < b.n; row += THREADS) {
        double sum = 0;
        for (int q = 0; q < own / 2; q++) sum += terms[row * (own / 2) + q];
        b.doubles(a.at.energy)[row] = sum;
    }
}

} // namespace molecule
} // namespace mlff

#endif
