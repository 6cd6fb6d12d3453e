/* SPDX-License-Identifier: MIT */
/*
 * Small structures, which a GPU evaluates in a way of their own (cuda_kernels/molecule.cu): any width, depth, radial
 * functions and number of atoms that this way takes, and what lies beside it, against the CPU's double.
 */
#include "random_model.h"
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STRUCTURES = 400 };

/* Structures of one call; not periodic. */
typedef struct molecules {
    int n_structures, n;
    int32_t first[MOST_STRUCTURES + 1], *species;
    double *x;
} molecules;

/* Results of one call. */
typedef struct answer {
    double *energy, *virial, *forces, *atom_energy, *atom_virial;
    mlff_close_pairs close;
} answer;

static void add_molecule(molecules *m, int n, double spacing, int n_elements)
{
    m->x = realloc(m->x, 3 * (size_t)(m->n + n) * sizeof *m->x);
    m->species = realloc(m->species, (size_t)(m->n + n) * sizeof *m->species);
    for (int i = 0; i < n; i++) {
        const int at[3] = {i % 3, i / 3 % 3, i / 9};
        for (int a = 0; a < 3; a++) m->x[3 * (m->n + i) + a] = spacing * (at[a] + 0.15 * random_number());
        m->species[m->n + i] = i % n_elements;
    }
    m->n += n;
    m->first[++m->n_structures] = m->n;
}

static molecules make_molecules(const int *sizes, int n_sizes)
{
    molecules m = {0};
    random_seed = 11;
    for (int k = 0; k < n_sizes; k++) add_molecule(&m, sizes[k], sizes[k] == 2 ? 60 : 1.5, 1 + k % 3);
    return m;
}

static void molecules_free(molecules *m)
{
    free(m->x), free(m->species);
}

static answer make_answer(int n, int n_structures)
{
    answer a = {calloc((size_t)n_structures, sizeof(double)), calloc(9 * (size_t)n_structures, sizeof(double)),
                calloc(3 * (size_t)n, sizeof(double)),        calloc((size_t)n, sizeof(double)),
                calloc(9 * (size_t)n, sizeof(double)),        {0}};
    assert_true(a.energy && a.virial && a.forces && a.atom_energy && a.atom_virial);
    return a;
}

static void answer_free(answer *a)
{
    free(a->energy), free(a->virial), free(a->forces), free(a->atom_energy), free(a->atom_virial);
}

