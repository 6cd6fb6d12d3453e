/* SPDX-License-Identifier: MIT */
/*
 * Every width that a backend treats in its own way, with random weights, against the CPU's double: on the GPU widths of 32, 64,
 * 96 and 128 features have fused layers, the others and double go the general way.
 */
#include "support.h"
#include "tiny_model.h"

#include <math.h>

static uint64_t seed;

static double random_number(void) /* -1 to 1 */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) / 9007199254740992.0 * 2 - 1;
}

/* Weights of variance 1 / inputs, small biases; radial functions spread over the cutoff. */
static void randomise(tiny_model *tiny)
{
    const char *name;
    json_t *entry;
    json_object_foreach(tiny->header, name, entry)
    {
        const json_t *shape = json_object_get(entry, "shape");
        if (!shape) continue;
        const int rows = (int)json_integer_value(json_array_get(shape, 0));
        const int columns = json_array_size(shape) > 1 ? (int)json_integer_value(json_array_get(shape, 1)) : 0;
        const int radial = !strncmp(name, "radial.", 7), n = rows * (columns ? columns : 1);
        const double size = columns == 0 ? 0.1 : strcmp(name, "embedding.weight") ? sqrt(3.0 / columns) : 1;
        for (int i = 0; i < n; i++) {
            const double spread = strcmp(name, "radial.width") ? 5.0 * i / (rows - 1) : 5.0 / (rows - 1);
            tiny_set(tiny, name, i, radial ? spread : size * random_number());
        }
    }
}

static mlff_model *random_model(int features, int interactions, int readout_features, int vector_bias)
{
    tiny_options options = tiny_gaussian;
    options.features = features, options.interactions = interactions, options.readout_features = readout_features;
    options.radial_functions = 12, options.vector_bias = vector_bias, options.value_size = 8;
    tiny_model *tiny = tiny_make(&options);
    randomise(tiny);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    mlff_model *model = NULL;
    mlff_error error;
    if (mlff_model_load_memory(bytes, size, "random", &model, &error) != MLFF_OK) fail_msg("%s", error.message);
    free(bytes);
    tiny_free(tiny);
    return model;
}

enum { SIDE = 3, DEPTH = 5, ATOMS = SIDE * SIDE * DEPTH };

/* A shaken grid of more atoms than a block of the fused layers has, and not a multiple of it. */
static void random_structure(double *x, int32_t *species)
{
    for (int i = 0; i < ATOMS; i++) {
        const int at[3] = {i % SIDE, i / SIDE % SIDE, i / (SIDE * SIDE)};
        for (int a = 0; a < 3; a++) x[3 * i + a] = 1.9 * at[a] + 0.3 * random_number();
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
static void check_width(int features, int interactions, int readout_features, int vector_bias, mlff_precision precision,
                        double force_error, double energy_error)
{
    char what[100];
    snprintf(what, sizeof what, "%d features, %d interactions", features, interactions);
    seed = (uint64_t)features;
    mlff_model *model = random_model(features, interactions, readout_features, vector_bias);
    double x[3 * ATOMS];
    int32_t species[ATOMS];
    random_structure(x, species);
    result expected = evaluate_on(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, ATOMS, x, species);
    result got = evaluate_on(test_device, model, precision, ATOMS, x, species);
    const double size = rms(expected.forces, 3 * ATOMS);
    assert_true(size > 1e-3);
    assert_at_most(what, "relative RMS force error", rms_difference(got.forces, expected.forces, 3 * ATOMS) / size,
                   force_error);
    assert_at_most(what, "energy error an atom", largest_difference(got.atom_energy, expected.atom_energy, ATOMS),
                   energy_error * fmax(1, largest(expected.atom_energy, ATOMS)));
    result again = evaluate_on(test_device, model, precision, ATOMS, x, species);
    assert_memory_equal(got.forces, again.forces, 3 * ATOMS * sizeof(double));
    result_free(&expected), result_free(&got), result_free(&again);
    mlff_model_free(model);
}

static void check_widths(mlff_precision precision, double force_error, double energy_error)
{
    const int features[] = {16, 32, 40, 64, 96, 112, 128, 256}; /* 40 is padded */
    for (size_t k = 0; k < sizeof features / sizeof features[0]; k++)
        for (int bias = 0; bias < 2; bias++)
            check_width(features[k], 2, features[k] / 2, bias, precision, force_error, energy_error);
    check_width(128, 1, 100, 0, precision, force_error, energy_error);
    check_width(64, 1, 7, 1, precision, force_error, energy_error);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_gives_the_cpus_double_in_double),
        cmocka_unit_test(every_width_gives_the_cpus_double_in_single),
    };
    return RUN_ON_DEVICE(argc, argv, "widths", tests);
}
