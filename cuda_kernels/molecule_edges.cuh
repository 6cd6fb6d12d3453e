/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_EDGES_CUH
#define MLFF_CUDA_MOLECULE_EDGES_CUH
/*
 * Rows, edges and radial functions of a structure, and the first message (first_message.cu, docs/equations.md), in a
 * block's memory. Every block makes all edges; radial functions too, unless they go to global memory, where each block
 * makes a share.
 *
 * Order   edges as candidates; coefficients: a row's edges ascending; sums over own columns of adjoints ascending; an
 *         edge's sums over functions: a lane's ascending, then a fixed tree over 4 lanes.
 */
#include "molecule_dense.cuh"

namespace mlff
{
namespace molecule
{

constexpr int EDGE_LANES = 4; /* on the functions of an edge */

/* ---------------------------------------------------------------------------------------- rows and edges */

/* A lane a row; elements of the structure are numbered ascending, so that no sum depends on who else is in the call. */
template <typename B> __device__ inline void number_elements(const B &b, int32_t element)
{
    const auto &a = b.a;
    const int lane = threadIdx.x;
    const bool valid = lane < b.n;
    const unsigned same = __match_any_sync(ALL_LANES, element);
    const unsigned firsts = __ballot_sync(ALL_LANES, valid && __ffs(same) - 1 == lane);
    int slot = 0;
#pragma unroll 1
    for (unsigned left = firsts; left; left &= left - 1)
        if (__shfl_sync(ALL_LANES, element, __ffs(left) - 1) < element) slot++;
    if (valid) {
        b.ints(a.at.row_element)[lane] = element;
        b.ints(a.at.row_slot)[lane] = slot;
        b.ints(a.at.slot_element)[slot] = element;
    }
    if (lane == 0) *b.ints(a.at.n_elements) = __popc(firsts);
}

/* Rows and candidates' rows into shared memory: elements by the first warp, what takes longest by the others. */
template <typename B> __device__ inline void read_rows(const B &b)
{
    const auto &a = b.a;
    const int thread = threadIdx.x, n = b.n;
    if (thread < 32) {
        number_elements(b, thread < n ? a.species[b.begin + thread] : -1);
    } else if (thread < 32 + 3 * MOST_ROWS) {
        const int q = thread - 32;
        if (q < 3 * n) {
            const int at = 3 * a.atom_of_row[b.begin + q / 3] + q % 3;
            b.doubles(a.at.position)[q] = a.positions_here ? a.position[at] : a.x[at];
        }
    } else if (thread - 32 - 3 * MOST_ROWS <= n) {
        const int row = thread - 32 - 3 * MOST_ROWS;
        b.ints(a.at.row_first)[row] = (int)(a.first[b.begin + row] - b.first_slot);
    }
#pragma unroll 4
    for (int q = thread; q < b.n_slots; q += THREADS)
        b.ints(a.at.edge_rows)[q] = a.neighbour_row[b.first_slot + q] - b.begin;
    const float4 zero = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int q = thread; q < B::EACH * b.n_slots; q += THREADS) b.quads(a.at.edge_adj)[q] = zero;
    if (!B::EVEN) /* weights of columns that the block does not have are zeros: what they meet must be numbers */
#pragma unroll 1
        for (int q = thread; q < (a.at.adj - a.at.operand) / 4; q += THREADS) b.quads(a.at.operand)[q] = zero;
}

/* The term of two rows (core/src/short_range.h). */
template <typename B> __device__ inline const short_range_pair *short_range_of(const B &b, int row, int neighbour_row)
{
    const int *element = b.ints(b.a.at.row_element);
    return b.a.short_range + element[row] * b.a.w.n_elements + element[neighbour_row];
}

/* Of a distance, that which the network sees. */
__device__ inline float seen_distance(const short_range_pair *pair, float d)
{
    double slope;
    return (double)d < pair->outer ? (float)mlff_seen_distance(pair, (double)d, &slope) : d;
}

/* A warp a row, as edges_kernel (radial.cu) does it; a bad row is marked in *bad. Edges take the places of candidates
 * from the first on; the others become -1. */
template <typename B> __device__ inline void make_edges(const B &b, int *bad)
{
    const auto &a = b.a;
    const int lane = threadIdx.x % 32;
    const double *position = b.doubles(a.at.position);
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        const double x0 = position[3 * row], x1 = position[3 * row + 1], x2 = position[3 * row + 2];
        const int first = b.ints(a.at.row_first)[row];
        const int candidates = b.ints(a.at.row_first)[row + 1] - first;
        int *edge_rows = b.ints(a.at.edge_rows) + first;
        bool good = isfinite(x0) && isfinite(x1) && isfinite(x2);
        int count = 0;
#pragma unroll 1
        for (int base = 0; base < candidates; base += 32) {
            const int64_t slot = b.first_slot + first + base + lane;
            double r[3] = {0, 0, 0}, d = INFINITY;
            int neighbour_row = 0;
            if (base + lane < candidates) {
                neighbour_row = edge_rows[base + lane];
                const double *there =
                    a.by_row ? position + 3 * neighbour_row : a.x + 3 * (size_t)a.neighbour_atom[slot];
                r[0] = there[0] - x0, r[1] = there[1] - x1, r[2] = there[2] - x2;
                if (a.shift)
                    for (int q = 0; q < 3; q++) r[q] += a.shift[3 * slot + q];
                d = sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
                good = good && d > 0 && d < INFINITY;
            }
            const bool keep = d < a.cutoff;
            const unsigned kept = __ballot_sync(ALL_LANES, keep);
            if (keep) {
                const int e = count + __popc(kept & ((1u << lane) - 1));
                const double inverse = 1 / d;
                float seen = (float)d;
                if (a.short_range) {
                    b.floats(a.at.distance)[first + e] = seen;
                    seen = seen_distance(short_range_of(b, row, neighbour_row), seen);
                }
                b.quads(a.at.edges)[first + e] =
                    make_float4((float)(r[0] * inverse), (float)(r[1] * inverse), (float)(r[2] * inverse), seen);
                edge_rows[e] = neighbour_row | row << 8 | b.ints(a.at.row_slot)[neighbour_row] << 16;
            }
            count += __popc(kept);
        }
        __syncwarp();
        for (int e = count + lane; e < candidates; e += 32) edge_rows[e] = -1;
        if (!__all_sync(ALL_LANES, good) && lane == 0) atomicMin(bad, b.begin + row);
        if (lane == 0) b.ints(a.at.row_count)[row] = count;
    }
}

