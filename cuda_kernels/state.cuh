/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_STATE_CUH
#define MLFF_CUDA_STATE_CUH
/*
 * What the CUDA backend keeps on the device. The layers mirror core/src/cpu name for name; the mathematics is in
 * docs/equations.md.
 *
 * Legend   T stored, real<T> computed; N owned rows, R all rows, F features (padded to 16), K radial functions, L
 *          interactions, H readout features.
 * Edges    row i's edges within the cutoff stand at first[i] .. first[i] + count[i] - 1, in the place of its
 *          candidates: no scan and no transfer to the host between positions and forces.
 * Order    every sum has a fixed order: no float atomics, the same bits on every run.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "backend.h"
#include "status.h"
#include "transfer.h"
#include "workspace.h"
}

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace mlff
{

constexpr int FEATURE_PAD = 16;
constexpr int MAX_FEATURES = 256; /* a thread a feature, 256 threads a block */
constexpr int MAX_FUNCTIONS = 65; /* K + 1: filter weights of a thread stay in registers */

/* T is what tensors are stored in: double, float, or half in precision mixed. real<T> is what is computed in: half is
 * widened to float as it is read and rounded as it is stored. Weights, edges, s and edge adjoints are real<T>. */
template <typename T> struct real_of {
    typedef T type;
};
template <> struct real_of<__half> {
    typedef float type;
};
template <typename T> using real = typename real_of<T>::type;

/* Adjoints of stored tensors are multiplied by this, so that half keeps small ones (its smallest normal number is
 * 6e-5); the adjoints of edges are free of it. */
template <typename T> constexpr real<T> adjoint_scale = 1;
template <> constexpr float adjoint_scale<__half> = 256;

/* Rows of several planes that neighbours gather (features, adjoints) are [F/16][planes][16]: what is brought to shared
 * memory at a time lies together. Plane p of feature f is at sliced(planes, f) + p SLICE. */
constexpr int SLICE = FEATURE_PAD;

__host__ __device__ inline int sliced(int planes, int f)
{
    return f / SLICE * planes * SLICE + f % SLICE;
}

inline int padded(int features)
{
    return (features + FEATURE_PAD - 1) / FEATURE_PAD * FEATURE_PAD;
}

/* Fails with the call's name and CUDA's words. */
#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        cudaError_t cuda_error_ = (call);                                                                              \
        if (cuda_error_ != cudaSuccess) return mlff::cuda_failure(cuda_error_, #call, error);                          \
    } while (0)

/* After a launch: a launch that failed is reported under the kernel's name. */
#define CUDA_TRY_LAUNCH(name)                                                                                          \
    do {                                                                                                               \
        cudaError_t cuda_error_ = cudaGetLastError();                                                                  \
        if (cuda_error_ != cudaSuccess) return mlff::cuda_failure(cuda_error_, "launch of " name, error);              \
    } while (0)

mlff_status cuda_failure(cudaError_t code, const char *what, mlff_error *error);

/* Y = X M + b; M [n_in][n_out], as in the CPU backend. */
template <typename T> struct matrix {
    int n_in, n_out;
    T *M;             /* [n_in][n_out] */
    T *b;             /* [n_out] or NULL */
    T *pairs;         /* M as molecules multiply it, where pairs_fit: [n_out/8][n_in/8][32][2], lane 4g + t has inputs
                       * 2t and 2t + 1 of column g */
    uint4 *fragments; /* M / fragment_scale for the matrix units, [n_out/16][n_in/16][2][32], where fragments_fit */
    float *fragment_scale; /* [n_out] */
};

