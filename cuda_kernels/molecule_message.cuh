/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_MESSAGE_CUH
#define MLFF_CUDA_MOLECULE_MESSAGE_CUH
/*
 * Messages of interactions l >= 1 and their reverse (docs/equations.md), own columns, in a block's memory: nothing is
 * exchanged. A warp has a tile, up to 8 edges of a row, and a part's columns, up to 16. The matrix units multiply
 * weights, 16 columns by 8 functions, with radial functions, 8 by 8 edges: so filters come out where they are used,
 * lane (g, t) having columns 2g and 2g + 1 of edges t and t + 4, and a sum over edges needs two exchanges of lanes.
 * Tiles, not rows, are dealt to the warps, so that rows of 20 edges are shared out too; after a barrier the tiles of a
 * row are added. Of the last 8 of 24 columns two parts of the filter make the 16 rows of a product, and a lane has one.
 *
 * Order   a tile: edges t and t + 4, a fixed tree over t; a row: its tiles ascending. An edge's sums over a part's
 *         columns: 2g and 2g + 1, a fixed tree over g; layers in their order, parts ascending.
 */
#include "molecule_edges.cuh"
#include "warp_sums.cuh"

namespace mlff
{
namespace molecule
{

/* Where a lane's weights of 8 functions are in the filter: column 2g of functions 2t and 2t + 1 (x, z), 2g + 1 (y, w).
 */
template <typename B> __device__ inline int filter_place(int step, int part, int group, int lane)
{
    return ((step * 3 + part) * B::FILTER_GROUPS + group) * B::FILTER_NUMBERS * FILTER_FLOATS + 4 * lane;
}

/* The same of the last 8 columns of six blocks: column g of s and R (pair 0), of v and zeros. */
template <typename B> __device__ inline int stacked_place(int steps, int step, int pair, int lane)
{
    return (3 * steps + 2 * step + pair) * B::FILTER_NUMBERS * FILTER_FLOATS + 4 * lane;
}

/* Of columns, for a warp: 16 where they are known to the compiler, the last ones of six blocks but 8. */
template <typename B> __device__ inline int columns_of_group(const B &b)
{
    return B::EVEN ? b.own() / B::EACH : MOST_PART;
}

/* What a lane works on in a message: a tile and up to 16 columns, two of a lane, or the last 8, one of a lane. */
struct message_task {
    edge_tile tile;
    int index, group, f; /* of the tile; of columns; the lane's first column */
    bool has_column;
};

/* A layer's filter, own columns; there after wait_for_copies() and a barrier. Beyond function K, and beyond the own
 * columns, are zeros from the beginning. */
template <typename B> __device__ inline void load_filter(const B &b, int l)
{
    const auto &a = b.a;
    const int own = b.own();
    float *to = b.floats(a.at.filter);
    if constexpr (B::KNOWN) { /* eights of columns as they lie there */
        constexpr int NUMBERS = B::FILTER_NUMBERS;
        const int steps = (a.w.functions + 7) / 8, of_eight = steps * 3 * NUMBERS * 16;
        const int columns = B::EVEN ? own : min(b.features().columns, MOST_PART);
        const float4 *from = (const float4 *)a.layer[l].filter + b.first_column / 8 * of_eight;
#pragma unroll 1
        for (int q = threadIdx.x; q < columns / 8 * of_eight; q += THREADS) {
            const int eight = q / of_eight, at = q - eight * of_eight, lane = eight % 2 * 16 + at % 16;
            copy_16_async(to + filter_place<B>(0, at / (16 * NUMBERS), eight / 2, lane) +
                              at / 16 % NUMBERS * FILTER_FLOATS,
                          from + q, true);
        }
        if (B::EVEN || b.features().columns <= MOST_PART) return;
        const int stacked = steps * 2 * NUMBERS * 32;
        from = (const float4 *)a.layer[l].filter_stacked + (b.first_column + MOST_PART) / 8 * stacked;
#pragma unroll 1
        for (int q = threadIdx.x; q < stacked; q += THREADS)
            copy_16_async(to + stacked_place<B>(steps, 0, 0, q), from + q, true);
    } else {
        const int pairs = 3 * own / 2;
#pragma unroll 1
        for (int q = threadIdx.x; q < a.w.functions * pairs; q += THREADS) {
            const int k = q / pairs, v = 2 * (q - k * pairs), part = (v >= own) + (v >= 2 * own), f = v - part * own;
            copy_two_async(to + filter_place<B>(k / 8, part, 0, f / 2 * 4 + k % 8 / 2) + k % 2 * 2,
                           a.layer[l].filter + (k * 3 + part) * b.F() + b.first_column + f);
        }
    }
}

template <typename B> __device__ inline void clear_filter(const B &b)
{
    const int quads = (b.a.w.functions + 7) / 8 * B::FILTER_BLOCKS * FILTER_FLOATS / 4;
    for (int q = threadIdx.x; q < quads; q += THREADS) b.quads(b.a.at.filter)[q] = make_float4(0, 0, 0, 0);
}

/* phi, and dphi as the second table, of a tile's edges and 8 functions. */
template <int TABLES, typename B>
__device__ inline void load_functions(const B &b, const edge_tile &tile, int step, split_weights (&functions)[TABLES])
{
    const int lane = threadIdx.x % 32, edge = lane / 8 + lane / 4 % 2 * 4; /* of column g of a product */
    const float *from = tables_of(b) + (tile.first + edge) * b.a.w.table + 2 * (lane % 4) + 8 * step;
#pragma unroll
    for (int table = 0; table < TABLES; table++) {
        const float2 zero = make_float2(0, 0);
        const float2 x = edge < tile.count ? two(from + table * b.a.at.slots * b.a.w.table) : zero;
        functions[table] = split(x.x, x.y);
    }
}

/* Columns 2g and 2g + 1 of function 2t, then of 2t + 1. */
__device__ inline split_inputs split_columns(const float4 &w)
{
    return split(make_float2(w.x, w.z), make_float2(w.y, w.w));
}

/* The same, split before. */
__device__ inline split_inputs two_numbers(const float4 &hi, const float4 &lo)
{
    return {{__float_as_uint(hi.x), __float_as_uint(hi.y), __float_as_uint(hi.z), __float_as_uint(hi.w)},
            {__float_as_uint(lo.x), __float_as_uint(lo.y), __float_as_uint(lo.z), __float_as_uint(lo.w)}};
}

/* A lane's weights of 8 functions and 16 columns, as load_filter left them. */
template <typename B> __device__ inline split_inputs filter_columns(const float4 *weights)
{
    return B::FILTER_NUMBERS == 2 ? two_numbers(weights[0], weights[FILTER_FLOATS / 4]) : split_columns(weights[0]);
}

/* W[table][row] += columns[row] functions[table] of 8 functions. */
template <int TABLES, int ROWS>
__device__ inline void add_products(float (&W)[TABLES][ROWS][4], const split_inputs (&columns)[ROWS],
                                    const split_weights (&functions)[TABLES])
{
    constexpr int N = TABLES * ROWS;
    split_inputs x[N];
    split_weights w[N];
    float products[N][4] = {};
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = columns[i / TABLES], w[i] = functions[i % TABLES];
    multiply_together(products, x, w);
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int q = 0; q < 4; q++) W[i % TABLES][i / TABLES][q] += products[i][q];
}

/* Products of a filter's rows, 16 columns each, with the functions of a tile's edges. place(step, row): of the lane's
 * weights. No branches among the products: those of all rows are on their way together. */
template <int TABLES, int ROWS, typename B, typename Place>
__device__ inline void multiply_filter(const B &b, const edge_tile &tile, float (&W)[TABLES][ROWS][4], Place place)
{
    const float *filter = b.floats(b.a.at.filter);
    __syncwarp(); /* the units want all lanes together */
#pragma unroll
    for (int q = 0; q < TABLES * ROWS * 4; q++) W[q / 4 / ROWS][q / 4 % ROWS][q % 4] = 0;
#pragma unroll 1
    for (int step = 0; 8 * step < b.a.w.functions; step++) {
        split_weights functions[TABLES];
        split_inputs columns[ROWS];
        load_functions(b, tile, step, functions);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const float4 *of_row = (const float4 *)(filter + place(step, row));
            columns[row] = filter_columns<B>(of_row);
        }
        add_products(W, columns, functions);
    }
}

