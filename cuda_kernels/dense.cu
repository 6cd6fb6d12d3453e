/* SPDX-License-Identifier: MIT */
/*
 * Dense layers, Y = X M + b, and what follows (silu, its derivative, a sum): for double, and for the sizes that the
 * fused layers (fragments.cuh) leave.
 *
 *           single, mixed                                    double
 * Block     256 threads, 128 rows x 64 columns               256 threads, 64 rows x 64 columns
 * Warp      32 x 32, matrix units, 3 TF32 products           thread 4 x 4, plain units
 * Shared    2 stages of 32 inputs: 54 KB                     16 inputs: 16 KB
 * Cost      n_in n_out multiply-adds a row, three times in single
 * Order     of a sum: ascending blocks of 8 inputs (single), ascending inputs (double)
 * Error     single: with the matrix units' own long sums forces were off by 3.2e-6 to 4.0e-6 (RMS, relative) on ethanol
 *           and Au/water, with ours by 1.2e-6 to 1.6e-6 (H200, CUDA 13.0, 2026-11)
 */
#include "copies.cuh"
#include "dense.cuh"
#include "mma.cuh"
#include "silu.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <int END, typename R, typename Y, typename S> __device__ inline void finish(R y, Y *place, S *slope)
{
    if (END == DENSE_STORE) *place = Y(y);
    if (END == DENSE_ADD) *place = Y(R(*place) + y);
    if (END == DENSE_SILU) {
        R derivative;
        *place = Y(silu(y, &derivative));
        *slope = S(derivative);
    }
    if (END == DENSE_SLOPE) *place = Y(y * R(*slope));
}

template <typename X_type, typename Y_type, typename S_type> struct dense_arguments {
    matrix<real<X_type>> m;
    const X_type *X;
    Y_type *Y;
    S_type *slope;
    size_t ldx, ldy;
    int64_t rows;
    int planes;
};
typedef dense_arguments<double, double, double> dense_arguments_double;

constexpr int TILE = 64, DEPTH = 16, PART = 4;

template <int END> __global__ void __launch_bounds__(256) dense_plain_kernel(dense_arguments_double a)
{
    __shared__ double x_tile[DEPTH][TILE + 1], m_tile[DEPTH][TILE];
    const int thread = threadIdx.x, across = thread % 16, down = thread / 16;
    const int64_t row0 = (int64_t)blockIdx.x * TILE;
    const int column0 = blockIdx.y * TILE;
    double y[PART][PART] = {};
    for (int k0 = 0; k0 < a.m.n_in; k0 += DEPTH) {
        for (int q = thread; q < TILE * DEPTH; q += 256) {
            const int64_t row = row0 + q / DEPTH;
            x_tile[q % DEPTH][q / DEPTH] = row < a.rows ? a.X[row * a.ldx + k0 + q % DEPTH] : 0.0;
            const int column = column0 + q % TILE;
            m_tile[q / TILE][q % TILE] = column < a.m.n_out ? a.m.M[(size_t)(k0 + q / TILE) * a.m.n_out + column] : 0.0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            double x[PART], w[PART];
#pragma unroll
            for (int q = 0; q < PART; q++) {
                x[q] = x_tile[k][down * PART + q];
                w[q] = m_tile[k][across + 16 * q];
            }
#pragma unroll
            for (int r = 0; r < PART; r++)
#pragma unroll
                for (int c = 0; c < PART; c++) y[r][c] += x[r] * w[c];
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < PART; r++) {
        const int64_t row = row0 + down * PART + r;
        if (row >= a.rows) continue;
#pragma unroll
        for (int c = 0; c < PART; c++) {
            const int column = column0 + across + 16 * c;
            if (column >= a.m.n_out) continue;
            finish<END>(y[r][c] + (a.m.b ? a.m.b[column] : 0.0), a.Y + row * a.ldy + sliced(a.planes, column),
                        a.slope + row * a.m.n_out + column);
        }
    }
}

constexpr int M_ROWS = 128, M_COLUMNS = 64, M_DEPTH = 32;
constexpr int X_STRIDE = M_DEPTH + 4, W_STRIDE = M_COLUMNS + 8; /* fragment loads without bank conflicts */

struct dense_stage {
    float x[M_ROWS][X_STRIDE], w[M_DEPTH][W_STRIDE];
};

__device__ inline void load_four(float (&to)[4], const float *from, bool valid)
{
    copy_16_async(to, from, valid);
}

__device__ inline void load_four(float (&to)[4], const __half *from, bool valid)
{
    const uint2 bits = valid ? *(const uint2 *)from : make_uint2(0, 0);
    const float2 low = __half22float2(*(const __half2 *)&bits.x), high = __half22float2(*(const __half2 *)&bits.y);
    *(float4 *)to = make_float4(low.x, low.y, high.x, high.y);
}

/* One stage of inputs k0 .. k0+31 on its way to shared memory. */
template <typename Arguments>
__device__ inline void load_stage(dense_stage &s, const Arguments &a, int64_t row0, int column0, int k0)
{
    for (int q = threadIdx.x; q < M_ROWS * M_DEPTH / 4; q += 256) {
        const int r = q / (M_DEPTH / 4), k = q % (M_DEPTH / 4) * 4;
        const bool valid = row0 + r < a.rows && k0 + k < a.m.n_in;
        load_four(*(float(*)[4]) & s.x[r][k], valid ? a.X + (row0 + r) * a.ldx + k0 + k : a.X, valid);
    }
    for (int q = threadIdx.x; q < M_DEPTH * M_COLUMNS / 4; q += 256) {
        const int k = q / (M_COLUMNS / 4), c = q % (M_COLUMNS / 4) * 4;
        const bool valid = k0 + k < a.m.n_in && column0 + c < a.m.n_out;
        copy_16_async(&s.w[k][c], valid ? a.m.M + (size_t)(k0 + k) * a.m.n_out + column0 + c : a.m.M, valid);
    }
    commit_copies();
}

__device__ inline void multiply_stage(const dense_stage &s, int row, int column, int g, int t, float (&c)[2][4][4])
{
#pragma unroll
    for (int k = 0; k < M_DEPTH; k += 8) {
        uint32_t hi[2][4], lo[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                split_tf32(s.x[row + 16 * i + g + 8 * (q % 2)][k + t + 4 * (q / 2)], hi[i][q], lo[i][q]);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t w_hi[2], w_lo[2];
#pragma unroll
            for (int q = 0; q < 2; q++) split_tf32(s.w[k + t + 4 * q][column + 8 * j + g], w_hi[q], w_lo[q]);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float sum[4] = {0, 0, 0, 0}; /* of 8 inputs: the matrix units cut sums off instead of rounding them, */
                mma_tf32(sum, lo[i], w_hi);  /* so long sums are made by ordinary additions. Small parts first. */
                mma_tf32(sum, hi[i], w_lo);
                mma_tf32(sum, hi[i], w_hi);
#pragma unroll
                for (int q = 0; q < 4; q++) c[i][j][q] += sum[q];
            }
        }
    }
}

