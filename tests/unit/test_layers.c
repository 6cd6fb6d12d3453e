/* SPDX-License-Identifier: MIT */
/*
 * Every layer's reverse alone. For a layer y = f(x), random dx and random y_adj: the reverse gives x_adj = J^T y_adj,
 * so <x_adj, dx> must be the derivative of <y_adj, f(x + h dx)> by h. This sees the double variant without vector
 * extensions; that all variants agree is tested too.
 */
#define MLFF_VARIANT_NAME double_base
#define MLFF_REAL_IS_SINGLE 0
#define MLFF_ISA_IS_AVX512 0
#define MLFF_ISA_IS_AVX2 0
#include "cpu/variant.h"

#include "support.h"

#include <stdio.h>

static uint64_t seed;

static double random_number(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) / 9007199254740992.0 * 2 - 1;
}

static void fill_random(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) a[i] = random_number();
}

static double *random_array(size_t n)
{
    double *a = malloc(n * sizeof *a);
    assert_non_null(a);
    fill_random(a, n);
    return a;
}

static double *copy_of(const double *a, size_t n)
{
    double *b = malloc(n * sizeof *b);
    assert_non_null(b);
    memcpy(b, a, n * sizeof *b);
    return b;
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void move(double *to, const double *from, double h, const double *direction, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = from[i] + h * direction[i];
}

/* A prepared state of the CPU backend on a molecule: small, no images, so that an edge has one reverse edge. */
typedef struct bench {
    reference r;
    mlff_graph graph;
    cpu_state *s;
    size_t N, F, E;
} bench;

static const backend *double_base(void)
{
    extern const backend mlff_cpu_backend_double_base;
    return &mlff_cpu_backend_double_base;
}

static void prepare_bench(bench *b, const double *x)
{
    mlff_error error;
    const int32_t first_atom[2] = {0, b->r.n};
    const mlff_structures structures = {.n_structures = 1, .first_atom = first_atom};
    const mlff_input input = {
        .n_local = b->r.n, .n_all = b->r.n, .x = x, .species = b->r.species, .structures = &structures};
    const mlff_model_info *info = mlff_model_get_info(b->r.model);
    if (mlff_graph_from_structures(&b->graph, &input, info->n_elements, info->cutoff, 1, &error) != MLFF_OK ||
        double_base()->prepare(b->s, &b->graph, x, 1, 0, &error) != MLFF_OK)
        fail_msg("%s", error.message);
}

static void open_bench(bench *b, const char *model)
{
    mlff_error error;
    memset(b, 0, sizeof *b);
    seed = 7;
    reference_load(&b->r, model, "molecule");
    void *state;
    assert_int_equal(double_base()->create(b->r.model, &(mlff_options){.threads = 1}, &state, &error), MLFF_OK);
    b->s = state;
    prepare_bench(b, b->r.x);
    b->N = (size_t)b->s->N;
    b->F = (size_t)b->s->w.F;
    b->E = (size_t)b->s->E;
    assert_true(b->N > 2 && b->E > 8);
    for (int l = 0; l < b->s->w.L; l++)
        if (l > 0) fill_random(b->s->layer[l].v, b->N * 3 * b->F);
    fill_random(b->s->s, b->N * b->F);
    fill_random(b->s->v_mid, b->N * 3 * b->F);
    fill_random(b->s->adj, b->N * 4 * b->F);
}

static void close_bench(bench *b)
{
    double_base()->free(b->s);
    mlff_graph_free(&b->graph);
    reference_free(&b->r);
}

static void assert_derivative(const char *what, double reverse, double difference)
{
    assert_at_most(what, "reverse minus difference, relative", fabs(reverse - difference) / fmax(1, fabs(difference)),
                   1e-7);
}

static const double step = 1e-5;

/* ---------------------------------------------------------------------------------------------- layers */

/* <features_adj, features(s, v)> */
static double context_value(bench *b, int l, const double *weights)
{
    cpu_context_forward(b->s, l, NULL);
    return dot(weights, b->s->layer[l].features, b->N * 5 * b->F);
}

static void context_reverse_is_the_transposed_derivative(void **unused)
{
    (void)unused;
    bench b;
    open_bench(&b, "gaussian_kcal");
    const int l = 1;
    const size_t n_s = b.N * b.F, n_v = 3 * n_s;
    double *s0 = copy_of(b.s->s, n_s), *v0 = copy_of(b.s->layer[l].v, n_v), *ds = random_array(n_s),
           *dv = random_array(n_v), *weights = random_array(b.N * 5 * b.F);
    double value[2];
    for (int k = 0; k < 2; k++) {
        move(b.s->s, s0, k ? -step : step, ds, n_s);
        move(b.s->layer[l].v, v0, k ? -step : step, dv, n_v);
        value[k] = context_value(&b, l, weights);
    }
    move(b.s->s, s0, 0, ds, n_s);
    move(b.s->layer[l].v, v0, 0, dv, n_v);
    context_value(&b, l, weights);
    memcpy(b.s->features_adj, weights, b.N * 5 * b.F * sizeof(double));
    memset(b.s->adj, 0, b.N * 4 * b.F * sizeof(double));
    cpu_context_reverse(b.s, l, NULL);
    double reverse = 0;
    for (size_t i = 0; i < b.N; i++)
        reverse += dot(b.s->adj + i * 4 * b.F, ds + i * b.F, b.F) +
                   dot(b.s->adj + i * 4 * b.F + b.F, dv + i * 3 * b.F, 3 * b.F);
    assert_derivative("context", reverse, (value[0] - value[1]) / (2 * step));
    free(s0), free(v0), free(ds), free(dv), free(weights);
    close_bench(&b);
}

/* <adj, (s, v)> after a message or an update wrote s and v */
static double state_value(const bench *b, const double *adj, const double *v)
{
    double sum = 0;
    for (size_t i = 0; i < b->N; i++)
        sum += dot(adj + i * 4 * b->F, b->s->s + i * b->F, b->F) +
               dot(adj + i * 4 * b->F + b->F, v + i * 3 * b->F, 3 * b->F);
    return sum;
}

static void check_update(const char *model, int l)
{
    bench b;
    open_bench(&b, model);
    const int last = l == b.s->w.L - 1;
    const size_t n_s = b.N * b.F, n_v = 3 * n_s;
    double *s0 = copy_of(b.s->s, n_s), *v0 = copy_of(b.s->v_mid, n_v), *ds = random_array(n_s), *dv = random_array(n_v),
           *adj = copy_of(b.s->adj, b.N * 4 * b.F);
    if (last) /* its v is never used: no adjoint comes from there */
        for (size_t i = 0; i < b.N; i++) memset(adj + i * 4 * b.F + b.F, 0, 3 * b.F * sizeof(double));
    const double *v_out = last ? b.s->v_mid : b.s->layer[l + 1].v;
    double value[2];
    for (int k = 0; k < 2; k++) {
        move(b.s->s, s0, k ? -step : step, ds, n_s);
        move(b.s->v_mid, v0, k ? -step : step, dv, n_v);
        cpu_update_forward(b.s, l, NULL);
        value[k] = state_value(&b, adj, v_out);
    }
    move(b.s->s, s0, 0, ds, n_s);
    move(b.s->v_mid, v0, 0, dv, n_v);
    cpu_update_forward(b.s, l, NULL);
    memcpy(b.s->adj, adj, b.N * 4 * b.F * sizeof(double));
    cpu_update_reverse(b.s, l, NULL);
    memcpy(b.s->s, ds, n_s * sizeof(double));
    assert_derivative(model, state_value(&b, b.s->adj, dv), (value[0] - value[1]) / (2 * step));
    free(s0), free(v0), free(ds), free(dv), free(adj);
    close_bench(&b);
}

static void update_reverse_is_the_transposed_derivative(void **unused)
{
    (void)unused;
    check_update("gaussian_kcal", 0);
    check_update("gaussian_kcal", 1);
    check_update("bessel_bias", 0); /* with a vector bias and epsilon 0 */
}

static void update_reverse_of_the_last_layer_leaves_the_vector_output_out(void **unused)
{
    (void)unused;
    check_update("gaussian_kcal", 2);
    check_update("bessel_bias", 1);
    check_update("one_interaction", 0);
}

static void update_with_epsilon_zero_takes_the_derivative_of_a_zero_norm_as_zero(void **unused)
{
    (void)unused;
    bench b;
    open_bench(&b, "bessel_zero");
    memset(b.s->v_mid, 0, b.N * 3 * b.F * sizeof(double));
    cpu_update_forward(b.s, 0, NULL);
    cpu_update_reverse(b.s, 0, NULL);
    for (size_t q = 0; q < b.N * 4 * b.F; q++) assert_true(isfinite(b.s->adj[q]));
    close_bench(&b);
}

static void readout_reverse_is_the_derivative_of_the_energy(void **unused)
{
    (void)unused;
    bench b;
    open_bench(&b, "gaussian_kcal");
    const size_t n_s = b.N * b.F;
    double *s0 = copy_of(b.s->s, n_s), *ds = random_array(n_s), difference = 0;
    for (int k = 0; k < 2; k++) {
        move(b.s->s, s0, k ? -step : step, ds, n_s);
        cpu_readout_forward(b.s, NULL);
        for (size_t i = 0; i < b.N; i++)
            difference += (k ? -1 : 1) * (b.s->atom_energy[i] - b.s->w.atom_shift[b.graph.species[i]]) / (2 * step);
    }
    move(b.s->s, s0, 0, ds, n_s);
    cpu_readout_forward(b.s, NULL);
    cpu_readout_reverse(b.s, NULL);
    double reverse = 0;
    for (size_t i = 0; i < b.N; i++) {
        reverse += dot(b.s->adj + i * 4 * b.F, ds + i * b.F, b.F);
        assert_true(largest(b.s->adj + i * 4 * b.F + b.F, 3 * b.F) == 0);
    }
    assert_derivative("readout", reverse, difference);
    free(s0), free(ds);
    close_bench(&b);
}

/* ---------------------------------------------------------------------------------------------- edges */

/* A random change of every edge's d and u that leaves an edge and its reverse the same pair: d alike, u opposite. */
static void random_edge_change(const bench *b, double *dd, double *du)
{
    const cpu_state *s = b->s;
    memset(dd, 0, b->E * sizeof *dd);
    memset(du, 0, 3 * b->E * sizeof *du);
    for (int64_t i = 0; i < s->N; i++)
        for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e++) {
            const int64_t j = s->edge_row[e];
            if (s->edge_slot[e] < 0 || j < i) continue;
            int64_t back = s->edge_first[j];
            while (s->edge_row[back] != i || s->edge_slot[back] < 0) back++;
            dd[e] = dd[back] = random_number();
            for (int a = 0; a < 3; a++) du[3 * back + a] = -(du[3 * e + a] = random_number());
        }
}