/* W[table][part][half] of a tile's edges and a group's columns, as a lane has them: columns 2g and 2g + 1 of edge t + 4
 * half; from phi, and from dphi for the second table. Edges that the tile does not have, and columns, are 0. */
template <int TABLES, typename B>
__device__ inline void make_filters(const B &b, const message_task &task, float2 (&W)[TABLES][3][2])
{
    float products[TABLES][3][4];
    multiply_filter(b, task.tile, products,
                    [&](int step, int part) { return filter_place<B>(step, part, task.group, threadIdx.x % 32); });
#pragma unroll
    for (int q = 0; q < TABLES * 6; q++) {
        const float(&of)[4] = products[q / 6][q / 2 % 3];
        W[q / 6][q / 2 % 3][q % 2] = make_float2(of[q % 2], of[2 + q % 2]);
    }
}

/* The same of the last 8 columns of six blocks, of which a lane has column g. */
template <int TABLES, typename B>
__device__ inline void make_filters(const B &b, const message_task &task, float (&W)[TABLES][3][2])
{
    float products[TABLES][2][4];
    const int steps = (b.a.w.functions + 7) / 8;
    multiply_filter(b, task.tile, products,
                    [&](int step, int pair) { return stacked_place<B>(steps, step, pair, threadIdx.x % 32); });
#pragma unroll
    for (int q = 0; q < TABLES * 6; q++) {
        const int part = q / 2 % 3;
        W[q / 6][part][q % 2] = products[q / 6][part / 2][part % 2 * 2 + q % 2];
    }
}

