/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_DENSE_CUH
#define MLFF_CUDA_MOLECULE_DENSE_CUH
/*
 * Dense layers of a cluster, through the matrix units in three TF32 products (mma.cuh). Each weight is needed once a
 * block, so it goes from L2 straight to the register of the lane that multiplies with it, while the layer before is
 * worked on. Of 8 inputs lane t has numbers 2t and 2t + 1, in one load: the order of a sum's terms is free.
 *
 * Order   gathered: 8 inputs at a time ascending within a slice, slices ascending, or by quads of lanes slices q and
 *         q + 4, then a fixed tree over q; scattered: inputs of a part (molecule.cuh) ascending, then a fixed tree over
 *         parts, neighbours first. The units add up 16 inputs, or 24 of a block of six; longer sums are ordinary
 *         additions: the units cut off what they add.
 */
#include "mma.cuh"
#include "molecule.cuh"

namespace mlff
{
namespace molecule
{

/* Two weights of 8 inputs for each step and tile of a warp. */
template <int STEPS, int TILES> struct warp_weights {
    float b[STEPS][TILES][2];
};

struct split_inputs {
    uint32_t hi[4], lo[4];
};

/* As split_tf32, which is seven instructions, in three: the units cut lo off to 11 bits, 2^-23 of the number at most.
 * (Rounded instead, forces of the fixtures are as near the CPU's double: 3.0e-7 against 2.8e-7, relative, geometric
 * mean, emulated.) A number that is none stays so in lo. */
__device__ inline void split_number(float x, uint32_t &hi, uint32_t &lo)
{
    hi = (__float_as_uint(x) + 0x1000u) & 0xffffe000u;
    lo = __float_as_uint(x - __uint_as_float(hi));
}

/* Rows g and g + 8: x0 and x1 have inputs 2t and 2t + 1. */
__device__ inline split_inputs split(float2 x0, float2 x1)
{
    split_inputs s;
    split_number(x0.x, s.hi[0], s.lo[0]);
    split_number(x1.x, s.hi[1], s.lo[1]);
    split_number(x0.y, s.hi[2], s.lo[2]);
    split_number(x1.y, s.hi[3], s.lo[3]);
    return s;
}

/* Weights of 8 inputs, in two. */
struct split_weights {
    uint32_t hi[2], lo[2];
};

__device__ inline split_weights split(float w0, float w1)
{
    split_weights s;
    split_number(w0, s.hi[0], s.lo[0]);
    split_number(w1, s.hi[1], s.lo[1]);
    return s;
}

/* products[i] += x[i] w[i] of 8 inputs, small parts first: one kind of product of all i after the other, since each
 * waits 30 cycles for the one before it. The barrier keeps the compiler from splitting the numbers of one i behind the
 * products of the last, which saves it registers. */
template <int N>
__device__ inline void multiply_together(float (&products)[N][4], const split_inputs (&x)[N],
                                         const split_weights (&w)[N])
{
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; i++) mma_tf32(products[i], x[i].lo, w[i].hi);
#pragma unroll
    for (int i = 0; i < N; i++) mma_tf32(products[i], x[i].hi, w[i].lo);
#pragma unroll
    for (int i = 0; i < N; i++) mma_tf32(products[i], x[i].hi, w[i].hi);
}

/* The same of one x. */
template <int N>
__device__ inline void multiply_together(float (&products)[N][4], const split_inputs &x, const split_weights (&w)[N])
{
    split_inputs same[N];
#pragma unroll
    for (int i = 0; i < N; i++) same[i] = x;
    multiply_together(products, same, w);
}

/* Own column v of `parts` parts one behind the other: its column in the matrix. */
__device__ inline int column_of(int v, int own, int first, int part_width)
{
    const int part = (v >= own) + (v >= 2 * own);
    return part * part_width + first + v - part * own;
}

/* ------------------------------------------------------------------------------------------------ gathered */

/* weight(k, v, valid): of input k and own column v; 0 beyond both ends. */
template <int STEPS, int TILES, typename Weight>
__device__ inline void load_gathered(warp_weights<STEPS, TILES> &w, int inputs, int columns, Weight weight)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int slice = warp % SLICES, group = warp / SLICES;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int k = 8 * (slice + SLICES * step) + 2 * t, v = 8 * (group + GROUPS * tile) + g;
            const bool valid = k < inputs && v < columns;
            w.b[step][tile][0] = weight(k, v, valid);
            w.b[step][tile][1] = weight(k + 1, v, valid);
        }
}

