/* SPDX-License-Identifier: MIT */
/* The order of rows in space. */
#include "graph_checks.h"

#include "order.h"

static const int32_t all_periodic[3] = {1, 1, 1};

/* The walk through all cells: each is met once, and the next one shares a face with it. */
static void the_curve_steps_from_cell_to_adjacent_cell(void **state)
{
    (void)state;
    for (int bits = 1; bits <= 4; ++bits) {
        const uint32_t side = UINT32_C(1) << bits, n = side * side * side;
        uint32_t *cell_at = calloc(n, sizeof *cell_at);
        for (uint32_t cell = 0; cell < n; ++cell) {
            const uint64_t place = mlff_order_curve(cell % side, cell / side % side, cell / side / side, bits);
            assert_in_range(place, 0, n - 1);
            assert_int_equal(cell_at[place], 0);
            cell_at[place] = cell + 1;
        }
        for (uint32_t place = 1; place < n; ++place) {
            const int a = (int)cell_at[place - 1] - 1, b = (int)cell_at[place] - 1, s = (int)side;
            const int steps = abs(a % s - b % s) + abs(a / s % s - b / s % s) + abs(a / s / s - b / s / s);
            assert_int_equal(steps, 1);
        }
        free(cell_at);
    }
}

/* Largest distance between the middle of `run` rows in a row and one of them, on average over the rows. */
static double blob_radius(const mlff_graph *g, const double *x, int run)
{
    double sum = 0.0;
    int blobs = 0;
    for (int32_t row = 0; row + run <= g->n_owned; row += run, ++blobs) {
        double middle[3] = {0, 0, 0}, most = 0.0;
        for (int k = 0; k < run; ++k)
            for (int c = 0; c < 3; ++c) middle[c] += x[3 * g->atom_of_row[row + k] + c] / run;
        for (int k = 0; k < run; ++k) {
            double d2 = 0.0;
            for (int c = 0; c < 3; ++c) d2 += pow(x[3 * g->atom_of_row[row + k] + c] - middle[c], 2);
            most = fmax(most, d2);
        }
        sum += sqrt(most);
    }
    return sum / blobs;
}

/* Shuffled atoms of water's density, 0.1 an A^3, in a cube; some are moved out by whole cells. */
enum { N_GAS = 4096 };
static const double gas_side = 34.5;

static void make_gas(double *x, int32_t *species)
{
    uint64_t seed = 3;
    for (int32_t k = 0; k < 3 * N_GAS; ++k) x[k] = gas_side * uniform(&seed);
    for (int32_t i = 0; i < N_GAS; ++i) species[i] = i % 9 == 4 ? -1 : 0;
}

static void consecutive_rows_of_a_structure_form_compact_blobs(void **state)
{
    (void)state;
    double *x = malloc(3 * N_GAS * sizeof *x), *moved = malloc(3 * N_GAS * sizeof *x);
    int32_t species[N_GAS];
    make_gas(x, species);
    for (int32_t k = 0; k < 3 * N_GAS; ++k) moved[k] = x[k] + (k % 5 - 2) * gas_side;
    const double cell[9] = {gas_side, 0, 0, 0, gas_side, 0, 0, 0, gas_side};
    const int32_t first_atom[2] = {0, N_GAS};
    const mlff_structures structures = {1, first_atom, cell, all_periodic};
    mlff_input input = {.n_local = N_GAS, .n_all = N_GAS, .x = x, .species = species, .structures = &structures};
    mlff_graph g = {0}, of_moved = {0};
    mlff_error error;
    assert_int_equal(mlff_graph_from_structures(&g, &input, 1, 5.0, 1, &error), MLFF_OK);
    check_graph(&g);
    input.x = moved;
    assert_int_equal(mlff_graph_from_structures(&of_moved, &input, 1, 5.0, 1, &error), MLFF_OK);
    check_graph(&of_moved);
    /* a ball with 8, 16, 32 such atoms has a radius of 2.8, 3.5, 4.4 A; 15 A and more in the order of atoms */
    assert_true(blob_radius(&g, x, 8) < 4.0);
    assert_true(blob_radius(&g, x, 16) < 5.5);
    assert_true(blob_radius(&g, x, 32) < 7.2);
    assert_true(blob_radius(&of_moved, x, 16) < 5.5);
    mlff_graph_free(&g);
    mlff_graph_free(&of_moved);
    free(x), free(moved);
}