template <typename T> struct layer_weights {
    T *filter;       /* [K+1][3][F] (s, R, v); function K is the bias */
    T *filter_pairs; /* the same as molecules multiply it, where pairs_fit: [F/8][steps][3][16][4], lane 4g + t has
                      * columns 2g and 2g + 1 of function 2t of the step's 8, then of 2t + 1 */
    T *filter_halves;  /* [F/8][steps][3][2][16][4]: the same in two TF32 numbers, hi and lo */
    T *filter_stacked; /* [F/8][steps][2][2][32][4] likewise: lane 4g + t has column g of s and R (then of v
                        * and zeros) of function 2t, then of 2t + 1 */
    uint2 *fragments, *mixed_fragments; /* the same for the matrix units, where message_matrix_fits */
    float fragment_scale, mixed_scale;
    matrix<T> context0, context0_T, context1, context1_T; /* F -> F, F -> 3F (s, R, v) */
    matrix<T> mix, mix_T;                                 /* F -> 2F (V, U) */
    matrix<T> dense0, dense0_T;                           /* 2F (s, n) -> F */
    matrix<T> dense1, dense1_T;                           /* F -> 3F (s, sv, v); the last layer has no v */
};

template <typename T> struct weights {
    int F, K, L, H, n_elements;
    radial_kind radial;
    double cutoff, scale, readout1_bias;
    T epsilon;
    double *centre, *inverse_width;   /* [K] gaussian: o_k, 1/w_k; bessel: f_k in centre */
    double *atom_shift;               /* [n_elements] eV */
    T *embedding;                     /* [n_elements][F] */
    T *first_s, *first_R;             /* [n_elements][K+1][F] */
    T *first_s_fours, *first_R_fours; /* [F/4][n_elements][K+1][4], where pairs_fit */
    layer_weights<T> layer[MLFF_MAX_INTERACTIONS];
    matrix<T> readout0, readout0_T;
    T *readout1;                   /* [H] */
    short_range_pair *short_range; /* [n_elements][n_elements]; NULL: a model without the term */
    void *storage;
    size_t storage_bytes;
};

/* Sizes that molecules have code of their own for: 128 features, and readout columns that are eights in each of eight
 * blocks. */
constexpr int PAIRED_FEATURES = 128;

template <typename R> bool pairs_fit(const weights<R> &w)
{
    return sizeof(R) == sizeof(float) && w.F == PAIRED_FEATURES && w.H % 64 == 0;
}

/* An edge: 16 or 32 bytes in one load. */
template <typename T> struct alignas(4 * sizeof(T)) edge {
    T u[3]; /* (x_j - x_i)/d */
    T d;    /* angstrom */
};

/* Adjoints of an edge. */
template <typename T> struct alignas(4 * sizeof(T)) edge_adjoint {
    T u[3]; /* dE/du */
    T d;    /* dE/dd */
};

template <typename T> struct layer_tensors {
    T *context_slope; /* [N][F] silu' of the pre-activation */
    T *x_v;           /* [N][F] */
    T *features;      /* [R][F/16][5][16] x_s, x_R, y = x_v v (3): what neighbours gather */
    T *features_adj;  /* [N][F/16][5][16] in the place of features: then only a row itself still needs its own */
    T *v;             /* [N][3][F] input of the layer; none for l = 0, it is zero */
    T *VU;            /* [N][3][2][F] */
    T *dense_slope;   /* [N][F] */
    T *y_sv, *y_v;    /* [N][F] */
};

/* Part of a structure, at most CHUNK_ROWS rows, summed by one block: no chunk crosses structures. */
enum { CHUNK_ROWS = 1024 };
struct chunk {
    int32_t structure, begin, end;
};

/* Who sits where in shared memory, for clusters of n_rows consecutive rows (clusters.cu). */
struct cluster_list {
    int n_rows, seats; /* rows of a cluster; most neighbours that are brought to shared memory */
    int32_t *rows;     /* [clusters][seats] the neighbour on a seat, or -1 */
    int32_t *taken;    /* [clusters] seats to fill; negative: some edges have no seat */
    float *sums;       /* [message_matrix_sums] of rows with more edges than a pass takes */
    uint32_t *places;  /* [n_slots] a row's edges in the order of its sums: edge of the row << 16 | seat */
};
struct device_search; /* neighbours.cuh */

/* Edges closer than the training frames ever were, and the first of the first row. All zeros: none. */
struct close_record {
    unsigned long long count;
    int rows_to_end;          /* N less the first row */
    int neighbour_row;        /* of its first edge, as are: */
    double distance, trained; /* angstrom */
};

