/* SPDX-License-Identifier: MIT */
/* One variant of the CPU backend: its workspace, and the table of its functions. */
#include "variant.h"

static size_t scratch_reals(const cpu_state *s)
{
    const size_t F = (size_t)s->w.F, H = (size_t)s->w.H, elements = (size_t)s->w.n_elements;
    size_t most = ROW_BLOCK * (F > H ? 12 * F : 12 * H);                        /* update */
    const size_t coefficients = elements * ((size_t)s->w.K + 1) * 4 + elements; /* first message */
    const size_t edge_sums = (size_t)s->max_row_edges * 4 * LANES;              /* message, reverse */
    if (coefficients > most) most = coefficients;
    if (edge_sums > most) most = edge_sums;
    return (most + 63) / 64 * 64;
}

enum { LAYER_ROWS = 8, MAX_ROWS = MLFF_MAX_INTERACTIONS * LAYER_ROWS + 16 };

/* The table of all tensors with a row an atom. A layer's tensors that only the reverse reads are kept all the same:
 * they are what the forward pass computes. */
static int tensor_table(cpu_state *s, tensor_row table[MAX_ROWS])
{
    const size_t F = (size_t)s->w.F, N = (size_t)s->N, R = (size_t)s->R, reverse = s->with_reverse ? 1 : 0;
    int n = 0;
    table[n++] = (tensor_row){&s->s, N * F, sizeof(real), "s"};
    table[n++] = (tensor_row){&s->v_mid, N * 3 * F, sizeof(real), "v_mid"};
    for (int l = 0; l < s->w.L; l++) {
        layer_tensors *t = &s->layer[l];
        const size_t message = l > 0 ? 1 : 0; /* the first message has tensors of its own in the weights */
        table[n++] = (tensor_row){&t->context_slope, message * N * F, sizeof(real), "context slope"};
        table[n++] = (tensor_row){&t->x_v, message * N * F, sizeof(real), "x_v"};
        table[n++] = (tensor_row){&t->features, message * R * 5 * F, sizeof(real), "features"};
        table[n++] = (tensor_row){&t->v, message * N * 3 * F, sizeof(real), "v"};
        table[n++] = (tensor_row){&t->VU, N * 6 * F, sizeof(real), "VU"};
        table[n++] = (tensor_row){&t->dense_slope, N * F, sizeof(real), "dense slope"};
        table[n++] = (tensor_row){&t->y_sv, N * F, sizeof(real), "y_sv"};
        table[n++] = (tensor_row){&t->y_v, N * F, sizeof(real), "y_v"};
    }
    table[n++] = (tensor_row){&s->readout_slope, N * (size_t)s->w.H, sizeof(real), "readout slope"};
    table[n++] = (tensor_row){&s->atom_energy, N, sizeof(double), "atom energies"};
    table[n++] = (tensor_row){&s->adj, reverse * R * 4 * F, sizeof(real), "adjoints of s and v"};
    table[n++] = (tensor_row){&s->features_adj, reverse * N * 5 * F, sizeof(real), "adjoints of features"};
    table[n++] = (tensor_row){&s->row_virial, reverse * N * 9, sizeof(double), "virials of rows"};
    table[n++] = (tensor_row){&s->sent, s->halo ? (size_t)s->halo->n_send * 5 * F : 0, sizeof(real), "sent rows"};
    table[n++] =
        (tensor_row){&s->received, s->halo ? (size_t)s->halo->n_receive * 5 * F : 0, sizeof(real), "received rows"};
    table[n++] = (tensor_row){&s->scratch, (size_t)s->threads * s->scratch_size, sizeof(real), "scratch"};
    return n;
}

/* Messages are dealt to threads so many atoms at a time. A thread without work costs a wake-up in each loop: with two
 * threads that wait asleep the 12 atoms of benzene took seven times as long as with one. */
enum { ATOMS_OF_THREAD = 16 };

