/* SPDX-License-Identifier: MIT */
#ifndef MLFF_TEST_SUPPORT_H
#define MLFF_TEST_SUPPORT_H
/* What several C tests share: reference structures and a model beside them, one evaluation of a structure. */
#include "mlff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* One reference of tests/fixtures (the format is described in make_fixtures.py). */
typedef struct reference {
    char name[128]; /* "gaussian_ev triclinic" */
    mlff_model *model;
    int32_t n;
    double cell[9]; /* rows are lattice vectors, angstrom */
    int32_t periodic[3];
    int32_t *species;            /* [n] */
    double *x, *forces, *e_atom; /* [n][3] angstrom, [n][3] eV/angstrom, [n] eV */
    double energy, virial[9];    /* eV */
} reference;

/* Loads reference "MODEL STRUCTURE"; fails the test when it cannot. */
void reference_load(reference *r, const char *model, const char *structure);
void reference_free(reference *r);

/* Calls check for every line of tests/fixtures/manifest.txt; returns how many there were. */
int for_every_reference(void (*check)(const reference *r));

/* The device that the tests of this program run on: `test_NAME cuda` takes the GPU, `test_NAME cuda PATTERN` for those
 * tests alone. */
extern mlff_device test_device;

/* Reads the program's arguments, then runs the group; without a GPU the group of `cuda` is one test that is skipped and
 * says why. */
int run_tests_on_device(int argc, char **argv, const char *name, const struct CMUnitTest *tests, size_t n_tests);
#define RUN_ON_DEVICE(argc, argv, name, tests)                                                                         \
    run_tests_on_device(argc, argv, name, tests, sizeof(tests) / sizeof((tests)[0]))

/* What one evaluation gives. */
typedef struct result {
    int32_t n;
    double energy, virial[9];
    double *forces, *atom_energy, *atom_virial; /* [n][3], [n], [n][9] */
} result;

/* Evaluates one structure; fails the test with the library's message. */
void evaluate_structure(const mlff_model *model, mlff_precision precision, int threads, int32_t n, const double *x,
                        const int32_t *species, const double *cell, const int32_t *periodic, result *out);
void result_free(result *r);

double largest(const double *a, size_t n);                             /* max |a| */
double largest_difference(const double *a, const double *b, size_t n); /* max |a - b| */
double rms_difference(const double *a, const double *b, size_t n);     /* sqrt(mean (a - b)^2) */
double rms(const double *a, size_t n);

/* Fails the test, naming `what`, unless value <= bound. */
void assert_at_most(const char *where, const char *what, double value, double bound);

#endif
