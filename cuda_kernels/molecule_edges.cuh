/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_EDGES_CUH
#define MLFF_CUDA_MOLECULE_EDGES_CUH
/*
 * Rows, edges and radial functions of a structure, and the first message (first_message.cu, docs/equations.md), in a
 * block's memory. Every block makes all edges; radial functions too, unless they go to global memory, where each block
 * makes a share.
 *
 * Order   edges as candidates; coefficients: a row's edges ascending; sums over own columns of adjoints ascending; an
 *         edge's sums over functions: a lane's ascending, then a fixed tree over 8 lanes.
 */
#include "molecule_dense.cuh"

namespace mlff
{
namespace molecule
{

constexpr int EDGE_LANES = 8; /* on the functions of an edge */

/* ---------------------------------------------------------------------------------------- rows and edges */

/* A thread a row; elements of the structure are numbered ascending, so that no sum depends on who else is in the call.
 * */
template <typename B> __device__ inline void read_rows(B &b)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x;
    if (lane < 32) {
        const bool valid = lane < b.n;
        const int32_t element = valid ? a.species[b.begin + lane] : -1;
        bool is_first = valid;
#pragma unroll 1
        for (int other = 0; other < 32; other++)
            if (__shfl_sync(ALL_LANES, element, other) == element && other < lane) is_first = false;
        const unsigned firsts = __ballot_sync(ALL_LANES, is_first);
        int slot = 0;
#pragma unroll 1
        for (int other = 0; other < 32; other++) {
            const int32_t its = __shfl_sync(ALL_LANES, element, other);
            if (firsts >> other & 1 && its < element) slot++;
        }
        if (valid) {
            b.ints(a.at.row_element)[lane] = element;
            b.ints(a.at.row_slot)[lane] = slot;
            b.ints(a.at.slot_element)[slot] = element;
            b.ints(a.at.row_first)[lane] = (int)(a.first[b.begin + lane] - b.first_slot);
        }
        if (lane == 0) *b.ints(a.at.n_elements) = __popc(firsts);
    }
#pragma unroll 1
    for (int q = threadIdx.x; q < 3 * b.n; q += THREADS)
        b.doubles(a.at.position)[q] = a.x[3 * (size_t)a.atom_of_row[b.begin + q / 3] + q % 3];
#pragma unroll 1
    for (int q = threadIdx.x; q < b.n_slots; q += THREADS) b.ints(a.at.edge_rows)[q] = -1;
    const float4 zero = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int q = threadIdx.x; q < b.tiles() * b.n_slots; q += THREADS) b.quads(a.at.edge_adj)[q] = zero;
}

/* A warp a row, as edges_kernel (radial.cu) does it; a bad row is marked in *bad. */
template <typename B> __device__ inline void make_edges(const B &b, int *bad)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x % 32;
    const double *position = b.doubles(a.at.position);
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        const double x0 = position[3 * row], x1 = position[3 * row + 1], x2 = position[3 * row + 2];
        const int first = b.ints(a.at.row_first)[row];
        const int candidates = (int)(a.first[b.begin + row + 1] - b.first_slot) - first;
        bool good = isfinite(x0) && isfinite(x1) && isfinite(x2);
        int count = 0;
#pragma unroll 1
        for (int base = 0; base < candidates; base += 32) {
            const int64_t slot = b.first_slot + first + base + lane;
            double r[3] = {0, 0, 0}, d = INFINITY;
            int neighbour_row = 0;
            if (base + lane < candidates) {
                neighbour_row = a.neighbour_row[slot] - b.begin;
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
                const int e = first + count + __popc(kept & ((1u << lane) - 1));
                b.quads(a.at.edges)[e] = make_float4((float)(r[0] / d), (float)(r[1] / d), (float)(r[2] / d), (float)d);
                b.ints(a.at.edge_rows)[e] = neighbour_row | row << 8;
            }
            count += __popc(kept);
        }
        if (!__all_sync(ALL_LANES, good) && lane == 0) atomicMin(bad, b.begin + row);
        if (lane == 0) b.ints(a.at.row_count)[row] = count;
    }
}

