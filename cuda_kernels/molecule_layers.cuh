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

/* Of the layer's biases, in the order of BIAS_CONTEXT0 and so on: part `which` of F values, or NULL. */
__device__ inline const float *bias_part(const layer_pointers &w, int which, int last, int F)
{
    const float *from = w.context0_bias;
    int first = BIAS_CONTEXT0;
    if (which >= BIAS_CONTEXT1) from = w.context1_bias, first = BIAS_CONTEXT1;
    if (which >= BIAS_MIX) from = w.mix_bias, first = BIAS_MIX;
    if (which >= BIAS_DENSE0) from = w.dense0_bias, first = BIAS_DENSE0;
    if (which >= BIAS_DENSE1) from = w.dense1_bias, first = BIAS_DENSE1;
    return from && !(last && which == BIAS_DENSE1 + 2) ? from + (which - first) * F : NULL;
}

/* A thread a value: their loads are under way together. */
template <typename B> __device__ inline void load_biases(const B &b)
{
    const auto &a = b.a;
    const int own = b.own(), each = BIASES * own, of_layers = a.w.L * each, H = a.w.own_readout;
    float *to = b.floats(a.at.biases);
#pragma unroll 1
    for (int q = threadIdx.x; q < of_layers + 2 * H; q += THREADS) {
        const float *from;
        if (q < of_layers) {
            const int l = q / each, v = q - l * each, which = v / own;
            from = bias_part(a.layer[l], which, l == a.w.L - 1, b.F());
            const int f = v - which * own;
            from = from && f < b.features().columns ? from + b.first_column + f : NULL;
        } else {
            const int v = q - of_layers, of_output = v >= H;
            from = of_output ? a.readout1 : a.readout0_bias;
            from = from && b.readout().columns > 0 ? from + b.rank * H + v - of_output * H : NULL;
        }
        to[q] = from ? __ldg(from) : 0;
    }
}

template <typename B> __device__ inline const float *bias_of(const B &b, int l, int which)
{
    return b.floats(b.a.at.biases) + (l * BIASES + which) * b.own();
}

/* silu (silu.cuh) by the units' reciprocal, which is right but for the last bit and has no branch. */
__device__ inline float fast_silu(float x, float *slope)
{
    const float sigma = __fdividef(1, 1 + exponential(-x));
    *slope = sigma * (1 + x * (1 - sigma));
    return x * sigma;
}

__device__ inline float2 silu_of_two(float2 x, float2 *slope)
{
    float2 y;
    y.x = fast_silu(x.x, &slope->x);
    y.y = fast_silu(x.y, &slope->y);
    return y;
}

/* The hidden part of a context or an update: silu, its slope kept, into all blocks. */
template <typename B>
__device__ inline void put_hidden(const B &b, const slice_sums &sums, int begin, int rows, const float *bias,
                                  float *slopes)
{
    const int own = b.own(), in_all = stride_of(b.F());
    float *to = b.exchange_now() + b.first_column;
    for_quads(begin, rows, b.features(), [&](int row, int f, int q, bool valid) {
        float2 slope;
        const float2 h = silu_of_two(sums.of_quad(row - begin, f, q) + two(bias + f), &slope);
        if (!valid) return;
        if (q == 0) put_two(slopes + row * own + f, slope);
        send_by_quad(b, to + row * in_all + f, h, q);
    });
}

/* ----------------------------------------------------------------------------------------------- context */

/* From s of all, which has arrived; `w` are the weights of context0. Ends with features and filter in their places;
 * load_next() before that. */