/* What a warp works on in a message: up to TILE_EDGES edges of a row. */
struct edge_tile {
    int row, first, count;
};

__device__ inline int pack(const edge_tile &t)
{
    static_assert(MOST_CANDIDATES <= 1 << 16 && MOST_ROWS <= 128, "a tile is an int");
    return t.first | t.count << 16 | t.row << 24;
}

template <typename B> __device__ inline edge_tile tile_of(const B &b, int index)
{
    const int packed = b.ints(b.a.at.edge_tiles)[index];
    return {packed >> 24, packed & 0xffff, packed >> 16 & 255};
}

/* After make_edges and a barrier: tiles of all rows, ascending. One of the last threads a row, and one for the end. */
template <typename B> __device__ inline void make_edge_tiles(const B &b)
{
    const int row = (int)threadIdx.x - (THREADS - MOST_ROWS - 1);
    if (row < 0 || row > b.n) return;
    const int *counts = b.ints(b.a.at.row_count);
    int tile = 0;
    for (int before = 0; before < row; before++) tile += (counts[before] + TILE_EDGES - 1) / TILE_EDGES;
    b.ints(b.a.at.row_tiles)[row] = tile;
    if (row == b.n) return;
    const int first = b.ints(b.a.at.row_first)[row], count = counts[row];
#pragma unroll 1
    for (int at = 0; at < count; at += TILE_EDGES)
        b.ints(b.a.at.edge_tiles)[tile++] = pack({row, first + at, min(TILE_EDGES, count - at)});
}

