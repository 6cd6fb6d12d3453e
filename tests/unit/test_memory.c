/* SPDX-License-Identifier: MIT */
/* Memory: what an evaluator says it needs, and what happens where there is not enough. */
#include "backend.h"
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if MLFF_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

/* ------------------------------------------------------------------------------------------- a system */

/* side^3 atoms on a shaken periodic grid, 53 neighbours within 5 angstrom; species 0. */
typedef struct grid {
    int32_t n, *species, first_atom[2], periodic[3];
    double *x, cell[9];
    mlff_structures structures;
    mlff_input input;
} grid;

static void make_grid(grid *g, int side)
{
    const double spacing = 2.1544346900318838; /* 0.1 atoms in a cubic angstrom */
    *g = (grid){.n = side * side * side, .periodic = {1, 1, 1}};
    g->x = malloc(3 * (size_t)g->n * sizeof *g->x);
    g->species = calloc((size_t)g->n, sizeof *g->species);
    assert_non_null(g->x);
    assert_non_null(g->species);
    for (int32_t i = 0; i < g->n; i++) {
        const int at[3] = {i / side / side, i / side % side, i % side};
        for (int q = 0; q < 3; q++) g->x[3 * (size_t)i + q] = spacing * (at[q] + 0.1 * sin(7.0 * i + q));
    }
    g->first_atom[1] = g->n;
    g->cell[0] = g->cell[4] = g->cell[8] = spacing * side;
    g->structures =
        (mlff_structures){.n_structures = 1, .first_atom = g->first_atom, .cell = g->cell, .periodic = g->periodic};
    g->input =
        (mlff_input){.n_local = g->n, .n_all = g->n, .x = g->x, .species = g->species, .structures = &g->structures};
}

static void free_grid(grid *g)
{
    free(g->x);
    free(g->species);
}

/* --------------------------------------------------------------------------------------- the estimate */

static void check_estimate(const reference *r, const backend *b)
{
    grid g;
    make_grid(&g, 16);
    mlff_graph graph = {0};
    const mlff_model_info *info = mlff_model_get_info(r->model);
    mlff_error error;
    assert_int_equal(mlff_graph_from_structures(&graph, &g.input, info->n_elements, info->cutoff, 1, &error), MLFF_OK);
    mlff_graph list = graph;
    list.shift = NULL; /* as an engine's list has it */
    void *state;
    assert_int_equal(b->create(r->model, &(mlff_options){.device_index = -1}, &state, &error), MLFF_OK);
    double an_atom, a_neighbour;
    b->memory_estimate(state, &an_atom, &a_neighbour);
    const double before = (double)b->memory(state), expected = an_atom * g.n + a_neighbour * (double)graph.n_slots;
    assert_int_equal(b->prepare(state, &list, g.x, 1, 0, &error), MLFF_OK);
    const double held = (double)b->memory(state) - before;
    printf("%s, %s: %.0f bytes estimated, %.0f held\n", b->device(state), b->precision, expected, held);
    assert_true(held > 0.99 * expected);
    assert_true(held < 1.3 * expected); /* arenas keep slack */
    b->free(state);
    mlff_graph_free(&graph);
    free_grid(&g);
}

static void an_evaluator_holds_what_its_estimate_says(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    int checked = 0;
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_MIXED; p++) {
        const backend *b = test_device == MLFF_DEVICE_CUDA ? mlff_cuda_backend(p) : mlff_cpu_backend(p);
        if (!b) continue;
        check_estimate(&r, b);
        checked++;
    }
    assert_true(checked >= 2);
    reference_free(&r);
}

/* ---------------------------------------------------------------------------------------- not enough */

#if MLFF_WITH_CUDA
static mlff_status evaluate_grid(mlff_evaluator *e, int side, mlff_error *error)
{
    grid g;
    make_grid(&g, side);
    double energy, *forces = malloc(3 * (size_t)g.n * sizeof *forces);
    assert_non_null(forces);
    mlff_output output = {.energy = &energy, .forces = forces};
    const mlff_status status = mlff_evaluate(e, &g.input, &output, error);
    free(forces);
    free_grid(&g);
    return status;
}

static void gpu_out_of_memory_names_what_fits_and_that_then_works(void **unused)
{
    (void)unused;
    if (test_device != MLFF_DEVICE_CUDA) skip();
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    const mlff_options options = {.device = MLFF_DEVICE_CUDA, .precision = MLFF_PRECISION_DOUBLE};
    mlff_evaluator *e;
    mlff_error error;
    assert_int_equal(mlff_evaluator_create(r.model, &options, &e, &error), MLFF_OK);
    assert_int_equal(evaluate_grid(e, 8, &error), MLFF_OK);

    const size_t left = (size_t)512 << 20;
    size_t free_bytes, all_bytes;
    void *ballast;
    assert_int_equal(cudaMemGetInfo(&free_bytes, &all_bytes), cudaSuccess);
    assert_true(free_bytes > left);
    assert_int_equal(cudaMalloc(&ballast, free_bytes - left), cudaSuccess);

    const int too_many = 64;
    assert_int_equal(evaluate_grid(e, too_many, &error), MLFF_ERROR_MEMORY);
    printf("%s\n", error.message);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    const char *at = strstr(error.message, "about ");
    assert_non_null(strstr(error.message, "bytes asked for"));
    assert_non_null(at);
    const double fit = strtod(at + strlen("about "), NULL);
    assert_true(fit > 1000 && fit < pow(too_many, 3));
    assert_int_equal(evaluate_grid(e, (int)cbrt(fit), &error), MLFF_OK);
    assert_int_equal(evaluate_grid(e, (int)cbrt(1.7 * fit), &error), MLFF_ERROR_MEMORY); /* not much too careful */

    assert_int_equal(cudaFree(ballast), cudaSuccess);
    assert_int_equal(evaluate_grid(e, too_many, &error), MLFF_OK);
    mlff_evaluator_free(e);
    reference_free(&r);
}
#endif

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_evaluator_holds_what_its_estimate_says),
#if MLFF_WITH_CUDA
        cmocka_unit_test(gpu_out_of_memory_names_what_fits_and_that_then_works),
#endif
    };
    return RUN_ON_DEVICE(argc, argv, "memory", tests);
}
