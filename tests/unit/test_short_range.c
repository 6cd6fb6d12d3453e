/* SPDX-License-Identifier: MIT */
/* The short-range repulsion of a model: what it adds to a model that is otherwise the same, and what it must not
 * change. Reference values made elsewhere are in tests/python/test_short_range.py. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_model.h"

/* Fixture gaussian_ev knows H C O and has a cutoff of 5 angstrom. Pairs: H-H H-C H-O C-C C-O O-O; H-O has no term. */
#define INNER "1.1 1.3 0 0.5 1.4 1.2"
#define OUTER "2.6 2.8 0 3.1 2.9 3.0"

/* ------------------------------------------------------------------------------------------- models */

/* A fixture's model with the term added to its file. */
static mlff_model *with_term(const char *path, const char *inner, const char *outer)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s cannot be opened", path);
    static unsigned char bytes[1 << 22];
    const size_t size = fread(bytes, 1, sizeof bytes, f);
    assert_true(size > 8 && size < sizeof bytes);
    fclose(f);
    uint64_t n = 0;
    for (int k = 7; k >= 0; k--) n = n << 8 | bytes[k];
    tiny_model edited = {.header = json_loadb((const char *)bytes + 8, n, 0, NULL)};
    assert_non_null(edited.header);
    edited.metadata = json_object_get(edited.header, "__metadata__");
    edited.data = bytes + 8 + n;
    edited.data_size = size - 8 - n;
    tiny_add_short_range(&edited, inner, outer);
    size_t new_size;
    unsigned char *packed = tiny_pack(&edited, &new_size);
    mlff_model *model = NULL;
    mlff_error error = {""};
    if (mlff_model_load_memory(packed, new_size, path, &model, &error) != MLFF_OK) fail_msg("%s", error.message);
    free(packed);
    json_decref(edited.header);
    return model;
}

/* A reference structure and the fixture's model with the term in the place of its own. */
static void load(reference *r, const char *structure)
{
    reference_load(r, "gaussian_ev", structure);
    mlff_model *model = with_term(mlff_model_get_info(r->model)->name, INNER, OUTER);
    mlff_model_free(r->model);
    r->model = model;
}

static void evaluate(const reference *r, mlff_precision precision, int threads, result *out)
{
    evaluate_structure(r->model, precision, threads, r->n, r->x, r->species, r->cell, r->periodic, out);
}

/* -------------------------------------------------------------------------------- whole evaluations */

static double energy_of(const reference *r, const double *x, const double *cell)
{
    result got;
    evaluate_structure(r->model, MLFF_PRECISION_DOUBLE, 1, r->n, x, r->species, cell, r->periodic, &got);
    double energy = 0; /* of differences: element energies cost no digits */
    for (int32_t i = 0; i < r->n; i++) energy += got.atom_energy[i] - r->e_atom[i];
    result_free(&got);
    return energy;
}

/* fourth-order central difference of f(+h) f(-h) f(+2h) f(-2h) */
static double slope(const double f[4], double h)
{
    return (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h);
}

/* The structure whose cell and positions are strained: x'_b = x_b + sum_a x_a eps_ab, one component. */
static void strain(const double *rows, size_t n, int a, int b, double amount, double *out)
{
    memcpy(out, rows, 3 * n * sizeof *out);
    for (size_t i = 0; i < n; i++) out[3 * i + b] += amount * rows[3 * i + a];
}

static void forces_and_virial_are_the_differences_of_the_energy(void **state)
{
    (void)state;
    static const char *const structures[] = {"triclinic", "molecule", "ortho"};
    for (int q = 0; q < 3; q++) {
        reference r;
        load(&r, structures[q]);
        result got;
        evaluate(&r, MLFF_PRECISION_DOUBLE, 1, &got);
        const size_t n = (size_t)r.n;
        assert_true(largest_difference(got.forces, r.forces, 3 * n) > 1); /* the term acts in this structure */
        const double h = 5e-5, steps[4] = {h, -h, 2 * h, -2 * h};
        const double force = largest(got.forces, 3 * n), virial = largest(got.virial, 9);
        double *x = malloc(3 * n * sizeof *x), cell[9], f[4];
        for (size_t c = 0; c < 3 * n && c < 12; c++) {
            memcpy(x, r.x, 3 * n * sizeof *x);
            for (int k = 0; k < 4; k++) {
                x[c] = r.x[c] + steps[k];
                f[k] = energy_of(&r, x, r.cell);
            }
            assert_at_most(r.name, "force minus central difference, relative",
                           fabs(got.forces[c] + slope(f, h)) / force, 1e-7);
        }
        for (int c = 0; c < 9; c++) {
            for (int k = 0; k < 4; k++) {
                strain(r.x, n, c / 3, c % 3, steps[k], x);
                strain(r.cell, 3, c / 3, c % 3, steps[k], cell);
                f[k] = energy_of(&r, x, cell);
            }
            assert_at_most(r.name, "virial minus strain difference, relative",
                           fabs(got.virial[c] + slope(f, h)) / virial, 1e-7);
        }
        free(x);
        result_free(&got);
        reference_free(&r);
    }
}

