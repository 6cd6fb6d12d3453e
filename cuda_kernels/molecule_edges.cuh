/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_EDGES_CUH
#define MLFF_CUDA_MOLECULE_EDGES_CUH
/*
 * Rows, edges and radial functions of a structure, and the first message (first_message.cu, docs/equations.md), in a block's
 * memory. Every block makes all edges; radial functions too, unless they go to global memory, where each block makes a share.
 *
 * Order   edges as candidates; coefficients: a row's edges ascending; sums over own columns of adjoints ascending; an edge's
 *         sums over functions: a lane's ascending, then a fixed tree over 8 lanes.
 */
#include "molecule_dense.cuh"

namespace mlff
{
namespace molecule
{

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int EDGE_LANES = 8; /* on the functions of an edge */

/* ---------------------------------------------------------------------------------------- rows and edges */

/* A thread a row; elements of the structure are numbered ascending, so that no sum depends on who else is in the call. */
__device__ inline void read_rows(block &b)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x;
    if (lane < 32) {
        const bool valid = lane < b.n;
        const int32_t element = valid ? a.species[b.begin + lane] : -1;
        bool is_first = valid;
        for (int other = 0; other < 32; other++)
            if (__shfl_sync(ALL_LANES, element, other) == element && other < lane) is_first = false;
        const unsigned firsts = __ballot_sync(ALL_LANES, is_first);
        int slot = 0;
        for (int other = 0; other < 32; other++) {
            const int32_t its = __shfl_sync(ALL_LANES, element, other);
            if (firsts >> other & 1 && its < element) slot++;
        }
        if (valid) {
            b.at<int>(a.at.row_element)[lane] = element;
            b.at<int>(a.at.row_slot)[lane] = slot;
            b.at<int>(a.at.slot_element)[slot] = element;
            b.at<int>(a.at.row_first)[lane] = (int)(a.first[b.begin + lane] - b.first_slot);
        }
        if (lane == 0) *b.at<int>(a.at.n_elements) = __popc(firsts);
    }
    for (int q = threadIdx.x; q < 3 * b.n; q += THREADS)
        b.at<double>(a.at.position)[q] = a.x[3 * (size_t)a.atom_of_row[b.begin + q / 3] + q % 3];
    for (int q = threadIdx.x; q < b.n_slots; q += THREADS) b.at<int>(a.at.edge_rows)[q] = -1;
    const float4 zero = make_float4(0, 0, 0, 0);
    for (int q = threadIdx.x; q < a.w.tiles * b.n_slots; q += THREADS) b.at<float4>(a.at.edge_adj)[q] = zero;
}

/* A warp a row, as edges_kernel (radial.cu) does it; a bad row is marked in *bad. */
__device__ inline void make_edges(const block &b, int *bad)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x % 32;
    const double *position = b.at<double>(a.at.position);
    for (int row = threadIdx.x / 32; row < b.n; row += WARPS) {
        const double x0 = position[3 * row], x1 = position[3 * row + 1], x2 = position[3 * row + 2];
        const int first = b.at<int>(a.at.row_first)[row];
        const int candidates = (int)(a.first[b.begin + row + 1] - b.first_slot) - first;
        bool good = isfinite(x0) && isfinite(x1) && isfinite(x2);
        int count = 0;
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
                b.at<float4>(a.at.edges)[e] =
                    make_float4((float)(r[0] / d), (float)(r[1] / d), (float)(r[2] / d), (float)d);
                b.at<int>(a.at.edge_rows)[e] = neighbour_row | row << 8;
            }
            count += __popc(kept);
        }
        if (!__all_sync(ALL_LANES, good) && lane == 0) atomicMin(bad, b.begin + row);
        if (lane == 0) b.at<int>(a.at.row_count)[row] = count;
    }
}

/* phi and dphi [2][E][table], 0 beyond function K. */
__device__ inline void make_tables(const block &b)
{
    const arguments &a = b.a;
    const int table = a.w.table, parts = a.at.shared_tables ? 1 : BLOCKS, mine = a.at.shared_tables ? 0 : b.rank;
    float *phi = tables_of(b), *dphi = phi + a.at.slots * table;
    const int share = (b.n_slots - mine + parts - 1) / parts;
    for (int q = threadIdx.x; q < share * table; q += THREADS) {
        const int e = q / table * parts + mine, k = q % table;
        if (b.at<int>(a.at.edge_rows)[e] < 0) continue;
        const float d = b.at<float4>(a.at.edges)[e].w;
        float fc, dfc, value, slope;
        cutoff_function(a.radial, d, &fc, &dfc);
        radial_function(a.radial, d, fc, dfc, k, &value, &slope);
        phi[e * table + k] = value;
        dphi[e * table + k] = slope;
    }
}

/* ----------------------------------------------------------------------------------------- first message */

/* Coefficients of elements z0 .. z0 + slots - 1: [n] of phi, then [n][3] of phi u, each [slots][paired]. They lie in the
 * exchange buffer that is written last. */
__device__ inline float *coefficients_of(const block &b)
{
    return b.memory + b.a.at.exchange[1];
}

