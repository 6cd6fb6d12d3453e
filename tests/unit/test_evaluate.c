/* SPDX-License-Identifier: MIT */
/* Whole evaluations against the float64 references, and what must hold between evaluations. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------ references */

static void check_double(const reference *r)
{
    result got;
    evaluate_structure(r->model, MLFF_PRECISION_DOUBLE, 1, r->n, r->x, r->species, r->cell, r->periodic, &got);
    const size_t n = (size_t)r->n;
    const double force = fmax(largest(r->forces, 3 * n), 1e-3), virial = fmax(largest(r->virial, 9), 1e-3);
    assert_at_most(r->name, "energy error an atom, eV", fabs(got.energy - r->energy) / (double)n, 1e-8);
    assert_at_most(r->name, "atom energy error, eV", largest_difference(got.atom_energy, r->e_atom, n), 1e-8);
    assert_at_most(r->name, "relative force error", largest_difference(got.forces, r->forces, 3 * n) / force, 1e-9);
    assert_at_most(r->name, "relative virial error", largest_difference(got.virial, r->virial, 9) / virial, 1e-9);
    result_free(&got);
}

static void double_precision_gives_the_reference(void **state)
{
    (void)state;
    assert_true(for_every_reference(check_double) > 20);
}

static void check_single(const reference *r)
{
    result got;
    evaluate_structure(r->model, MLFF_PRECISION_SINGLE, 1, r->n, r->x, r->species, r->cell, r->periodic, &got);
    const size_t n = (size_t)r->n;
    if (largest(r->forces, 3 * n) > 1e-6)
        assert_at_most(r->name, "RMS relative force error in single",
                       rms_difference(got.forces, r->forces, 3 * n) / rms(r->forces, 3 * n), 3e-6);
    result_free(&got);
}

static void single_precision_forces_are_within_3e_6_of_the_reference(void **state)
{
    (void)state;
    assert_true(for_every_reference(check_single) > 20);
}

/* -------------------------------------------------------------------------------- between evaluations */

static void check_bits(const reference *r)
{
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
        result one, again, three;
        evaluate_structure(r->model, p, 1, r->n, r->x, r->species, r->cell, r->periodic, &one);
        evaluate_structure(r->model, p, 1, r->n, r->x, r->species, r->cell, r->periodic, &again);
        evaluate_structure(r->model, p, 3, r->n, r->x, r->species, r->cell, r->periodic, &three);
        const size_t n = (size_t)r->n;
        assert_memory_equal(one.forces, again.forces, 3 * n * sizeof(double));
        assert_memory_equal(one.forces, three.forces, 3 * n * sizeof(double));
        assert_memory_equal(one.virial, three.virial, sizeof one.virial);
        assert_memory_equal(one.atom_virial, three.atom_virial, 9 * n * sizeof(double));
        assert_memory_equal(&one.energy, &three.energy, sizeof one.energy);
        result_free(&one);
        result_free(&again);
        result_free(&three);
    }
}

static void every_run_and_every_thread_count_gives_the_same_bits(void **state)
{
    (void)state;
    assert_true(for_every_reference(check_bits) > 20);
}

/* Molecules far from each other as one structure, of which more than one thread copies the positions. */
static void many_atoms_copied_by_threads_give_the_bits_of_one_thread(void **state)
{
    (void)state;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    const int side = 1 + (int)cbrt(40000.0 / r.n), apart = 30;
    const size_t copies = (size_t)side * (size_t)side * (size_t)side, m = (size_t)r.n, n = m * copies;
    double *x = malloc(3 * n * sizeof *x);
    int32_t *species = malloc(n * sizeof *species);
    for (size_t i = 0; i < n; i++) {
        const size_t copy = i / m, s = (size_t)side, cell[3] = {copy % s, copy / s % s, copy / s / s};
        species[i] = r.species[i % m];
        for (size_t a = 0; a < 3; a++) x[3 * i + a] = r.x[3 * (i % m) + a] + apart * (double)cell[a];
    }
    result one, four;
    const double cell[9] = {0};
    const int32_t periodic[3] = {0};
    evaluate_structure(r.model, MLFF_PRECISION_SINGLE, 1, (int32_t)n, x, species, cell, periodic, &one);
    evaluate_structure(r.model, MLFF_PRECISION_SINGLE, 4, (int32_t)n, x, species, cell, periodic, &four);
    assert_memory_equal(one.forces, four.forces, 3 * n * sizeof(double));
    assert_memory_equal(one.virial, four.virial, sizeof one.virial);
    const double scale = largest(r.forces, 3 * m);
    for (size_t copy = 0; copy < copies; copy++)
        assert_at_most("a copy's forces", "relative error",
                       largest_difference(four.forces + 3 * m * copy, r.forces, 3 * m) / scale, 1e-4);
    result_free(&one), result_free(&four);
    free(x), free(species);
    reference_free(&r);
}