static void every_run_and_every_thread_count_gives_the_same_bits(void **state)
{
    (void)state;
    reference r;
    load(&r, "ortho");
    const size_t n = (size_t)r.n;
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
        result one, again, three;
        evaluate(&r, p, 1, &one);
        evaluate(&r, p, 1, &again);
        evaluate(&r, p, 3, &three);
        assert_memory_equal(one.forces, again.forces, 3 * n * sizeof(double));
        assert_memory_equal(one.forces, three.forces, 3 * n * sizeof(double));
        assert_memory_equal(one.atom_energy, three.atom_energy, n * sizeof(double));
        assert_memory_equal(one.atom_virial, three.atom_virial, 9 * n * sizeof(double));
        assert_memory_equal(&one.energy, &three.energy, sizeof one.energy);
        result_free(&one);
        result_free(&again);
        result_free(&three);
    }
    reference_free(&r);
}

static void single_precision_forces_are_within_3e_6_of_double(void **state)
{
    (void)state;
    reference r;
    load(&r, "ortho");
    result exact, rounded;
    evaluate(&r, MLFF_PRECISION_DOUBLE, 1, &exact);
    evaluate(&r, MLFF_PRECISION_SINGLE, 1, &rounded);
    const size_t n = 3 * (size_t)r.n;
    assert_at_most(r.name, "RMS relative force error in single",
                   rms_difference(rounded.forces, exact.forces, n) / rms(exact.forces, n), 3e-6);
    result_free(&exact);
    result_free(&rounded);
    reference_free(&r);
}

static void atom_energies_and_virials_sum_to_the_total_and_forces_to_zero(void **state)
{
    (void)state;
    reference r;
    load(&r, "triclinic");
    result got;
    evaluate(&r, MLFF_PRECISION_DOUBLE, 2, &got);
    double energy = 0, virial[9] = {0}, force[3] = {0};
    for (int32_t i = 0; i < r.n; i++) {
        energy += got.atom_energy[i];
        for (int q = 0; q < 9; q++) virial[q] += got.atom_virial[9 * i + q];
        for (int a = 0; a < 3; a++) force[a] += got.forces[3 * i + a];
    }
    assert_at_most(r.name, "energy minus the sum over atoms", fabs(energy - got.energy), 1e-9);
    assert_at_most(r.name, "virial minus the sum over atoms", largest_difference(virial, got.virial, 9),
                   1e-10 * largest(virial, 9));
    assert_at_most(r.name, "sum of forces", largest(force, 3), 1e-10 * largest(got.forces, 3 * (size_t)r.n));
    result_free(&got);
    reference_free(&r);
}

/* ------------------------------------------------------------------------------------- pairs of atoms */

/* Two atoms of elements Z at distance d: energies of both [2] eV, force on the second along their line, and the force
 * on the first. */
typedef struct pair_result {
    double energy[2], force, other_force;
} pair_result;

static pair_result two_atoms(const mlff_model *model, const int32_t species[2], double d)
{
    const double x[6] = {0.1, 0.2, 0.3, 0.1 + 0.6 * d, 0.2, 0.3 + 0.8 * d};
    result got;
    evaluate_structure(model, MLFF_PRECISION_DOUBLE, 1, 2, x, species, NULL, NULL, &got);
    const pair_result p = {.energy = {got.atom_energy[0], got.atom_energy[1]},
                           .force = 0.6 * got.forces[3] + 0.8 * got.forces[5],
                           .other_force = 0.6 * got.forces[0] + 0.8 * got.forces[2]};
    result_free(&got);
    return p;
}

/* What the term changes. */
static pair_result change_of_pair(const mlff_model *with, const mlff_model *without, const int32_t species[2], double d)
{
    const pair_result a = two_atoms(with, species, d), b = two_atoms(without, species, d);
    return (pair_result){.energy = {a.energy[0] - b.energy[0], a.energy[1] - b.energy[1]},
                         .force = a.force - b.force,
                         .other_force = a.other_force - b.other_force};
}