/* The lane's edge in a half; one that the tile does not have is its last one, with filters of zero: a branch would part
 * its loads from the other half's. */
__device__ inline int edge_of(const edge_tile &tile, int half)
{
    return tile.first + min((int)(threadIdx.x % 4) + 4 * half, tile.count - 1);
}

/* A lane's columns: two, or one. */
template <typename V> __device__ inline V columns_at(const float *p)
{
    return *(const V *)p;
}

template <typename V> __device__ inline void put_columns(float *p, V value)
{
    *(V *)p = value;
}

__device__ inline float sum_of(float x)
{
    return x;
}

__device__ inline float sum_of(float2 x)
{
    return x.x + x.y;
}

using mlff::sum_over_lanes;

/* Sums of 4 kinds over the lanes of a quad; lane t returns that of kind t. */
__device__ inline float2 sum_over_lanes(const float2 (&p)[4], int t)
{
    const float x[4] = {p[0].x, p[1].x, p[2].x, p[3].x}, y[4] = {p[0].y, p[1].y, p[2].y, p[3].y};
    return make_float2(mlff::sum_over_lanes(x, t), mlff::sum_over_lanes(y, t));
}

/* body(task, a lane's columns) for each of the warp's. Six blocks: a warp a tile and its first 16 columns, then one the
 * last 8 of two tiles in turn, so that 9 rows of 8 edges keep 14 of 16 warps at work once. */
template <typename B, typename Body> __device__ inline void for_tiles(const B &b, Body body)
{
    const int tiles = b.ints(b.a.at.row_tiles)[b.n], each = columns_of_group(b), own = b.features().columns;
    const int g = threadIdx.x % 32 / 4, all = B::EVEN ? B::EACH * tiles : own > each ? tiles + (tiles + 1) / 2 : tiles;
#pragma unroll 1
    for (int number = threadIdx.x / 32; number < all; number += WARPS) {
        message_task task = {};
        if (B::EVEN || number < tiles) {
            task.index = B::EVEN ? number / B::EACH : number, task.group = B::EVEN ? number % B::EACH : 0;
            task.tile = tile_of(b, task.index);
            const int columns = min(each, own - task.group * each);
            task.f = task.group * each + min(2 * g, columns - 2), task.has_column = 2 * g < columns;
            body(task, make_float2(0, 0));
            continue;
        }
        if constexpr (!B::EVEN) {
            task.group = 1, task.f = each + g, task.has_column = true;
            const int end = min(2 * (number - tiles) + 2, tiles);
#pragma unroll 1
            for (task.index = 2 * (number - tiles); task.index < end; task.index++) {
                task.tile = tile_of(b, task.index);
                body(task, 0.0f);
            }
        }
    }
}