struct device_arena {
    char *memory;
    size_t bytes, wanted; /* held; needed by the last table */
};

/* The sequence of one evaluation as a CUDA graph, for one set of outputs (recording.cuh). */
struct recording {
    cudaGraphExec_t launches; /* NULL: none yet */
    int is_recorded;          /* launches are those of what follows */
    uint64_t version;         /* of the graph of neighbours */
    const void *memory[4];    /* arenas and pinned memory that launches point into */
};

/* Small structures by one launch (molecule.cu): for one graph. */
struct molecule_clusters {
    int at_a_time;       /* clusters that run at the same time, with: */
    size_t shared_bytes; /* of a block */
};

struct molecule_plan {
    int suits; /* this graph's structures are small and few enough */
    molecule_clusters of_eight, of_six, of_four;
    int blocks;                       /* of a cluster: 8, 6 or 4 */
    size_t shared_bytes;              /* of a block */
    int32_t rows, slots;              /* most of a structure */
    int shared_layers, shared_tables; /* what of a structure lies in shared memory */
    size_t scratch_size;              /* floats of a structure in global memory */
};

template <typename T> struct state {
    const mlff_model *model;
    cudaStream_t stream, beside; /* beside: lists of clusters are made there, while layers run that do not need them */
    cudaEvent_t forked, joined;  /* what beside waits for, and what stream waits for where is_forked */
    int device_index, threads;   /* threads: of the host, for copies */
    char device_name[300], gpu[32];
    weights<real<T>> w;

    const mlff_graph *graph; /* host */
    uint64_t graph_version;
    int with_reverse, wanted; /* wanted: bits of backend.h */
    int placed_for;           /* 1 + wanted (+ halo) that tensors stand in their places for; 0: for none */
    int32_t N, R, n_all, n_chunks;
    int64_t n_slots;

    /* the graph on the device, sent when it changed */
    int64_t *first;          /* [N+1] */
    int32_t *neighbour_row;  /* [n_slots] */
    int32_t *neighbour_atom; /* [n_slots] */
    double *shift;           /* [n_slots][3] or NULL */
    int32_t *atom_of_row, *species;
    int64_t *incoming_first; /* [R+1] */
    int32_t *incoming;       /* [n_slots] slots that name a row; NULL where slots need 64 bits: */
    int64_t *incoming_wide;  /* [n_slots] instead */
    chunk *chunks;           /* [n_chunks] */
    device_arena graph_arena;
    device_search *search; /* what the library's own search keeps; NULL before the first */

    /* one evaluation */
    double *x;            /* [n_all][3] */
    int32_t *count;       /* [N] edges of a row */
    edge<real<T>> *edges; /* [n_slots] */
    int32_t *edge_row;    /* [n_slots] */
    real<T> *distance; /* [n_slots] angstrom, of edges; only of a model with a short-range term: until short_range() has
                              run, edges hold the distance that the network sees */
    int32_t *slot_dropped; /* [n_slots] candidates before it in its row beyond the cutoff: its edge is at slot -
                                        slot_dropped; -1: it is beyond itself */
    cluster_list clusters; /* of these edges: for messages, and later in the same place for their reverse */
    int is_forked;         /* stream has not waited yet for the list that beside makes */
    edge_adjoint<real<T>> *edge_adj; /* [n_slots]; forces() puts dE/dr in its place, eV/angstrom */
    double *slot_virial;             /* [n_slots][9] eV of edges, in their places; only for per-atom virials */
    real<T> *s;                      /* [N][F] */
    T *v_mid;                        /* [N][3][F] */
    layer_tensors<T> layer[MLFF_MAX_INTERACTIONS];
    T *readout_slope;    /* [N][H] */
    double *atom_energy; /* [N] */
    T *adj; /* [R][F/16][4][16] s_adj, v_adj; in the place of s and v_mid, which the readout is the last to read */
    double *row_sums;             /* [N][12] of a row's own edges: virial (9), dE/dr (3) */
    double *sums;                 /* [n_chunks][10] energy, virial */
    double *forces;               /* [n_all][3] */
    double *atom_virial;          /* [n_all][9] */
    real<T> *scratch;             /* [scratch_values]: temporaries of dense layers that are not fused */
    int *bad_row;                 /* [2] first row with a bad position or distance, first row with a bad result */
    int *marks;                   /* [n_chunks][2] the same of each structure, where molecules suit */
    close_record *close;          /* [1], only of a model with a short-range term, as is: */
    close_record *molecule_close; /* [n_chunks] of each structure, where molecules suit */
    device_arena arena, virial_arena;
    molecule_plan molecules;
    float *molecule_scratch; /* [n_chunks][scratch_size] */
    int are_molecules;       /* this evaluation is one launch */

    /* recordings[wanted]; capturing: the one being made, or NULL */
    recording recordings[WANT_COMBINATIONS];
    recording *capturing;
    int is_replayed, is_under_way; /* this evaluation; its launches may not have ended */
    int are_positions_sent;        /* by prepare() */

    /* pinned host memory: positions up, results down, halo rows both ways */
    char *host;
    size_t host_bytes;
    void *halo_host;
    size_t halo_bytes;

    /* exchanges: on the host the rows that are sent come first, then those that are received */
    const exchange *halo; /* NULL on one rank */
    uint64_t halo_version;
    int32_t *send_row, *ghost_source; /* device [n_send], [n_ghosts] as in exchange.h */
    device_arena halo_arena;
};