static mlff_evaluator *evaluator_on(mlff_device device, const mlff_model *model, mlff_precision precision)
{
    const mlff_options options = {.device = device, .precision = precision, .threads = 1, .device_index = -1};
    mlff_evaluator *e = NULL;
    mlff_error error;
    if (mlff_evaluator_create(model, &options, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
    return e;
}

/* Structures begin .. end - 1 of m. */
static mlff_status evaluate_some(mlff_evaluator *e, const molecules *m, int begin, int end, const answer *a,
                                 mlff_error *error)
{
    int32_t first[MOST_STRUCTURES + 1];
    const int32_t atom = m->first[begin], n = m->first[end] - atom;
    for (int k = begin; k <= end; k++) first[k - begin] = m->first[k] - atom;
    const mlff_structures structures = {.n_structures = end - begin, .first_atom = first};
    const mlff_input input = {
        .n_local = n, .n_all = n, .x = m->x + 3 * atom, .species = m->species + atom, .structures = &structures};
    mlff_output output = {.energy = a->energy,
                          .virial = a->virial,
                          .forces = a->forces,
                          .atom_energy = a->atom_energy,
                          .atom_virial = a->atom_virial};
    return mlff_evaluate(e, &input, &output, error);
}

static answer answer_of(mlff_device device, const mlff_model *model, mlff_precision precision, const molecules *m,
                        int begin, int end)
{
    mlff_evaluator *e = evaluator_on(device, model, precision);
    answer a = make_answer(m->first[end] - m->first[begin], end - begin);
    mlff_error error;
    if (evaluate_some(e, m, begin, end, &a, &error) != MLFF_OK)
        fail_msg("%s, %d features: %s", mlff_model_get_info(model)->name, mlff_model_get_info(model)->features,
                 error.message);
    a.close = *mlff_evaluator_get_close_pairs(e);
    mlff_evaluator_free(e);
    return a;
}

/* forces and virials relative, RMS */
static void compare(const char *what, const answer *got, const answer *expected, int n, int n_structures, double bound)
{
    const size_t v = 9 * (size_t)n_structures, f = 3 * (size_t)n;
    assert_at_most(what, "forces",
                   rms_difference(got->forces, expected->forces, f) / fmax(1e-6, rms(expected->forces, f)), bound);
    assert_at_most(what, "virials",
                   rms_difference(got->virial, expected->virial, v) / fmax(1e-6, rms(expected->virial, v)), 2 * bound);
    assert_at_most(what, "virials of atoms",
                   rms_difference(got->atom_virial, expected->atom_virial, 3 * f) /
                       fmax(1e-6, rms(expected->atom_virial, 3 * f)),
                   2 * bound);
    assert_at_most(what, "energies of atoms", largest_difference(got->atom_energy, expected->atom_energy, (size_t)n),
                   bound * fmax(1, largest(expected->atom_energy, (size_t)n)));
    assert_at_most(what, "energies", largest_difference(got->energy, expected->energy, (size_t)n_structures),
                   8 * bound * fmax(1, largest(expected->energy, (size_t)n_structures)));
}

static void check_model(const tiny_options *sizes, mlff_precision precision, double bound)
{
    const int atoms[] = {9, 1, 21, 2, 12, 5, 27};
    const int n_atoms = sizeof atoms / sizeof atoms[0];
    char what[100];
    snprintf(what, sizeof what, "%d features, %d interactions, %d %s, readout %d", sizes->features, sizes->interactions,
             sizes->radial_functions, sizes->bessel ? "sines" : "Gaussians", sizes->readout_features);
    random_seed = (uint64_t)sizes->features;
    mlff_model *model = random_model(sizes, 0.5); /* 27 atoms are all neighbours of each other */
    molecules m = make_molecules(atoms, n_atoms);
    answer expected = answer_of(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, &m, 0, n_atoms);
    answer got = answer_of(test_device, model, precision, &m, 0, n_atoms);
    assert_true(rms(expected.forces, 3 * (size_t)m.n) > 1e-3);
    compare(what, &got, &expected, m.n, n_atoms, bound);
    answer_free(&expected), answer_free(&got);
    molecules_free(&m);
    mlff_model_free(model);
}

static const tiny_options every_size[] = {
    {.features = 16, .interactions = 3, .radial_functions = 20, .readout_features = 8},
    {.features = 48, .interactions = 2, .radial_functions = 7, .readout_features = 30, .bessel = 1},
    {.features = 64, .interactions = 3, .radial_functions = 20, .readout_features = 32, .vector_bias = 1},
    {.features = 90, .interactions = 1, .radial_functions = 12, .readout_features = 1},
    {.features = 96, .interactions = 2, .radial_functions = 64, .readout_features = 256},
    {.features = 112, .interactions = 2, .radial_functions = 20, .readout_features = 40, .bessel = 1, .vector_bias = 1},
    {.features = 128, .interactions = 3, .radial_functions = 20, .readout_features = 64},
    {.features = 128, .interactions = 3, .radial_functions = 15, .readout_features = 64, .bessel = 1},
    {.features = 128, .interactions = 1, .radial_functions = 3, .readout_features = 128, .vector_bias = 1},
    {.features = 144, .interactions = 2, .radial_functions = 8, .readout_features = 16}, /* beyond the small way */
};
enum { SIZES = sizeof every_size / sizeof every_size[0] };

static void every_model_gives_the_cpus_double_in_double(void **state)
{
    (void)state;
    for (int k = 0; k < SIZES; k++) check_model(&every_size[k], MLFF_PRECISION_DOUBLE, 1e-9);
}

static void every_model_gives_the_cpus_double_in_single(void **state)
{
    (void)state;
    for (int k = 0; k < SIZES; k++) check_model(&every_size[k], MLFF_PRECISION_SINGLE, 3e-6);
}

static void every_model_is_near_the_cpus_double_in_mixed(void **state)
{
    (void)state;
    if (test_device != MLFF_DEVICE_CUDA) {
        print_message("skipped: precision mixed is for GPUs\n");
        skip();
    }
    for (int k = 0; k < SIZES; k++) check_model(&every_size[k], MLFF_PRECISION_MIXED, 5e-3);
}

/* ------------------------------------------------------------------------------------------- company */

static const tiny_options usual = {.features = 128, .interactions = 3, .radial_functions = 20, .readout_features = 64};

/* Each of them evaluated alone gives the bits that it has among all. */
static void check_company(mlff_model *model, mlff_precision precision, const molecules *m)
{
    answer all = answer_of(test_device, model, precision, m, 0, m->n_structures);
    for (int k = 0; k < m->n_structures; k++) {
        answer alone = answer_of(test_device, model, precision, m, k, k + 1);
        const size_t at = (size_t)m->first[k], n = (size_t)m->first[k + 1] - at;
        assert_memory_equal(alone.energy, all.energy + k, sizeof(double));
        assert_memory_equal(alone.virial, all.virial + 9 * k, 9 * sizeof(double));
        assert_memory_equal(alone.forces, all.forces + 3 * at, 3 * n * sizeof(double));
        assert_memory_equal(alone.atom_energy, all.atom_energy + at, n * sizeof(double));
        assert_memory_equal(alone.atom_virial, all.atom_virial + 9 * at, 9 * n * sizeof(double));
        answer_free(&alone);
    }
    answer_free(&all);
}

static void no_molecule_depends_on_its_company(void **state)
{
    (void)state;
    const int atoms[] = {9, 3, 21, 1, 12, 2, 17};
    molecules m = make_molecules(atoms, sizeof atoms / sizeof atoms[0]);
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++)
        for (int size = 0; size < 2; size++) {
            random_seed = 3;
            mlff_model *model = random_model(size ? &usual : &every_size[1], 1);
            check_company(model, (mlff_precision)p, &m);
            mlff_model_free(model);
        }
    molecules_free(&m);
}

/* So many of at most so many atoms, of different sizes. */
static molecules some_molecules(int copies, int most)
{
    const int sizes[] = {most, 3, 8, 1, 5, 2, 7};
    int atoms[MOST_STRUCTURES];
    for (int k = 0; k < copies; k++) atoms[k] = sizes[k % 7];
    return make_molecules(atoms, copies);
}

/* A GPU takes clusters of four blocks for 21 structures, where 15 of eight run at a time (H200); 10 atoms are about the
 * most for which those have memory. */
static void clusters_of_four_blocks_give_the_bits_of_eight(void **state)
{
    (void)state;
    random_seed = 3;
    mlff_model *model = random_model(&usual, 1);
    for (int most = 9; most <= 10; most++) {
        molecules m = some_molecules(21, most);
        check_company(model, MLFF_PRECISION_SINGLE, &m);
        if (test_device == MLFF_DEVICE_CUDA) check_company(model, MLFF_PRECISION_MIXED, &m);
        molecules_free(&m);
    }
    mlff_model_free(model);
}

/* 16 are for clusters of six blocks (17 run at a time, H200), whose sums over columns have other parts: other bits than
 * alone, but the same ones every time. */
static void sixteen_molecules_are_right_and_repeat_their_bits(void **state)
{
    (void)state;
    for (int vector_bias = 0; vector_bias < 2; vector_bias++)
        for (int most = 9; most <= 13; most++) {
            tiny_options sizes = usual;
            sizes.vector_bias = vector_bias, sizes.radial_functions = most == 13 ? 7 : 20;
            random_seed = 3;
            mlff_model *model = random_model(&sizes, 0.5);
            molecules m = some_molecules(16, most);
            answer expected = answer_of(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, &m, 0, 16);
            answer got = answer_of(test_device, model, MLFF_PRECISION_SINGLE, &m, 0, 16);
            answer again = answer_of(test_device, model, MLFF_PRECISION_SINGLE, &m, 0, 16);
            compare("16 molecules", &got, &expected, m.n, 16, 3e-6);
            assert_memory_equal(got.energy, again.energy, 16 * sizeof(double));
            assert_memory_equal(got.virial, again.virial, 16 * 9 * sizeof(double));
            assert_memory_equal(got.forces, again.forces, 3 * (size_t)m.n * sizeof(double));
            answer_free(&expected), answer_free(&got), answer_free(&again);
            molecules_free(&m);
            mlff_model_free(model);
        }
}

/* Atoms closer than any in training: alone, as many as clusters of eight, six and four blocks take, and with so many
 * neighbours that not everything is in shared memory. */
static void a_short_range_term_and_its_close_pairs_are_right(void **state)
{
    (void)state;
    const int copies[] = {1, 7, 16, 21, 3}, most[] = {9, 10, 9, 9, 25};
    tiny_options sizes = usual;
    sizes.inner = "1.2 1.3 0 0.5 1.4 1.2", sizes.outer = "1.6 1.5 0 1.7 1.8 1.55";
    random_seed = 3;
    mlff_model *model = random_model(&sizes, 0.5);
    for (int k = 0; k < 5; k++) {
        molecules m = some_molecules(copies[k], most[k]);
        answer expected = answer_of(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, &m, 0, copies[k]);
        answer got = answer_of(test_device, model, MLFF_PRECISION_SINGLE, &m, 0, copies[k]);
        compare("short range", &got, &expected, m.n, copies[k], 3e-6);
        assert_true(expected.close.count > 0);
        assert_int_equal(got.close.count, expected.close.count);
        assert_int_equal(got.close.atom, expected.close.atom);
        assert_int_equal(got.close.neighbour, expected.close.neighbour);
        assert_at_most("short range", "distance", fabs(got.close.distance - expected.close.distance), 1e-6);
        assert_true(got.close.trained == expected.close.trained);
        answer_free(&expected), answer_free(&got);
        molecules_free(&m);
    }
    mlff_model_free(model);
}

static void a_large_structure_beside_small_ones_is_right_too(void **state)
{
    (void)state;
    const int atoms[] = {9, 70, 21, 33, 1};
    const int n_atoms = sizeof atoms / sizeof atoms[0];
    random_seed = 5;
    mlff_model *model = random_model(&usual, 1);
    molecules m = make_molecules(atoms, n_atoms);
    answer expected = answer_of(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, &m, 0, n_atoms);
    answer got = answer_of(test_device, model, MLFF_PRECISION_SINGLE, &m, 0, n_atoms);
    compare("with a large structure", &got, &expected, m.n, n_atoms, 3e-6);
    answer_free(&expected), answer_free(&got);
    molecules_free(&m);
    mlff_model_free(model);
}

/* More than run at the same time, and more than the small way takes at all. */
static void many_molecules_are_right(void **state)
{
    (void)state;
    random_seed = 7;
    mlff_model *model = random_model(&every_size[0], 1);
    int atoms[MOST_STRUCTURES];
    for (int k = 0; k < MOST_STRUCTURES; k++) atoms[k] = 1 + k % 9;
    molecules m = make_molecules(atoms, MOST_STRUCTURES);
    for (int n = 50; n <= MOST_STRUCTURES; n *= 2) {
        answer expected = answer_of(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, &m, 0, n);
        answer got = answer_of(test_device, model, MLFF_PRECISION_SINGLE, &m, 0, n);
        compare("many", &got, &expected, m.first[n], n, 3e-6);
        answer_free(&expected), answer_free(&got);
    }
    molecules_free(&m);
    mlff_model_free(model);
}

/* -------------------------------------------------------------------------------------- calls in a row */

static void a_trajectory_gives_what_each_frame_gives(void **state)
{
    (void)state;
    const int atoms[] = {9, 14};
    random_seed = 9;
    mlff_model *model = random_model(&usual, 1);
    molecules m = make_molecules(atoms, 2);
    mlff_evaluator *e = evaluator_on(test_device, model, MLFF_PRECISION_SINGLE);
    answer got = make_answer(m.n, 2);
    for (int step = 0; step < 30; step++) {
        for (int q = 0; q < 3 * m.n; q++) m.x[q] += 0.03 * sin(q + step);
        mlff_error error;
        if (evaluate_some(e, &m, 0, 2, &got, &error) != MLFF_OK) fail_msg("step %d: %s", step, error.message);
        answer expected = answer_of(MLFF_DEVICE_CPU, model, MLFF_PRECISION_DOUBLE, &m, 0, 2);
        compare("a frame", &got, &expected, m.n, 2, 3e-6);
        answer_free(&expected);
    }
    mlff_evaluator_free(e);
    answer_free(&got);
    molecules_free(&m);
    mlff_model_free(model);
}

static void the_same_bits_whatever_is_asked_for(void **state)
{
    (void)state;
    const int atoms[] = {9, 5};
    random_seed = 13;
    mlff_model *model = random_model(&usual, 1);
    molecules m = make_molecules(atoms, 2);
    mlff_evaluator *e = evaluator_on(test_device, model, MLFF_PRECISION_SINGLE);
    answer all = answer_of(test_device, model, MLFF_PRECISION_SINGLE, &m, 0, 2);
    for (int wanted = 1; wanted < 16; wanted++) {
        answer some = make_answer(m.n, 2);
        const answer asked = {wanted & 1 ? some.energy : NULL, wanted & 1 ? some.virial : NULL,
                              wanted & 2 ? some.forces : NULL, wanted & 4 ? some.atom_energy : NULL,
                              wanted & 8 ? some.atom_virial : NULL};
        mlff_error error;
        if (evaluate_some(e, &m, 0, 2, &asked, &error) != MLFF_OK) fail_msg("%s", error.message);
        const size_t n = (size_t)m.n;
        if (wanted & 1) assert_memory_equal(some.energy, all.energy, 2 * sizeof(double));
        if (wanted & 1) assert_memory_equal(some.virial, all.virial, 18 * sizeof(double));
        if (wanted & 2) assert_memory_equal(some.forces, all.forces, 3 * n * sizeof(double));
        if (wanted & 4) assert_memory_equal(some.atom_energy, all.atom_energy, n * sizeof(double));
        if (wanted & 8) assert_memory_equal(some.atom_virial, all.atom_virial, 9 * n * sizeof(double));
        answer_free(&some);
    }
    mlff_evaluator_free(e);
    answer_free(&all);
    molecules_free(&m);
    mlff_model_free(model);
}

/* Among the first n structures: atoms 7 and 10 at the same place, of the second, then back. */
static void check_fault(mlff_evaluator *e, molecules *m, int n)
{
    answer before = make_answer(m->n, n), after = make_answer(m->n, n);
    mlff_error error;
    if (evaluate_some(e, m, 0, n, &before, &error) != MLFF_OK) fail_msg("%s", error.message);
    double *moved = m->x + 3 * 10, kept[3];
    memcpy(kept, moved, sizeof kept);
    memcpy(moved, m->x + 3 * 7, sizeof kept);
    assert_int_equal(evaluate_some(e, m, 0, n, &after, &error), MLFF_ERROR_NUMERICS);
    if (!strstr(error.message, "atom index 7 and atom index 10")) fail_msg("%s", error.message);
    memcpy(moved, kept, sizeof kept);
    if (evaluate_some(e, m, 0, n, &after, &error) != MLFF_OK) fail_msg("%s", error.message);
    assert_memory_equal(before.forces, after.forces, 3 * (size_t)m->first[n] * sizeof(double));
    answer_free(&before), answer_free(&after);
}

static void a_fault_names_its_atom_and_leaves_no_trace(void **state)
{
    (void)state;
    enum { MANY = 20 }; /* see no_molecule_depends_on_how_many_there_are */
    int atoms[MANY];
    for (int k = 0; k < MANY; k++) atoms[k] = k % 3 == 0 ? 5 : k % 3 == 1 ? 9 : 4;
    random_seed = 15;
    mlff_model *model = random_model(&usual, 1);
    molecules m = make_molecules(atoms, MANY);
    mlff_evaluator *e = evaluator_on(test_device, model, MLFF_PRECISION_SINGLE);
    check_fault(e, &m, 3);
    check_fault(e, &m, MANY);
    mlff_evaluator_free(e);
    molecules_free(&m);
    mlff_model_free(model);
}

/* ----------------------------------------------------------------------------------- an engine's list */

enum { CELL_ATOMS = 6, IMAGES = 27 * CELL_ATOMS };

/* Atoms in a cubic box whose images are atoms of the engine, each with its owner; one atom is left out. */
static void an_engines_list_with_images_is_right(void **state)
{
    (void)state;
    const double side = 5.6, reach = 5.5;
    double x[3 * IMAGES], forces[2][3 * IMAGES], energy[2], virial[2][9];
    int32_t species[IMAGES], owner[IMAGES], ilist[CELL_ATOMS], numneigh[IMAGES] = {0}, listed[CELL_ATOMS][IMAGES],
                                                               *firstneigh[IMAGES] = {0};
    random_seed = 17;
    mlff_model *model = random_model(&usual, 1);
    for (int k = 0; k < IMAGES; k++) { /* image 0 is the box itself */
        const int i = k % CELL_ATOMS, at[3] = {i % 2, i / 2 % 2, i / 4};
        for (int a = 0, digit = k / CELL_ATOMS; a < 3; a++, digit /= 3)
            x[3 * k + a] = k < CELL_ATOMS ? 2.7 * at[a] + 0.3 * random_number()
                                          : x[3 * i + a] + side * (digit % 3 == 2 ? -1 : digit % 3);
        species[k] = i == 4 ? -1 : i % 3;
        owner[k] = i;
    }
    for (int i = 0; i < CELL_ATOMS; i++) {
        ilist[i] = i;
        firstneigh[i] = listed[i];
        for (int j = 0; j < IMAGES; j++) {
            double d2 = 0;
            for (int a = 0; a < 3; a++) d2 += (x[3 * j + a] - x[3 * i + a]) * (x[3 * j + a] - x[3 * i + a]);
            if (j != i && d2 < reach * reach) listed[i][numneigh[i]++] = j;
        }
    }
    const mlff_neighbour_list list = {.n_listed = CELL_ATOMS,
                                      .ilist = ilist,
                                      .numneigh = numneigh,
                                      .firstneigh = firstneigh,
                                      .index_mask = 0x3fffffff,
                                      .owner = owner,
                                      .rebuilt = 1};
    const mlff_input input = {.n_local = CELL_ATOMS, .n_all = IMAGES, .x = x, .species = species, .neighbours = &list};
    for (int which = 0; which < 2; which++) {
        mlff_evaluator *e = evaluator_on(which ? test_device : MLFF_DEVICE_CPU, model,
                                         which ? MLFF_PRECISION_SINGLE : MLFF_PRECISION_DOUBLE);
        mlff_output output = {.energy = &energy[which], .forces = forces[which], .virial = virial[which]};
        mlff_error error;
        if (mlff_evaluate(e, &input, &output, &error) != MLFF_OK) fail_msg("%s", error.message);
        mlff_evaluator_free(e);
    }
    assert_true(rms(forces[0], 3 * CELL_ATOMS) > 1e-3);
    assert_at_most("images", "forces", rms_difference(forces[1], forces[0], 3 * IMAGES) / rms(forces[0], 3 * IMAGES),
                   3e-6);
    assert_at_most("images", "virial", rms_difference(virial[1], virial[0], 9) / rms(virial[0], 9), 6e-6);
    assert_at_most("images", "energy", fabs(energy[1] - energy[0]), 3e-6 * CELL_ATOMS * fmax(1, fabs(energy[0])));
    mlff_model_free(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_model_gives_the_cpus_double_in_double),
        cmocka_unit_test(every_model_gives_the_cpus_double_in_single),
        cmocka_unit_test(every_model_is_near_the_cpus_double_in_mixed),
        cmocka_unit_test(no_molecule_depends_on_its_company),
        cmocka_unit_test(clusters_of_four_blocks_give_the_bits_of_eight),
        cmocka_unit_test(sixteen_molecules_are_right_and_repeat_their_bits),
        cmocka_unit_test(a_short_range_term_and_its_close_pairs_are_right),
        cmocka_unit_test(a_large_structure_beside_small_ones_is_right_too),
        cmocka_unit_test(many_molecules_are_right),
        cmocka_unit_test(a_trajectory_gives_what_each_frame_gives),
        cmocka_unit_test(the_same_bits_whatever_is_asked_for),
        cmocka_unit_test(a_fault_names_its_atom_and_leaves_no_trace),
        cmocka_unit_test(an_engines_list_with_images_is_right),
    };
    return RUN_ON_DEVICE(argc, argv, "molecules", tests);
}
