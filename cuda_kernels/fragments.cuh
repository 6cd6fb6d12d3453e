/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_FRAGMENTS_CUH
#define MLFF_CUDA_FRAGMENTS_CUH
/*
 * Dense layers of 16 or 32 atoms inside a kernel: rows in shared memory as fragments of the matrix units, weights
 * packed once at load and read from L2, sums in registers.
 *
 * Numbers  T = float: a = hi + lo, two halves of 11 bits; products lo hi, hi lo, hi hi (what is left out is 2^-22 of
 *          it). 16 inputs of a row share a power of two that brings their largest magnitude to 2^14 .. 2^15, so a
 *          half's narrow range does not matter, and what becomes of an atom does not depend on the others of its tile.
 *          T = __half: one half, no powers: a number beyond 65504 becomes infinite, an error of the evaluation.
 * Order    of a sum: float: 16 inputs in the matrix units, these sums by ordinary additions in ascending order, since
 *          the matrix units cut long sums off instead of rounding them; half: all inputs in the matrix units.
 * Lanes    lane 4g + t of a warp holds columns 4t .. 4t+3 of its 16 for rows g and g+8 of a tile: the order of inputs
 *          and outputs of an mma is free, and with this one the sums of a layer already lie as the next layer's
 *          fragments, and a lane's columns are neighbours in memory.
 */
#include "state.cuh"

