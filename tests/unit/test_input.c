/* SPDX-License-Identifier: MIT */
/* Odd and wrong inputs of mlff_evaluator_create and mlff_evaluate: batches, nothing at all, far away, at one place. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mlff_evaluator *evaluator_for(const mlff_model *model, mlff_precision precision)
{
    const mlff_options options = {.device = test_device, .precision = precision, .threads = 2};
    mlff_error error;
    mlff_evaluator *e = NULL;
    if (mlff_evaluator_create(model, &options, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
    return e;
}

static mlff_input input_of(const reference *r, const mlff_structures *structures)
{
    return (mlff_input){.n_local = r->n, .n_all = r->n, .x = r->x, .species = r->species, .structures = structures};
}

static const int32_t *first_atoms(const reference *r)
{
    static int32_t first[2];
    first[1] = r->n;
    return first;
}

static mlff_structures structures_of(const reference *r)
{
    return (mlff_structures){.n_structures = 1, .first_atom = first_atoms(r), .cell = r->cell, .periodic = r->periodic};
}

static void assert_fails(mlff_status got, const mlff_error *error, mlff_status expected, const char *part)
{
    if (got != expected || !strstr(error->message, part))
        fail_msg("status %d \"%s\", expected %d with \"%s\"", (int)got, error->message, (int)expected, part);
}

/* ------------------------------------------------------------------------------------------- right ones */

enum { BATCH = 6 };

/* Structures of all kinds, of one model. */
typedef struct batch {
    reference r[BATCH];
    int32_t first[BATCH + 1], periodic[3 * BATCH], n, *species;
    double cell[9 * BATCH], *x;
} batch;

static void batch_load(batch *b)
{
    const char *names[BATCH] = {"ortho", "molecule", "triclinic", "isolated", "one_atom", "outside"};
    memset(b, 0, sizeof *b);
    for (int k = 0; k < BATCH; k++) {
        reference_load(&b->r[k], "gaussian_ev", names[k]);
        memcpy(b->cell + 9 * k, b->r[k].cell, sizeof b->r[k].cell);
        memcpy(b->periodic + 3 * k, b->r[k].periodic, sizeof b->r[k].periodic);
        b->first[k + 1] = b->n += b->r[k].n;
    }
    b->x = malloc(3 * (size_t)b->n * sizeof *b->x);
    b->species = malloc((size_t)b->n * sizeof *b->species);
    for (int k = 0; k < BATCH; k++) {
        memcpy(b->x + 3 * b->first[k], b->r[k].x, 3 * (size_t)b->r[k].n * sizeof *b->x);
        memcpy(b->species + b->first[k], b->r[k].species, (size_t)b->r[k].n * sizeof *b->species);
    }
}

static void batch_free(batch *b)
{
    for (int k = 0; k < BATCH; k++) reference_free(&b->r[k]);
    free(b->x), free(b->species);
}

static void batch_evaluate(const batch *b, mlff_evaluator *e, mlff_output *output)
{
    const mlff_structures structures = {
        .n_structures = BATCH, .first_atom = b->first, .cell = b->cell, .periodic = b->periodic};
    const mlff_input input = {
        .n_local = b->n, .n_all = b->n, .x = b->x, .species = b->species, .structures = &structures};
    mlff_error error;
    if (mlff_evaluate(e, &input, output, &error) != MLFF_OK) fail_msg("%s", error.message);
}

static void a_batch_gives_what_its_structures_give_alone(void **unused)
{
    (void)unused;
    batch b;
    batch_load(&b);
    double energy[BATCH], virial[9 * BATCH], *forces = malloc(3 * (size_t)b.n * sizeof *forces);
    mlff_output output = {.energy = energy, .forces = forces, .virial = virial};
    mlff_evaluator *e = evaluator_for(b.r[0].model, MLFF_PRECISION_DOUBLE);
    batch_evaluate(&b, e, &output);
    for (int k = 0; k < BATCH; k++) {
        const reference *r = &b.r[k];
        const size_t n = (size_t)r->n;
        assert_at_most(r->name, "energy, eV", fabs(energy[k] - r->energy), 1e-8 * (double)n);
        assert_at_most(r->name, "forces", largest_difference(forces + 3 * b.first[k], r->forces, 3 * n),
                       1e-9 * fmax(1, largest(r->forces, 3 * n)));
        assert_at_most(r->name, "virial", largest_difference(virial + 9 * k, r->virial, 9),
                       1e-9 * fmax(1, largest(r->virial, 9)));
    }
    mlff_evaluator_free(e);
    free(forces);
    batch_free(&b);
}

