/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_DENSE_CUH
#define MLFF_CUDA_DENSE_CUH
/* Dense layers with what follows them fused in. */
#include "state.cuh"

namespace mlff
{

/* What happens to y = X M + b before it is stored. */
enum dense_end {
    DENSE_STORE, /* Y = y */
    DENSE_ADD,   /* Y += y */
    DENSE_SILU,  /* Y = silu(y), slope = silu'(y) */
    DENSE_SLOPE  /* Y = y slope: the reverse of DENSE_SILU */
};

/* rows of strides ldx, ldy (in elements, multiples of 4); slope [rows][n_out], only for the last two ends. */
template <typename T>
mlff_status dense_rows(const matrix<T> &m, const T *X, size_t ldx, T *Y, size_t ldy, int64_t rows, dense_end end,
                       T *slope, cudaStream_t stream, mlff_error *error);

} // namespace mlff

#endif
