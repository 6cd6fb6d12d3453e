/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CPU_VARIANT_H
#define MLFF_CPU_VARIANT_H
/*
 * The CPU backend is compiled once for each real type (double, single) and instruction set (base, avx2, avx512) from
 * the same source. This header gives a variant its real type, its vector type and its names.
 *
 * Legend   N owned rows, R all rows, E edges (within the cutoff, padded), F features, K radial functions, L
 *          interactions, H readout features. F and H are padded to multiples of FEATURE_PAD by zero weights: exact.
 * Threads  loops over rows or blocks of ROW_BLOCK rows. A row's sums are made by one thread in a fixed order, and
 *          blocks do not depend on the number of threads: the same bits for every thread count.
 */
#include "../backend.h"
#include "../status.h"
#include "../workspace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define MLFF_JOIN_(a, b) a##_##b
#define MLFF_JOIN(a, b) MLFF_JOIN_(a, b)
#define VARIANT(name) MLFF_JOIN(name, MLFF_VARIANT_NAME)

#if MLFF_REAL_IS_SINGLE
typedef float real;
#define real_exp expf
#define real_sqrt sqrtf
#else
typedef double real;
#define real_exp exp
#define real_sqrt sqrt
#endif

#if MLFF_ISA_IS_AVX512
enum { VECTOR_BYTES = 64, TILE_ROWS = 8, FILTER_EDGES = 8, FILTER_EDGES_REVERSE = 4 }; /* 32 vector registers */
#elif MLFF_ISA_IS_AVX2
enum { VECTOR_BYTES = 32, TILE_ROWS = 4, FILTER_EDGES = 4, FILTER_EDGES_REVERSE = 2 }; /* 16 */
#else
enum { VECTOR_BYTES = 16, TILE_ROWS = 4, FILTER_EDGES = 4, FILTER_EDGES_REVERSE = 2 };
#endif
enum {
    LANES = VECTOR_BYTES / sizeof(real),
    TILE_VECTORS = 2, /* a tile of a dense layer: TILE_ROWS rows by TILE_VECTORS vectors of columns */
    FEATURE_PAD = 16, /* a multiple of LANES in every variant */
    EDGE_BLOCK = 8,   /* a row's edges are padded to whole blocks of 8 with edges whose radial functions are 0 */
    ROW_BLOCK = 64    /* rows that a dense layer works on at a time: their temporaries stay in the L2 cache */
};

/* A vector of reals; aligned to a real only, so that any address will do. */
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static inline vec load(const real *p)
{
    return *(const vec *)p;
}

static inline void store(real *p, vec v)
{
    *(vec *)p = v;
}

/* sum of the lanes, in a fixed order */
static inline real sum_lanes(vec v)
{
    real s[LANES];
    store(s, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int q = 0; q < half; q++) s[q] += s[q + half];
    return s[0];
}

static inline int padded(int features)
{
    return (features + FEATURE_PAD - 1) / FEATURE_PAD * FEATURE_PAD;
}

/* ---------------------------------------------------------------------------------------------- weights */

/* Y = X M + b, as the tile kernel wants it: M [n_in][n_out], both padded. */
typedef struct matrix {
    int n_in, n_out;
    real *M; /* [n_in][n_out] */
    real *b; /* [n_out] or NULL */
} matrix;

typedef struct layer_weights {
    real *filter;                                      /* [F/LANES][K+1][3][LANES] (s, R, v); function K is the bias */
    matrix context0, context0_T, context1, context1_T; /* F -> F, F -> 3F (s, R, v); _T: the transposes */
    matrix mix, mix_T;                                 /* F -> 2F (V, U), bias only with vector_bias */
    matrix dense0, dense0_T;                           /* 2F (s, n) -> F */
    matrix dense1, dense1_T;                           /* F -> 3F (s, sv, v); the last layer has no v: F -> 2F */
} layer_weights;

typedef struct cpu_weights {
    int F, K, L, H; /* F and H padded */
    int n_elements;
    radial_kind radial;
    double cutoff;
    const double *offset, *width, *frequency; /* of the model */
    real epsilon;
    double scale;
    const double *atom_shift; /* [n_elements] eV */
    real *embedding;          /* [n_elements][F] */
    /* The first message of a neighbour of element Z, filter times context: functions of the radial functions alone. */
    real *first_s; /* [n_elements][K+1][F] */
    real *first_R; /* [n_elements][K+1][F] */
    layer_weights layer[MLFF_MAX_INTERACTIONS];
    matrix readout0, readout0_T; /* F -> H */
    real *readout1;              /* [H] */
    double readout1_bias;
    real *storage;
    size_t storage_bytes;
} cpu_weights;

/* -------------------------------------------------------------------------------------------- workspace */

/* What a layer keeps for its reverse. The *_slope tensors hold silu' of the pre-activation. */
typedef struct layer_tensors {
    real *context_slope; /* [N][F] */
    real *x_v;           /* [N][F] */
    real *features;      /* [R][5][F] x_s, x_R, y = x_v v (3): what neighbours gather */
    real *v;             /* [N][3][F] input of the layer; l = 0 has none, it is zero */
    real *VU;            /* [N][3][2][F] V and U */
    real *dense_slope;   /* [N][F] */
    real *y_sv, *y_v;    /* [N][F] */
} layer_tensors;