/* phi and dphi [2][E][table], 0 beyond function K. */
template <typename B> __device__ inline void make_tables(const B &b)
{
    const arguments &a = b.a;
    const int table = a.w.table, parts = a.at.shared_tables ? 1 : BLOCKS, mine = a.at.shared_tables ? 0 : b.rank;
    float *phi = tables_of(b), *dphi = phi + a.at.slots * table;
    const int share = (b.n_slots - mine + parts - 1) / parts;
#pragma unroll 1
    for (int q = threadIdx.x; q < share * table; q += THREADS) {
        const int e = q / table * parts + mine, k = q % table;
        if (b.ints(a.at.edge_rows)[e] < 0) continue;
        const float d = b.quads(a.at.edges)[e].w;
        float fc, dfc, value, slope;
        cutoff_function(a.radial, d, &fc, &dfc);
        radial_function(a.radial, d, fc, dfc, k, &value, &slope);
        phi[e * table + k] = value;
        dphi[e * table + k] = slope;
    }
}

/* ----------------------------------------------------------------------------------------- first message */

/* Coefficients of elements z0 .. z0 + slots - 1: [n] of phi, then [n][3] of phi u, each [slots][paired]. They lie in
 * the exchange buffer that nobody sends to. */
template <typename B> __device__ inline float *coefficients_of(const B &b)
{
    return b.exchange_before();
}

template <typename B> __device__ inline void make_coefficients(const B &b, int z0, int slots)
{
    const arguments &a = b.a;
    const int width = slots * a.w.paired, stride = a.w.coefficient;
    const int *edge_rows = b.ints(a.at.edge_rows), *row_slot = b.ints(a.at.row_slot);
    const float *phi = tables_of(b);
    float *to = coefficients_of(b);
#pragma unroll 1
    for (int q = threadIdx.x; q < b.n * width; q += THREADS) {
        const int row = q / width, c = q - row * width, z = z0 + c / a.w.paired, k = c % a.w.paired;
        const int first = b.ints(a.at.row_first)[row], end = first + b.ints(a.at.row_count)[row];
        float sum = 0, x = 0, y = 0, w = 0;
        if (k < a.w.functions)
#pragma unroll 1
            for (int e = first; e < end; e++) {
                if (row_slot[neighbour_of(edge_rows[e])] != z) continue;
                const float value = phi[e * a.w.table + k];
                const float4 u = b.quads(a.at.edges)[e];
                sum += value;
                x += value * u.x, y += value * u.y, w += value * u.z;
            }
        to[row * stride + c] = sum;
        float *vector = to + (b.n + 3 * row) * stride + c;
        vector[0] = x, vector[stride] = y, vector[2 * stride] = w;
    }
}

/* Weights of a pass of the first message: rows (element, function) of first_s or first_R, own columns. */
template <typename B>
__device__ inline void load_first(const B &b, warp_weights<4, 1> &w, const float *table, int z0, int inputs)
{
    const arguments &a = b.a;
    load_gathered(w, inputs, b.own(), [&](int k, int v, bool valid) {
        const int slot = k / a.w.paired, function = k - slot * a.w.paired;
        valid = valid && function < a.w.functions;
        const int element = valid ? b.ints(a.at.slot_element)[z0 + slot] : 0;
        return load_ahead_of_use(table + (element * a.w.functions + function) * b.F() + b.first_column + v, valid);
    });
}

/* A gathered layer's outputs added to [rows][own]. */
template <typename B>
__device__ inline void add_first(const B &b, const warp_weights<4, 1> &w, const float *coefficients, int inputs,
                                 int rows, float *to)
{
    const int own = b.own();
    gathered(b, w, coefficients, b.a.w.coefficient, inputs, own, rows, [&](int begin, int count, slice_sums sums) {
        for_pairs(begin, count, own,
                  [&](int row, int f) { put_two(to + row * own + f, two(to + row * own + f) + sums(row - begin, f)); });
    });
    __syncthreads();
}

