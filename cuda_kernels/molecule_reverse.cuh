/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_REVERSE_CUH
#define MLFF_CUDA_MOLECULE_REVERSE_CUH
/* The layers in reverse, mirrored (docs/equations.md): adjoints of the state, own columns, [n][stride_of(4 own)] s, v.
 * */
#include "molecule_layers.cuh"

namespace mlff
{
namespace molecule
{

/* y_adj of layer l from the adjoints of its outputs, s_adj here and v_adj in `adj`: the operand of dense1's reverse. */
template <typename B>
__device__ inline void put_outputs_reverse(const B &b, int l, const float *adj, int row, int f, float2 s_adj)
{
    const int own = b.own(), last = l == b.a.w.L - 1;
    const float *VU = layer_of(b, l).VU + 6 * row * own + f, *v_adj = adj + row * stride_of(4 * own) + own + f;
    float *to = b.floats(b.a.at.operand) + row * stride_of((last ? 2 : 3) * own) + f;
    float2 UV = make_float2(0, 0), Uv = UV;
    for (int c = 0; c < 3; c++) {
        const float2 U = two(VU + (2 * c + 1) * own);
        UV = UV + U * two(VU + 2 * c * own);
        Uv = Uv + U * two(v_adj + c * own);
    }
    put_two(to, s_adj);
    put_two(to + own, s_adj * UV);
    if (!last) put_two(to + 2 * own, Uv);
}

/* The start of all adjoints, from what readout0's reverse sent: v_adj = 0. */
template <typename B> __device__ inline void begin_reverse(const B &b, float *adj)
{
    const int own = b.own(), stride = stride_of(4 * own);
    for_pairs(0, b.n, own, [&](int row, int f) {
        const float2 s_adj = scattered_sum(b, b.n, row, f);
        float *to = adj + row * stride + f;
        put_two(to, s_adj);
        for (int c = 1; c < 4; c++) put_two(to + c * own, make_float2(0, 0));
        put_outputs_reverse(b, b.a.w.L - 1, adj, row, f, s_adj);
    });
    __syncthreads();
}

/* What was sent, times a slope, into all blocks. */
template <typename B> __device__ inline void put_hidden_adjoints(const B &b, const float *slopes)
{
    const int own = b.own(), in_all = stride_of(b.F());
    float *to = b.exchange_now() + b.first_column;
    for_pairs(0, b.n, own, [&](int row, int f) {
        send_to_all(b, to + row * in_all + f, scattered_sum(b, b.n, row, f) * two(slopes + row * own + f));
    });
}

__device__ inline float quotient_or_zero(float x, float n)
{
    return n > 0 ? x / n : 0;
}

/* (V_adj, U_adj), the operand of mix's reverse, and s_adj += the first half of [s, n]_adj. */
template <typename B>
__device__ inline void put_products_reverse(const B &b, int l, const slice_sums &sums, int begin, int rows, float *adj)
{
    const int own = b.own(), last = l == b.a.w.L - 1, stride = stride_of(2 * own);
    const layer_memory m = layer_of(b, l);
    for_pairs(begin, rows, own, [&](int row, int f) {
        const float *VU = m.VU + 6 * row * own + f;
        float *state_adj = adj + row * stride_of(4 * own) + f;
        float2 square = make_float2(b.a.epsilon, b.a.epsilon);
        for (int c = 0; c < 3; c++) square = square + two(VU + 2 * c * own) * two(VU + 2 * c * own);
        const float2 n_adj = sums(row - begin, own + f), s_adj = two(state_adj);
        const float2 along =
            make_float2(quotient_or_zero(n_adj.x, sqrtf(square.x)), quotient_or_zero(n_adj.y, sqrtf(square.y)));
        const float2 across = s_adj * two(m.y_sv + row * own + f);
        const float2 y_v = last ? make_float2(0, 0) : two(m.y_v + row * own + f);
        for (int c = 0; c < 3; c++) {
            const float2 V = two(VU + 2 * c * own), U = two(VU + (2 * c + 1) * own);
            float *to = b.floats(b.a.at.operand) + (3 * row + c) * stride + f;
            put_two(to, along * V + across * U);
            put_two(to + own, across * V + two(state_adj + (1 + c) * own) * y_v);
        }
        put_two(state_adj, s_adj + sums(row - begin, f));
    });
}

/* Layer l's update, from the operand y_adj; `w` are the weights of dense1's reverse. Ends with v_adj and s_adj of its
 * inputs in `adj`; load_next() loads for the layer before. */
template <typename B, typename LoadNext>
__device__ inline void update_reverse(B &b, int l, const warp_weights<6, 1> &w, float *adj, LoadNext load_next)
{
    const arguments &a = b.a;
    const int own = b.own(), F = b.F(), parts = l < a.w.L - 1 ? 3 : 2;
    const layer_pointers &y = a.layer[l];
    warp_weights<2, 2> w0;
    load_gathered(w0, y.dense0_T, F, own, 2, F, b.rank);
    scattered(b, w, b.floats(a.at.operand), stride_of(parts * own), parts * own, b.n);
    exchange(b, b.n * F);
    warp_weights<4, 1> mix;
    load_scattered(mix, y.mix_T, own, 2, F, F, b.rank);
    put_hidden_adjoints(b, layer_of(b, l).dense_slope);
    exchange(b, b.n * F);
    load_next();
    gathered(b, w0, b.exchange_before(), stride_of(F), F, 2 * own, b.n,
             [&](int begin, int rows, slice_sums sums) { put_products_reverse(b, l, sums, begin, rows, adj); });
    __syncthreads();
    scattered(b, mix, b.floats(a.at.operand), stride_of(2 * own), 2 * own, 3 * b.n);
    exchange(b, 3 * b.n * F);
    for_pairs(0, 3 * b.n, own, [&](int vector, int f) {
        const int row = vector / 3;
        float *v_adj = adj + row * stride_of(4 * own) + (1 + vector - 3 * row) * own + f;
        put_two(v_adj, two(v_adj) + scattered_sum(b, 3 * b.n, vector, f));
    });
    wait_for_copies();
    __syncthreads();
}

/* Layer l's context, from the operand x_adj; `w` are the weights of context1's reverse, `next` is filled with those of
 * the update before, for which y_adj is made. */
template <typename B>
__device__ inline void context_reverse(B &b, int l, const warp_weights<6, 1> &w, float *adj, warp_weights<6, 1> &next)
{
    const arguments &a = b.a;
    const int own = b.own(), F = b.F();
    warp_weights<2, 1> w0;
    load_gathered(w0, a.layer[l].context0_T, F, own, 1, F, b.rank);
    scattered(b, w, b.floats(a.at.operand), stride_of(3 * own), 3 * own, b.n);
    exchange(b, b.n * F);
    load_scattered(next, a.layer[l - 1].dense1_T, own, 3, F, F, b.rank);
    put_hidden_adjoints(b, layer_of(b, l).context_slope);
    exchange(b, b.n * F);
    gathered(b, w0, b.exchange_before(), stride_of(F), F, own, b.n, [&](int begin, int rows, slice_sums sums) {
        for_pairs(begin, rows, own, [&](int row, int f) {
            float *s_adj = adj + row * stride_of(4 * own) + f;
            const float2 sum = two(s_adj) + sums(row - begin, f);
            put_two(s_adj, sum);
            put_outputs_reverse(b, l - 1, adj, row, f, sum);
        });
    });
    __syncthreads();
}

/* Everything after the readout; `w` are the weights of readout0's reverse. Adjoints of edges are complete but for the
 * other blocks' columns. */
template <typename B> __device__ inline void reverse(B &b, const warp_weights<4, 1> &w)
{
    const arguments &a = b.a;
    const int own = b.own(), F = b.F(), L = a.w.L;
    float *adj = b.floats(a.at.adj[0]), *other = b.floats(a.at.adj[1]);
    warp_weights<6, 1> outputs;
    load_scattered(outputs, a.layer[L - 1].dense1_T, own, 2, F, F, b.rank);
    scattered(b, w, b.floats(a.at.operand), stride_of(a.w.own_readout), a.w.own_readout, b.n);
    exchange(b, b.n * F);
    begin_reverse(b, adj);
#pragma unroll 1
    for (int l = L - 1; l > 0; l--) {
        warp_weights<6, 1> w1;
        update_reverse(b, l, outputs, adj, [&] {
            load_scattered(w1, a.layer[l].context1_T, own, 3, F, F, b.rank);
            load_filter(b, l);
        });
        message_reverse(b, l, adj, other);
        float *before = adj;
        adj = other, other = before;
        __syncthreads();
        context_reverse(b, l, w1, adj, outputs);
    }
    update_reverse(b, 0, outputs, adj, [] {});
    first_message_reverse(b, adj);
}

} // namespace molecule
} // namespace mlff

#endif