/* Where a tile's sum of a kind is, [tiles][kinds][own]; then a row's. */
template <typename B> __device__ inline float *tile_sum(const B &b, int index, int kinds, int kind)
{
    return b.floats(b.a.at.part) + (index * kinds + kind) * b.own();
}

template <typename B> __device__ inline float2 row_sum(const B &b, int row, int kinds, int kind, int f)
{
    const int end = b.ints(b.a.at.row_tiles)[row + 1];
    float2 sum = make_float2(0, 0);
#pragma unroll 1
    for (int index = b.ints(b.a.at.row_tiles)[row]; index < end; index++)
        sum = sum + two(tile_sum(b, index, kinds, kind) + f);
    return sum;
}

/* A tile's sums: s, v [3]. V: a lane's columns. */
template <typename V, typename B>
__device__ inline void make_messages(const B &b, const layer_memory &m, const message_task &task)
{
    const auto &a = b.a;
    const int t = threadIdx.x % 4, own = b.own(), stride = stride_of(5 * own), f = task.f;
    V x[2][5]; /* loads are under way while filters are made */
    float4 edge[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int e = edge_of(task.tile, half);
        const float *from = m.features + neighbour_of(b.ints(a.at.edge_rows)[e]) * stride + f;
        edge[half] = b.quads(a.at.edges)[e];
#pragma unroll
        for (int q = 0; q < 5; q++) x[half][q] = columns_at<V>(from + q * own);
    }
    V W[1][3][2];
    make_filters(b, task, W);
    V sums[4] = {};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float u[3] = {edge[half].x, edge[half].y, edge[half].z};
        const V R = W[0][1][half] * x[half][1];
        sums[0] = sums[0] + W[0][0][half] * x[half][0];
#pragma unroll
        for (int c = 0; c < 3; c++) sums[1 + c] = sums[1 + c] + u[c] * R + W[0][2][half] * x[half][2 + c];
    }
    const V sum = sum_over_lanes(sums, t);
    if (task.has_column) put_columns(tile_sum(b, task.index, 4, t) + f, sum);
}

/* After a barrier of the block: features and filter of layer l are there. s += and v = v of the layer +, v to all
 * blocks. load_next() when the tiles are done. */
template <typename B, typename LoadNext> __device__ inline void message(const B &b, int l, LoadNext load_next)
{
    const layer_memory m = layer_of(b, l);
    const int own = b.own(), in_all = stride_of(b.F());
    for_tiles(b, [&](const message_task &task, auto columns) { make_messages<decltype(columns)>(b, m, task); });
    load_next();
    __syncthreads();
    for_quads(0, b.n, b.features(), [&](int row, int f, int q, bool valid) {
        const int c = max(q - 1, 0);
        float *s = b.floats(b.a.at.s) + row * own + f, *v = b.floats(b.a.at.v) + (3 * row + c) * own + f;
        const float2 before = q == 0 ? two(s) : two(m.v + (3 * row + c) * own + f);
        const float2 sum = before + row_sum(b, row, 4, q, f);
        __syncwarp(); /* lanes beyond the last pair have read it too */
        if (valid) put_two(q == 0 ? s : v, sum);
        float *to = b.exchange_now() + 3 * row * in_all + b.first_column + f;
#pragma unroll
        for (int component = 0; component < 3; component++) {
            const float2 value = of_lane(sum, 1 + component);
            if (valid) send_by_quad(b, to + component * in_all, value, q);
        }
    });
}

/* ---------------------------------------------------------------------------------------------- reverse */

