/* SPDX-License-Identifier: MIT */
#include "support.h"

#include "backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mlff_device test_device = MLFF_DEVICE_CPU;

static mlff_error no_gpu;

static void gpu_tests_are_skipped(void **state)
{
    (void)state;
    print_message("skipped: %s\n", no_gpu.message);
    skip();
}

/* cmocka runs its groups through a macro that wants an array */
static int run_array(const char *name, const struct CMUnitTest *tests, size_t n_tests)
{
    return _cmocka_run_group_tests(name, tests, n_tests, NULL, NULL);
}

int run_tests_on_device(int argc, char **argv, const char *name, const struct CMUnitTest *tests, size_t n_tests)
{
    char full_name[100];
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    if (argc < 2 || strcmp(argv[1], "cuda") != 0) return run_array(name, tests, n_tests);
    test_device = MLFF_DEVICE_CUDA;
    snprintf(full_name, sizeof full_name, "%s on cuda", name);
    if (mlff_cuda_is_usable(&no_gpu)) return run_array(full_name, tests, n_tests);
    const struct CMUnitTest skipped[] = {cmocka_unit_test(gpu_tests_are_skipped)};
    return run_array(full_name, skipped, 1);
}

/* tests/fixtures, or where the environment says that a copy of it is */
static const char *fixtures(void)
{
    const char *elsewhere = getenv("MLFF_FIXTURES");
    return elsewhere ? elsewhere : MLFF_FIXTURES;
}

static FILE *open_fixture(const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", fixtures(), name);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s cannot be opened", path);
    return f;
}

static double read_number(FILE *f, const char *path)
{
    double value = 0;
    if (fscanf(f, "%lf", &value) != 1) fail_msg("%s: a number is missing", path);
    return value;
}

static void *allocate(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    assert_non_null(p);
    return p;
}

void reference_load(reference *r, const char *model, const char *structure)
{
    char name[200], path[512];
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "%s %s", model, structure);
    snprintf(path, sizeof path, "%s/%s.safetensors", fixtures(), model);
    mlff_error error;
    if (mlff_model_load(path, &r->model, &error) != MLFF_OK) fail_msg("%s", error.message);

    snprintf(name, sizeof name, "%s.%s.txt", model, structure);
    FILE *f = open_fixture(name, path);
    r->n = (int32_t)read_number(f, path);
    for (int q = 0; q < 9; q++) r->cell[q] = read_number(f, path);
    for (int q = 0; q < 3; q++) r->periodic[q] = (int32_t)read_number(f, path);
    size_t n = (size_t)r->n;
    r->species = allocate(n, sizeof *r->species);
    r->x = allocate(3 * n, sizeof *r->x);
    r->forces = allocate(3 * n, sizeof *r->forces);
    r->e_atom = allocate(n, sizeof *r->e_atom);
    for (size_t i = 0; i < n; i++) {
        r->species[i] = (int32_t)read_number(f, path);
        for (int a = 0; a < 3; a++) r->x[3 * i + a] = read_number(f, path);
        for (int a = 0; a < 3; a++) r->forces[3 * i + a] = read_number(f, path);
        r->e_atom[i] = read_number(f, path);
    }
    r->energy = read_number(f, path);
    for (int q = 0; q < 9; q++) r->virial[q] = read_number(f, path);
    fclose(f);
}

void reference_free(reference *r)
{
    mlff_model_free(r->model);
    free(r->species);
    free(r->x);
    free(r->forces);
    free(r->e_atom);
    memset(r, 0, sizeof *r);
}

int for_every_reference(void (*check)(const reference *r))
{
    char path[512], model[64], structure[64];
    FILE *f = open_fixture("manifest.txt", path);
    int count = 0;
    while (fscanf(f, "%63s %63s", model, structure) == 2) {
        reference r;
        reference_load(&r, model, structure);
        check(&r);
        reference_free(&r);
        count++;
    }
    fclose(f);
    return count;
}

void evaluate_structure(const mlff_model *model, mlff_precision precision, int threads, int32_t n, const double *x,
                        const int32_t *species, const double *cell, const int32_t *periodic, result *out)
{
    *out = (result){.n = n,
                    .forces = allocate(3 * (size_t)n, sizeof(double)),
                    .atom_energy = allocate((size_t)n, sizeof(double)),
                    .atom_virial = allocate(9 * (size_t)n, sizeof(double))};
    const mlff_options options = {.device = test_device, .precision = precision, .threads = threads};
    mlff_error error = {""};
    mlff_evaluator *evaluator = NULL;
    if (mlff_evaluator_create(model, &options, &evaluator, &error) != MLFF_OK) fail_msg("%s", error.message);
    const int32_t first_atom[2] = {0, n};
    const mlff_structures structures = {
        .n_structures = 1, .first_atom = first_atom, .cell = cell, .periodic = periodic};
    const mlff_input input = {.n_local = n, .n_all = n, .x = x, .species = species, .structures = &structures};
    mlff_output output = {.energy = &out->energy,
                          .atom_energy = out->atom_energy,
                          .forces = out->forces,
                          .virial = out->virial,
                          .atom_virial = out->atom_virial};
    if (mlff_evaluate(evaluator, &input, &output, &error) != MLFF_OK) fail_msg("%s", error.message);
    mlff_evaluator_free(evaluator);
}

void result_free(result *r)
{
    free(r->forces);
    free(r->atom_energy);
    free(r->atom_virial);
    memset(r, 0, sizeof *r);
}

double largest(const double *a, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs(a[i]));
    return most;
}

double largest_difference(const double *a, const double *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(fabs(a[i] - b[i]) < INFINITY)) return INFINITY; /* fmax would hide a NaN */
        most = fmax(most, fabs(a[i] - b[i]));
    }
    return most;
}

double rms(const double *a, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * a[i];
    return n ? sqrt(sum / (double)n) : 0;
}

double rms_difference(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return n ? sqrt(sum / (double)n) : 0;
}

void assert_at_most(const char *where, const char *what, double value, double bound)
{
    if (!(value <= bound)) fail_msg("%s: %s is %.3g, expected at most %.3g", where, what, value, bound);
}