static void a_structure_has_the_same_bits_alone_and_in_a_batch(void **unused)
{
    (void)unused;
    batch b;
    batch_load(&b);
    double energy[BATCH], virial[9 * BATCH], *forces = malloc(3 * (size_t)b.n * sizeof *forces);
    mlff_output output = {.energy = energy, .forces = forces, .virial = virial};
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
        mlff_evaluator *e = evaluator_for(b.r[0].model, p);
        batch_evaluate(&b, e, &output);
        for (int k = 0; k < BATCH; k++) {
            const reference *r = &b.r[k];
            result alone;
            evaluate_structure(r->model, p, 1, r->n, r->x, r->species, r->cell, r->periodic, &alone);
            assert_memory_equal(&energy[k], &alone.energy, sizeof alone.energy);
            assert_memory_equal(forces + 3 * b.first[k], alone.forces, 3 * (size_t)r->n * sizeof *forces);
            assert_memory_equal(virial + 9 * k, alone.virial, sizeof alone.virial);
            result_free(&alone);
        }
        mlff_evaluator_free(e);
    }
    free(forces);
    batch_free(&b);
}

/* Small structures keep their neighbours for as long as nothing moves far; whatever changes, results are those of an
 * evaluator that sees the structures for the first time. */
static void a_change_since_the_last_call_is_noticed(void **unused)
{
    (void)unused;
    batch b;
    batch_load(&b);
    double energy[BATCH], fresh_energy[BATCH];
    const size_t n = 3 * (size_t)b.n;
    double *forces = malloc(n * sizeof *forces), *fresh_forces = malloc(n * sizeof *forces);
    mlff_output output = {.energy = energy, .forces = forces}, fresh = {.energy = fresh_energy, .forces = fresh_forces};
    mlff_evaluator *e = evaluator_for(b.r[0].model, MLFF_PRECISION_DOUBLE);
    for (int change = 0; change < 30; change++) {
        for (int32_t i = 0; i < b.n; i++) b.x[3 * i + change % 3] += 0.07 * sin(i + change);
        if (change % 10 == 3) b.x[3 * (change % b.n)] += 0.9;
        if (change % 10 == 5) b.cell[0] += 0.4;
        if (change % 10 == 7) b.species[change % b.n] = (b.species[change % b.n] + 1) % 2;
        if (change == 18) b.periodic[2] = !b.periodic[2];
        if (change == 24) b.species[4] = -1;
        if (change == 28) b.first[1]--;
        batch_evaluate(&b, e, &output);
        mlff_evaluator *new_one = evaluator_for(b.r[0].model, MLFF_PRECISION_DOUBLE);
        batch_evaluate(&b, new_one, &fresh);
        mlff_evaluator_free(new_one);
        const double bound = 1e-11 * fmax(1, largest(fresh_forces, n));
        assert_at_most("changed", "forces", largest_difference(forces, fresh_forces, n), bound);
        assert_at_most("changed", "energies", largest_difference(energy, fresh_energy, BATCH),
                       1e-12 * fmax(1, largest(fresh_energy, BATCH)));
    }
    mlff_evaluator_free(e);
    free(forces), free(fresh_forces);
    batch_free(&b);
}

static void the_energy_alone_is_the_same_energy(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "bessel_bias", "triclinic");
    result all;
    evaluate_structure(r.model, MLFF_PRECISION_SINGLE, 2, r.n, r.x, r.species, r.cell, r.periodic, &all);
    const mlff_structures structures = structures_of(&r);
    const mlff_input input = input_of(&r, &structures);
    double energy;
    mlff_output output = {.energy = &energy};
    mlff_evaluator *e = evaluator_for(r.model, MLFF_PRECISION_SINGLE);
    assert_int_equal(mlff_evaluate(e, &input, &output, NULL), MLFF_OK);
    assert_memory_equal(&energy, &all.energy, sizeof energy);
    mlff_evaluator_free(e);
    result_free(&all);
    reference_free(&r);
}