namespace mlff
{

constexpr int TILE_ROWS = 16, GROUP = 16, BLOCK_ATOMS = 32, ATOM_TILES = BLOCK_ATOMS / TILE_ROWS;

/* Halves of a number. */
template <typename T> constexpr int PARTS = sizeof(T) == sizeof(float) ? 2 : 1;

/* ------------------------------------------------------------------------------------------ memory */

/* Four neighbouring values of a row; zeros where the row does not exist. Past L1, which is left to the weights. */
__device__ inline void read_four(const float *from, bool valid, float (&to)[4])
{
    const float4 v = valid ? __ldcg((const float4 *)from) : make_float4(0, 0, 0, 0);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ inline void read_four(const __half *from, bool valid, float (&to)[4])
{
    const uint2 bits = valid ? __ldcg((const uint2 *)from) : make_uint2(0, 0);
    const float2 low = __half22float2(*(const __half2 *)&bits.x), high = __half22float2(*(const __half2 *)&bits.y);
    to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
}

__device__ inline uint32_t two_halves(float low, float high)
{
    const __half2 h = __floats2half2_rn(low, high);
    return *(const uint32_t *)&h;
}

__device__ inline void write_four(float *to, bool valid, const float (&from)[4])
{
    if (valid) __stcg((float4 *)to, make_float4(from[0], from[1], from[2], from[3]));
}

__device__ inline void write_four(__half *to, bool valid, const float (&from)[4])
{
    if (valid) __stcg((uint2 *)to, make_uint2(two_halves(from[0], from[1]), two_halves(from[2], from[3])));
}

/* What is read after `x` was stored as T. */
template <typename T> __device__ inline float as_stored(float x)
{
    return sizeof(T) == sizeof(float) ? x : __half2float(__float2half_rn(x));
}

/* The same number, of which the compiler does not know that: addresses made from it are made anew and not kept in
 * registers over the layers between. */
__device__ inline int anew(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* --------------------------------------------------------------------------------------- fragments */

/* The lane's part of a tile's 16 inputs: x[0] of row g, x[1] of row g + 8. `to` [PARTS][32], `undo` [8]. */
template <typename T> __device__ inline void put_fragment(uint4 *to, float2 *undo, const float (&x)[2][4])
{
    const int lane = threadIdx.x % 32;
    uint32_t hi[2][2], lo[2][2];
    float down[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float up = 1;
        if (PARTS<T> == 2) {
            float most = fmaxf(fmaxf(fabsf(x[r][0]), fabsf(x[r][1])), fmaxf(fabsf(x[r][2]), fabsf(x[r][3])));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            const int exponent = max(__float_as_int(most) >> 23, 15);
            up = __int_as_float((268 - exponent) << 23);
            down[r] = __int_as_float((exponent - 14) << 23);
        }
#pragma unroll
        for (int q = 0; q < 2; q++) {
            const float a = x[r][2 * q] * up, b = x[r][2 * q + 1] * up;
            hi[r][q] = two_halves(a, b);
            const float2 rounded = __half22float2(*(const __half2 *)&hi[r][q]);
            lo[r][q] = two_halves(a - rounded.x, b - rounded.y);
        }
    }
    to[lane] = make_uint4(hi[0][0], hi[1][0], hi[0][1], hi[1][1]);
    if (PARTS<T> == 1) return;
    to[32 + lane] = make_uint4(lo[0][0], lo[1][0], lo[0][1], lo[1][1]);
    if (lane % 4 == 0) undo[lane / 4] = make_float2(down[0], down[1]);
}

/* d [16 x 8] = a [16 x 16] b [16 x 8] + c */
__device__ inline void mma_f16(float (&d)[4], const uint4 &a, uint32_t b0, uint32_t b1, const float (&c)[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

/* Rows in shared memory: fragments [tiles][row_steps][PARTS][32], powers of two [tiles][row_steps][8]. */
struct row_fragments {
    uint4 *numbers;
    float2 *undo;
    int row_steps;
};

/* Bytes of so many fragments with their powers of two. */
template <typename T> __host__ __device__ constexpr size_t fragment_bytes(int count)
{
    return (size_t)count * (PARTS<T> * 32 * sizeof(uint4) + 8 * sizeof(float2));
}

template <typename T>
__device__ inline void put_rows(const row_fragments &a, int tile, int step, const float (&x)[2][4])
{
    const int at = tile * a.row_steps + step;
    put_fragment<T>(a.numbers + at * PARTS<T> * 32, a.undo + at * 8, x);
}

/* The sums of a lane: row r (g or g + 8), column q (0 .. 3) of tile m and group n is c[m][n][q / 2][2 * r + q % 2]. */
template <int M, int N> using sums = float[M][N][2][4];

/* Steps whose weights are on their way from L2 while one is worked on, as far as registers go; one tile in single is
 * slower with more (H200). */
template <typename T, int M, int N>
constexpr int STEPS_AHEAD = PARTS<T> == 1 ? (M *N <= 4 ? 4 : 2)
                            : M == 1      ? 2
                            : M *N <= 2   ? 4
                            : M *N <= 4   ? 2
                                          : 1;

/* The lane's weights of a step for N groups of columns. */
template <typename T, int N>
__device__ inline void load_step(const uint4 *weights, int apart, int in_steps, int step, uint4 (&to)[N][PARTS<T>])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int p = 0; p < PARTS<T>; p++)
            to[n][p] = __ldg(weights + ((size_t)n * apart * in_steps + step) * 64 + p * 32);
}

/* One step's products of all tiles. `at`: of the step in the first tile. */
template <typename T, int M, int N>
__device__ inline void multiply_step(const row_fragments &a, int step, const uint4 (&b)[N][PARTS<T>], sums<M, N> &c)
{
    const int lane = threadIdx.x % 32, g = lane / 4;
#pragma unroll
    for (int i = 0; i < M; i++) {
        const int at = i * a.row_steps + step;
        const uint4 *rows = a.numbers + at * PARTS<T> * 32 + lane;
        const uint4 hi = rows[0];
        if (PARTS<T> == 1) {
#pragma unroll
            for (int n = 0; n < N; n++) {
                mma_f16(c[i][n][0], hi, b[n][0].x, b[n][0].y, c[i][n][0]);
                mma_f16(c[i][n][1], hi, b[n][0].z, b[n][0].w, c[i][n][1]);
            }
            continue;
        }
        const uint4 lo = rows[32];
        const float2 undo = a.undo[at * 8 + g];
        const float zero[4] = {0, 0, 0, 0};
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint4 &w = b[n][0], &w_lo = b[n][PARTS<T> - 1];
            float sum[2][4]; /* small parts first */
            mma_f16(sum[0], lo, w.x, w.y, zero);
            mma_f16(sum[1], lo, w.z, w.w, zero);
            mma_f16(sum[0], hi, w_lo.x, w_lo.y, sum[0]);
            mma_f16(sum[1], hi, w_lo.z, w_lo.w, sum[1]);
            mma_f16(sum[0], hi, w.x, w.y, sum[0]);
            mma_f16(sum[1], hi, w.z, w.w, sum[1]);
#pragma unroll
            for (int q = 0; q < 8; q++) c[i][n][q / 4][q % 4] += sum[q / 4][q % 4] * (q % 4 < 2 ? undo.x : undo.y);
        }
    }
}

/* c += rows times M, for column groups first_group, first_group + apart, ...; `from`: M's step at the rows' step 0. */
template <typename T, int M, int N, int AHEAD = STEPS_AHEAD<T, M, N>>
__device__ inline void multiply(const row_fragments &a, const matrix<float> &m, int first_group, int apart, int from,
                                int steps, sums<M, N> &c)
{
    const int in_steps = m.n_in / GROUP;
    const uint4 *weights = m.fragments + ((size_t)first_group * in_steps + from) * 64 + threadIdx.x % 32;
    uint4 b[AHEAD][N][PARTS<T>];
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
        if (j < steps) load_step<T, N>(weights, apart, in_steps, j, b[j]);
#pragma unroll 1
    for (int k = 0; k < steps; k += AHEAD)
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            if (k + j >= steps) break;
            uint4 now[N][PARTS<T>];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int p = 0; p < PARTS<T>; p++) now[n][p] = b[j][n][p];
            if (k + j + AHEAD < steps) load_step<T, N>(weights, apart, in_steps, k + j + AHEAD, b[j]);
            multiply_step<T, M, N>(a, k + j, now, c);
        }
}

/* What turns the sums of a lane's columns into outputs: the columns' powers of two, and the bias. */
struct column_ends {
    float scale[4], bias[4];
};

/* `column`: the lane's first, of the matrix. */
__device__ inline column_ends ends_of(const matrix<float> &m, int column)
{
    const float4 scale = *(const float4 *)(m.fragment_scale + column);
    const float4 bias = m.b ? *(const float4 *)(m.b + column) : make_float4(0, 0, 0, 0);
    return {{scale.x, scale.y, scale.z, scale.w}, {bias.x, bias.y, bias.z, bias.w}};
}

/* Row r's outputs. */
__device__ inline void outputs(const float (&c)[2][4], int r, const column_ends &ends, float (&y)[4])
{
#pragma unroll
    for (int q = 0; q < 4; q++) y[q] = c[q / 2][2 * r + q % 2] * ends.scale[q] + ends.bias[q];
}

/* ---------------------------------------------------------------------------------------- launches */

/* Whether a model's sizes and T suit the kernels of *_fused.cu; the others are for the rest. */
template <typename T> bool fragments_fit(const weights<real<T>> &w)
{
    return sizeof(T) != sizeof(double) && w.F % 32 == 0 && w.F <= 128 && w.H <= 256;
}

} // namespace mlff

#endif