/* Below the inner distance the network sees one distance, so that the nuclei's repulsion is all that changes. */
static void two_atoms_repel_below_the_inner_distance_and_share_the_energy(void **state)
{
    (void)state;
    reference r;
    load(&r, "molecule");
    const int32_t species[2] = {1, 2}; /* C-O: 1.4 to 2.9 */
    pair_result last = two_atoms(r.model, species, 1.4);
    for (double d = 1.35; d > 0.3; d -= 0.05) {
        const pair_result p = two_atoms(r.model, species, d);
        const double work[2] = {p.energy[0] - last.energy[0], p.energy[1] - last.energy[1]};
        assert_true(p.force > last.force && last.force > 0);
        assert_true(work[0] > 0);
        assert_at_most("C-O", "difference of the halves, eV", fabs(work[0] - work[1]), 1e-9);
        assert_at_most("C-O", "sum of the forces, relative", fabs(p.force + p.other_force) / p.force, 1e-9);
        last = p;
    }
    reference_free(&r);
}

/* At both ends of the switch energy, force and the force's slope are what they are on the other side. */
static void energy_force_and_its_slope_are_continuous_at_both_ends(void **state)
{
    (void)state;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_model *with = with_term(mlff_model_get_info(r.model)->name, INNER, OUTER);
    const int32_t species[2] = {1, 2};
    const double ends[2] = {1.4, 2.9}, h = 1e-4;
    for (int q = 0; q < 2; q++) {
        double energy[4], force[4];
        for (int k = 0; k < 4; k++) {
            const double steps[4] = {-2 * h, -h, h, 2 * h};
            const pair_result p = change_of_pair(with, r.model, species, ends[q] + steps[k]);
            energy[k] = p.energy[0] + p.energy[1];
            force[k] = p.force;
        }
        const double size = q == 0 ? force[1] : 1;
        /* the jump that remains when each side is drawn on as a straight line to the end */
        assert_at_most("C-O", "jump of the energy, eV", fabs((2 * energy[1] - energy[0]) - (2 * energy[2] - energy[3])),
                       1e-6 * size);
        assert_at_most("C-O", "jump of the force, eV/angstrom",
                       fabs((2 * force[1] - force[0]) - (2 * force[2] - force[3])), 1e-6 * size);
        assert_at_most("C-O", "jump of the force's slope, eV/angstrom^2",
                       fabs((force[1] - force[0]) - (force[3] - force[2])) / h, 3e-2 * size);
    }
    mlff_model_free(with);
    reference_free(&r);
}

static void nothing_changes_beyond_the_outer_distance_or_for_a_pair_without_term(void **state)
{
    (void)state;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_model *with = with_term(mlff_model_get_info(r.model)->name, INNER, OUTER);
    static const struct {
        int32_t species[2];
        double d;
    } cases[] = {{{1, 2}, 2.91}, {{1, 1}, 3.11}, {{0, 0}, 2.6000001}, {{2, 0}, 0.5}, {{0, 2}, 1.5}, {{2, 2}, 4.9}};
    /* on a GPU small structures go a way of their own, if the model has no term: 40 more atoms, far away, forbid it */
    enum { ATOMS = 42 };
    double x[3 * ATOMS] = {0};
    int32_t species[ATOMS] = {0};
    for (int i = 2; i < ATOMS; i++) x[3 * i + 1] = 60 * i;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        x[3] = cases[k].d, species[0] = cases[k].species[0], species[1] = cases[k].species[1];
        for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
            result a, b;
            evaluate_structure(with, p, 1, ATOMS, x, species, NULL, NULL, &a);
            evaluate_structure(r.model, p, 1, ATOMS, x, species, NULL, NULL, &b);
            assert_memory_equal(a.forces, b.forces, sizeof x);
            assert_memory_equal(a.atom_energy, b.atom_energy, ATOMS * sizeof(double));
            result_free(&a);
            result_free(&b);
        }
    }
    mlff_model_free(with);
    reference_free(&r);
}

/* ---------------------------------------------------------------------------------------- close pairs */

static mlff_evaluator *make_evaluator(const mlff_model *model)
{
    const mlff_options options = {.device = test_device, .precision = MLFF_PRECISION_DOUBLE, .threads = 2};
    mlff_error error = {""};
    mlff_evaluator *evaluator = NULL;
    if (mlff_evaluator_create(model, &options, &evaluator, &error) != MLFF_OK) fail_msg("%s", error.message);
    return evaluator;
}