__device__ inline float over_quad(float value)
{
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

/* An edge's sums over a group's columns, from a lane's of edges t and t + 4 [half][4], to their places. */
template <typename B>
__device__ inline void add_edge_adjoints(const B &b, const message_task &task, float (&edge_adj)[8])
{
    const int lane = threadIdx.x % 32, edge = lane % 4 + lane / 16 * 4;
    float4 *to = b.quads(b.a.at.edge_adj) + task.group * b.n_slots + task.tile.first;
    const float sum = transposed_sum(edge_adj, lane); /* component g % 4 of edge t + 4 (g / 4) */
    if (edge < task.tile.count) ((float *)(to + edge))[lane / 4 % 4] += sum;
}

/* A tile's adjoints of the row's own features, y [3], x_s, x_R; those of its edges to their places. V: a lane's
 * columns. */
template <typename V, typename B>
__device__ inline void make_message_adjoints(const B &b, const layer_memory &m, const float *adj,
                                             const message_task &task)
{
    const auto &a = b.a;
    const int t = threadIdx.x % 4, own = b.own(), f = task.f;
    V x[5], to[2][4]; /* loads of neighbours are under way while filters are made */
    float4 edges[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int e = edge_of(task.tile, half);
        const float *of = adj + neighbour_of(b.ints(a.at.edge_rows)[e]) * stride_of(4 * own) + f;
        edges[half] = b.quads(a.at.edges)[e];
#pragma unroll
        for (int q = 0; q < 4; q++) to[half][q] = columns_at<V>(of + q * own);
    }
    V filters[2][3][2];
    make_filters(b, task, filters);
    const V(&W)[3][2] = filters[0], (&dW)[3][2] = filters[1];
    const float *own_x = m.features + task.tile.row * stride_of(5 * own) + f;
#pragma unroll
    for (int q = 0; q < 5; q++) x[q] = columns_at<V>(own_x + q * own);
    V sums[4] = {}, x_R_adj = {};
    float edge_adj[8]; /* [half][4] */
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float4 edge = edges[half];
        const V s_adj = to[half][0], v0 = to[half][1], v1 = to[half][2], v2 = to[half][3];
        const V along = -edge.x * v0 + -edge.y * v1 + -edge.z * v2, R = W[1][half] * x[1];
        sums[0] = sums[0] + W[2][half] * v0;
        sums[1] = sums[1] + W[2][half] * v1;
        sums[2] = sums[2] + W[2][half] * v2;
        sums[3] = sums[3] + W[0][half] * s_adj;
        x_R_adj = x_R_adj + W[1][half] * along;
        float *of = edge_adj + 4 * half;
        of[0] = -sum_of(R * v0), of[1] = -sum_of(R * v1), of[2] = -sum_of(R * v2);
        of[3] = sum_of(dW[0][half] * (x[0] * s_adj)) + sum_of(dW[1][half] * (x[1] * along)) +
                sum_of(dW[2][half] * (x[2] * v0 + x[3] * v1 + x[4] * v2));
    }
    const V sum = sum_over_lanes(sums, t);
    x_R_adj = over_quad(x_R_adj);
    if (task.has_column) {
        put_columns(tile_sum(b, task.index, 5, t) + f, sum);
        if (t == 0) put_columns(tile_sum(b, task.index, 5, 4) + f, x_R_adj);
    }
    add_edge_adjoints(b, task, edge_adj);
}

/* x_adj into the operand of context1's reverse, [n][stride_of(3 own)]; v_adj += x_v y_adj. load_next(): as in message.
 */
template <typename B, typename LoadNext>
__device__ inline void message_reverse(const B &b, int l, float *adj, LoadNext load_next)
{
    const layer_memory m = layer_of(b, l);
    const int own = b.own();
    for_tiles(
        b, [&](const message_task &task, auto columns) { make_message_adjoints<decltype(columns)>(b, m, adj, task); });
    load_next();
    __syncthreads();
    for_quads(0, b.n, b.features(), [&](int row, int f, int q, bool valid) {
        const int c = min(q, 2);
        const float2 mine = row_sum(b, row, 5, q, f), x_R_adj = row_sum(b, row, 5, 4, f), zero = make_float2(0, 0);
        const float2 x_v = two(m.x_v + row * own + f), v = two(m.v + (3 * row + c) * own + f);
        const float2 x_v_adj = over_quad(q < 3 ? mine * v : zero), x_s_adj = of_lane(mine, 3);
        if (!valid) return;
        if (q < 3) {
            float *v_adj = adj + row * stride_of(4 * own) + (1 + c) * own + f;
            put_two(v_adj, two(v_adj) + x_v * mine);
            put_two(b.floats(b.a.at.operand) + row * stride_of(3 * own) + q * own + f, q == 0   ? x_s_adj
                                                                                       : q == 1 ? x_R_adj
                                                                                                : x_v_adj);
        }
    });
}

} // namespace molecule
} // namespace mlff

#endif
