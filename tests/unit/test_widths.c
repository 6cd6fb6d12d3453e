/* SPDX-License-Identifier: MIT */
/*
 * Every width that a backend treats in its own way, with random weights, against the CPU's double: on the GPU widths of
 * 32, 64, 96 and 128 features have fused layers, the others and double go the general way; messages of many rows go
 * through the matrix units, whose blocks have room for so many neighbours and take so many edges at a time.
 */
#include "random_model.h"
#include "support.h"

#include <math.h>

/* A shaken grid, not periodic. */
typedef struct grid {
    int side, depth;
    double spacing, filter_size; /* angstrom; of the model that it is for */
} grid;

static const grid few = {3, 5, 1.9, 1}; /* more atoms than a block of the fused layers has, and not a multiple of it */
static const grid many = {11, 10, 2.4, 1};        /* enough rows for the matrix units, up to 40 neighbours */
static const grid dense = {11, 10, 1.85, 0.5};    /* up to 85: more edges than a pass takes */
static const grid very_dense = {11, 9, 1.3, 0.2}; /* up to 240: more neighbours than seats in shared memory */

static int atoms_of(grid g)
{
    return g.side * g.side * g.depth;
}

static void random_structure(grid g, double *x, int32_t *species)
{
    for (int i = 0; i < atoms_of(g); i++) {
        const int at[3] = {i % g.side, i / g.side % g.side, i / (g.side * g.side)};
        for (int a = 0; a < 3; a++) x[3 * i + a] = g.spacing * at[a] + 0.15 * g.spacing * random_number();
        species[i] = i % 3;
    }
}

static result evaluate_on(mlff_device device, const mlff_model *model, mlff_precision precision, int32_t n,
                          const double *x, const int32_t *species)
{
    const mlff_device asked = test_device;
    result got;
    test_device = device;
    evaluate_structure(model, precision, 1, n, x, species, NULL, NULL, &got);
    test_device = asked;
    return got;
}

/* force_error: RMS, relative */
static void check_width(int features, int interactions, int readout_features, int vector_bias, grid g,
                        mlff_precision precision, double force_error, double energy_error)
{
    const int n = atoms_of(g);
    char what[100];
    snprintf(what, sizeof what, "%d features, %d interactions, %d atoms %g A apart", features, interactions, n,
             g.spacing);
    random_seed = (uint64_t)features;
    mlff_model *model = random_model(&(tiny_options){.features = features,
                                                     .interactions = interactions,
                                                     .readout_features = readout_features,
                                                     .vector_bias = vector_bias},
                                     g.filter_size);
    double *x = malloc(3 * (size_t)n * sizeof *x);
    int32_t *species = malloc((size_t)n * sizeof *species);
    random_structure(g, x, species);
    result expected = evaluate_on(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, n, x, species);
    result got = evaluate_on(test_device, model, precision, n, x, species);
    const double size = rms(expected.forces, 3 * n);
    assert_true(size > 1e-3);
    assert_at_most(what, "relative RMS force error", rms_difference(got.forces, expected.forces, 3 * n) / size,
                   force_error);
    assert_at_most(what, "energy error an atom", largest_difference(got.atom_energy, expected.atom_energy, n),
                   energy_error * fmax(1, largest(expected.atom_energy, n)));
    result again = evaluate_on(test_device, model, precision, n, x, species);
    assert_memory_equal(got.forces, again.forces, 3 * (size_t)n * sizeof(double));
    result_free(&expected), result_free(&got), result_free(&again);
    free(x), free(species);
    mlff_model_free(model);
}

static void check_widths(mlff_precision precision, double force_error, double energy_error)
{
    const int features[] = {16, 32, 40, 64, 96, 112, 128, 256}; /* 40 is padded */
    for (size_t k = 0; k < sizeof features / sizeof features[0]; k++)
        for (int bias = 0; bias < 2; bias++)
            check_width(features[k], 2, features[k] / 2, bias, few, precision, force_error, energy_error);
    check_width(128, 1, 100, 0, few, precision, force_error, energy_error);
    check_width(64, 1, 7, 1, few, precision, force_error, energy_error);
}

static void check_many(mlff_precision precision, double force_error, double energy_error)
{
    const int features[] = {32, 48, 64, 96, 128};
    for (size_t k = 0; k < sizeof features / sizeof features[0]; k++)
        check_width(features[k], 3, 16, 0, many, precision, force_error, energy_error);
    check_width(64, 3, 16, 0, dense, precision, force_error, energy_error);
    check_width(32, 2, 16, 0, very_dense, precision, force_error, energy_error);
}

static void every_width_gives_the_cpus_double_in_double(void **state)
{
    (void)state;
    check_widths(MLFF_PRECISION_DOUBLE, 1e-9, 1e-10);
}

static void every_width_gives_the_cpus_double_in_single(void **state)
{
    (void)state;
    check_widths(MLFF_PRECISION_SINGLE, 3e-6, 3e-6);
}

static void many_neighbours_give_the_cpus_double_in_single(void **state)
{
    (void)state;
    check_many(MLFF_PRECISION_SINGLE, 3e-6, 3e-6);
}

static void mixed_precision_stays_near_the_cpus_double(void **state)
{
    (void)state;
    if (test_device != MLFF_DEVICE_CUDA) {
        print_message("skipped: precision mixed is for GPUs\n");
        skip();
    }
    check_widths(MLFF_PRECISION_MIXED, 5e-3, 5e-3);
    check_many(MLFF_PRECISION_MIXED, 5e-3, 5e-3);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_gives_the_cpus_double_in_double),
        cmocka_unit_test(every_width_gives_the_cpus_double_in_single),
        cmocka_unit_test(many_neighbours_give_the_cpus_double_in_single),
        cmocka_unit_test(mixed_precision_stays_near_the_cpus_double),
    };
    return RUN_ON_DEVICE(argc, argv, "widths", tests);
}
