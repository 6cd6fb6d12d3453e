/* SPDX-License-Identifier: MIT */
/*
 * One evaluation, once for every backend and every caller: graph, layers forward, layers in reverse, forces.
 */
#include "backend.h"
#include "seen.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

struct mlff_evaluator {
    const mlff_model *model;
    const backend *backend;
    void *state;
    mlff_graph graph;
    mlff_seen seen;    /* structures that the graph has a skin for */
    int graph_is_list; /* the graph was made from a neighbour list and may be used again */
    exchange exchange; /* what travels between ranks for that graph */
    mlff_close_pairs close;
    mlff_evaluator_info info;
};

static const mlff_close_pairs no_close_pairs = {.atom = -1, .neighbour = -1};

/* A layer runs only while all is well; exchanges happen all the same, so that no rank waits for one that failed. */
#define LAYER(call)                                                                                                    \
    do {                                                                                                               \
        if (status == MLFF_OK) status = (call);                                                                        \
    } while (0)

/* Ghost rows from their owners, on several ranks. */
static mlff_status run_exchange(mlff_evaluator *e, const mlff_halo *halo, halo_kind kind, int l, mlff_status status,
                                mlff_error *error)
{
    if (!halo) return status;
    const backend *b = e->backend;
    halo_rows h;
    mlff_error unwanted; /* the first failure's sentence stays */
    mlff_status begun = b->halo_begin(e->state, kind, l, &h, status == MLFF_OK ? error : &unwanted);
    if (status == MLFF_OK) status = begun;
    int failed = halo->forward(halo->context, h.sent, h.received, h.width, b->real_bytes);
    if (failed && status == MLFF_OK)
        status = mlff_fail(error, MLFF_ERROR_HALO, "the halo exchange of %d values a row failed with code %d", h.width,
                           failed);
    LAYER(b->halo_end(e->state, kind, l, error));
    return status;
}

/* The layers in reverse, mirrored. */
static mlff_status run_reverse(mlff_evaluator *e, const mlff_halo *halo, mlff_status status, mlff_error *error)
{
    const backend *b = e->backend;
    void *state = e->state;
    LAYER(b->readout_reverse(state, error));
    for (int l = e->model->info.interactions - 1; l >= 1; l--) {
        LAYER(b->update_reverse(state, l, error));
        status = run_exchange(e, halo, HALO_ADJOINTS, l, status, error);
        LAYER(b->message_reverse(state, l, error));
        LAYER(b->context_reverse(state, l, error));
    }
    LAYER(b->update_reverse(state, 0, error));
    LAYER(b->first_message_reverse(state, error));
    return status;
}

/* The sequence of one evaluation. */
static mlff_status run_layers(mlff_evaluator *e, const mlff_halo *halo, int with_reverse, mlff_error *error)
{
    const backend *b = e->backend;
    void *state = e->state;
    const int L = e->model->info.interactions;
    int replayed = 0;
    mlff_status status = b->begin ? b->begin(state, halo ? NULL : &replayed, error) : MLFF_OK;
    if (replayed) return status;

    LAYER(b->first_message_forward(state, error)); /* v = 0 and s is the embedding: needs species only, no exchange */
    LAYER(b->update_forward(state, 0, error));
    for (int l = 1; l < L; l++) {
        LAYER(b->context_forward(state, l, error));
        status = run_exchange(e, halo, HALO_FEATURES, l, status, error);
        LAYER(b->message_forward(state, l, error));
        LAYER(b->update_forward(state, l, error));
    }
    LAYER(b->readout_forward(state, error));
    if (with_reverse) status = run_reverse(e, halo, status, error);
    if (e->model->short_range) LAYER(b->short_range(state, error)); /* energies and dE/dd: no exchange */
    return status;
}

static mlff_status check_input(const mlff_input *in, const mlff_output *out, mlff_error *error)
{
    if (!in || !out) return mlff_fail(error, MLFF_ERROR_ARGUMENT, "mlff_evaluate: input and output must not be NULL");
    if (in->n_local < 0 || in->n_all < in->n_local)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "input: n_local %d and n_all %d, expected 0 <= n_local <= n_all",
                         (int)in->n_local, (int)in->n_all);
    if ((in->neighbours != NULL) == (in->structures != NULL))
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "input: %s, expected exactly one of neighbours and structures",
                         in->neighbours ? "both neighbours and structures given"
                                        : "neither neighbours nor structures given");
    if (in->n_all > 0 && (!in->x || !in->species))
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "input: %s is NULL, expected [%d] atoms", in->x ? "species" : "x",
                         (int)in->n_all);
    if (in->structures && in->halo)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "input: a halo goes with neighbours, not with structures");
    return MLFF_OK;
}

