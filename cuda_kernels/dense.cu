/* SPDX-License-Identifier: MIT */
/*
 * Dense layers, Y = X M + b.
 *
 * Launch   a block of 256 threads makes 64 rows by 64 columns, a thread 4 by 4; 16 inputs at a time through shared memory.
 * Cost     n_in n_out multiply-adds a row, in the plain units of T.
 * Order    of a sum: ascending input, by one thread.
 */
#include "state.cuh"

namespace mlff {

constexpr int TILE = 64, DEPTH = 16, PART = 4;

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T>
__global__ void __launch_bounds__(256) dense_kernel(matrix<T> m, const T *__restrict__ X, size_t ldx, T *__restrict__ Y,
                                                    size_t ldy, int64_t rows, bool accumulate)
{
    __shared__ T x_tile[DEPTH][TILE + 1], m_tile[DEPTH][TILE];
    const int thread = threadIdx.x, across = thread % 16, down = thread / 16;
    const int64_t row0 = (int64_t)blockIdx.x * TILE;
    const int column0 = blockIdx.y * TILE;
    T y[PART][PART] = {};
    for (int k0 = 0; k0 < m.n_in; k0 += DEPTH) {
        for (int q = thread; q < TILE * DEPTH; q += 256) {
            const int64_t row = row0 + q / DEPTH;
            x_tile[q % DEPTH][q / DEPTH] = row < rows ? X[row * ldx + k0 + q % DEPTH] : T(0);
            const int column = column0 + q % TILE;
            m_tile[q / TILE][q % TILE] = column < m.n_out ? m.M[(size_t)(k0 + q / TILE) * m.n_out + column] : T(0);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            T a[PART], b[PART];
#pragma unroll
            for (int q = 0; q < PART; q++) {
                a[q] = x_tile[k][down * PART + q];
                b[q] = m_tile[k][across + 16 * q];
            }
#pragma unroll
            for (int r = 0; r < PART; r++)
#pragma unroll
                for (int c = 0; c < PART; c++) y[r][c] += a[r] * b[c];
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < PART; r++) {
        const int64_t row = row0 + down * PART + r;
        if (row >= rows) continue;
#pragma unroll
        for (int c = 0; c < PART; c++) {
            const int column = column0 + across + 16 * c;
            if (column >= m.n_out) continue;
            T *place = Y + row * ldy + column;
            *place = y[r][c] + (accumulate ? *place : m.b ? m.b[column] : T(0));
        }
    }
}

/* --------------------------------------------------------------------------------------------- launcher */

template <typename T>
mlff_status dense_rows(const matrix<T> &m, const T *X, size_t ldx, T *Y, size_t ldy, int64_t rows, bool accumulate,
                       cudaStream_t stream, mlff_error *error)
{
    if (rows == 0) return MLFF_OK;
    const dim3 grid((unsigned)((rows + TILE - 1) / TILE), (unsigned)((m.n_out + TILE - 1) / TILE));
    dense_kernel<<<grid, 256, 0, stream>>>(m, X, ldx, Y, ldy, rows, accumulate);
    CUDA_TRY_LAUNCH("dense layer");
    return MLFF_OK;
}

template mlff_status dense_rows(const matrix<float> &, const float *, size_t, float *, size_t, int64_t, bool, cudaStream_t,
                                mlff_error *);
template mlff_status dense_rows(const matrix<double> &, const double *, size_t, double *, size_t, int64_t, bool,
                                cudaStream_t, mlff_error *);

} // namespace mlff