__device__ inline void make_coefficients(const block &b, int z0, int slots)
{
    const arguments &a = b.a;
    const int width = slots * a.w.paired, stride = a.w.coefficient;
    const int *edge_rows = b.at<int>(a.at.edge_rows), *row_slot = b.at<int>(a.at.row_slot);
    const float *phi = tables_of(b);
    float *to = coefficients_of(b);
    for (int q = threadIdx.x; q < b.n * width; q += THREADS) {
        const int row = q / width, c = q - row * width, z = z0 + c / a.w.paired, k = c % a.w.paired;
        const int first = b.at<int>(a.at.row_first)[row], end = first + b.at<int>(a.at.row_count)[row];
        float sum = 0, x = 0, y = 0, w = 0;
        if (k < a.w.functions)
            for (int e = first; e < end; e++) {
                if (row_slot[neighbour_of(edge_rows[e])] != z) continue;
                const float value = phi[e * a.w.table + k];
                const float4 u = b.at<float4>(a.at.edges)[e];
                sum += value;
                x += value * u.x, y += value * u.y, w += value * u.z;
            }
        to[row * stride + c] = sum;
        float *vector = to + (b.n + 3 * row) * stride + c;
        vector[0] = x, vector[stride] = y, vector[2 * stride] = w;
    }
}

/* Row (element, function) of first_s or first_R, own column v; 0 where the padding is. */
__device__ inline float first_weight(const block &b, const float *table, int z0, int k, int v)
{
    const arguments &a = b.a;
    const int slot = k / a.w.paired, function = k - slot * a.w.paired;
    if (function >= a.w.functions) return 0;
    const int element = b.at<int>(a.at.slot_element)[z0 + slot];
    return __ldg(table + ((size_t)element * a.w.functions + function) * a.w.F + b.first_column + v);
}

/* s and v, own columns; v goes to all blocks too. */
__device__ inline void first_message(const block &b)
{
    const arguments &a = b.a;
    const int own = a.w.own, stride = a.w.coefficient, in_all = stride_of(a.w.F);
    float *s = b.at<float>(a.at.s), *v = b.at<float>(a.at.v);
    for_pairs(0, b.n, own, [&](int row, int f) {
        const int element = b.at<int>(a.at.row_element)[row];
        put_two(s + row * own + f, two(a.embedding + (size_t)element * a.w.F + b.first_column + f));
    });
    for_pairs(0, 3 * b.n, own, [&](int row, int f) { put_two(v + row * own + f, make_float2(0, 0)); });
    for (int z0 = 0; z0 < b.n_elements; z0 += a.w.slots) {
        const int slots = min(a.w.slots, b.n_elements - z0), inputs = slots * a.w.paired;
        warp_weights<4, 1> w_s, w_R;
        load_gathered(w_s, inputs, own, [&](int k, int q) { return first_weight(b, a.first_s, z0, k, q); });
        load_gathered(w_R, inputs, own, [&](int k, int q) { return first_weight(b, a.first_R, z0, k, q); });
        make_coefficients(b, z0, slots);
        __syncthreads();
        const float *c = coefficients_of(b);
        const auto add = [&](float *to) {
            return [=](int begin, int rows, slice_sums sums) {
                for_pairs(begin, rows, own, [&](int row, int f) {
                    put_two(to + row * own + f, two(to + row * own + f) + sums(row - begin, f));
                });
            };
        };
        gathered(b, w_s, c, stride, inputs, own, b.n, add(s));
        __syncthreads();
        gathered(b, w_R, c + b.n * stride, stride, inputs, own, 3 * b.n, add(v));
        __syncthreads();
    }
    float *to = b.exchange_now() + b.first_column;
    for_pairs(0, 3 * b.n, own, [&](int row, int f) { put_in_all(to + row * in_all + f, two(v + row * own + f)); });
}

/* Adjoints of coefficients [n][slots][paired] float4, from own columns of the adjoint of the state. */
__device__ inline void make_coefficient_adjoints(const block &b, const float *adj, int z0, int slots)
{
    const arguments &a = b.a;
    const int own = a.w.own, width = slots * a.w.paired, stride = stride_of(4 * own);
    float4 *to = (float4 *)coefficients_of(b);
    for (int q = threadIdx.x; q < b.n * width; q += THREADS) {
        const int row = q / width, c = q - row * width, slot = c / a.w.paired, k = c % a.w.paired;
        float4 sum = make_float4(0, 0, 0, 0);
        if (k < a.w.functions) {
            const int element = b.at<int>(a.at.slot_element)[z0 + slot];
            const size_t at = ((size_t)element * a.w.functions + k) * a.w.F + b.first_column;
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
__device__ inline void first_message_reverse(const block &b, const float *adj)
{
    const arguments &a = b.a;
    const int lane = threadIdx.x % EDGE_LANES;
    const float *phi = tables_of(b), *dphi = phi + a.at.slots * a.w.table;
    for (int z0 = 0; z0 < b.n_elements; z0 += a.w.slots) {
        const int slots = min(a.w.slots, b.n_elements - z0), width = slots * a.w.paired;
        __syncthreads();
        make_coefficient_adjoints(b, adj, z0, slots);
        __syncthreads();
        const float4 *c = (const float4 *)coefficients_of(b);
        for (int base = 0; base < b.n_slots; base += THREADS / EDGE_LANES) {
            const int e = min(base + (int)threadIdx.x / EDGE_LANES, b.n_slots - 1);
            const int rows = b.at<int>(a.at.edge_rows)[e];
            const int slot = rows < 0 ? -1 : b.at<int>(a.at.row_slot)[neighbour_of(rows)] - z0;
            const bool mine = base + (int)threadIdx.x / EDGE_LANES < b.n_slots && slot >= 0 && slot < slots;
            const float4 *of_row = c + (rows < 0 ? 0 : centre_of(rows)) * width + slot * a.w.paired;
            const float4 u = b.at<float4>(a.at.edges)[e];
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
            float4 *to = b.at<float4>(a.at.edge_adj) + e;
            *to = make_float4(to->x + sum.x, to->y + sum.y, to->z + sum.z, to->w + sum.w);
        }
    }
}

} // namespace molecule
} // namespace mlff

#endif