/* phi and u moved by h along the change */
static void move_edges(bench *b, const double *phi0, const double *u0, double h, const double *dd, const double *du)
{
    cpu_state *s = b->s;
    const size_t functions = (size_t)s->w.K + 1;
    for (size_t e = 0; e < b->E; e++)
        for (size_t k = 0; k < functions; k++) {
            const size_t q = e / EDGE_BLOCK * functions * EDGE_BLOCK + k * EDGE_BLOCK + e % EDGE_BLOCK;
            s->phi[q] = phi0[q] + h * dd[e] * s->dphi[q];
        }
    move(s->edge_u, u0, h, du, 3 * b->E);
}

static void clear_edge_adjoints(bench *b)
{
    memset(b->s->edge_d_adj, 0, b->E * sizeof(double));
    memset(b->s->edge_u_adj, 0, 3 * b->E * sizeof(double));
}

static double edge_value(const bench *b, const double *dd, const double *du)
{
    return dot(b->s->edge_d_adj, dd, b->E) + dot(b->s->edge_u_adj, du, 3 * b->E);
}

static void first_message_reverse_is_the_transposed_derivative(void **unused)
{
    (void)unused;
    bench b;
    open_bench(&b, "five_elements");
    double *phi0 = copy_of(b.s->phi, b.E * (size_t)(b.s->w.K + 1)), *u0 = copy_of(b.s->edge_u, 3 * b.E),
           *dd = malloc(b.E * sizeof *dd), *du = malloc(3 * b.E * sizeof *du), value[2];
    random_edge_change(&b, dd, du);
    for (int k = 0; k < 2; k++) {
        move_edges(&b, phi0, u0, k ? -step : step, dd, du);
        cpu_first_message_forward(b.s, NULL);
        value[k] = state_value(&b, b.s->adj, b.s->v_mid);
    }
    move_edges(&b, phi0, u0, 0, dd, du);
    clear_edge_adjoints(&b);
    cpu_first_message_reverse(b.s, NULL);
    assert_derivative("first message", edge_value(&b, dd, du), (value[0] - value[1]) / (2 * step));
    free(phi0), free(u0), free(dd), free(du);
    close_bench(&b);
}