template <typename B, typename LoadNext>
__device__ inline void context(B &b, int l, const warp_weights<2, B::tiles(1)> &w, LoadNext load_next)
{
    const auto &a = b.a;
    const int own = b.own(), F = b.F(), in_all = stride_of(F), stride = stride_of(5 * own);
    const layer_memory m = layer_of(b, l);
    gathered<B::KNOWN>(b, w, b.exchange_before(), in_all, F, own, b.n, [&](int begin, int rows, slice_sums sums) {
        put_hidden(b, sums, begin, rows, bias_of(b, l, BIAS_CONTEXT0), m.context_slope);
    });
    warp_weights<2, B::tiles(3)> w1; /* loaded where all wait for each other anyway, like those of the other layers */
    load_gathered(w1, a.layer[l].context1, F, 3, b);
    load_filter(b, l);
    exchange(b, b.n * F);
    const float *bias = bias_of(b, l, BIAS_CONTEXT1);
    gathered<B::KNOWN>(b, w1, b.exchange_before(), in_all, F, 3 * own, b.n, [&](int begin, int rows, slice_sums sums) {
        for_quads(begin, rows, b.features(), [&](int row, int f, int q, bool valid) {
            float *x = m.features + row * stride + f;
            const int part = min(q, 2);
            const float2 mine = sums(row - begin, part * own + f) + two(bias + part * own + f), x_v = of_lane(mine, 2);
            if (q == 3 || !valid) return;
            put_two(q < 2 ? x + q * own : m.x_v + row * own + f, mine);
            put_two(x + (2 + q) * own, x_v * two(m.v + (3 * row + q) * own + f));
        });
    });
    load_next();
    wait_for_copies();
    __syncthreads();
}

/* ------------------------------------------------------------------------------------------------ update */

/* As the units give it, right but for the last bit. */
__device__ inline float square_root(float x)
{
    return x > 0 ? x * rsqrtf(x) : x;
}

/* V, U and n; s and n into all blocks. */
template <typename B>
__device__ inline void put_norms(const B &b, const layer_memory &m, const slice_sums &sums, int begin, int rows,
                                 const float *bias)
{
    const int own = b.own(), F = b.F(), in_all = stride_of(2 * F);
    float *to = b.exchange_now() + b.first_column;
    for_quads(begin / 3, rows / 3, b.features(), [&](int row, int f, int q, bool valid) {
        const int vector = 3 * row + min(q, 2);
        const float2 V = sums(vector - begin, f) + two(bias + f),
                     U = sums(vector - begin, own + f) + two(bias + own + f);
        const float2 square = over_quad(q < 3 ? V * V : make_float2(0, 0));
        if (!valid) return;
        if (q < 3) {
            put_two(m.VU + vector * 2 * own + f, V);
            put_two(m.VU + vector * 2 * own + own + f, U);
        }
        send_by_quad(b, to + row * in_all + f, two(b.floats(b.a.at.s) + row * own + f), q);
        send_by_quad(b, to + row * in_all + F + f,
                     make_float2(square_root(square.x + b.a.epsilon), square_root(square.y + b.a.epsilon)), q);
    });
}

/* s += y_s + y_sv (U.V), into all blocks; v += y_v U, the next layer's. */
template <typename B> __device__ inline void put_update(const B &b, int l, const slice_sums &sums, int begin, int rows)
{
    const int own = b.own(), in_all = stride_of(b.F()), last = l == b.a.w.L - 1;
    const layer_memory m = layer_of(b, l), next = layer_of(b, last ? l : l + 1);
    const float *bias = bias_of(b, l, BIAS_DENSE1), *v = b.floats(b.a.at.v);
    float *to = b.exchange_now() + b.first_column, *s = b.floats(b.a.at.s);
    for_quads(begin, rows, b.features(), [&](int row, int f, int q, bool valid) {
        const int part = min(q, last ? 1 : 2), c = min(q, 2), vector = (3 * row + c) * own + f;
        const float *VU = m.VU + (3 * row + c) * 2 * own + f;
        const float2 U = two(VU + own), s_before = two(s + row * own + f);
        const float2 UV = over_quad(q < 3 ? U * two(VU) : make_float2(0, 0));
        const float2 mine = sums(row - begin, part * own + f) + two(bias + part * own + f);
        const float2 sum = s_before + of_lane(mine, 0) + of_lane(mine, 1) * UV, y_v = of_lane(mine, 2);
        __syncwarp(); /* the quad has read s */
        if (!valid) return;
        send_by_quad(b, to + row * in_all + f, sum, q);
        if (q == 0) put_two(s + row * own + f, sum);
        if (q == 1) put_two(m.y_sv + row * own + f, mine);
        if (q == 3 || last) return;
        if (q == 2) put_two(m.y_v + row * own + f, mine);
        put_two(next.v + vector, two(v + vector) + y_v * U);
    });
}