/* From the engine's list, or by a search where it leaves that to the library. */
static mlff_status graph_of_list(mlff_evaluator *e, const mlff_input *in, mlff_error *error)
{
    const int n_elements = e->model->info.n_elements;
    const double reach = in->neighbours->reach, cutoff = e->model->info.cutoff;
    if (!mlff_graph_is_search(in->neighbours)) return mlff_graph_from_list(&e->graph, in, n_elements, error);
    if (!(reach >= cutoff))
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "neighbours: found reach %g, expected the model's cutoff, %g, or more", reach, cutoff);
    if (e->backend->search) return e->backend->search(e->state, &e->graph, in, reach, error);
    return mlff_graph_from_search(&e->graph, in, n_elements, e->info.threads, error);
}

static mlff_status graph_of_structures(mlff_evaluator *e, const mlff_input *in, mlff_error *error)
{
    if (!e->graph_is_list && mlff_seen_holds(&e->seen, in)) return MLFF_OK;
    const int small = mlff_seen_is_small(in);
    const double reach = e->model->info.cutoff + (small ? SEEN_SKIN : 0.0);
    e->graph_is_list = 0;
    mlff_seen_forget(&e->seen);
    if (e->backend->search) {
        MLFF_TRY(e->backend->search(e->state, &e->graph, in, reach, error));
    } else {
        MLFF_TRY(mlff_graph_from_structures(&e->graph, in, e->model->info.n_elements, reach, e->info.threads, error));
    }
    if (small) mlff_seen_keep(&e->seen, in);
    return MLFF_OK;
}

static mlff_status update_graph(mlff_evaluator *e, const mlff_input *in, mlff_error *error)
{
    if (in->structures) return graph_of_structures(e, in, error);
    if (in->neighbours->rebuilt || !e->graph_is_list) {
        e->graph_is_list = 0;
        mlff_seen_forget(&e->seen);
        MLFF_TRY(graph_of_list(e, in, error));
        e->graph_is_list = 1;
        return MLFF_OK;
    }
    if (in->n_local != e->graph.n_local || in->n_all != e->graph.n_all)
        return mlff_fail(
            error, MLFF_ERROR_ARGUMENT,
            "neighbour list: %d owned of %d atoms, but %d of %d when it was rebuilt; expected the same numbers",
            (int)in->n_local, (int)in->n_all, (int)e->graph.n_local, (int)e->graph.n_all);
    return MLFF_OK;
}

/* All ranks go on together or stop together. */
static mlff_status agree(const mlff_halo *halo, mlff_status status, mlff_error *error)
{
    if (!halo || !halo->agree) return status;
    int worst = halo->agree(halo->context, (int)status);
    if (status == MLFF_OK && worst != MLFF_OK)
        return mlff_fail(error, MLFF_ERROR_ELSEWHERE, "another rank reported: %s",
                         mlff_status_name((mlff_status)worst));
    return status;
}

static mlff_status prepare(mlff_evaluator *e, const mlff_input *in, const mlff_output *out, int wanted,
                           mlff_error *error)
{
    MLFF_TRY(check_input(in, out, error));
    MLFF_TRY(update_graph(e, in, error));
    if (in->halo && e->exchange.version != e->graph.version)
        MLFF_TRY(mlff_exchange_make(&e->exchange, &e->graph, in->halo, error));
    return e->backend->prepare(e->state, &e->graph, in->x, wanted, in->halo ? &e->exchange : NULL, error);
}

static int wanted_by(const mlff_output *out)
{
    if (!out) return 0;
    return (out->forces || out->virial || out->atom_virial ? WANT_REVERSE : 0) |
           (out->atom_energy ? WANT_ATOM_ENERGY : 0) | (out->atom_virial ? WANT_ATOM_VIRIAL : 0);
}

mlff_status mlff_evaluate(mlff_evaluator *e, const mlff_input *in, mlff_output *out, mlff_error *error)
{
    if (!e) return mlff_fail(error, MLFF_ERROR_ARGUMENT, "mlff_evaluate: the evaluator is NULL");
    const mlff_halo *halo = in ? in->halo : NULL;
    const int wanted = wanted_by(out);

    e->close = no_close_pairs;
    mlff_status status = prepare(e, in, out, wanted, error);
    MLFF_TRY(agree(halo, status, error));
    status = run_layers(e, halo, wanted & WANT_REVERSE, error);
    LAYER(e->backend->collect(e->state, out, error));
    if (status == MLFF_OK && e->model->short_range) e->backend->close_pairs(e->state, &e->close);
    return agree(halo, status, error);
}