typedef struct cpu_state {
    const mlff_model *model;
    int threads, most_threads; /* in use, and as many as asked for */
    cpu_weights w;

    /* of the evaluation under way */
    const exchange *halo;  /* NULL on one rank */
    real *sent, *received; /* [n_send], [n_receive][5F]: rows that travel */
    const mlff_graph *graph;
    int with_reverse;
    int64_t N, R, E;

    /* edges: row i has edge_first[i] .. edge_first[i+1]-1, whole blocks; a padding edge has slot -1 */
    int64_t *edge_first;   /* [N+1] */
    int32_t *edge_row;     /* [E] row of the neighbour; of the row itself for padding */
    int64_t *edge_slot;    /* [E] */
    real *edge_u;          /* [E][3] (x_j - x_i)/d */
    real *edge_d;          /* [E] angstrom */
    real *phi;             /* [E/8][K+1][8] rbf_k fc, and fc itself as function K */
    real *dphi;            /* [E/8][K+1][8] d phi/dd, 1/angstrom */
    real *edge_d_adj;      /* [E] dE/dd */
    real *edge_u_adj;      /* [E][3] dE/du */
    int64_t *slot_edge;    /* [n_slots] the slot's edge, -1 beyond the cutoff */
    double *slot_gradient; /* [n_slots][3] dE/d(x_j - x_i), eV/angstrom; 0 beyond the cutoff */

    real *s;     /* [N][F] */
    real *v_mid; /* [N][3][F] v between message and update */
    layer_tensors layer[MLFF_MAX_INTERACTIONS];
    real *readout_slope;    /* [N][H] */
    double *atom_energy;    /* [N] eV */
    mlff_close_pairs close; /* of a model with a short-range term */
    real *adj;              /* [R][4][F] s_adj, v_adj (3): adjoint of the state, what neighbours gather */
    real *features_adj;     /* [N][5][F] */
    double *row_virial;     /* [N][9] eV */
    real *scratch;          /* [threads][scratch_size] */
    size_t scratch_size;
    int64_t max_row_edges;

    arena edges, atoms;  /* counted first, then placed */
    int64_t *edge_count; /* [N] */
    arena counts;
} cpu_state;

#define cpu_weights_create VARIANT(cpu_weights_create)
#define cpu_weights_free VARIANT(cpu_weights_free)
#define dense_rows VARIANT(dense_rows)
#define cpu_radial_forward VARIANT(cpu_radial_forward)
#define cpu_first_message_forward VARIANT(cpu_first_message_forward)
#define cpu_first_message_reverse VARIANT(cpu_first_message_reverse)
#define cpu_context_forward VARIANT(cpu_context_forward)
#define cpu_context_reverse VARIANT(cpu_context_reverse)
#define cpu_message_forward VARIANT(cpu_message_forward)
#define cpu_message_reverse VARIANT(cpu_message_reverse)
#define cpu_update_forward VARIANT(cpu_update_forward)
#define cpu_update_reverse VARIANT(cpu_update_reverse)
#define cpu_readout_forward VARIANT(cpu_readout_forward)
#define cpu_readout_reverse VARIANT(cpu_readout_reverse)
#define cpu_short_range VARIANT(cpu_short_range)
#define cpu_close_pairs VARIANT(cpu_close_pairs)
#define cpu_collect_forces VARIANT(cpu_collect_forces)

mlff_status cpu_weights_create(cpu_weights *w, const mlff_model *model, mlff_error *error);
void cpu_weights_free(cpu_weights *w);

/* Y[r][0..n_out) (+)= X[r][0..n_in) M + b for `rows` rows, strides in reals; b only without accumulate. */
void dense_rows(const matrix *m, const real *X, size_t x_stride, real *Y, size_t y_stride, int64_t rows,
                int accumulate);

/* Edges within the cutoff with d, u, phi and dphi. Fails on non-finite positions and on atoms at the same place. */
mlff_status cpu_radial_forward(cpu_state *state, const double *x, mlff_error *error);

mlff_status cpu_first_message_forward(void *state, mlff_error *error);
mlff_status cpu_first_message_reverse(void *state, mlff_error *error);
mlff_status cpu_context_forward(void *state, int l, mlff_error *error);
mlff_status cpu_context_reverse(void *state, int l, mlff_error *error);
mlff_status cpu_message_forward(void *state, int l, mlff_error *error);
mlff_status cpu_message_reverse(void *state, int l, mlff_error *error);
mlff_status cpu_update_forward(void *state, int l, mlff_error *error);
mlff_status cpu_update_reverse(void *state, int l, mlff_error *error);
mlff_status cpu_readout_forward(void *state, mlff_error *error);
mlff_status cpu_readout_reverse(void *state, mlff_error *error);
mlff_status cpu_short_range(void *state, mlff_error *error);
void cpu_close_pairs(const void *state, mlff_close_pairs *pairs);
mlff_status cpu_collect_forces(void *state, mlff_output *output, mlff_error *error);

/* silu(x) = x sigma(x) and its derivative sigma (1 + x (1 - sigma)) */
static inline real silu(real x, real *slope)
{
    real sigma = 1 / (1 + real_exp(-x));
    *slope = sigma * (1 + x * (1 - sigma));
    return x * sigma;
}

/* this thread's scratch */
static inline real *thread_scratch(const cpu_state *state)
{
#ifdef _OPENMP
    return state->scratch + (size_t)omp_get_thread_num() * state->scratch_size;
#else
    return state->scratch;
#endif
}

static inline int64_t min_rows(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