/* From v of all, which has arrived; `w` are the weights of V and U. Ends with s on its way to all. */
template <typename B> __device__ inline void update(B &b, int l, const warp_weights<2, B::tiles(2)> &w)
{
    const auto &a = b.a;
    const int own = b.own(), F = b.F(), parts = l < a.w.L - 1 ? 3 : 2;
    const layer_memory m = layer_of(b, l);
    gathered<B::KNOWN>(
        b, w, b.exchange_before(), stride_of(F), F, 2 * own, 3 * b.n,
        [&](int begin, int rows, slice_sums sums) { put_norms(b, m, sums, begin, rows, bias_of(b, l, BIAS_MIX)); });
    warp_weights<4, B::tiles(1)> w0;
    load_gathered(w0, a.layer[l].dense0, 2 * F, 1, b);
    exchange(b, 2 * b.n * F);
    gathered<B::KNOWN>(b, w0, b.exchange_before(), stride_of(2 * F), 2 * F, own, b.n,
                       [&](int begin, int rows, slice_sums sums) {
                           put_hidden(b, sums, begin, rows, bias_of(b, l, BIAS_DENSE0), m.dense_slope);
                       });
    warp_weights<2, B::tiles(3)> w1;
    load_gathered(w1, a.layer[l].dense1, F, parts, b);
    exchange(b, b.n * F);
    gathered<B::KNOWN>(b, w1, b.exchange_before(), stride_of(F), F, parts * own, b.n,
                       [&](int begin, int rows, slice_sums sums) { put_update(b, l, sums, begin, rows); });
}

/* ----------------------------------------------------------------------------------------------- readout */

/* From s of all, which has arrived: the energies of own readout columns, and the operand of the reverse. load_next()
 * when the products are done. */
template <typename B, typename LoadNext>
__device__ inline void readout(const B &b, const warp_weights<2, 2 * B::EACH> &w, LoadNext load_next)
{
    const auto &a = b.a;
    const int own = a.w.own_readout, stride = stride_of(own), F = b.F();
    const float *bias = bias_of(b, a.w.L, 0), *weights = bias + own, scale = (float)a.scale;
    double *terms = b.doubles(a.at.energy_terms);
    gathered<B::KNOWN>(b, w, b.exchange_before(), stride_of(F), F, own, b.n, [&](int begin, int rows, slice_sums sums) {
        for_pairs(begin, rows, b.readout(), [&](int row, int f) {
            const float2 w1 = two(weights + f);
            float2 slope;
            const float2 h = silu_of_two(sums(row - begin, f) + two(bias + f), &slope);
            terms[(row * own + f) / 2] = (double)h.x * (double)w1.x + (double)h.y * (double)w1.y;
            put_two(b.floats(a.at.operand) + row * stride + f, scale * w1 * slope);
        });
    });
    load_next();
    __syncthreads();
#pragma unroll 1
    for (int q = threadIdx.x; q < B::EACH * b.n; q += THREADS) {
        const int part = q / b.n, row = q - part * b.n, each = own / 2 / B::EACH;
        const double *of = terms + row * (own / 2) + part * each;
        double sum = 0;
        for (int pair = 0; pair < each && b.readout().columns > 0; pair++) sum += of[pair];
        b.doubles(a.at.energy)[q] = sum;
    }
}

} // namespace molecule
} // namespace mlff

#endif