static mlff_status check_options(const mlff_options *o, mlff_error *error)
{
    if (o->device != MLFF_DEVICE_AUTO && o->device != MLFF_DEVICE_CPU && o->device != MLFF_DEVICE_CUDA)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "device %d: expected auto, cpu or cuda", (int)o->device);
    if ((int)o->precision < MLFF_PRECISION_DEFAULT || o->precision > MLFF_PRECISION_MIXED)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "precision %d: expected double, single or mixed",
                         (int)o->precision);
    if (o->threads < 0 || o->threads > 4096)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "threads %d: expected 0 (all) to 4096", o->threads);
    if (o->device_index < -1)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "device_index %d: expected -1 (the current GPU) or more",
                         o->device_index);
    return MLFF_OK;
}

mlff_status mlff_evaluator_create(const mlff_model *model, const mlff_options *options, mlff_evaluator **evaluator,
                                  mlff_error *error)
{
    if (!evaluator) return mlff_fail(error, MLFF_ERROR_ARGUMENT, "mlff_evaluator_create: evaluator is NULL");
    *evaluator = NULL;
    if (!model) return mlff_fail(error, MLFF_ERROR_ARGUMENT, "mlff_evaluator_create: the model is NULL");
    mlff_options o = options ? *options : (mlff_options){.device_index = -1};
    MLFF_TRY(check_options(&o, error));
    mlff_error why;
    const int cuda = o.device == MLFF_DEVICE_CUDA || (o.device == MLFF_DEVICE_AUTO && mlff_cuda_is_usable(&why));
    if (o.device == MLFF_DEVICE_CUDA && !mlff_cuda_is_usable(&why))
        return mlff_fail(error, MLFF_ERROR_DEVICE, "device cuda: %s; use device cpu or auto", why.message);
    if (o.precision == MLFF_PRECISION_DEFAULT) o.precision = cuda ? MLFF_PRECISION_SINGLE : MLFF_PRECISION_DOUBLE;
    const backend *b = cuda ? mlff_cuda_backend(o.precision) : mlff_cpu_backend(o.precision);
    if (!b)
        return mlff_fail(error, MLFF_ERROR_UNSUPPORTED,
                         "precision mixed: not available on the CPU; use single or double");
#ifdef _OPENMP
    if (o.threads == 0) o.threads = omp_get_max_threads();
#endif
    if (o.threads < 1) o.threads = 1;
    return mlff_evaluator_create_on(b, model, &o, evaluator, error);
}

int mlff_gpu_count(void)
{
    return mlff_cuda_device_count();
}

mlff_status mlff_evaluator_create_on(const backend *b, const mlff_model *model, const mlff_options *options,
                                     mlff_evaluator **evaluator, mlff_error *error)
{
    mlff_evaluator *e = calloc(1, sizeof *e);
    if (!e) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for an evaluator", sizeof *e);
    e->model = model;
    e->backend = b;
    e->close = no_close_pairs;
    mlff_status status = b->create(model, options, &e->state, error);
    if (status != MLFF_OK) {
        mlff_evaluator_free(e);
        return status;
    }
    e->info = (mlff_evaluator_info){.device = b->device(e->state),
                                    .precision = b->precision,
                                    .threads = options->threads,
                                    .real_bytes = b->real_bytes,
                                    .halo_width = b->halo_width(e->state),
                                    .device_index = -1,
                                    .gpu = ""};
    if (b->gpu) e->info.gpu = b->gpu(e->state, &e->info.device_index);
    b->memory_estimate(e->state, &e->info.bytes_per_atom, &e->info.bytes_per_neighbour);
    *evaluator = e;
    return MLFF_OK;
}

void mlff_evaluator_free(mlff_evaluator *e)
{
    if (!e) return;
    if (e->state) e->backend->free(e->state);
    mlff_graph_free(&e->graph);
    mlff_exchange_free(&e->exchange);
    mlff_seen_free(&e->seen);
    free(e);
}

const mlff_evaluator_info *mlff_evaluator_get_info(const mlff_evaluator *e)
{
    return &e->info;
}

const mlff_close_pairs *mlff_evaluator_get_close_pairs(const mlff_evaluator *e)
{
    return &e->close;
}

size_t mlff_evaluator_get_memory(const mlff_evaluator *e)
{
    return e->backend->memory(e->state) + mlff_graph_memory(&e->graph) + mlff_exchange_memory(&e->exchange) +
           e->seen.bytes;
}
