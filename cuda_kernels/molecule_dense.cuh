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
 *         parts, neighbours first. Sums beyond 8 inputs are ordinary additions: the units cut off what they add.
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

/* sum += x w of 8 inputs */
__device__ inline void multiply(float (&sum)[4], const split_inputs &x, const split_weights &w)
{
    float product[4] = {0, 0, 0, 0};
    mma_tf32(product, x.lo, w.hi);
    mma_tf32(product, x.hi, w.lo);
    mma_tf32(product, x.hi, w.hi);
#pragma unroll
    for (int q = 0; q < 4; q++) sum[q] += product[q];
}

__device__ inline void multiply(float (&sum)[4], const split_inputs &x, const float (&w)[2])
{
    multiply(sum, x, split(w[0], w[1]));
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
__device__ inline void load_gathered(warp_weights<STEPS, TILES> &w, const float *M, int inputs, int own, int parts,
                                     int part_width, const B &b)
{
    const int rank = b.rank;
    /* a part is so many tiles of the warp: one address for all */
    if (own == 8 * GROUPS * B::EACH && inputs == 8 * SLICES * STEPS) {
        const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const int width = parts * part_width;
        const float *from = M + (8 * (warp % SLICES) + 2 * t) * width + rank * own + warp / SLICES * 8 + g;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int q = 0; q < 2; q++)
                    w.b[step][tile][q] =
                        load_ahead_of_use(from + (8 * SLICES * step + q) * width + tile / B::EACH * part_width +
                                              tile % B::EACH * 8 * GROUPS,
                                          tile < parts * B::EACH);
        return;
    }
    load_gathered(w, inputs, parts * own, [=](int k, int v, bool valid) {
        return load_ahead_of_use(M + k * parts * part_width + column_of(v, own, rank * own, part_width), valid);
    });
}

/* Parts of rows begin .. begin + rows - 1 to [rows][SLICES][stride]. x [rows][x_stride] begins at row 0. */
template <int STEPS, int TILES>
__device__ inline void multiply_gathered(const warp_weights<STEPS, TILES> &w, const float *x, int x_stride, int inputs,
                                         int columns, int begin, int rows, float *part, int stride)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int slice = warp % SLICES, group = warp / SLICES;
    if (8 * slice >= inputs || 8 * group >= columns) return;
#pragma unroll 1
    for (int base = 0; base < rows; base += 16) {
        const int r0 = base + g, r1 = r0 + 8;
        const float *x0 = x + (begin + min(r0, rows - 1)) * x_stride, *x1 = x + (begin + min(r1, rows - 1)) * x_stride;
        float sum[TILES][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const int k = 8 * (slice + SLICES * step);
            if (k >= inputs) break;
            const float2 zero = make_float2(0, 0);
            const bool valid = k + 2 * t < inputs;
            const split_inputs a = split(valid ? two(x0 + k + 2 * t) : zero, valid ? two(x1 + k + 2 * t) : zero);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) multiply(sum[tile], a, w.b[step][tile]);
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
 * a barrier. */
template <int STEPS, int TILES, typename Finish, typename B>
__device__ inline void gathered(const B &b, const warp_weights<STEPS, TILES> &w, const float *x, int x_stride,
                                int inputs, int columns, int rows, Finish finish)
{
    constexpr int most = TILES > 2 * B::EACH ? CHUNK_WIDE : chunk_of(B::BLOCKS);
    const int all = (inputs + 7) / 8;
#pragma unroll 1
    for (int begin = 0; begin < rows; begin += most) {
        const slice_sums sums = {b.floats(b.a.at.part), min(most, rows - begin), stride_of(columns),
                                 all < SLICES ? all : SLICES};
        if (begin > 0) __syncthreads();
        multiply_gathered(w, x, x_stride, inputs, columns, begin, sums.rows, b.floats(b.a.at.part), sums.stride);
        __syncthreads();
        finish(begin, sums.rows, sums);
    }
}

/* ----------------------------------------------------------------------------------------------- scattered */

/* Rows of M [parts][part_width][F] that are own inputs, all columns. */
template <int STEPS, typename B>
__device__ inline void load_scattered(warp_weights<STEPS, 1> &w, const float *M, int own, int parts, int part_width,
                                      int F, const B &b)
{
    constexpr int OF_PART = 2 * B::EACH; /* steps */
    const int rank = b.rank;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, column = threadIdx.x / 32 * 8 + g;
    if (own == 8 * OF_PART && F == 8 * WARPS) { /* so many steps are a part of the matrix: one address for all */
        const float *from = M + (rank * own + 2 * t) * F + column;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int q = 0; q < 2; q++)
                w.b[step][0][q] = load_ahead_of_use(from + (step / OF_PART * part_width + step % OF_PART * 8 + q) * F,
                                                    step < OF_PART * parts);
        return;
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const int k = 8 * step + 2 * t;
        const bool valid = k < parts * own && column < F;
        const float *from = M + column_of(k, own, rank * own, part_width) * F + column;
        w.b[step][0][0] = load_ahead_of_use(from, valid);
        w.b[step][0][1] = load_ahead_of_use(from + F, valid); /* own is even: k + 1 is of the same part */
    }
}