static void message_reverse_is_the_transposed_derivative(void **unused)
{
    (void)unused;
    bench b;
    open_bench(&b, "gaussian_kcal");
    const int l = 2;
    const size_t n_s = b.N * b.F, n_x = 5 * n_s;
    fill_random(b.s->layer[l].features, n_x);
    double *s0 = copy_of(b.s->s, n_s), *x0 = copy_of(b.s->layer[l].features, n_x), *dx = random_array(n_x),
           *phi0 = copy_of(b.s->phi, b.E * (size_t)(b.s->w.K + 1)), *u0 = copy_of(b.s->edge_u, 3 * b.E),
           *dd = malloc(b.E * sizeof *dd), *du = malloc(3 * b.E * sizeof *du), value[2];
    random_edge_change(&b, dd, du);
    for (int k = 0; k < 2; k++) {
        const double h = k ? -step : step;
        memcpy(b.s->s, s0, n_s * sizeof(double));
        move(b.s->layer[l].features, x0, h, dx, n_x);
        move_edges(&b, phi0, u0, h, dd, du);
        cpu_message_forward(b.s, l, NULL);
        value[k] = state_value(&b, b.s->adj, b.s->v_mid);
    }
    move(b.s->layer[l].features, x0, 0, dx, n_x);
    move_edges(&b, phi0, u0, 0, dd, du);
    clear_edge_adjoints(&b);
    cpu_message_reverse(b.s, l, NULL);
    assert_derivative("message", edge_value(&b, dd, du) + dot(b.s->features_adj, dx, n_x),
                      (value[0] - value[1]) / (2 * step));
    free(s0), free(x0), free(dx), free(phi0), free(u0), free(dd), free(du);
    close_bench(&b);
}