static void no_atoms_at_all_have_no_energy(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    const int32_t first[2] = {0, 0};
    const mlff_structures structures = {.n_structures = 1, .first_atom = first, .cell = r.cell, .periodic = r.periodic};
    const mlff_input input = {.structures = &structures};
    double energy = 1, virial[9] = {1};
    mlff_output output = {.energy = &energy, .virial = virial};
    mlff_evaluator *e = evaluator_for(r.model, MLFF_PRECISION_DOUBLE);
    mlff_error error;
    if (mlff_evaluate(e, &input, &output, &error) != MLFF_OK) fail_msg("%s", error.message);
    assert_true(energy == 0 && largest(virial, 9) == 0);
    mlff_evaluator_free(e);
    reference_free(&r);
}

static void an_isolated_atom_has_its_own_energy_and_no_force(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_kcal", "isolated");
    result got;
    evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, r.n, r.x, r.species, r.cell, r.periodic, &got);
    assert_at_most("isolated", "energy", fabs(got.energy - r.energy), 1e-8);
    assert_true(fabs(got.energy) > 1e-3);
    assert_true(largest(got.forces, 3 * (size_t)r.n) == 0);
    result_free(&got);
    reference_free(&r);
}

/* A cell and its replicas: the same forces, n times the energy. Also for a cell shorter than the cutoff. */
static void a_small_cell_equals_its_replica(void **unused)
{
    (void)unused;
    const char *names[] = {"triclinic", "one_atom"};
    for (int k = 0; k < 2; k++) {
        reference r;
        reference_load(&r, "gaussian_ev", names[k]);
        const int copies = 12, shape[3] = {2, 3, 2};
        const size_t n = (size_t)r.n;
        double *x = malloc(3 * n * copies * sizeof *x), cell[9];
        int32_t *species = malloc(n * copies * sizeof *species);
        int copy = 0;
        for (int a = 0; a < shape[0]; a++)
            for (int b = 0; b < shape[1]; b++)
                for (int c = 0; c < shape[2]; c++, copy++)
                    for (size_t i = 0; i < n; i++) {
                        for (int q = 0; q < 3; q++)
                            x[3 * (copy * n + i) + q] =
                                r.x[3 * i + q] + a * r.cell[q] + b * r.cell[3 + q] + c * r.cell[6 + q];
                        species[copy * n + i] = r.species[i];
                    }
        for (int q = 0; q < 9; q++) cell[q] = r.cell[q] * shape[q / 3];
        result small, large;
        evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, r.n, r.x, r.species, r.cell, r.periodic, &small);
        evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 2, r.n * copies, x, species, cell, r.periodic, &large);
        assert_at_most(r.name, "energy an atom", fabs(large.energy / copies - small.energy), 1e-9);
        for (copy = 0; copy < copies; copy++)
            assert_at_most(r.name, "forces",
                           largest_difference(large.forces + 3 * n * (size_t)copy, small.forces, 3 * n), 1e-9);
        result_free(&small);
        result_free(&large);
        free(x), free(species);
        reference_free(&r);
    }
}

static void coordinates_far_from_the_origin_cost_no_precision_in_single(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    result near, far;
    evaluate_structure(r.model, MLFF_PRECISION_SINGLE, 1, r.n, r.x, r.species, r.cell, r.periodic, &near);
    for (int32_t q = 0; q < 3 * r.n; q++) r.x[q] += 131072; /* a power of two: the differences stay what they are */
    evaluate_structure(r.model, MLFF_PRECISION_SINGLE, 1, r.n, r.x, r.species, r.cell, r.periodic, &far);
    assert_at_most("far", "RMS relative change of forces",
                   rms_difference(near.forces, far.forces, 3 * (size_t)r.n) / rms(near.forces, 3 * (size_t)r.n), 1e-6);
    result_free(&near);
    result_free(&far);
    reference_free(&r);
}

