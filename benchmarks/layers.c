/* SPDX-License-Identifier: MIT */
/*
 * Time of every layer of a backend alone, ns an atom: where one evaluation's time goes.
 *
 *   layers MODEL [cpu|cuda] [single|double|mixed] [atoms a side, default 20] [threads] [repeats, default 10]
 *
 * The structure is a shaken simple cubic grid of 0.1 atoms/A^3 (53 neighbours within 5 A), periodic.
 */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if MLFF_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

static double now(int cuda)
{
#if MLFF_WITH_CUDA
    if (cuda) cudaDeviceSynchronize();
#else
    (void)cuda;
#endif
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop_on(mlff_status status, const mlff_error *error)
{
    if (status == MLFF_OK) return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

/* Positions [n][3] of a shaken grid, in blocks of 8 x 8 x 8: neighbours are near in memory, as after a spatial sort. */
static double *shaken_grid(int side, double spacing)
{
    double *x = malloc(sizeof *x * 3 * (size_t)side * (size_t)side * (size_t)side);
    size_t n = 0;
    srand(1);
    for (int a0 = 0; a0 < side; a0 += 8)
        for (int b0 = 0; b0 < side; b0 += 8)
            for (int c0 = 0; c0 < side; c0 += 8)
                for (int a = a0; a < side && a < a0 + 8; a++)
                    for (int b = b0; b < side && b < b0 + 8; b++)
                        for (int c = c0; c < side && c < c0 + 8; c++) {
                            const int at[3] = {a, b, c};
                            for (int q = 0; q < 3; q++) x[n++] = spacing * (at[q] + 0.3 * rand() / RAND_MAX);
                        }
    return x;
}

typedef struct bench {
    const backend *b;
    void *state;
    mlff_graph graph;
    const double *x;
    int cuda, repeats;
    double total; /* ns an atom of one evaluation */
} bench;

#define TIME_LAYER(bench_, count, name, call)                                                                          \
    do {                                                                                                               \
        mlff_error error_;                                                                                             \
        stop_on((call), &error_);                                                                                      \
        double begin_ = now((bench_)->cuda);                                                                           \
        for (int repeat_ = 0; repeat_ < (bench_)->repeats; repeat_++) stop_on((call), &error_);                        \
        double ns_ = (now((bench_)->cuda) - begin_) / (bench_)->repeats * 1e9 / (bench_)->graph.n_owned;               \
        (bench_)->total += ns_ * (count);                                                                              \
        printf("%-24s %d x %9.2f ns an atom\n", name, count, ns_);                                                     \
    } while (0)

static mlff_status edges_of(bench *b, mlff_error *error)
{
    mlff_status status = b->b->prepare(b->state, &b->graph, b->x, WANT_REVERSE, 0, error);
    return status == MLFF_OK && b->b->begin ? b->b->begin(b->state, NULL, error) : status;
}

static void time_layers(bench *b, int L)
{
    void *s = b->state;
    double energy, virial[9], *forces = malloc(sizeof *forces * 3 * (size_t)b->graph.n_all);
    mlff_output output = {.energy = &energy, .virial = virial, .forces = forces};
    TIME_LAYER(b, 1, "positions, edges", edges_of(b, &error_));
    TIME_LAYER(b, 1, "first message", b->b->first_message_forward(s, &error_));
    TIME_LAYER(b, 1, "update, first", b->b->update_forward(s, 0, &error_));
    if (L > 1) {
        TIME_LAYER(b, L - 1, "context", b->b->context_forward(s, 1, &error_));
        TIME_LAYER(b, L - 1, "message", b->b->message_forward(s, 1, &error_));
        TIME_LAYER(b, L - 1, "update, last", b->b->update_forward(s, L - 1, &error_));
    }
    TIME_LAYER(b, 1, "readout", b->b->readout_forward(s, &error_));
    TIME_LAYER(b, 1, "readout, reverse", b->b->readout_reverse(s, &error_));
    if (L > 1) {
        TIME_LAYER(b, L - 1, "update, last, reverse", b->b->update_reverse(s, L - 1, &error_));
        TIME_LAYER(b, L - 1, "message, reverse", b->b->message_reverse(s, 1, &error_));
        TIME_LAYER(b, L - 1, "context, reverse", b->b->context_reverse(s, 1, &error_));
    }
    TIME_LAYER(b, 1, "update, first, reverse", b->b->update_reverse(s, 0, &error_));
    TIME_LAYER(b, 1, "first message, reverse", b->b->first_message_reverse(s, &error_));
    stop_on(edges_of(b, NULL), NULL);
    b->b->first_message_forward(s, NULL); /* sane numbers again after the repeats */
    b->b->readout_forward(s, NULL);
    TIME_LAYER(b, 1, "forces", b->b->collect(s, &output, &error_));
    printf("%-24s     %9.2f ns an atom, %.3g atom-steps/s\n", "sum", b->total, 1e9 / b->total);
    free(forces);
}

static mlff_precision precision_of(const char *word)
{
    if (strcmp(word, "double") == 0) return MLFF_PRECISION_DOUBLE;
    if (strcmp(word, "single") == 0) return MLFF_PRECISION_SINGLE;
    if (strcmp(word, "mixed") == 0) return MLFF_PRECISION_MIXED;
    fprintf(stderr, "precision '%s', expected single, double or mixed\n", word);
    exit(2);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [cpu|cuda] [single|double|mixed] [atoms a side] [threads] [repeats]\n",
                argv[0]);
        return 2;
    }
    bench b = {.cuda = argc > 2 && strcmp(argv[2], "cuda") == 0, .repeats = argc > 6 ? atoi(argv[6]) : 10};
    const mlff_precision precision = precision_of(argc > 3 ? argv[3] : "single");
    const int side = argc > 4 ? atoi(argv[4]) : 20, threads = argc > 5 ? atoi(argv[5]) : 1;
    mlff_error error;
    mlff_model *model;
    stop_on(mlff_model_load(argv[1], &model, &error), &error);
    b.b = b.cuda ? mlff_cuda_backend(precision) : mlff_cpu_backend(precision);
    if (!b.b) {
        fprintf(stderr, "this build has no %s backend in precision %s\n", b.cuda ? "cuda" : "cpu",
                argc > 3 ? argv[3] : "single");
        return 1;
    }
    stop_on(b.b->create(model, &(mlff_options){.threads = threads}, &b.state, &error), &error);

    const double spacing = 2.1544346900318838, length = spacing * side; /* 10^(1/3) */
    const int32_t n = (int32_t)side * side * side, first_atom[2] = {0, n}, periodic[3] = {1, 1, 1};
    const double cell[9] = {length, 0, 0, 0, length, 0, 0, 0, length};
    double *x = shaken_grid(side, spacing);
    int32_t *species = malloc(sizeof *species * (size_t)n);
    const mlff_model_info *info = mlff_model_get_info(model);
    for (int32_t i = 0; i < n; i++) species[i] = i % info->n_elements;
    const mlff_structures structures = {
        .n_structures = 1, .first_atom = first_atom, .cell = cell, .periodic = periodic};
    const mlff_input input = {.n_local = n, .n_all = n, .x = x, .species = species, .structures = &structures};
    stop_on(mlff_graph_from_structures(&b.graph, &input, info->n_elements, info->cutoff, 2, &error), &error);
    b.x = x;
    stop_on(b.b->prepare(b.state, &b.graph, b.x, 1, 0, &error), &error);
    printf("%d atoms, %.1f neighbours, %s, %s, %.1f kB an atom\n", (int)n, (double)b.graph.n_slots / n,
           b.b->device(b.state), b.b->precision, (double)b.b->memory(b.state) / 1024 / n);
    time_layers(&b, info->interactions);

    b.b->free(b.state);
    mlff_graph_free(&b.graph);
    mlff_model_free(model);
    free(x);
    free(species);
    return 0;
}