/* Own columns of parts of a matrix [inputs][parts][part_width]. */
template <int STEPS, int TILES, typename B>
__device__ inline void load_gathered(warp_weights<STEPS, TILES> &w, const float *M, int inputs, share of, int parts,
                                     int part_width, const B &b)
{
    const int rank = b.rank, own = of.own;
    load_gathered(w, inputs, parts * own, [=](int k, int v, bool valid) {
        const int f = v - ((v >= own) + (v >= 2 * own)) * own;
        return load_ahead_of_use(M + k * parts * part_width + column_of(v, own, rank * own, part_width),
                                 valid && f < of.columns);
    });
}

/* The same from weights in pairs (weights.cu), of features where their number is known to the compiler. Columns that
 * the block does not have are never looked at: others stand in for them. */
template <int STEPS, int TILES, typename B>
__device__ inline void load_pairs(warp_weights<STEPS, TILES> &w, const float2 *M, int parts, const B &b)
{
    constexpr int OWN = B::steps(1), EIGHTS = PAIRED_FEATURES / 8; /* in eights of columns */
    const int warp = threadIdx.x / 32, slice = warp % SLICES, group = warp / SLICES;
    const float2 *from = M + slice * 32 + threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const int eight = min(group + GROUPS * tile, OWN * parts - 1), part = (eight >= OWN) + (eight >= 2 * OWN);
        const int at = eight - OWN * part, column = part * EIGHTS + b.rank * OWN;
        const int stand_in = B::EVEN || 8 * at < b.features().columns ? at : 0;
        const float2 *of_tile = from + (column + stand_in) * (SLICES * STEPS * 32);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const float2 two_weights = load_two_ahead_of_use((const float *)(of_tile + step * SLICES * 32), true);
            w.b[step][tile][0] = two_weights.x, w.b[step][tile][1] = two_weights.y;
        }
    }
}

/* A layer's, of features. */
template <int STEPS, int TILES, typename B>
__device__ inline void load_gathered(warp_weights<STEPS, TILES> &w, const float *M, int inputs, int parts, const B &b)
{
    if constexpr (B::KNOWN)
        load_pairs(w, (const float2 *)M, parts, b);
    else
        load_gathered(w, M, inputs, b.features(), parts, b.F(), b);
}

/* The readout's. */
template <int TILES, typename B> __device__ inline void load_readout(warp_weights<2, TILES> &w, const B &b)
{
    if constexpr (!B::KNOWN) return load_gathered(w, b.a.readout0, b.F(), b.readout(), 1, b.a.w.H, b);
    const int warp = threadIdx.x / 32, eights = b.readout().columns / 8;
    const float2 *from = (const float2 *)b.a.readout0 + warp % SLICES * 32 + threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const int eight = warp / SLICES + GROUPS * tile; /* beyond the last: zeros */
        const float2 *of_tile = from + (b.rank * (b.a.w.own_readout / 8) + eight) * (PAIRED_FEATURES / 8 * 32);
#pragma unroll
        for (int step = 0; step < 2; step++) {
            const float2 x = load_two_ahead_of_use((const float *)(of_tile + step * SLICES * 32), eight < eights);
            w.b[step][tile][0] = x.x, w.b[step][tile][1] = x.y;
        }
    }
}

/* Parts of rows begin .. begin + rows - 1 to [rows][SLICES][stride]. x [rows][x_stride] begins at row 0. FULL: all
 * warps have all steps. */