/* One structure without a cell; with or without forces. */
static mlff_status evaluate_molecule(mlff_evaluator *evaluator, int32_t n, const double *x, const int32_t *species,
                                     int with_forces, double *energy)
{
    const int32_t first_atom[2] = {0, n};
    const mlff_structures structures = {.n_structures = 1, .first_atom = first_atom};
    const mlff_input input = {.n_local = n, .n_all = n, .x = x, .species = species, .structures = &structures};
    double forces[3 * 8];
    mlff_output output = {.energy = energy, .forces = with_forces ? forces : NULL};
    mlff_error error;
    return mlff_evaluate(evaluator, &input, &output, &error);
}

static void close_pairs_are_counted_and_the_first_is_named(void **state)
{
    (void)state;
    reference r;
    load(&r, "molecule");
    mlff_evaluator *evaluator = make_evaluator(r.model);
    const mlff_close_pairs *close = mlff_evaluator_get_close_pairs(evaluator);
    assert_int_equal(close->count, 0);
    assert_int_equal(close->atom, -1);
    /* O far away, then C and O at 2.0 (trained 2.9), H beside the O: that pair has no term */
    double x[12] = {20, 0, 0, 0, 0, 0, 2, 0, 0, 2, 3.5, 0}, energy, with_reverse;
    const int32_t species[4] = {2, 1, 2, 0};
    for (int again = 0; again < 3; again++) {
        assert_int_equal(evaluate_molecule(evaluator, 4, x, species, 1, &with_reverse), MLFF_OK);
        assert_int_equal(close->count, 2); /* from both ends */
        assert_true((close->atom == 1 && close->neighbour == 2) || (close->atom == 2 && close->neighbour == 1));
        assert_true(fabs(close->distance - 2) < 1e-12);
        assert_true(close->trained == 2.9);
    }
    assert_int_equal(evaluate_molecule(evaluator, 4, x, species, 0, &energy), MLFF_OK);
    assert_true(energy == with_reverse); /* the energy alone has the term too */
    assert_int_equal(close->count, 2);
    x[6] = 2.95;
    assert_int_equal(evaluate_molecule(evaluator, 4, x, species, 1, &energy), MLFF_OK);
    assert_int_equal(close->count, 0);
    assert_int_equal(close->atom, -1);
    assert_int_equal(close->neighbour, -1);
    mlff_evaluator_free(evaluator);
    reference_free(&r);
}

static void a_model_without_the_term_has_no_close_pairs(void **state)
{
    (void)state;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *evaluator = make_evaluator(r.model);
    const double x[6] = {0, 0, 0, 0.5, 0, 0};
    const int32_t species[2] = {1, 2};
    double energy;
    assert_int_equal(evaluate_molecule(evaluator, 2, x, species, 1, &energy), MLFF_OK);
    assert_int_equal(mlff_evaluator_get_close_pairs(evaluator)->count, 0);
    assert_int_equal(mlff_evaluator_get_close_pairs(evaluator)->atom, -1);
    mlff_evaluator_free(evaluator);
    reference_free(&r);
}

static void atoms_so_close_that_the_energy_overflows_are_an_error(void **state)
{
    (void)state;
    reference r;
    load(&r, "molecule");
    mlff_evaluator *evaluator = make_evaluator(r.model);
    const double x[6] = {0, 0, 0, 1e-307, 0, 0};
    const int32_t species[2] = {1, 2};
    double energy;
    assert_int_equal(evaluate_molecule(evaluator, 2, x, species, 1, &energy), MLFF_ERROR_NUMERICS);
    assert_int_equal(mlff_evaluator_get_close_pairs(evaluator)->count, 0);
    mlff_evaluator_free(evaluator);
    reference_free(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forces_and_virial_are_the_differences_of_the_energy),
        cmocka_unit_test(every_run_and_every_thread_count_gives_the_same_bits),
        cmocka_unit_test(single_precision_forces_are_within_3e_6_of_double),
        cmocka_unit_test(atom_energies_and_virials_sum_to_the_total_and_forces_to_zero),
        cmocka_unit_test(two_atoms_repel_below_the_inner_distance_and_share_the_energy),
        cmocka_unit_test(energy_force_and_its_slope_are_continuous_at_both_ends),
        cmocka_unit_test(nothing_changes_beyond_the_outer_distance_or_for_a_pair_without_term),
        cmocka_unit_test(close_pairs_are_counted_and_the_first_is_named),
        cmocka_unit_test(a_model_without_the_term_has_no_close_pairs),
        cmocka_unit_test(atoms_so_close_that_the_energy_overflows_are_an_error),
    };
    return RUN_ON_DEVICE(argc, argv, "short range", tests);
}