template <int END, typename Arguments> __global__ void __launch_bounds__(256) dense_matrix_kernel(Arguments a)
{
    extern __shared__ __align__(16) char shared[];
    dense_stage *stage = (dense_stage *)shared;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int row = warp / 2 * 32, column = warp % 2 * 32;
    const int64_t row0 = (int64_t)blockIdx.x * M_ROWS;
    const int column0 = blockIdx.y * M_COLUMNS;
    float c[2][4][4] = {};
    const int steps = (a.m.n_in + M_DEPTH - 1) / M_DEPTH;
    load_stage(stage[0], a, row0, column0, 0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) {
            load_stage(stage[(step + 1) % 2], a, row0, column0, (step + 1) * M_DEPTH);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        multiply_stage(stage[step % 2], row, column, g, t, c);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int64_t r = row0 + row + 16 * i + g + 8 * (q / 2);
                const int to = column0 + column + 8 * j + 2 * t + q % 2;
                if (r >= a.rows || to >= a.m.n_out) continue;
                finish<END>(c[i][j][q] + (a.m.b ? a.m.b[to] : 0.0f), a.Y + r * a.ldy + sliced(a.planes, to),
                            a.slope + r * a.m.n_out + to);
            }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <int END> static cudaError_t launch(const dense_arguments_double &a, cudaStream_t stream)
{
    const dim3 grid((unsigned)((a.rows + TILE - 1) / TILE), (unsigned)((a.m.n_out + TILE - 1) / TILE));
    dense_plain_kernel<END><<<grid, 256, 0, stream>>>(a);
    return cudaGetLastError();
}

template <int END, typename Arguments> static cudaError_t launch(const Arguments &a, cudaStream_t stream)
{
    const int shared = 2 * sizeof(dense_stage);
    const auto kernel = dense_matrix_kernel<END, Arguments>;
    const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (code != cudaSuccess) return code;
    const dim3 grid((unsigned)((a.rows + M_ROWS - 1) / M_ROWS), (unsigned)((a.m.n_out + M_COLUMNS - 1) / M_COLUMNS));
    kernel<<<grid, 256, shared, stream>>>(a);
    return cudaGetLastError();
}

template <typename X_type, typename Y_type, typename S_type>
mlff_status dense_rows(const matrix<real<X_type>> &m, const X_type *X, size_t ldx, Y_type *Y, size_t ldy, int64_t rows,
                       dense_end end, S_type *slope, cudaStream_t stream, mlff_error *error)
{
    if (rows == 0) return MLFF_OK;
    const dense_arguments<X_type, Y_type, S_type> a = {m, X, Y, slope, ldx, ldy, rows, (int)(ldy / m.n_out)};
    cudaError_t code = cudaErrorInvalidValue;
    switch (end) {
    case DENSE_STORE: code = launch<DENSE_STORE>(a, stream); break;
    case DENSE_ADD: code = launch<DENSE_ADD>(a, stream); break;
    case DENSE_SILU: code = launch<DENSE_SILU>(a, stream); break;
    case DENSE_SLOPE: code = launch<DENSE_SLOPE>(a, stream); break;
    }
    if (code != cudaSuccess) return cuda_failure(code, "launch of a dense layer", error);
    return MLFF_OK;
}

#define DENSE_ROWS(R, X, Y, S)                                                                                         \
    template mlff_status dense_rows(const matrix<R> &, const X *, size_t, Y *, size_t, int64_t, dense_end, S *,        \
                                    cudaStream_t, mlff_error *)
DENSE_ROWS(double, double, double, double);
DENSE_ROWS(float, float, float, float);
DENSE_ROWS(float, float, float, __half);
DENSE_ROWS(float, float, __half, __half);
DENSE_ROWS(float, __half, __half, __half);

} // namespace mlff