/* phi and dphi [2][E][table], 0 beyond function K: each block a share of the pairs of functions, to all of them, or,
 * where the tables are in global memory, there. */
template <typename B> __device__ inline void make_tables(const B &b, bool shared)
{
    const auto &a = b.a;
    const int half = a.w.table / 2, all = b.n_slots * half;
    float *phi = tables_of(b), *dphi = phi + a.at.slots * a.w.table;
#pragma unroll 1
    for (int q = threadIdx.x * B::BLOCKS + b.rank; q < all; q += B::BLOCKS * THREADS) {
        const int e = q / half, k = 2 * (q - e * half), place = e * a.w.table + k;
        float2 value = make_float2(0, 0), slope = value;
        if (b.ints(a.at.edge_rows)[e] >= 0) {
            const float d = b.quads(a.at.edges)[e].w;
            float fc, dfc;
            cutoff_function(a.radial, d, &fc, &dfc);
            radial_function(a.radial, d, fc, dfc, k, &value.x, &slope.x);
            radial_function(a.radial, d, fc, dfc, k + 1, &value.y, &slope.y);
        }
        if (shared) {
            send_to_all(b, phi + place, value);
            send_to_all(b, dphi + place, slope);
        } else {
            put_two(phi + place, value);
            put_two(dphi + place, slope);
        }
    }
}

/* ----------------------------------------------------------------------------------------- first message */

/* Of inputs [slots][paired]: the slot, without a division. */
__device__ inline int slot_of_input(int k, int paired)
{
    static_assert(MOST_SLOTS == 4, "as many comparisons as slots but one");
    return (k >= paired) + (k >= 2 * paired) + (k >= 3 * paired);
}

/* Coefficients of elements z0 .. z0 + slots - 1: [n] of phi, then [n][3] of phi u, each [slots][paired]. They lie in
 * the exchange buffer that nobody sends to. */
template <typename B> __device__ inline float *coefficients_of(const B &b)
{
    return b.exchange_before();
}

template <typename B> __device__ inline void make_coefficients(const B &b, int z0, int slots)
{
    const auto &a = b.a;
    const int width = slots * a.w.paired, stride = a.w.coefficient;
    const int *edge_rows = b.ints(a.at.edge_rows);
    const float *phi = tables_of(b);
    float *to = coefficients_of(b);
#pragma unroll 1
    for (int q = threadIdx.x; q < b.n * width; q += THREADS) {
        const int row = q / width, c = q - row * width, slot = slot_of_input(c, a.w.paired);
        const int z = z0 + slot, k = c - slot * a.w.paired;
        const int first = b.ints(a.at.row_first)[row], end = first + b.ints(a.at.row_count)[row];
        float sum = 0, x = 0, y = 0, w = 0;
        if (k < a.w.functions)
#pragma unroll 4 /* loads of several edges together */
            for (int e = first; e < end; e++) {
                const float value = slot_of(edge_rows[e]) == z ? phi[e * a.w.table + k] : 0;
                const float4 u = b.quads(a.at.edges)[e];
                sum += value;
                x += value * u.x, y += value * u.y, w += value * u.z;
            }
        to[row * stride + c] = sum;
        float *vector = to + (b.n + 3 * row) * stride + c;
        vector[0] = x, vector[stride] = y, vector[2 * stride] = w;
    }
}

/* Weights of a pass of the first message: rows (element, function) of first_s and first_R, own columns. Numbers of
 * functions are even, so that inputs 2t and 2t + 1 are of one element. */