/* Sums over own inputs, x [rows][x_stride] of parts [own], to the owners of the columns: [BLOCKS][rows][own] there.
 * `width`: own inputs of a part of x, a multiple of 8 EACH where a block has more than one part of the sums. */
template <int STEPS, typename B>
__device__ inline void scattered(const B &b, const warp_weights<STEPS, 1> &w, const float *x, int x_stride, int parts,
                                 int width, int rows)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, first = threadIdx.x / 32 * 8, own = b.own();
    const int inputs = parts * width, steps = width / (8 * B::EACH); /* steps of a part of the sums, and of x */
    if (first >= b.F()) return;
    const int column = first + 2 * t, owner = column / own;
    float *to = b.exchange_now() + b.rank * rows * own + column - owner * own;
#pragma unroll 1
    for (int base = 0; base < rows; base += 16) {
        const int r0 = base + g, r1 = r0 + 8;
        const float *x0 = x + min(r0, rows - 1) * x_stride, *x1 = x + min(r1, rows - 1) * x_stride;
        float sums[B::EACH][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const int k = 8 * step + 2 * t;
            if (8 * step >= inputs) break;
            const float2 zero = make_float2(0, 0);
            const split_inputs in = split(k < inputs ? two(x0 + k) : zero, k < inputs ? two(x1 + k) : zero);
            if (B::EACH == 1 || step / steps % 2 == 0)
                multiply(sums[0], in, w.b[step][0]);
            else
                multiply(sums[B::EACH - 1], in, w.b[step][0]);
        }
        float sum[4];
#pragma unroll
        for (int q = 0; q < 4; q++) sum[q] = B::EACH == 1 ? sums[0][q] : sums[0][q] + sums[B::EACH - 1][q];
        if (r0 < rows) send(to + r0 * own, owner, make_float2(sum[0], sum[1]), b.arrivals_now());
        if (r1 < rows) send(to + r1 * own, owner, make_float2(sum[2], sum[3]), b.arrivals_now());
    }
}

/* The sum of what the blocks sent, after the exchange; by the four lanes q of a quad, for all of them. */
template <typename B> __device__ inline float2 scattered_sum_of_quad(const B &b, int rows, int row, int f, int q)
{
    const int own = b.own();
    const float *from = b.exchange_before() + row * own + f;
    const int each = B::BLOCKS / 4; /* blocks of a lane: two parts */
    static_assert(B::BLOCKS == 4 || B::BLOCKS == 8, "a lane adds two parts, or they were added");
    float2 sum = two(from + each * q * rows * own);
    if (each == 2) sum = sum + two(from + (2 * q + 1) * rows * own);
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
    for (int half = B::BLOCKS / 2; half > 0; half /= 2)
#pragma unroll
        for (int q = 0; q < half; q++) sums[q] = sums[2 * q] + sums[2 * q + 1];
    return sums[0];
}

} // namespace molecule
} // namespace mlff

#endif