static void many_neighbours_are_all_counted(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "one_atom");
    const double dense[9] = {1.1, 0, 0, 0, 1.1, 0, 0, 0, 1.1}, twice[9] = {2.2, 0, 0, 0, 1.1, 0, 0, 0, 1.1};
    const double x[6] = {0, 0, 0, 1.1, 0, 0};
    const int32_t species[2] = {r.species[0], r.species[0]}, periodic[3] = {1, 1, 1};
    result one, two; /* 300 to 400 neighbours an atom, all images */
    evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, 1, x, species, dense, periodic, &one);
    evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, 2, x, species, twice, periodic, &two);
    assert_at_most("dense", "energy an atom, relative", fabs(two.energy / 2 / one.energy - 1), 1e-11);
    result_free(&one);
    result_free(&two);
    reference_free(&r);
}

/* -------------------------------------------------------------------------------------------- wrong ones */

static void atoms_at_the_same_place_and_bad_numbers_are_refused_by_atom(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e = evaluator_for(r.model, MLFF_PRECISION_DOUBLE);
    const mlff_structures structures = structures_of(&r);
    const mlff_input input = input_of(&r, &structures);
    double energy, x0[3];
    mlff_output output = {.energy = &energy};
    mlff_error error;
    memcpy(x0, r.x + 6, sizeof x0);
    memcpy(r.x + 6, r.x, sizeof x0);
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_NUMERICS,
                 "atom index 0 and atom index 2: at the same place");
    memcpy(r.x + 6, x0, sizeof x0);
    r.x[7] = NAN;
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_NUMERICS, "atom index 2");
    r.x[7] = INFINITY;
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_NUMERICS, "atom index 2");
    memcpy(r.x + 6, x0, sizeof x0); /* and after a failure it works again */
    assert_int_equal(mlff_evaluate(e, &input, &output, &error), MLFF_OK);
    assert_at_most("again", "energy", fabs(energy - r.energy), 1e-8 * r.n);
    mlff_evaluator_free(e);
    reference_free(&r);
}

static void atoms_too_near_for_single_precision_are_refused_or_finite(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e = evaluator_for(r.model, MLFF_PRECISION_SINGLE);
    const mlff_structures structures = structures_of(&r);
    const mlff_input input = input_of(&r, &structures);
    double forces[3 * 64];
    mlff_output output = {.forces = forces};
    mlff_error error;
    for (int a = 0; a < 3; a++) r.x[a] = 0, r.x[3 + a] = 1e-41; /* 1/d is infinite in single */
    mlff_status status = mlff_evaluate(e, &input, &output, &error);
    if (status == MLFF_OK)
        for (int32_t q = 0; q < 3 * r.n; q++) assert_true(isfinite(forces[q]));
    else
        assert_fails(status, &error, MLFF_ERROR_NUMERICS, "atom index");
    mlff_evaluator_free(e);
    reference_free(&r);
}

static void what_this_build_does_not_have_is_refused_in_words(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e;
    mlff_error error;
    mlff_options options = {.device = MLFF_DEVICE_CPU, .precision = MLFF_PRECISION_MIXED};
    assert_fails(mlff_evaluator_create(r.model, &options, &e, &error), &error, MLFF_ERROR_UNSUPPORTED,
                 "precision mixed");
    assert_null(e);
    options = (mlff_options){.threads = -1};
    assert_fails(mlff_evaluator_create(r.model, &options, &e, &error), &error, MLFF_ERROR_ARGUMENT, "threads -1");
    options = (mlff_options){.precision = 77};
    assert_fails(mlff_evaluator_create(r.model, &options, &e, &error), &error, MLFF_ERROR_ARGUMENT, "precision 77");
    options = (mlff_options){.device_index = -2};
    assert_fails(mlff_evaluator_create(r.model, &options, &e, &error), &error, MLFF_ERROR_ARGUMENT, "device_index -2");
    options = (mlff_options){.device = 9};
    assert_fails(mlff_evaluator_create(r.model, &options, &e, &error), &error, MLFF_ERROR_ARGUMENT, "device 9");
    assert_fails(mlff_evaluator_create(NULL, NULL, &e, &error), &error, MLFF_ERROR_ARGUMENT, "model is NULL");
    reference_free(&r);
}

static int unused_forward(void *context, const void *sent, void *received, int width, int real_bytes)
{
    (void)context, (void)sent, (void)received, (void)width, (void)real_bytes;
    fail_msg("a halo that cannot be is not called");
    return 1;
}