static void check_sums(const reference *r)
{
    result got;
    evaluate_structure(r->model, MLFF_PRECISION_DOUBLE, 2, r->n, r->x, r->species, r->cell, r->periodic, &got);
    double energy = 0, virial[9] = {0}, force[3] = {0};
    for (int32_t i = 0; i < r->n; i++) {
        energy += got.atom_energy[i];
        for (int q = 0; q < 9; q++) virial[q] += got.atom_virial[9 * i + q];
        for (int a = 0; a < 3; a++) force[a] += got.forces[3 * i + a];
    }
    assert_at_most(r->name, "energy minus the sum over atoms", fabs(energy - got.energy),
                   1e-10 * fmax(1, fabs(energy)));
    assert_at_most(r->name, "virial minus the sum over atoms", largest_difference(virial, got.virial, 9),
                   1e-10 * fmax(1, largest(virial, 9)));
    assert_at_most(r->name, "sum of forces", largest(force, 3), 1e-10 * fmax(1, largest(got.forces, 3 * (size_t)r->n)));
    result_free(&got);
}

static void atom_energies_and_virials_sum_to_the_total_and_forces_to_zero(void **state)
{
    (void)state;
    assert_true(for_every_reference(check_sums) > 20);
}

/* ----------------------------------------------------------------------------------- finite differences */

/* Energy relative to the reference's, summed from differences: element energies of a thousand eV cost no digits. */
static double energy_of(const reference *r, const double *x, const double *cell)
{
    result got;
    evaluate_structure(r->model, MLFF_PRECISION_DOUBLE, 1, r->n, x, r->species, cell, r->periodic, &got);
    double energy = 0;
    for (int32_t i = 0; i < r->n; i++) energy += got.atom_energy[i] - r->e_atom[i];
    result_free(&got);
    return energy;
}

/* fourth-order central difference of f(+h) f(-h) f(+2h) f(-2h) */
static double slope(const double f[4], double h)
{
    return (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h);
}

static void check_differences(const reference *r)
{
    result got;
    evaluate_structure(r->model, MLFF_PRECISION_DOUBLE, 1, r->n, r->x, r->species, r->cell, r->periodic, &got);
    const size_t n = (size_t)r->n;
    /* small steps: where an edge crosses the cutoff the cosine leaves a jump in the second derivative */
    const double h = 5e-5, steps[4] = {h, -h, 2 * h, -2 * h}, force = fmax(largest(got.forces, 3 * n), 0.1);
    double *x = malloc(3 * n * sizeof *x), f[4];
    for (size_t q = 0; q < 3 * n && q < 12; q++) { /* four atoms are enough: all atoms are alike */
        memcpy(x, r->x, 3 * n * sizeof *x);
        for (int k = 0; k < 4; k++) {
            x[q] = r->x[q] + steps[k];
            f[k] = energy_of(r, x, r->cell);
        }
        assert_at_most(r->name, "force minus central difference, relative", fabs(got.forces[q] + slope(f, h)) / force,
                       1e-7);
    }
    const double virial = fmax(largest(got.virial, 9), 0.1);
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) {
            for (int k = 0; k < 4; k++) {
                double cell[9];
                for (size_t i = 0; i < n; i++)
                    for (int c = 0; c < 3; c++)
                        x[3 * i + c] = r->x[3 * i + c] + (c == b ? steps[k] * r->x[3 * i + a] : 0);
                for (int i = 0; i < 3; i++)
                    for (int c = 0; c < 3; c++)
                        cell[3 * i + c] = r->cell[3 * i + c] + (c == b ? steps[k] * r->cell[3 * i + a] : 0);
                f[k] = energy_of(r, x, cell);
            }
            assert_at_most(r->name, "virial minus strain difference, relative",
                           fabs(got.virial[3 * a + b] + slope(f, h)) / virial, 1e-7);
        }
    free(x);
    result_free(&got);
}

static void forces_and_virial_are_the_differences_of_the_energy(void **state)
{
    (void)state;
    assert_true(for_every_reference(check_differences) > 20);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(double_precision_gives_the_reference),
        cmocka_unit_test(single_precision_forces_are_within_3e_6_of_the_reference),
        cmocka_unit_test(every_run_and_every_thread_count_gives_the_same_bits),
        cmocka_unit_test(many_atoms_copied_by_threads_give_the_bits_of_one_thread),
        cmocka_unit_test(atom_energies_and_virials_sum_to_the_total_and_forces_to_zero),
        cmocka_unit_test(forces_and_virial_are_the_differences_of_the_energy),
    };
    return RUN_ON_DEVICE(argc, argv, "evaluate", tests);
}
