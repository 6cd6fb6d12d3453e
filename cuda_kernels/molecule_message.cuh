/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_MESSAGE_CUH
#define MLFF_CUDA_MOLECULE_MESSAGE_CUH
/*
 * Messages of interactions l >= 1 and their reverse (docs/equations.md), own columns, in a block's memory: nothing is
 * exchanged. A warp has 8 columns of a row: filters of 16 of its edges at a time are a product of radial functions and
 * weights through the matrix units, and are used where they come out, lane (g, t) having edges g and g + 8 and columns
 * 2t, 2t + 1 of all three parts. Where no row has more than 8 edges a warp takes two rows.
 *
 * Order   16 edges at a time ascending, edges g and g + 8, a fixed tree over the lanes' g. An edge's sums over columns:
 *         a fixed tree over 8, layers in their order, tiles of columns ascending, parts ascending.
 */
#include "molecule_edges.cuh"
#include "warp_sums.cuh"

namespace mlff
{
namespace molecule
{

/* A layer's filter, own columns, [steps of 8][filter_stride], parts one behind the other; there after wait_for_copies()
 * and a barrier. Beyond function K are zeros from the beginning. */
template <typename B> __device__ inline void load_filter(const B &b, int l)
{
    const arguments &a = b.a;
    const int pairs = 3 * b.own() / 2, stride = filter_stride(3 * b.own());
    float *to = b.floats(a.at.filter);
#pragma unroll 1
    for (int q = threadIdx.x; q < a.w.functions * pairs; q += THREADS) {
        const int k = q / pairs, v = 2 * (q - k * pairs);
        copy_two_async(to + k * stride + v,
                       a.layer[l].filter + k * 3 * b.F() + column_of(v, b.own(), b.first_column, b.F()));
    }
}

/* Zeros beyond function K. */
template <typename B> __device__ inline void clear_filter(const B &b)
{
    const int stride = filter_stride(3 * b.own()), rows = (b.a.w.functions + 7) / 8 * 8;
    for (int q = b.a.w.functions * stride + threadIdx.x; q < rows * stride; q += THREADS)
        b.floats(b.a.at.filter)[q] = 0;
}

/* What a warp works on: for both halves of its lanes' edges the row, and the edge or -1. */
struct edge_pair {
    int row[2], edge[2], neighbour[2];
};

template <typename B> __device__ inline edge_pair edges_of(const B &b, int task, int base, bool paired)
{
    const int g = threadIdx.x % 32 / 4;
    edge_pair p;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = paired ? 2 * task + half : task, at = paired ? g : base + 8 * half + g;
        const bool valid = row < b.n && at < b.ints(b.a.at.row_count)[min(row, b.n - 1)];
        p.row[half] = min(row, b.n - 1);
        p.edge[half] = valid ? b.ints(b.a.at.row_first)[row] + at : -1;
        p.neighbour[half] = valid ? neighbour_of(b.ints(b.a.at.edge_rows)[p.edge[half]]) : 0;
    }
    return p;
}

/* W[table][part] of a warp's 16 edges and 8 columns from f0 on, as lanes have them: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8,
 * 2t+1); from phi, and from dphi for the second table. */
template <int TABLES, typename B>
__device__ inline void make_filters(const B &b, const edge_pair &p, int f0, float (&W)[TABLES][3][4])
{
    const arguments &a = b.a;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, own = b.own(), stride = filter_stride(3 * own);
    const bool has_column = f0 + g < own;
    __syncwarp(); /* the units want all lanes together */
    const float *weights = b.floats(a.at.filter) + 2 * t * stride + f0 + (has_column ? g : 0);
#pragma unroll
    for (int q = 0; q < TABLES * 12; q++) W[q / 12][q / 4 % 3][q % 4] = 0;
#pragma unroll 1
    for (int k = 0; k < a.w.functions; k += 8) {
        split_inputs x[TABLES];
#pragma unroll
        for (int table = 0; table < TABLES; table++) {
            const float *from = tables_of(b) + table * a.at.slots * a.w.table + k + 2 * t;
            const float2 zero = make_float2(0, 0);
            x[table] = split(p.edge[0] < 0 ? zero : two(from + p.edge[0] * a.w.table),
                             p.edge[1] < 0 ? zero : two(from + p.edge[1] * a.w.table));
        }
#pragma unroll
        for (int part = 0; part < 3; part++) {
            const float *from = weights + k * stride + part * own;
            const split_weights w = split(has_column ? from[0] : 0, has_column ? from[stride] : 0);
#pragma unroll
            for (int table = 0; table < TABLES; table++) multiply(W[table][part], x[table], w);
        }
    }
}

/* The sum over the lanes' g, in all of them. */
__device__ inline float2 over_edges(float2 value)
{
    for (int half = 4; half < 32; half *= 2)
        value =
            value + make_float2(__shfl_xor_sync(ALL_LANES, value.x, half), __shfl_xor_sync(ALL_LANES, value.y, half));
    return value;
}

/* A half without an edge has filters of zero and works on row 0: a branch would part its loads from the other's. */
template <typename B> __device__ inline float4 edge_or_zero(const B &b, int e)
{
    return e < 0 ? make_float4(0, 0, 0, 0) : b.quads(b.a.at.edges)[e];
}

/* The warp's columns of all rows: add(edges of a pass, sums of their halves), then put(row, its sums), COUNT a row. */
template <int COUNT, typename B, typename Add, typename Put>
__device__ inline void over_rows(const B &b, const Add &add, const Put &put)
{
    const int tiles = b.tiles(), warp = threadIdx.x / 32;
    const bool paired = b.most_edges <= 8;
    const int tasks = paired ? (b.n + 1) / 2 : b.n;
#pragma unroll 1
    for (int task = warp / tiles; task < tasks; task += WARPS / tiles) {
        float2 sums[2][COUNT] = {};
        const int edges = paired ? 1 : b.ints(b.a.at.row_count)[task];
#pragma unroll 1
        for (int base = 0; base < edges; base += 16) add(edges_of(b, task, base, paired), sums);
        if (!paired)
#pragma unroll
            for (int c = 0; c < COUNT; c++) sums[0][c] = sums[0][c] + sums[1][c];
        const int row = paired ? 2 * task : task, end = paired ? min(row + 2, b.n) : row + 1;
#pragma unroll 1 /* one piece of code for both */
        for (int r = row; r < end; r++) {
            put(r, sums[0]);
#pragma unroll
            for (int c = 0; c < COUNT; c++) sums[0][c] = sums[1][c];
        }
    }
}

/* Adds what the edges of a pass give: s, v [3]. */
template <typename B>
__device__ inline void add_messages(const B &b, const layer_memory &m, const edge_pair &p, int f0, float2 (&sums)[2][4])
{
    const arguments &a = b.a;
    const int t = threadIdx.x % 4, own = b.own(), f = min(f0 + 2 * t, own - 2), stride = stride_of(5 * own);
    float filters[1][3][4];
    make_filters(b, p, f0, filters);
    const float(&W)[3][4] = filters[0];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float *x = m.features + p.neighbour[half] * stride + f;
        const float4 edge = edge_or_zero(b, p.edge[half]);
        const float u[3] = {edge.x, edge.y, edge.z};
        const float2 W_s = make_float2(W[0][2 * half], W[0][2 * half + 1]);
        const float2 R = make_float2(W[1][2 * half], W[1][2 * half + 1]) * two(x + own);
        const float2 W_v = make_float2(W[2][2 * half], W[2][2 * half + 1]);
        sums[half][0] = sums[half][0] + W_s * two(x);
#pragma unroll
        for (int c = 0; c < 3; c++) sums[half][1 + c] = sums[half][1 + c] + u[c] * R + W_v * two(x + (2 + c) * own);
    }
}