/* Two atoms, of which the second is a ghost. */
static void a_halo_that_cannot_be_is_refused(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    mlff_evaluator *e = evaluator_for(r.model, MLFF_PRECISION_DOUBLE);
    const double x[6] = {0, 0, 0, 1.5, 0, 0};
    const int32_t species[2] = {0, 1}, ilist[1] = {0}, numneigh[2] = {1, 0};
    int32_t neighbour[1] = {1}, *firstneigh[2] = {neighbour, NULL};
    const mlff_neighbour_list list = {.rebuilt = 1,
                                      .n_listed = 1,
                                      .ilist = ilist,
                                      .numneigh = numneigh,
                                      .firstneigh = firstneigh,
                                      .index_mask = 0x1FFFFFFF};
    const int32_t beyond[2] = {0, 1}, of_nobody[2] = {0, -3}, fine[2] = {0, 0}, ghost[1] = {1}, owned[1] = {0};
    const struct {
        int32_t n_send;
        const int32_t *send;
        int32_t n_receive;
        const int32_t *source;
        const char *part;
    } wrong[] = {{1, owned, 1, beyond, "source 1 of atom index 1"},
                 {1, owned, 1, of_nobody, "source -3"},
                 {1, ghost, 1, fine, "atom index 1 at send[0]"},
                 {-1, owned, 1, fine, "n_send -1"},
                 {1, NULL, 1, fine, "no list to send"},
                 {1, owned, 1, NULL, "lists that go with them"},
                 {1, owned, -1, fine, "n_receive -1"}};
    double energy;
    mlff_output output = {.energy = &energy};
    mlff_error error;
    for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
        const mlff_halo halo = {.n_send = wrong[k].n_send,
                                .send = wrong[k].send,
                                .n_receive = wrong[k].n_receive,
                                .source = wrong[k].source,
                                .forward = unused_forward};
        const mlff_input input = {
            .n_local = 1, .n_all = 2, .x = x, .species = species, .neighbours = &list, .halo = &halo};
        assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_ARGUMENT, wrong[k].part);
    }
    mlff_evaluator_free(e);
    reference_free(&r);
}

static void inputs_that_contradict_themselves_are_refused(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    mlff_evaluator *e = evaluator_for(r.model, MLFF_PRECISION_DOUBLE);
    const mlff_structures structures = structures_of(&r);
    double energy;
    mlff_output output = {.energy = &energy};
    mlff_error error;
    mlff_input input = input_of(&r, NULL);
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_ARGUMENT, "neither");
    input = input_of(&r, &structures);
    input.x = NULL;
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_ARGUMENT, "x is NULL");
    input = input_of(&r, &structures);
    input.n_local = -1;
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_ARGUMENT, "n_local -1");
    input = input_of(&r, &structures);
    r.species[1] = 99;
    assert_fails(mlff_evaluate(e, &input, &output, &error), &error, MLFF_ERROR_ARGUMENT, "99");
    assert_fails(mlff_evaluate(e, NULL, &output, &error), &error, MLFF_ERROR_ARGUMENT, "NULL");
    assert_fails(mlff_evaluate(NULL, &input, &output, &error), &error, MLFF_ERROR_ARGUMENT, "NULL");
    mlff_evaluator_free(e);
    mlff_evaluator_free(NULL);
    mlff_model_free(NULL);
    reference_free(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_gives_what_its_structures_give_alone),
        cmocka_unit_test(a_structure_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(a_change_since_the_last_call_is_noticed),
        cmocka_unit_test(the_energy_alone_is_the_same_energy),
        cmocka_unit_test(no_atoms_at_all_have_no_energy),
        cmocka_unit_test(an_isolated_atom_has_its_own_energy_and_no_force),
        cmocka_unit_test(a_small_cell_equals_its_replica),
        cmocka_unit_test(coordinates_far_from_the_origin_cost_no_precision_in_single),
        cmocka_unit_test(many_neighbours_are_all_counted),
        cmocka_unit_test(atoms_at_the_same_place_and_bad_numbers_are_refused_by_atom),
        cmocka_unit_test(atoms_too_near_for_single_precision_are_refused_or_finite),
        cmocka_unit_test(what_this_build_does_not_have_is_refused_in_words),
        cmocka_unit_test(inputs_that_contradict_themselves_are_refused),
        cmocka_unit_test(a_halo_that_cannot_be_is_refused),
    };
    return RUN_ON_DEVICE(argc, argv, "input", tests);
}
