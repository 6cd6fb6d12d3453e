/* SPDX-License-Identifier: MIT */
/* Models of every kind of size: forces against those of the CPU backend in double, and the same bits again. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_model.h"

/* ------------------------------------------------------------------------------------------- models */

static const char first_forty[] =
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr";
static const char forty_zeros[] = "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";

static double read_value(const unsigned char *p)
{
    double value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Weights of both signs, so small that every layer's output stays near 1; radial functions as they are in use. */
static void set_values(tiny_model *tiny)
{
    const int K = tiny->options.radial_functions;
    const double cutoff = 5, pi = 3.14159265358979323846;
    const char *name;
    json_t *tensor;
    json_object_foreach(tiny->header, name, tensor)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        json_t *offsets = json_object_get(tensor, "data_offsets"), *shape = json_object_get(tensor, "shape");
        const size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0)),
                     end = (size_t)json_integer_value(json_array_get(offsets, 1)), dimensions = json_array_size(shape);
        const double inputs = dimensions < 2 ? 100 : (double)json_integer_value(json_array_get(shape, 1)),
                     size = strcmp(name, "embedding.weight") == 0 ? 1.7 : 1.7 / sqrt(inputs);
        for (size_t at = begin; at < end; at += 8) {
            const double k = (double)((at - begin) / 8);
            double value = size * (2 * read_value(tiny->data + at) - 1);
            if (strcmp(name, "radial.offset") == 0) value = cutoff * k / (K - 1);
            if (strcmp(name, "radial.width") == 0) value = cutoff / (K - 1);
            if (strcmp(name, "radial.frequency") == 0) value = pi * (k + 1) / cutoff;
            tiny_store(tiny->data + at, 8, value);
        }
    }
}

static mlff_model *make_model(const char *name, int F, int K, int L, int bessel, int n_elements)
{
    static const struct {
        int n;
        const char *symbols, *energies;
    } elements[] = {{2, "H O", "0 0"}, {5, "H C N O Si", "0 0 0 0 0"}, {40, first_forty, forty_zeros}};
    int which = 0;
    while (elements[which].n != n_elements) which++;
    const tiny_options options = {.features = F,
                                  .interactions = L,
                                  .radial_functions = K,
                                  .readout_features = 16,
                                  .n_elements = n_elements,
                                  .elements = elements[which].symbols,
                                  .element_energies = elements[which].energies,
                                  .energy_unit = "eV",
                                  .bessel = bessel,
                                  .value_size = 8};
    tiny_model *tiny = tiny_make(&options);
    set_values(tiny);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    mlff_model *model = NULL;
    mlff_error error = {""};
    if (mlff_model_load_memory(bytes, size, name, &model, &error) != MLFF_OK) fail_msg("%s", error.message);
    free(bytes);
    tiny_free(tiny);
    return model;
}

/* -------------------------------------------------------------------------------------------- checks */

enum { SIDE = 6, ATOMS = SIDE * SIDE * SIDE };

static void check_size(int F, int K, int L, int bessel, int n_elements)
{
    static const int32_t periodic[3] = {1, 1, 1};
    const double spacing = 2.1544346900318838, length = spacing * SIDE; /* 0.1 atoms in a cubic angstrom */
    const double cell[9] = {length, 0, 0, 0, length, 0, 0, 0, length};
    double x[3 * ATOMS];
    int32_t species[ATOMS];
    for (int i = 0; i < ATOMS; i++) {
        const int at[3] = {i / SIDE / SIDE, i / SIDE % SIDE, i % SIDE};
        for (int q = 0; q < 3; q++) x[3 * i + q] = spacing * (at[q] + 0.15 * sin(7.0 * i + 2.0 * q));
        species[i] = i * 7 % n_elements;
    }
    char name[100];
    snprintf(name, sizeof name, "F %d, K %d, L %d, %s, %d elements", F, K, L, bessel ? "bessel" : "gaussian",
             n_elements);
    mlff_model *model = make_model(name, F, K, L, bessel, n_elements);
    const mlff_device device = test_device;
    result expected, got, again;
    test_device = MLFF_DEVICE_CPU;
    evaluate_structure(model, MLFF_PRECISION_DOUBLE, 2, ATOMS, x, species, cell, periodic, &expected);
    test_device = device;
    const double force = rms(expected.forces, 3 * ATOMS);
    assert_true(force > 1e-3); /* else nothing is compared */
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
        const double bound = p == MLFF_PRECISION_DOUBLE ? 1e-9 : 3e-6;
        evaluate_structure(model, p, 1, ATOMS, x, species, cell, periodic, &got);
        evaluate_structure(model, p, 1, ATOMS, x, species, cell, periodic, &again);
        assert_at_most(name, "RMS relative force error", rms_difference(got.forces, expected.forces, 3 * ATOMS) / force,
                       bound);
        assert_at_most(name, "relative virial error",
                       largest_difference(got.virial, expected.virial, 9) / largest(expected.virial, 9), 10 * bound);
        assert_memory_equal(got.forces, again.forces, 3 * ATOMS * sizeof(double));
        result_free(&got);
        result_free(&again);
    }
    result_free(&expected);
    mlff_model_free(model);
}

static void every_width_and_number_of_functions_gives_the_forces(void **unused)
{
    (void)unused;
    check_size(48, 20, 2, 0, 2);
    check_size(64, 20, 2, 0, 2);
    check_size(96, 20, 2, 0, 2);
    check_size(128, 20, 2, 0, 2);
    check_size(112, 16, 1, 1, 2);
    check_size(256, 64, 1, 0, 2);
    check_size(208, 32, 2, 1, 5);
}

static void models_of_many_elements_give_the_forces(void **unused)
{
    (void)unused;
    check_size(128, 20, 1, 0, 5);
    check_size(16, 20, 2, 0, 40);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_width_and_number_of_functions_gives_the_forces),
                                       cmocka_unit_test(models_of_many_elements_give_the_forces)};
    return RUN_ON_DEVICE(argc, argv, "sizes", tests);
}