/* s += and v = v of the layer +, v to all blocks: a lane to the block of its g. */
template <typename B>
__device__ inline void put_messages(const B &b, const layer_memory &m, int row, int f, float2 (&sums)[4])
{
    const int g = threadIdx.x % 32 / 4, own = b.own(), in_all = stride_of(b.F());
#pragma unroll
    for (int c = 0; c < 4; c++) sums[c] = over_edges(sums[c]);
    if (f >= own) return;
    float *s = b.floats(b.a.at.s) + row * own + f, *v = b.floats(b.a.at.v) + 3 * row * own + f;
    if (g == 0) put_two(s, two(s) + sums[0]);
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float2 value = two(m.v + (3 * row + c) * own + f) + sums[1 + c];
        if (g == 0) put_two(v + c * own, value);
        if (g < B::BLOCKS)
            send(b.exchange_now() + (3 * row + c) * in_all + b.first_column + f, g, value, b.arrivals_now());
    }
}

/* After a barrier of the block: features and filter of layer l are there. */
template <typename B> __device__ inline void message(const B &b, int l)
{
    const layer_memory m = layer_of(b, l);
    const int warp = threadIdx.x / 32, f0 = warp % b.tiles() * 8, f = f0 + threadIdx.x % 4 * 2;
    over_rows<4>(
        b, [&](const edge_pair &p, float2(&sums)[2][4]) { add_messages(b, m, p, f0, sums); },
        [&](int row, float2(&sums)[4]) { put_messages(b, m, row, f, sums); });
}