static void radial_derivatives_are_the_differences_of_the_radial_functions(void **unused)
{
    (void)unused;
    const char *models[] = {"gaussian_kcal", "bessel_plain"};
    for (int m = 0; m < 2; m++) {
        bench b;
        open_bench(&b, models[m]);
        const size_t functions = (size_t)b.s->w.K + 1, n = b.E * functions;
        double *dphi = copy_of(b.s->dphi, n), *x = copy_of(b.r.x, 3 * b.N), *phi[2], *d[2];
        for (int k = 0; k < 2; k++) { /* the whole molecule a little larger and smaller: every d changes */
            for (size_t q = 0; q < 3 * b.N; q++) x[q] = b.r.x[q] * (1 + (k ? -step : step));
            prepare_bench(&b, x);
            assert_int_equal(b.s->E, b.E);
            phi[k] = copy_of(b.s->phi, n);
            d[k] = copy_of(b.s->edge_d, b.E);
        }
        for (size_t e = 0; e < b.E; e++)
            for (size_t k = 0; k < functions && b.s->edge_slot[e] >= 0; k++) {
                const size_t q = e / EDGE_BLOCK * functions * EDGE_BLOCK + k * EDGE_BLOCK + e % EDGE_BLOCK;
                assert_derivative(models[m], dphi[q], (phi[0][q] - phi[1][q]) / (d[0][e] - d[1][e]));
            }
        free(dphi), free(x), free(phi[0]), free(phi[1]), free(d[0]), free(d[1]);
        close_bench(&b);
    }
}

/* sum over edges of d_adj d + u_adj . u at positions x; padding has no part */
static double edges_at(bench *b, const double *x, const double *d_adj, const double *u_adj)
{
    prepare_bench(b, x);
    double sum = 0;
    for (size_t e = 0; e < b->E; e++)
        if (b->s->edge_slot[e] >= 0) sum += d_adj[e] * b->s->edge_d[e] + dot(u_adj + 3 * e, b->s->edge_u + 3 * e, 3);
    return sum;
}

static void forces_are_the_negative_derivative_of_edges_by_positions(void **unused)
{
    (void)unused;
    bench b;
    open_bench(&b, "gaussian_ev");
    double *d_adj = random_array(b.E), *u_adj = random_array(3 * b.E), *x = copy_of(b.r.x, 3 * b.N),
           *forces = malloc(3 * b.N * sizeof *forces);
    memcpy(b.s->edge_d_adj, d_adj, b.E * sizeof(double));
    memcpy(b.s->edge_u_adj, u_adj, 3 * b.E * sizeof(double));
    mlff_output output = {.forces = forces};
    assert_int_equal(cpu_readout_forward(b.s, NULL), MLFF_OK);
    mlff_error error;
    if (cpu_collect_forces(b.s, &output, &error) != MLFF_OK) fail_msg("%s", error.message);
    for (size_t q = 0; q < 3 * b.N; q++) {
        x[q] = b.r.x[q] + step;
        const double up = edges_at(&b, x, d_adj, u_adj);
        x[q] = b.r.x[q] - step;
        const double down = edges_at(&b, x, d_adj, u_adj);
        x[q] = b.r.x[q];
        assert_derivative("forces", -forces[q], (up - down) / (2 * step));
    }
    free(d_adj), free(u_adj), free(x), free(forces);
    close_bench(&b);
}

/* ------------------------------------------------------------------------------------- tile and variants */