template <typename B>
__device__ inline void load_first(const B &b, warp_weights<4, B::EACH> &w_s, warp_weights<4, B::EACH> &w_R, int z0,
                                  int inputs)
{
    const auto &a = b.a;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int slice = warp % SLICES, v = warp / SLICES * 8 + g, columns = b.features().columns;
    constexpr int APART = 8 * GROUPS; /* columns of a warp's tiles */
#pragma unroll
    for (int step = 0; step < 4; step++) {
        const int k = 8 * (slice + SLICES * step) + 2 * t, slot = slot_of_input(k, a.w.paired);
        const int function = k - slot * a.w.paired;
        const bool valid = k < inputs && v < columns && function < a.w.functions;
        const int element = valid ? b.ints(a.at.slot_element)[z0 + slot] : 0;
        const int at = (element * a.w.functions + function) * b.F() + b.first_column + v;
#pragma unroll
        for (int tile = 0; tile < B::EACH; tile++)
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const bool has = valid && v + tile * APART < columns && function + q < a.w.functions;
                w_s.b[step][tile][q] = load_ahead_of_use(a.first_s + at + q * b.F() + tile * APART, has);
                w_R.b[step][tile][q] = load_ahead_of_use(a.first_R + at + q * b.F() + tile * APART, has);
            }
    }
}

/* The embedding of a thread's pair of columns, where it has one, as for_pairs deals them. */
template <typename B> __device__ inline float2 load_embedding(const B &b)
{
    static_assert(MOST_ROWS * MOST_FEATURES / 4 / 2 <= THREADS, "a pair a thread, also with four blocks");
    const auto &a = b.a;
    const int half = b.own() / 2, row = (int)threadIdx.x / half, f = 2 * ((int)threadIdx.x - row * half);
    const int element = row < b.n ? b.ints(a.at.row_element)[row] : 0;
    return load_two_ahead_of_use(a.embedding + element * b.F() + b.first_column + f,
                                 row < b.n && f < b.features().columns);
}

/* A gathered layer's outputs added to [rows][own]. */
template <typename B>
__device__ inline void add_first(const B &b, const warp_weights<4, B::EACH> &w, const float *coefficients, int inputs,
                                 int rows, float *to)
{
    const int own = b.own();
    gathered<false>(b, w, coefficients, b.a.w.coefficient, inputs, own, rows,
                    [&](int begin, int count, slice_sums sums) {
                        for_pairs(begin, count, b.features(), [&](int row, int f) {
                            put_two(to + row * own + f, two(to + row * own + f) + sums(row - begin, f));
                        });
                    });
    __syncthreads();
}

/* s and v, own columns; v goes to all blocks too. w_s, w_R: weights of the first pass. */
template <typename B>
__device__ inline void first_message(const B &b, warp_weights<4, B::EACH> &w_s, warp_weights<4, B::EACH> &w_R,
                                     float2 embedding)
{
    const auto &a = b.a;
    const int own = b.own(), in_all = stride_of(b.F());
    float *s = b.floats(a.at.s), *v = b.floats(a.at.v);
    for_pairs(0, b.n, b.features(), [&](int row, int f) { put_two(s + row * own + f, embedding); });
    for_pairs(0, 3 * b.n, b.features(), [&](int row, int f) { put_two(v + row * own + f, make_float2(0, 0)); });
#pragma unroll 1
    for (int z0 = 0; z0 < b.n_elements; z0 += a.w.slots) {
        const int slots = min(a.w.slots, b.n_elements - z0), inputs = slots * a.w.paired;
        if (z0 > 0) load_first(b, w_s, w_R, z0, inputs);
        make_coefficients(b, z0, slots);
        __syncthreads();
        const float *c = coefficients_of(b);
        add_first(b, w_s, c, inputs, b.n, s);
        add_first(b, w_R, c + b.n * a.w.coefficient, inputs, 3 * b.n, v);
    }
    float *to = b.exchange_now() + b.first_column;
    for_pairs(0, 3 * b.n, b.features(),
              [&](int row, int f) { send_to_all(b, to + row * in_all + f, two(v + row * own + f)); });
}

/* A thread's weights of the first message in reverse: of a coefficient, a part's columns. */
template <typename B> struct coefficient_weights {
    static constexpr int PAIRS = B::EVEN ? MOST_PART / 2 : OWN_OF_SIX / 2;
    float2 s[PAIRS], R[PAIRS];
};

/* A thread's coefficient of a pass, of rows group, group + groups, ... */
struct coefficient_of_thread {
    int c, slot, k, group, groups;