static int never_called(void *context, const void *sent, void *received, int width, int real_bytes)
{
    (void)context, (void)sent, (void)received, (void)width, (void)real_bytes;
    return 1;
}

/* Owned atoms left of the middle, ghosts right of it, one neighbour each so that all ghosts have rows. */
static void rows_of_a_list_are_ordered_owned_and_ghosts_apart(void **state)
{
    (void)state;
    double *x = malloc(3 * N_GAS * sizeof *x);
    int32_t species[N_GAS], ilist[N_GAS / 2], numneigh[N_GAS], neighbour[N_GAS], *firstneigh[N_GAS];
    make_gas(x, species);
    for (int32_t i = 0; i < N_GAS; ++i) {
        x[3 * i] = 0.5 * x[3 * i] + (i < N_GAS / 2 ? 0 : 0.5 * gas_side);
        if (i < N_GAS / 2) ilist[i] = i;
        numneigh[i] = 1;
        neighbour[i] = (i + N_GAS / 2) % N_GAS;
        firstneigh[i] = &neighbour[i];
    }
    x[7] = NAN; /* found later, by the backend, which names the atom */
    const mlff_neighbour_list list = {1, N_GAS / 2, ilist, numneigh, firstneigh, 0x1FFFFFFF, NULL, 0.0};
    const mlff_halo halo = {.forward = never_called};
    const mlff_input input = {
        .n_local = N_GAS / 2, .n_all = N_GAS, .x = x, .species = species, .neighbours = &list, .halo = &halo};
    mlff_graph g = {0}, again = {0};
    mlff_error error;
    assert_int_equal(mlff_graph_from_list(&g, &input, 1, &error), MLFF_OK);
    check_graph(&g);
    assert_true(g.n_rows > g.n_owned + 1000);
    double sum = 0.0;
    for (int32_t row = 1; row < g.n_rows; ++row) {
        const double *a = x + 3 * g.atom_of_row[row - 1], *b = x + 3 * g.atom_of_row[row];
        if (row != g.n_owned && isfinite(a[1] + b[1]))
            sum += sqrt(pow(a[0] - b[0], 2) + pow(a[1] - b[1], 2) + pow(a[2] - b[2], 2));
    }
    assert_true(sum / g.n_rows < 3.2); /* 17 A in the order of atoms */

    assert_int_equal(mlff_graph_from_list(&again, &input, 1, &error), MLFF_OK);
    assert_memory_equal(again.atom_of_row, g.atom_of_row, (size_t)g.n_rows * sizeof(int32_t));
    mlff_graph_free(&g);
    mlff_graph_free(&again);
    free(x);
}

typedef struct points {
    const double (*x)[3];
} points;

static void point(const void *context, int32_t k, double r[3])
{
    memcpy(r, ((const points *)context)->x[k], 3 * sizeof *r);
}

static void atoms_of_one_cell_keep_their_order_and_any_extent_is_sorted(void **state)
{
    (void)state;
    enum { N = 100 };
    double x[N][3];
    const double extents[4] = {0.0, 1.0, 1e4, 1e12};
    for (int e = 0; e < 4; ++e) {
        int32_t atoms[N], seen[N] = {0};
        char scratch[N * 32 + 8];
        assert_true(mlff_order_scratch(N) <= sizeof scratch);
        for (int k = 0; k < N; ++k) {
            atoms[k] = N - 1 - k;
            for (int c = 0; c < 3; ++c) x[k][c] = c == 0 ? extents[e] * (k % 2) : -5.0;
        }
        mlff_order_in_space(N, atoms, point, &(points){(const double(*)[3])x},
                            (void *)(((uintptr_t)scratch + 7) / 8 * 8));
        for (int k = 0; k < N; ++k) seen[atoms[k]]++;
        for (int k = 0; k < N; ++k) assert_int_equal(seen[k], 1);
        if (extents[e] == 0.0) {
            for (int k = 0; k < N; ++k) assert_int_equal(atoms[k], N - 1 - k);
        } else { /* two heaps, each backwards as it was */
            for (int k = 1; k < N; ++k) assert_true(k == N / 2 || atoms[k] == atoms[k - 1] - 2);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_curve_steps_from_cell_to_adjacent_cell),
        cmocka_unit_test(consecutive_rows_of_a_structure_form_compact_blobs),
        cmocka_unit_test(rows_of_a_list_are_ordered_owned_and_ghosts_apart),
        cmocka_unit_test(atoms_of_one_cell_keep_their_order_and_any_extent_is_sorted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