/* ---------------------------------------------------------------------------------------------- reverse */

__device__ inline float inner(float2 x, float2 y)
{
    return x.x * y.x + x.y * y.y;
}

/* The edges of a pass: adjoints of the row's own features to sums (x_s, x_R, y [3]), of the edges to their places. */
template <typename B>
__device__ inline void add_message_adjoints(const B &b, const layer_memory &m, const float *adj, const edge_pair &p,
                                            int tile, float2 (&sums)[2][5])
{
    const arguments &a = b.a;
    const int t = threadIdx.x % 4, own = b.own(), f0 = 8 * tile, f = min(f0 + 2 * t, own - 2);
    float filters[2][3][4];
    make_filters(b, p, f0, filters);
    const float(&W)[3][4] = filters[0], (&dW)[3][4] = filters[1];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float *own_x = m.features + p.row[half] * stride_of(5 * own) + f;
        const float *to = adj + p.neighbour[half] * stride_of(4 * own) + f;
        const float4 edge = edge_or_zero(b, p.edge[half]);
        const float2 s_adj = two(to), v0 = two(to + own), v1 = two(to + 2 * own), v2 = two(to + 3 * own);
        const float2 x_s = two(own_x), x_R = two(own_x + own);
        const float2 along = -edge.x * v0 + -edge.y * v1 + -edge.z * v2;
        const float2 dot = two(own_x + 2 * own) * v0 + two(own_x + 3 * own) * v1 + two(own_x + 4 * own) * v2;
        const int q = 2 * half;
        const float2 W_s = make_float2(W[0][q], W[0][q + 1]), W_R = make_float2(W[1][q], W[1][q + 1]),
                     W_v = make_float2(W[2][q], W[2][q + 1]), R = W_R * x_R;
        sums[half][0] = sums[half][0] + W_s * s_adj;
        sums[half][1] = sums[half][1] + W_R * along;
        sums[half][2] = sums[half][2] + W_v * v0;
        sums[half][3] = sums[half][3] + W_v * v1;
        sums[half][4] = sums[half][4] + W_v * v2;
        float edge_adj[4] = {-inner(R, v0), -inner(R, v1), -inner(R, v2),
                             inner(make_float2(dW[0][q], dW[0][q + 1]), x_s * s_adj) +
                                 inner(make_float2(dW[1][q], dW[1][q + 1]), x_R * along) +
                                 inner(make_float2(dW[2][q], dW[2][q + 1]), dot)};
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (f0 + 2 * t >= own) edge_adj[c] = 0;
        const float sum = sum_over_lanes(edge_adj, t); /* component t, over the tile's columns */
        if (p.edge[half] >= 0) ((float *)(b.quads(a.at.edge_adj) + tile * b.n_slots + p.edge[half]))[t] += sum;
    }
}

/* The row's x_adj into the operand of context1's reverse, [n][stride_of(3 own)]; v_adj += x_v y_adj into `next`. */
template <typename B>
__device__ inline void put_message_adjoints(const B &b, const layer_memory &m, const float *adj, float *next, int row,
                                            int f, float2 (&sums)[5])
{
    const int own = b.own(), stride = stride_of(4 * own);
#pragma unroll
    for (int c = 0; c < 5; c++) sums[c] = over_edges(sums[c]);
    if (f >= own || threadIdx.x % 32 >= 4) return;
    const float2 x_v = two(m.x_v + row * own + f);
    float2 x_v_adj = make_float2(0, 0);
    put_two(next + row * stride + f, two(adj + row * stride + f));
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const int place = row * stride + (1 + c) * own + f;
        x_v_adj = x_v_adj + sums[2 + c] * two(m.v + (3 * row + c) * own + f);
        put_two(next + place, two(adj + place) + x_v * sums[2 + c]);
    }
    float *to = b.floats(b.a.at.operand) + row * stride_of(3 * own) + f;
    put_two(to, sums[0]);
    put_two(to + own, sums[1]);
    put_two(to + 2 * own, x_v_adj);
}

template <typename B> __device__ inline void message_reverse(const B &b, int l, const float *adj, float *next)
{
    const layer_memory m = layer_of(b, l);
    const int warp = threadIdx.x / 32, tile = warp % b.tiles(), f = 8 * tile + threadIdx.x % 4 * 2;
    over_rows<5>(
        b, [&](const edge_pair &p, float2(&sums)[2][5]) { add_message_adjoints(b, m, adj, p, tile, sums); },
        [&](int row, float2(&sums)[5]) { put_message_adjoints(b, m, adj, next, row, f, sums); });
}

} // namespace molecule
} // namespace mlff

#endif