template <bool FULL, int STEPS, int TILES>
__device__ inline void multiply_gathered(const warp_weights<STEPS, TILES> &w, const float *x, int x_stride, int inputs,
                                         int columns, int begin, int rows, float *part, int stride)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int slice = warp % SLICES, group = warp / SLICES;
    constexpr int IN_UNITS = 2; /* steps that the matrix units add up */
    if (8 * slice >= inputs || 8 * group >= columns) return;
#pragma unroll 1
    for (int base = 0; base < rows; base += 16) {
        const int r0 = base + g, r1 = r0 + 8;
        const float *x0 = x + (begin + min(r0, rows - 1)) * x_stride, *x1 = x + (begin + min(r1, rows - 1)) * x_stride;
        float sum[TILES][4] = {};
#pragma unroll
        for (int first = 0; first < STEPS; first += IN_UNITS) {
            if (!FULL && 8 * (slice + SLICES * first) >= inputs) break;
            split_inputs a[IN_UNITS];
#pragma unroll
            for (int q = 0; q < IN_UNITS; q++) {
                const int k = 8 * (slice + SLICES * (first + q)) + 2 * t;
                const float2 zero = make_float2(0, 0);
                const bool valid = FULL || k < inputs;
                a[q] = split(valid ? two(x0 + k) : zero, valid ? two(x1 + k) : zero);
            }
            float product[TILES][4] = {};
#pragma unroll
            for (int q = 0; q < IN_UNITS; q++) {
                split_weights of_tile[TILES];
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
                    of_tile[tile] = split(w.b[first + q][tile][0], w.b[first + q][tile][1]);
                multiply_together(product, a[q], of_tile);
            }
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int q = 0; q < 4; q++)
                    sum[tile][q] = first == 0 ? product[tile][q] : sum[tile][q] + product[tile][q];
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int v = 8 * (group + GROUPS * tile) + 2 * t;
            if (v >= columns) continue;
            float *to = part + r0 * parts_stride(stride) + slice * stride + v;
            if (r0 < rows) put_two(to, make_float2(sum[tile][0], sum[tile][1]));
            if (r1 < rows) put_two(to + 8 * parts_stride(stride), make_float2(sum[tile][2], sum[tile][3]));
        }
    }
}

/* Sums of the slices for a row of the chunk, columns v and v + 1. */
struct slice_sums {
    const float *part;
    int rows, stride, slices;

    __device__ float2 operator()(int row, int v) const
    {
        const float *p = part + row * parts_stride(stride) + v;
        float2 values[SLICES], sum = make_float2(0, 0);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) values[slice] = slice < slices ? two(p + slice * stride) : sum;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) sum = sum + values[slice];
        return sum;
    }

    /* The same, by the four lanes q of a quad; for all of them. */
    __device__ float2 of_quad(int row, int v, int q) const
    {
        const float *p = part + row * parts_stride(stride) + v;
        float2 sum = make_float2(0, 0);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice += 4)
            if (q + slice < slices) sum = sum + two(p + (q + slice) * stride);
        return over_quad(sum);
    }
};

/* A gathered layer of `rows` rows of x; finish(begin, rows, sums) for each chunk, when its sums are there. Ends without
 * a barrier. FULL: inputs are 8 SLICES STEPS. */
template <bool FULL, int STEPS, int TILES, typename Finish, typename B>
__device__ inline void gathered(const B &b, const warp_weights<STEPS, TILES> &w, const float *x, int x_stride,
                                int inputs, int columns, int rows, Finish finish)
{
    constexpr int most = TILES > B::tiles(2) ? CHUNK_WIDE : chunk_of(B::BLOCKS);
    const int all = (inputs + 7) / 8;
#pragma unroll 1
    for (int begin = 0; begin < rows; begin += most) {
        const slice_sums sums = {b.floats(b.a.at.part), min(most, rows - begin), stride_of(columns),
                                 all < SLICES ? all : SLICES};
        if (begin > 0) __syncthreads();
        multiply_gathered<FULL>(w, x, x_stride, inputs, columns, begin, sums.rows, b.floats(b.a.at.part), sums.stride);
        __syncthreads();
        finish(begin, sums.rows, sums);
    }
}