static void dense_rows_is_the_matrix_product_for_every_shape(void **unused)
{
    (void)unused;
    seed = 3;
    const int widths[] = {16, 32, 48, 80, 128};
    for (int a = 0; a < 5; a++)
        for (int c = 0; c < 5; c++)
            for (int64_t rows = 1; rows < 20; rows += 3)
                for (int mode = 0; mode < 3; mode++) { /* bias, no bias, accumulate */
                    const size_t in = (size_t)widths[a], out = (size_t)widths[c], n = (size_t)rows * out;
                    double *M = random_array(in * out), *bias = random_array(out), *X = random_array((size_t)rows * in),
                           *Y = random_array(n), *expected = copy_of(Y, n);
                    for (size_t r = 0; r < (size_t)rows; r++)
                        for (size_t o = 0; o < out; o++) {
                            double sum = mode == 0 ? bias[o] : mode == 1 ? 0 : Y[r * out + o];
                            for (size_t k = 0; k < in; k++) sum += X[r * in + k] * M[k * out + o];
                            expected[r * out + o] = sum;
                        }
                    const matrix m = {.n_in = (int)in, .n_out = (int)out, .M = M, .b = mode == 0 ? bias : NULL};
                    dense_rows(&m, X, in, Y, out, rows, mode == 2);
                    assert_at_most("dense_rows", "error", largest_difference(Y, expected, n), 1e-12);
                    free(M), free(bias), free(X), free(Y), free(expected);
                }
}

static double *forces_on(const backend *b, const reference *r)
{
    mlff_error error;
    mlff_evaluator *evaluator;
    double *forces = malloc(3 * (size_t)r->n * sizeof *forces);
    if (mlff_evaluator_create_on(b, r->model, &(mlff_options){.threads = 2}, &evaluator, &error) != MLFF_OK)
        fail_msg("%s", error.message);
    const int32_t first_atom[2] = {0, r->n};
    const mlff_structures structures = {
        .n_structures = 1, .first_atom = first_atom, .cell = r->cell, .periodic = r->periodic};
    const mlff_input input = {
        .n_local = r->n, .n_all = r->n, .x = r->x, .species = r->species, .structures = &structures};
    mlff_output output = {.forces = forces};
    if (mlff_evaluate(evaluator, &input, &output, &error) != MLFF_OK) fail_msg("%s", error.message);
    mlff_evaluator_free(evaluator);
    return forces;
}

static void check_variants(const reference *r)
{
    extern const backend mlff_cpu_backend_double_base, mlff_cpu_backend_single_base;
    const backend *backends[6] = {&mlff_cpu_backend_double_base, &mlff_cpu_backend_single_base};
    int n = 2;
#if defined(__x86_64__)
    extern const backend mlff_cpu_backend_double_avx2, mlff_cpu_backend_single_avx2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        backends[n++] = &mlff_cpu_backend_double_avx2;
        backends[n++] = &mlff_cpu_backend_single_avx2;
    }
#endif
    if (largest(r->forces, 3 * (size_t)r->n) < 1e-6) return;
    for (int q = 0; q < n; q++) {
        double *forces = forces_on(backends[q], r);
        const double error = rms_difference(forces, r->forces, 3 * (size_t)r->n) / rms(r->forces, 3 * (size_t)r->n);
        assert_at_most(r->name, backends[q]->device(NULL), error, backends[q]->real_bytes == 8 ? 1e-9 : 3e-6);
        free(forces);
    }
}

static void every_instruction_set_gives_the_reference_forces(void **unused)
{
    (void)unused;
    assert_true(for_every_reference(check_variants) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_rows_is_the_matrix_product_for_every_shape),
        cmocka_unit_test(radial_derivatives_are_the_differences_of_the_radial_functions),
        cmocka_unit_test(first_message_reverse_is_the_transposed_derivative),
        cmocka_unit_test(context_reverse_is_the_transposed_derivative),
        cmocka_unit_test(message_reverse_is_the_transposed_derivative),
        cmocka_unit_test(update_reverse_is_the_transposed_derivative),
        cmocka_unit_test(update_reverse_of_the_last_layer_leaves_the_vector_output_out),
        cmocka_unit_test(update_with_epsilon_zero_takes_the_derivative_of_a_zero_norm_as_zero),
        cmocka_unit_test(readout_reverse_is_the_derivative_of_the_energy),
        cmocka_unit_test(forces_are_the_negative_derivative_of_edges_by_positions),
        cmocka_unit_test(every_instruction_set_gives_the_reference_forces),
    };
    return cmocka_run_group_tests_name("layers", tests, NULL, NULL);
}
