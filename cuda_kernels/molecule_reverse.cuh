/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_REVERSE_CUH
#define MLFF_CUDA_MOLECULE_REVERSE_CUH
/* The layers in reverse, mirrored (docs/equations.md): adjoints of the state, own columns, s and v
 * [n][stride_of(4 own)]. */
#include "molecule_layers.cuh"

namespace mlff
{
namespace molecule
{

/* y_adj of layer l from the adjoints of its outputs, s_adj here and v_adj in `adj`: the operand of dense1's reverse. By
 * quads. */
template <typename B>
__device__ inline void put_outputs_reverse(const B &b, int l, const float *adj, int row, int f, float2 s_adj, int q,
                                           bool valid)
{
    const int own = b.own(), last = l == b.a.w.L - 1, c = min(q, 2);
    const float *VU = layer_of(b, l).VU + (3 * row + c) * 2 * own + f;
    const float2 zero = make_float2(0, 0), U = q < 3 ? two(VU + own) : zero;
    const float2 UV = over_quad(U * two(VU));
    const float2 Uv = over_quad(last ? zero : U * two(adj + row * stride_of(4 * own) + (1 + c) * own + f));
    if (valid && q < (last ? 2 : 3))
        put_two(b.floats(b.a.at.operand) + row * stride_of((last ? 2 : 3) * own) + q * own + f, q == 0   ? s_adj
                                                                                                : q == 1 ? s_adj * UV
                                                                                                         : Uv);
}

/* The start of all adjoints, from what readout0's reverse sent: v_adj = 0. */
template <typename B> __device__ inline void begin_reverse(const B &b, float *adj)
{
    const int own = b.own(), stride = stride_of(4 * own);
    for_quads(0, b.n, b.features(), [&](int row, int f, int q, bool valid) {
        const float2 s_adj = scattered_sum_of_quad(b, b.n, row, f, q);
        if (valid) put_two(adj + row * stride + q * own + f, q == 0 ? s_adj : make_float2(0, 0));
        put_outputs_reverse(b, b.a.w.L - 1, adj, row, f, s_adj, q, valid);
    });
    __syncthreads();
}

/* What was sent, times a slope, into all blocks. */
template <typename B> __device__ inline void put_hidden_adjoints(const B &b, const float *slopes)
{
    const int own = b.own(), in_all = stride_of(b.F());
    float *to = b.exchange_now() + b.first_column;
    for_quads(0, b.n, b.features(), [&](int row, int f, int q, bool valid) {
        const float2 sum = scattered_sum_of_quad(b, b.n, row, f, q);
        if (valid) send_by_quad(b, to + row * in_all + f, sum * two(slopes + row * own + f), q);
    });
}

__device__ inline float times_inverse_root(float x, float square)
{
    return square > 0 ? x * rsqrtf(square) : 0;
}

/* (V_adj, U_adj), the operand of mix's reverse, and s_adj += the first half of [s, n]_adj. */
template <typename B>
__device__ inline void put_products_reverse(const B &b, int l, const slice_sums &sums, int begin, int rows, float *adj)
{
    const int own = b.own(), last = l == b.a.w.L - 1, stride = stride_of(2 * own);
    const layer_memory m = layer_of(b, l);
    for_quads(begin, rows, b.features(), [&](int row, int f, int q, bool valid) {
        const int c = min(q, 2);
        const float *VU = m.VU + (3 * row + c) * 2 * own + f;
        float *state_adj = adj + row * stride_of(4 * own) + f;
        const float2 V = two(VU), U = two(VU + own), s_adj = two(state_adj), zero = make_float2(0, 0);
        const float2 square = over_quad(q < 3 ? V * V : zero), mine = sums(row - begin, q % 2 * own + f);
        const float2 n_adj = of_lane(mine, 1), y_v = last ? zero : two(m.y_v + row * own + f);
        const float2 along = make_float2(times_inverse_root(n_adj.x, square.x + b.a.epsilon),
                                         times_inverse_root(n_adj.y, square.y + b.a.epsilon));
        const float2 across = s_adj * two(m.y_sv + row * own + f);
        __syncwarp(); /* the quad has read s_adj */
        if (!valid) return;
        if (q == 0) put_two(state_adj, s_adj + mine);
        if (q == 3) return;
        float *to = b.floats(b.a.at.operand) + (3 * row + q) * stride + f;
        put_two(to, along * V + across * U);
        put_two(to + own, across * V + two(state_adj + (1 + q) * own) * y_v);
    });
}

/* Layer l's update, from the operand y_adj; `w` are the weights of dense1's reverse. Ends with v_adj and s_adj of its
 * inputs in `adj`; load_next() loads for the layer before. */
template <typename B, typename LoadNext>
__device__ inline void update_reverse(B &b, int l, const warp_weights<B::steps(3), 1> &w, float *adj,
                                      LoadNext load_next)
{
    const auto &a = b.a;
    const int own = b.own(), F = b.F(), parts = l < a.w.L - 1 ? 3 : 2;
    const layer_pointers &y = a.layer[l];
    scattered<B::IN_UNITS>(b, w, b.floats(a.at.operand), stride_of(parts * own), parts, b.features(), b.n);
    warp_weights<2, B::tiles(2)> w0;
    load_gathered(w0, y.dense0_T, F, 2, b);
    exchange(b, b.scattered_count(b.n));
    put_hidden_adjoints(b, layer_of(b, l).dense_slope);
    warp_weights<B::steps(2), 1> mix;
    load_scattered(mix, y.mix_T, 2, b);
    exchange(b, b.n * F);
    gathered<B::KNOWN>(
        b, w0, b.exchange_before(), stride_of(F), F, 2 * own, b.n,
        [&](int begin, int rows, slice_sums sums) { put_products_reverse(b, l, sums, begin, rows, adj); });
    __syncthreads();
    scattered<B::IN_UNITS>(b, mix, b.floats(a.at.operand), stride_of(2 * own), 2, b.features(), 3 * b.n);
    load_next();
    exchange(b, b.scattered_count(3 * b.n));
    for_pairs(0, 3 * b.n, b.features(), [&](int vector, int f) {
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
__device__ inline void context_reverse(B &b, int l, const warp_weights<B::steps(3), 1> &w, float *adj,
                                       warp_weights<B::steps(3), 1> &next)
{
    const auto &a = b.a;
    const int own = b.own(), F = b.F();
    scattered<B::IN_UNITS>(b, w, b.floats(a.at.operand), stride_of(3 * own), 3, b.features(), b.n);
    warp_weights<2, B::tiles(1)> w0;
    load_gathered(w0, a.layer[l].context0_T, F, 1, b);
    exchange(b, b.scattered_count(b.n));
    put_hidden_adjoints(b, layer_of(b, l).context_slope);
    load_scattered(next, a.layer[l - 1].dense1_T, 3, b);
    exchange(b, b.n * F);
    gathered<B::KNOWN>(b, w0, b.exchange_before(), stride_of(F), F, own, b.n,
                       [&](int begin, int rows, slice_sums sums) {
                           for_quads(begin, rows, b.features(), [&](int row, int f, int q, bool valid) {
                               float *s_adj = adj + row * stride_of(4 * own) + f;
                               const float2 sum = two(s_adj) + sums.of_quad(row - begin, f, q);
                               __syncwarp(); /* the quad has read s_adj */
                               put_outputs_reverse(b, l - 1, adj, row, f, sum, q, valid);
                               if (valid && q == 0) put_two(s_adj, sum);
                           });
                       });
    __syncthreads();
}

/* Everything after the readout; `w` are the weights of readout0's reverse. Adjoints of edges are complete but for the
 * other blocks' columns. */
template <typename B> __device__ inline void reverse(B &b, const warp_weights<4 * B::EACH, 1> &w)
{
    const auto &a = b.a;
    const int F = b.F(), L = a.w.L;
    float *adj = b.floats(a.at.adj);
    warp_weights<B::steps(3), 1> outputs;
    load_scattered(outputs, a.layer[L - 1].dense1_T, 2, b);
    scattered<1>(b, w, b.floats(a.at.operand), stride_of(a.w.own_readout), 1, b.readout(), b.n);
    exchange(b, b.scattered_count(b.n));
    begin_reverse(b, adj);
#pragma unroll 1
    for (int l = L - 1; l > 0; l--) {
        warp_weights<B::steps(3), 1> w1;
        const auto load_context = [&](bool now) {
            if (now) load_scattered(w1, a.layer[l].context1_T, 3, b);
        };
        update_reverse(b, l, outputs, adj, [&] {
            load_context(B::LOADS_EARLY);
            load_filter(b, l);
        });
        message_reverse(b, l, adj, [&] { load_context(!B::LOADS_EARLY); });
        __syncthreads();
        context_reverse(b, l, w1, adj, outputs);
    }
    coefficient_weights<B> first;
    update_reverse(b, 0, outputs, adj, [&] { load_first_reverse(b, first, 0, 0, min(a.w.slots, b.n_elements)); });
    first_message_reverse(b, first, adj);
}

} // namespace molecule
} // namespace mlff

#endif