static mlff_status prepare(void *state, const mlff_graph *graph, const double *x, int wanted, const exchange *halo,
                           mlff_error *error)
{
    cpu_state *s = state;
    s->graph = graph;
    s->halo = halo;
    s->with_reverse = (wanted & WANT_REVERSE) != 0;
    s->N = graph->n_owned;
    s->R = graph->n_rows;
    const int32_t busy = (s->N + ATOMS_OF_THREAD - 1) / ATOMS_OF_THREAD;
    s->threads = busy < 1 ? 1 : busy < s->most_threads ? (int)busy : s->most_threads;
    MLFF_TRY(cpu_radial_forward(s, x, error));
    s->scratch_size = scratch_reals(s);
    tensor_row table[MAX_ROWS];
    const int n = tensor_table(s, table);
    return mlff_arena_place(&s->atoms, table, n, error);
}

static void destroy(void *state)
{
    cpu_state *s = state;
    if (!s) return;
    cpu_weights_free(&s->w);
    mlff_arena_free(&s->counts);
    mlff_arena_free(&s->edges);
    mlff_arena_free(&s->atoms);
    free(s);
}

static mlff_status create(const mlff_model *model, const mlff_options *options, void **state, mlff_error *error)
{
    cpu_state *s = calloc(1, sizeof *s);
    if (!s) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the CPU backend", sizeof *s);
    s->model = model;
    s->most_threads = options->threads;
    mlff_status status = cpu_weights_create(&s->w, model, error);
    if (status != MLFF_OK) {
        destroy(s);
        return status;
    }
    *state = s;
    return MLFF_OK;
}

static real *halo_tensor(const cpu_state *s, halo_kind kind, int l, int *width)
{
    *width = (kind == HALO_FEATURES ? 5 : 4) * s->w.F;
    return kind == HALO_FEATURES ? s->layer[l].features : s->adj;
}

static mlff_status halo_begin(void *state, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    int width;
    const real *tensor = halo_tensor(s, kind, l, &width);
    *rows = (halo_rows){.sent = s->sent, .received = s->received, .width = width};
    mlff_exchange_pack(s->halo, tensor, (size_t)width * sizeof(real), s->sent);
    return MLFF_OK;
}

static mlff_status halo_end(void *state, halo_kind kind, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    int width;
    real *tensor = halo_tensor(s, kind, l, &width);
    mlff_exchange_unpack(s->halo, tensor, s->N, (size_t)width * sizeof(real), s->received);
    return MLFF_OK;
}

static int halo_width(const void *state)
{
    const cpu_state *s = state;
    return 5 * s->w.F;
}

static const char *device(const void *state)
{
    (void)state;
    return MLFF_ISA_IS_AVX512 ? "cpu (avx512)" : MLFF_ISA_IS_AVX2 ? "cpu (avx2)" : "cpu (base)";
}

static size_t memory(const void *state)
{
    const cpu_state *s = state;
    return s->counts.bytes + s->edges.bytes + s->atoms.bytes + s->w.storage_bytes;
}

static void memory_estimate(const void *state, double *bytes_per_atom, double *bytes_per_neighbour)
{
    const cpu_state *s = state;
    const double F = s->w.F, L = s->w.L;
    *bytes_per_atom = sizeof(real) * (F * (8 + 9 * L + 10 * (L - 1) + 5) + s->w.H) + 80 + 16;
    *bytes_per_neighbour = sizeof(real) * (2 * (s->w.K + 1) + 8) + 12 + 24;
}

const backend VARIANT(mlff_cpu_backend) = {
    .precision = MLFF_REAL_IS_SINGLE ? "single" : "double",
    .real_bytes = sizeof(real),
    .create = create,
    .free = destroy,
    .device = device,
    .prepare = prepare,
    .first_message_forward = cpu_first_message_forward,
    .context_forward = cpu_context_forward,
    .message_forward = cpu_message_forward,
    .update_forward = cpu_update_forward,
    .readout_forward = cpu_readout_forward,
    .readout_reverse = cpu_readout_reverse,
    .update_reverse = cpu_update_reverse,
    .halo_begin = halo_begin,
    .halo_end = halo_end,
    .halo_width = halo_width,
    .message_reverse = cpu_message_reverse,
    .context_reverse = cpu_context_reverse,
    .first_message_reverse = cpu_first_message_reverse,
    .short_range = cpu_short_range,
    .close_pairs = cpu_close_pairs,
    .collect = cpu_collect_forces,
    .memory = memory,
    .memory_estimate = memory_estimate,
};