/* ----------------------------------------------------------------------------------------------- scattered */

/* Rows of M [parts][part_width][F] that are own inputs, all columns. */
template <int STEPS, typename B>
__device__ inline void load_scattered(warp_weights<STEPS, 1> &w, const float *M, share of, int parts, int part_width,
                                      int F, const B &b)
{
    const int rank = b.rank, own = of.own;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, column = threadIdx.x / 32 * 8 + g;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int k = 8 * step + 2 * t;
        const int f = k - ((k >= own) + (k >= 2 * own)) * own;
        const bool valid = k < parts * own && f < of.columns && column < F;
        const float *from = M + column_of(k, own, rank * own, part_width) * F + column;
        w.b[step][0][0] = load_ahead_of_use(from, valid);
        w.b[step][0][1] = load_ahead_of_use(from + F, valid); /* own is even: k + 1 is of the same part */
    }
}

/* A layer's, of features. */
template <int STEPS, typename B>
__device__ inline void load_scattered(warp_weights<STEPS, 1> &w, const float *M, int parts, const B &b)
{
    if constexpr (!B::KNOWN) {
        load_scattered(w, M, b.features(), parts, b.F(), b.F(), b);
        return;
    }
    constexpr int OWN = B::steps(1), EIGHTS = PAIRED_FEATURES / 8; /* in eights of inputs */
    const float2 *from =
        (const float2 *)M + ((threadIdx.x / 32 * parts * EIGHTS) + b.rank * OWN) * 32 + threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const bool valid = step < OWN * parts && (B::EVEN || step % OWN * 8 < b.features().columns);
        const float2 two_weights =
            load_two_ahead_of_use((const float *)(from + (step / OWN * EIGHTS + step % OWN) * 32), valid);
        w.b[step][0][0] = two_weights.x, w.b[step][0][1] = two_weights.y;
    }
}

/* The readout's. */
template <int STEPS, typename B> __device__ inline void load_readout_reverse(warp_weights<STEPS, 1> &w, const B &b)
{
    const int H = b.a.w.H, eights = b.readout().columns / 8;
    if constexpr (!B::KNOWN) {
        load_scattered(w, b.a.readout0_T, b.readout(), 1, H, b.F(), b);
        return;
    }
    const float2 *from = (const float2 *)b.a.readout0_T +
                         (threadIdx.x / 32 * (H / 8) + b.rank * (b.a.w.own_readout / 8)) * 32 + threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const float2 x = load_two_ahead_of_use((const float *)(from + step * 32), step < eights);
        w.b[step][0][0] = x.x, w.b[step][0][1] = x.y;
    }
}

/* Sums over own inputs, x [rows][x_stride] of parts [own], to the owners of the columns: [BLOCKS][rows][own] there.
 * `of`: own inputs of a part of x, a multiple of 8 EACH where a block has more than one part of the sums. IN_UNITS:
 * steps, of one part, that the matrix units add up. */
