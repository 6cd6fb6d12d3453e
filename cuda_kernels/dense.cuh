/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_DENSE_CUH
#define MLFF_CUDA_DENSE_CUH
/* Dense layers with what follows them fused in. */
#include "dense_fused.cuh"

namespace mlff
{

/* What happens to y = X M + b before it is stored. */
enum dense_end {
    DENSE_STORE, /* Y = y */
    DENSE_ADD,   /* Y += y */
    DENSE_SILU,  /* Y = silu(y), slope = silu'(y) */
    DENSE_SLOPE  /* Y = y slope: the reverse of DENSE_SILU */
};

/* rows of strides ldx, ldy (in elements, multiples of 4); slope [rows][n_out], only for the last two ends. In mixed
 * what is read, written and the slope may each be float or half. */
template <typename X_type, typename Y_type, typename S_type>
mlff_status dense_rows(const matrix<real<X_type>> &m, const X_type *X, size_t ldx, Y_type *Y, size_t ldy, int64_t rows,
                       dense_end end, S_type *slope, cudaStream_t stream, mlff_error *error);

/* Layers that are not fused go through the rows in pieces, so that their temporaries do not grow with the system. */
constexpr int64_t PIECE_ROWS = 65536;

inline int64_t rows_of_piece(int64_t rows, int64_t begin)
{
    return rows - begin < PIECE_ROWS ? rows - begin : PIECE_ROWS;
}

template <typename T> size_t scratch_values(const state<T> *s)
{
    if (fragments_fit<T>(s->w)) return 0;
    const size_t rows = s->N < PIECE_ROWS ? s->N : PIECE_ROWS, F = s->w.F, H = s->w.H;
    return rows * (12 * F > H ? 12 * F : H);
}

} // namespace mlff

#endif