/* Copies a graph to the device; its arrays may change once this returns. */
template <typename T> mlff_status send_graph(state<T> *s, const mlff_graph *g, mlff_error *error);

/* Brings what the exchange between ranks is made of to the device, when it changed; room for the rows on the host. */
template <typename T> mlff_status send_exchange(state<T> *s, mlff_error *error);
/* Makes a graph by a search on the device. */
template <typename T>
mlff_status search_graph(state<T> *s, mlff_graph *graph, const mlff_input *input, double reach, mlff_error *error);

/* As mlff_graph_explain_row, wherever the slots are. */
template <typename T> mlff_status explain_row(const state<T> *s, const double *x, int64_t row, mlff_error *error);

/* As in the table of functions (backend.h). */
template <typename T> mlff_status halo_begin(state<T> *s, halo_kind kind, int l, halo_rows *rows, mlff_error *error);
template <typename T> mlff_status halo_end(state<T> *s, halo_kind kind, int l, mlff_error *error);

template <typename T> mlff_status weights_create(weights<T> *w, const mlff_model *model, mlff_error *error);
template <typename T> void weights_free(weights<T> *w);

/* Each launches its kernels on the state's stream and returns without waiting. */
template <typename T> mlff_status radial_forward(state<T> *s, mlff_error *error);
template <typename T> mlff_status first_message_forward(state<T> *s, mlff_error *error);
template <typename T> mlff_status first_message_reverse(state<T> *s, mlff_error *error);
template <typename T> mlff_status context_forward(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status context_reverse(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status message_forward(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status message_reverse(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status update_forward(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status update_reverse(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status readout_forward(state<T> *s, mlff_error *error);
template <typename T> mlff_status readout_reverse(state<T> *s, mlff_error *error);
template <typename T> mlff_status limit_distances(state<T> *s, mlff_error *error); /* within radial_forward */
template <typename T> mlff_status short_range(state<T> *s, mlff_error *error);
template <typename T> mlff_status forces(state<T> *s, int with_atom_virial, mlff_error *error);

/* Small structures by one launch: whether the graph that was sent is of such; all of an evaluation, with its results in
 * pinned memory, where they lie as they lie on the device behind bad_row, and virials of atoms; once it has ended, the
 * marks of structures as those of rows. */
template <typename T> mlff_status molecules_plan(state<T> *s, mlff_error *error);
template <typename T> mlff_status molecules_evaluate(state<T> *s, char *results, char *atom_virials, mlff_error *error);
template <typename T> void molecules_mark(const state<T> *s, char *results);

} // namespace mlff

#endif