    __device__ coefficient_of_thread(int slots, int paired)
    {
        const int width = slots * paired;
        groups = THREADS / width, group = threadIdx.x / width, c = threadIdx.x - group * width;
        slot = slot_of_input(c, paired), k = c - slot * paired;
    }
};

/* Of columns from `column` of the own on. */
template <typename B>
__device__ inline void load_first_reverse(const B &b, coefficient_weights<B> &w, int column, int z0, int slots)
{
    const auto &a = b.a;
    const int columns = min(b.own() / B::FIRST_PARTS, b.features().columns - column);
    const coefficient_of_thread y(slots, a.w.paired);
    const bool valid = y.group < y.groups && y.k < a.w.functions;
    const int element = valid ? b.ints(a.at.slot_element)[z0 + y.slot] : 0;
    if constexpr (B::KNOWN) { /* neighbouring lanes' fours of columns are neighbours */
        const int rows = a.w.n_elements * a.w.functions;
        const int at = (b.first_column + column) / 4 * rows + element * a.w.functions + (valid ? y.k : 0);
#pragma unroll
        for (int q = 0; q < w.PAIRS; q += 2) {
            const bool has = valid && 2 * q < columns;
            const float4 s = load_four_ahead_of_use(a.first_s_fours + 4 * (at + q / 2 * rows), has);
            const float4 R = load_four_ahead_of_use(a.first_R_fours + 4 * (at + q / 2 * rows), has);
            w.s[q] = make_float2(s.x, s.y), w.s[q + 1] = make_float2(s.z, s.w);
            w.R[q] = make_float2(R.x, R.y), w.R[q + 1] = make_float2(R.z, R.w);
        }
        return;
    }
    const int at = (element * a.w.functions + (valid ? y.k : 0)) * b.F() + b.first_column + column;
#pragma unroll
    for (int q = 0; q < w.PAIRS; q++) {
        w.s[q] = load_two_ahead_of_use(a.first_s + at + 2 * q, valid && 2 * q < columns);
        w.R[q] = load_two_ahead_of_use(a.first_R + at + 2 * q, valid && 2 * q < columns);
    }
}

/* Adjoints of coefficients [n][slots][paired] float4, from a part's columns of the adjoint of the state, the first
 * of them `column` of the own. A thread a coefficient of some rows: its weights are loaded once. */
template <typename B>
__device__ inline void make_coefficient_adjoints(const B &b, const coefficient_weights<B> &w, const float *adj,
                                                 int column, int slots)
{
    const auto &a = b.a;
    const int own = b.own(), columns = min(own / B::FIRST_PARTS, b.features().columns - column);
    const int width = slots * a.w.paired, stride = stride_of(4 * own);
    const coefficient_of_thread y(slots, a.w.paired);
    float4 *to = (float4 *)coefficients_of(b);
    __syncthreads(); /* the adjoint is there, and what was in the coefficients' place was read */
    if (y.group >= y.groups) return;
#pragma unroll 1
    for (int row = y.group; row < b.n; row += y.groups) {
        float4 sum = make_float4(0, 0, 0, 0);
        const float *of = adj + row * stride + column;
        if constexpr (B::KNOWN) { /* whole fours of columns */
#pragma unroll
            for (int q = 0; q < w.PAIRS; q += 2) {
                if (2 * q >= columns) break;
                const float4 s = *(const float4 *)(of + 2 * q), x = *(const float4 *)(of + own + 2 * q),
                             y = *(const float4 *)(of + 2 * own + 2 * q), z = *(const float4 *)(of + 3 * own + 2 * q);
                sum.x += w.s[q].x * s.x + w.s[q].y * s.y;
                sum.y += w.R[q].x * x.x + w.R[q].y * x.y;
                sum.z += w.R[q].x * y.x + w.R[q].y * y.y;
                sum.w += w.R[q].x * z.x + w.R[q].y * z.y;
                sum.x += w.s[q + 1].x * s.z + w.s[q + 1].y * s.w;
                sum.y += w.R[q + 1].x * x.z + w.R[q + 1].y * x.w;
                sum.z += w.R[q + 1].x * y.z + w.R[q + 1].y * y.w;
                sum.w += w.R[q + 1].x * z.z + w.R[q + 1].y * z.w;
            }
        } else {
#pragma unroll
            for (int q = 0; q < w.PAIRS; q++) {
                if (2 * q >= columns) break;
                const float2 s = two(of + 2 * q), x = two(of + own + 2 * q), y = two(of + 2 * own + 2 * q),
                             z = two(of + 3 * own + 2 * q);
                sum.x += w.s[q].x * s.x + w.s[q].y * s.y;
                sum.y += w.R[q].x * x.x + w.R[q].y * x.y;
                sum.z += w.R[q].x * y.x + w.R[q].y * y.y;
                sum.w += w.R[q].x * z.x + w.R[q].y * z.y;
            }
        }
        to[row * width + y.c] = sum;
    }
}