/* s and v, own columns; v goes to all blocks too. w_s, w_R: weights of the first pass. */
template <typename B> __device__ inline void first_message(const B &b, warp_weights<4, 1> &w_s, warp_weights<4, 1> &w_R)
{
    const arguments &a = b.a;
    const int own = b.own(), in_all = stride_of(b.F());
    float *s = b.floats(a.at.s), *v = b.floats(a.at.v);
    for_pairs(0, b.n, own, [&](int row, int f) {
        const int element = b.ints(a.at.row_element)[row];
        put_two(s + row * own + f, two(a.embedding + element * b.F() + b.first_column + f));
    });
    for_pairs(0, 3 * b.n, own, [&](int row, int f) { put_two(v + row * own + f, make_float2(0, 0)); });
#pragma unroll 1
    for (int z0 = 0; z0 < b.n_elements; z0 += a.w.slots) {
        const int slots = min(a.w.slots, b.n_elements - z0), inputs = slots * a.w.paired;
        if (z0 > 0) {
            load_first(b, w_s, a.first_s, z0, inputs);
            load_first(b, w_R, a.first_R, z0, inputs);
        }
        make_coefficients(b, z0, slots);
        __syncthreads();
        const float *c = coefficients_of(b);
        add_first(b, w_s, c, inputs, b.n, s);
        add_first(b, w_R, c + b.n * a.w.coefficient, inputs, 3 * b.n, v);
    }
    float *to = b.exchange_now() + b.first_column;
    for_pairs(0, 3 * b.n, own, [&](int row, int f) { send_to_all(b, to + row * in_all + f, two(v + row * own + f)); });
}

/* Adjoints of coefficients [n][slots][paired] float4, from own columns of the adjoint of the state. */
template <typename B> __device__ inline void make_coefficient_adjoints(const B &b, const float *adj, int z0, int slots)
{
    const arguments &a = b.a;
    const int own = b.own(), width = slots * a.w.paired, stride = stride_of(4 * own);
    float4 *to = (float4 *)coefficients_of(b);
#pragma unroll 1
    for (int q = threadIdx.x; q < b.n * width; q += THREADS) {
        const int row = q / width, c = q - row * width, slot = c / a.w.paired, k = c % a.w.paired;
        float4 sum = make_float4(0, 0, 0, 0);
        if (k < a.w.functions) {
            const int element = b.ints(a.at.slot_element)[z0 + slot];
            const size_t at = ((size_t)element * a.w.functions + k) * b.F() + b.first_column;
            const float *of = adj + row * stride;
#pragma unroll 4
            for (int f = 0; f < own; f += 2) {
                const float2 w_s = two(a.first_s + at + f), w_R = two(a.first_R + at + f), s = two(of + f);
                const float2 x = two(of + own + f), y = two(of + 2 * own + f), z = two(of + 3 * own + f);
                sum.x += w_s.x * s.x + w_s.y * s.y;
                sum.y += w_R.x * x.x + w_R.y * x.y;
                sum.z += w_R.x * y.x + w_R.y * y.y;
                sum.w += w_R.x * z.x + w_R.y * z.y;
            }
        }
        to[q] = sum;
    }
}

/* Adds to the adjoints of edges: EDGE_LANES lanes an edge. */
template <typename B> __device__ inline void first_message_reverse(const B &b, const float *adj)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x % EDGE_LANES;
    const float *phi = tables_of(b), *dphi = phi + a.at.slots * a.w.table;
#pragma unroll 1
    for (int z0 = 0; z0 < b.n_elements; z0 += a.w.slots) {
        const int slots = min(a.w.slots, b.n_elements - z0), width = slots * a.w.paired;
        __syncthreads();
        make_coefficient_adjoints(b, adj, z0, slots);
        __syncthreads();
        const float4 *c = (const float4 *)coefficients_of(b);
#pragma unroll 1
        for (int base = 0; base < b.n_slots; base += THREADS / EDGE_LANES) {
            const int e = min(base + (int)threadIdx.x / EDGE_LANES, b.n_slots - 1);
            const int rows = b.ints(a.at.edge_rows)[e];
            const int slot = rows < 0 ? -1 : b.ints(a.at.row_slot)[neighbour_of(rows)] - z0;
            const bool mine = base + (int)threadIdx.x / EDGE_LANES < b.n_slots && slot >= 0 && slot < slots;
            const float4 *of_row = c + (rows < 0 ? 0 : centre_of(rows)) * width + slot * a.w.paired;
            const float4 u = b.quads(a.at.edges)[e];
            float4 sum = make_float4(0, 0, 0, 0);
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
            float4 *to = b.quads(a.at.edge_adj) + e;
            *to = make_float4(to->x + sum.x, to->y + sum.y, to->z + sum.z, to->w + sum.w);
        }
    }
}

} // namespace molecule
} // namespace mlff

#endif