template <int IN_UNITS, int STEPS, typename B>
__device__ inline void scattered(const B &b, const warp_weights<STEPS, 1> &w, const float *x, int x_stride, int parts,
                                 share of, int rows)
{
    constexpr int SUMS = B::EVEN ? B::EACH : 1, GROUPS_OF_STEPS = STEPS / IN_UNITS;
    constexpr int TOGETHER = GROUPS_OF_STEPS % 3 == 0 ? 3 : GROUPS_OF_STEPS % 2 == 0 ? 2 : 1; /* sums under way */
    static_assert(STEPS % IN_UNITS == 0, "whole sums of the matrix units");
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, first = threadIdx.x / 32 * 8, own = b.own();
    const int inputs = parts * of.own, steps = of.own / (8 * SUMS); /* steps of a part of the sums, and of x */
    if (first >= b.F()) return;
    const int column = first + 2 * t, owner = column / own;
    float *to = b.exchange_now() + b.rank * rows * own + column - owner * own;
#pragma unroll 1
    for (int base = 0; base < rows; base += 16) {
        const int r0 = base + g, r1 = r0 + 8;
        const float *x0 = x + min(r0, rows - 1) * x_stride, *x1 = x + min(r1, rows - 1) * x_stride;
        float sums[SUMS][4] = {};
#pragma unroll
        for (int first = 0; first < STEPS; first += IN_UNITS * TOGETHER) {
            if (8 * first >= inputs) break;
            float products[TOGETHER][4] = {};
#pragma unroll
            for (int q = 0; q < IN_UNITS; q++) {
                split_inputs in[TOGETHER];
                split_weights of_step[TOGETHER];
#pragma unroll
                for (int i = 0; i < TOGETHER; i++) {
                    const int step = first + i * IN_UNITS + q, k = 8 * step + 2 * t;
                    const float2 zero = make_float2(0, 0);
                    in[i] = split(k < inputs ? two(x0 + k) : zero, k < inputs ? two(x1 + k) : zero);
                    of_step[i] = split(w.b[step][0][0], w.b[step][0][1]);
                }
                multiply_together(products, in, of_step);
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                const bool second = SUMS > 1 && (first + i * IN_UNITS) / steps % 2 > 0;
#pragma unroll
                for (int q = 0; q < 4; q++) { /* chosen without an index, which would put the sums into memory */
                    if (SUMS > 1) sums[SUMS - 1][q] = second ? sums[SUMS - 1][q] + products[i][q] : sums[SUMS - 1][q];
                    sums[0][q] = second ? sums[0][q] : sums[0][q] + products[i][q];
                }
            }
        }
        float sum[4];
#pragma unroll
        for (int q = 0; q < 4; q++) sum[q] = SUMS == 1 ? sums[0][q] : sums[0][q] + sums[SUMS - 1][q];
        if (r0 < rows) send(to + r0 * own, owner, make_float2(sum[0], sum[1]), b.arrivals_now());
        if (r1 < rows) send(to + r1 * own, owner, make_float2(sum[2], sum[3]), b.arrivals_now());
    }
}

/* The sum of what the blocks sent, after the exchange; by the four lanes q of a quad, for all of them. */
template <typename B> __device__ inline float2 scattered_sum_of_quad(const B &b, int rows, int row, int f, int q)
{
    const int own = b.own();
    const float *from = b.exchange_before() + row * own + f;
    static_assert(B::BLOCKS == 4 || B::BLOCKS == 6 || B::BLOCKS == 8, "a lane adds two parts, or they were added");
    if (B::BLOCKS == 4) return over_quad(two(from + q * rows * own));
    float2 sum = make_float2(0, 0);
    if (2 * q < B::BLOCKS) sum = two(from + 2 * q * rows * own) + two(from + (2 * q + 1) * rows * own);
    return over_quad(sum);
}

/* The sum of what the blocks sent, after the exchange. */
template <typename B> __device__ inline float2 scattered_sum(const B &b, int rows, int row, int f)
{
    const int own = b.own();
    const float *from = b.exchange_before() + row * own + f;
    float2 sums[B::BLOCKS];
#pragma unroll
    for (int rank = 0; rank < B::BLOCKS; rank++) sums[rank] = two(from + rank * rows * own);
#pragma unroll
    for (int left = B::BLOCKS; left > 1; left = (left + 1) / 2)
#pragma unroll
        for (int q = 0; q < (left + 1) / 2; q++)
            sums[q] = 2 * q + 1 < left ? sums[2 * q] + sums[2 * q + 1] : sums[2 * q];
    return sums[0];
}

} // namespace molecule
} // namespace mlff

#endif