/* Adds a part to the adjoints of edges: EDGE_LANES lanes an edge. `w`: weights of part 0's first pass. */
template <typename B>
__device__ inline void add_first_adjoints(const B &b, coefficient_weights<B> &w, const float *adj, int part)
{
    const auto &a = b.a;
    const int column = part * b.own() / B::FIRST_PARTS;
    float4 *edge_adj = b.quads(a.at.edge_adj) + part * b.n_slots;
    const int lane = threadIdx.x % EDGE_LANES;
    const float *phi = tables_of(b), *dphi = phi + a.at.slots * a.w.table;
#pragma unroll 1
    for (int z0 = 0; z0 < b.n_elements; z0 += a.w.slots) {
        const int slots = min(a.w.slots, b.n_elements - z0), width = slots * a.w.paired;
        if (part > 0 || z0 > 0) load_first_reverse(b, w, column, z0, slots);
        make_coefficient_adjoints(b, w, adj, column, slots);
        __syncthreads();
        const float4 *c = (const float4 *)coefficients_of(b);
#pragma unroll 1
        for (int base = 0; base < b.n_slots; base += THREADS / EDGE_LANES) {
            const int e = min(base + (int)threadIdx.x / EDGE_LANES, b.n_slots - 1);
            const int rows = b.ints(a.at.edge_rows)[e];
            const int slot = rows < 0 ? -1 : slot_of(rows) - z0;
            const bool mine = base + (int)threadIdx.x / EDGE_LANES < b.n_slots && slot >= 0 && slot < slots;
            const float4 *of_row = c + (rows < 0 ? 0 : centre_of(rows)) * width + slot * a.w.paired;
            const float4 u = b.quads(a.at.edges)[e];
            float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 2
            for (int k = lane; k < a.w.functions && mine; k += EDGE_LANES) {
                const float4 of = of_row[k];
                const float value = phi[e * a.w.table + k], slope = dphi[e * a.w.table + k];
                sum.w += slope * (of.x + of.y * u.x + of.z * u.y + of.w * u.z);
                sum.x += value * of.y, sum.y += value * of.z, sum.z += value * of.w;
            }
            for (int half = EDGE_LANES / 2; half > 0; half /= 2) {
                sum.x += __shfl_xor_sync(ALL_LANES, sum.x, half), sum.y += __shfl_xor_sync(ALL_LANES, sum.y, half);
                sum.z += __shfl_xor_sync(ALL_LANES, sum.z, half), sum.w += __shfl_xor_sync(ALL_LANES, sum.w, half);
            }
            if (!mine || lane > 0) continue;
            float4 *to = edge_adj + e;
            *to = make_float4(to->x + sum.x, to->y + sum.y, to->z + sum.z, to->w + sum.w);
        }
    }
}

template <typename B>
__device__ inline void first_message_reverse(const B &b, coefficient_weights<B> &w, const float *adj)
{
#pragma unroll 1
    for (int part = 0; part < B::FIRST_PARTS; part++) add_first_adjoints(b, w, adj, part);
}

} // namespace molecule
} // namespace mlff

#endif
