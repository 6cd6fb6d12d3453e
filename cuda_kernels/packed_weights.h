/* SPDX-License-Identifier: MIT */
#ifndef MLFF_PACKED_WEIGHTS_H
#define MLFF_PACKED_WEIGHTS_H
/*
 * The weights as a backend's kernels want them, padded and transposed, in double: the CPU backend's own packing, with a
 * plain layout of the filter. A GPU backend rounds and sends them.
 */
#include "backend.h"

typedef struct packed_matrix {
    int n_in, n_out;
    const double *M; /* [n_in][n_out] */
    const double *b; /* [n_out] or NULL */
} packed_matrix;

/* in pairs: a matrix, then its transpose */
enum {
    PACKED_CONTEXT0,
    PACKED_CONTEXT0_T,
    PACKED_CONTEXT1,
    PACKED_CONTEXT1_T,
    PACKED_MIX,
    PACKED_MIX_T,
    PACKED_DENSE0,
    PACKED_DENSE0_T,
    PACKED_DENSE1,
    PACKED_DENSE1_T,
    PACKED_MATRICES
};

typedef struct packed_weights {
    int F, K, L, H;                              /* F and H padded to a multiple of 16 */
    const double *embedding;                     /* [n_elements][F] */
    const double *first_s, *first_R;             /* [n_elements][K+1][F] */
    const double *filter[MLFF_MAX_INTERACTIONS]; /* [K+1][3][F] */
    packed_matrix matrix[MLFF_MAX_INTERACTIONS][PACKED_MATRICES];
    packed_matrix readout0, readout0_T;
    const double *readout1; /* [H] */
    double readout1_bias;
    void *owner;
} packed_weights;

#ifdef __cplusplus
extern "C" {
#endif
mlff_status mlff_packed_weights_create(packed_weights *p, const mlff_model *model, mlff_error *error);
void mlff_packed_weights_free(packed_weights *p);
#ifdef __cplusplus
}
#endif

#endif
