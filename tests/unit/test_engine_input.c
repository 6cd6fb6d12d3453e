/* SPDX-License-Identifier: MIT */
/*
 * Input as an MD engine gives it: a full list with skin, ghosts folded onto owners on one rank, ghosts of other ranks
 * behind a halo. The engine here is this test: it copies ghosts by brute force, and its ranks are threads.
 */
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 0x1FFFFFFF, MAX_ATOMS = 4000, MAX_NEIGHBOURS = 1000 };
static const double skin = 0.7;

/* 0: the engine's list; else its reach, and the library searches */
static double search_reach;

/* One rank's atoms: owned first, then ghosts. */
typedef struct domain {
    int32_t n_local, n_all;
    double *x;
    int32_t *species, *global, *owner, *numneigh, **firstneigh, *ilist;
} domain;

static void *allocate(size_t bytes)
{
    void *p = calloc(1, bytes);
    assert_non_null(p);
    return p;
}

static void add_atom(domain *d, const double *x, int32_t species, int32_t global, int32_t owner)
{
    assert_true(d->n_all < MAX_ATOMS);
    memcpy(d->x + 3 * d->n_all, x, 3 * sizeof *x);
    d->species[d->n_all] = species;
    d->global[d->n_all] = global;
    d->owner[d->n_all] = owner;
    d->n_all++;
}

static double distance(const double *a, const double *b)
{
    return sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) + (a[2] - b[2]) * (a[2] - b[2]));
}

/* Owned: atoms i with rank_of[i] == rank (NULL: all). Ghosts: all images of all atoms within reach of an owned one. */
static domain make_domain(const reference *r, const int *rank_of, int rank, double reach)
{
    domain d = {0};
    d.x = allocate(3 * MAX_ATOMS * sizeof *d.x);
    d.species = allocate(MAX_ATOMS * sizeof *d.species);
    d.global = allocate(MAX_ATOMS * sizeof *d.global);
    d.owner = allocate(MAX_ATOMS * sizeof *d.owner);
    d.numneigh = allocate(MAX_ATOMS * sizeof *d.numneigh);
    d.firstneigh = allocate(MAX_ATOMS * sizeof *d.firstneigh);
    d.ilist = allocate(MAX_ATOMS * sizeof *d.ilist);
    for (int32_t i = 0; i < r->n; i++)
        if (!rank_of || rank_of[i] == rank) add_atom(&d, r->x + 3 * i, r->species[i], i, d.n_all);
    d.n_local = d.n_all;
    int images[3];
    for (int a = 0; a < 3; a++) images[a] = r->periodic[a] ? 4 : 0;
    for (int32_t j = 0; j < r->n; j++)
        for (int p = -images[0]; p <= images[0]; p++)
            for (int q = -images[1]; q <= images[1]; q++)
                for (int s = -images[2]; s <= images[2]; s++) {
                    if (p == 0 && q == 0 && s == 0 && (!rank_of || rank_of[j] == rank)) continue;
                    double x[3];
                    for (int a = 0; a < 3; a++)
                        x[a] = r->x[3 * j + a] + p * r->cell[a] + q * r->cell[3 + a] + s * r->cell[6 + a];
                    int near = 0;
                    for (int32_t i = 0; i < d.n_local && !near; i++) near = distance(x, d.x + 3 * i) < reach;
                    if (!near) continue;
                    int32_t owner = -1;
                    for (int32_t i = 0; i < d.n_local; i++)
                        if (d.global[i] == j) owner = i;
                    add_atom(&d, x, r->species[j], j, owner);
                }
    for (int32_t i = 0; i < d.n_local; i++) { /* listed backwards, and with a flag above the index bits */
        d.ilist[i] = d.n_local - 1 - i;
        d.firstneigh[i] = allocate(MAX_NEIGHBOURS * sizeof(int32_t));
        for (int32_t j = 0; j < d.n_all; j++)
            if (j != i && distance(d.x + 3 * i, d.x + 3 * j) < reach) {
                assert_true(d.numneigh[i] < MAX_NEIGHBOURS);
                d.firstneigh[i][d.numneigh[i]++] = j | (int32_t)(j % 2 ? 0x40000000 : 0);
            }
    }
    return d;
}

static void free_domain(domain *d)
{
    for (int32_t i = 0; i < d->n_local; i++) free(d->firstneigh[i]);
    free(d->x), free(d->species), free(d->global), free(d->owner), free(d->numneigh), free(d->firstneigh),
        free(d->ilist);
}

static mlff_neighbour_list list_of(const domain *d, int rebuilt, int fold)
{
    if (search_reach > 0)
        return (mlff_neighbour_list){.rebuilt = rebuilt, .owner = fold ? d->owner : NULL, .reach = search_reach};
    return (mlff_neighbour_list){.rebuilt = rebuilt,
                                 .n_listed = d->n_local,
                                 .ilist = d->ilist,
                                 .numneigh = d->numneigh,
                                 .firstneigh = d->firstneigh,
                                 .index_mask = MASK,
                                 .owner = fold ? d->owner : NULL};
}

static mlff_evaluator *new_evaluator(const reference *r, mlff_precision precision)
{
    mlff_error error;
    mlff_evaluator *e;
    const mlff_options options = {.device = test_device, .precision = precision, .threads = 1};
    if (mlff_evaluator_create(r->model, &options, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
    return e;
}

static int library_searches;

static double reach_of(const reference *r)
{
    const double reach = mlff_model_get_info(r->model)->cutoff + skin;
    search_reach = library_searches ? reach : 0;
    return reach;
}

static int let_the_library_search(void **unused)
{
    (void)unused;
    library_searches = 1;
    return 0;
}

static int use_the_engines_list(void **unused)
{
    (void)unused;
    library_searches = 0;
    return 0;
}

/* ------------------------------------------------------------------------------------------- one rank */

static void check_folded(const reference *r)
{
    domain d = make_domain(r, NULL, 0, reach_of(r));
    const mlff_neighbour_list list = list_of(&d, 1, 1);
    const mlff_input input = {
        .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
    double energy, virial[9], *forces = allocate(3 * (size_t)d.n_all * sizeof *forces);
    double *atom_virial = allocate(9 * (size_t)d.n_all * sizeof *atom_virial), total[9] = {0};
    mlff_output output = {.energy = &energy, .forces = forces, .virial = virial, .atom_virial = atom_virial};
    mlff_evaluator *e = new_evaluator(r, MLFF_PRECISION_DOUBLE);
    mlff_error error;
    if (mlff_evaluate(e, &input, &output, &error) != MLFF_OK) fail_msg("%s: %s", r->name, error.message);
    const double force = fmax(1e-3, largest(r->forces, 3 * (size_t)r->n));
    assert_at_most(r->name, "energy error, eV", fabs(energy - r->energy), 1e-8 * r->n);
    assert_at_most(r->name, "relative force error", largest_difference(forces, r->forces, 3 * (size_t)r->n) / force,
                   1e-9);
    assert_at_most(r->name, "relative virial error",
                   largest_difference(virial, r->virial, 9) / fmax(1e-3, largest(r->virial, 9)), 1e-9);
    assert_true(largest(forces + 3 * d.n_local, 3 * (size_t)(d.n_all - d.n_local)) == 0);
    for (int32_t i = 0; i < d.n_all; i++)
        for (int q = 0; q < 9; q++) total[q] += atom_virial[9 * i + q];
    assert_at_most(r->name, "atom virials' sum", largest_difference(total, virial, 9),
                   1e-9 * fmax(1, largest(virial, 9)));
    mlff_evaluator_free(e);
    free(forces), free(atom_virial);
    free_domain(&d);
}

static void ghosts_folded_onto_owners_give_the_reference(void **unused)
{
    (void)unused;
    assert_true(for_every_reference(check_folded) > 20);
}

static void positions_may_move_within_the_skin_between_rebuilds(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "triclinic");
    domain d = make_domain(&r, NULL, 0, reach_of(&r));
    mlff_neighbour_list list = list_of(&d, 1, 1);
    const mlff_input input = {
        .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
    double *forces = allocate(3 * (size_t)d.n_all * sizeof *forces);
    mlff_output output = {.forces = forces};
    mlff_evaluator *e = new_evaluator(&r, MLFF_PRECISION_DOUBLE);
    mlff_error error;
    assert_int_equal(mlff_evaluate(e, &input, &output, &error), MLFF_OK);
    for (int32_t i = 0; i < d.n_all; i++) d.x[3 * i + d.global[i] % 3] += 0.3 * cos(d.global[i]);
    for (int32_t i = 0; i < r.n; i++) r.x[3 * i + i % 3] += 0.3 * cos(i);
    list.rebuilt = 0;
    assert_int_equal(mlff_evaluate(e, &input, &output, &error), MLFF_OK);
    result fresh;
    evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, r.n, r.x, r.species, r.cell, r.periodic, &fresh);
    assert_at_most("moved", "force error", largest_difference(forces, fresh.forces, 3 * (size_t)r.n), 1e-11);
    result_free(&fresh);
    mlff_evaluator_free(e);
    free(forces);
    free_domain(&d);
    reference_free(&r);
}

static void a_steady_run_allocates_nothing(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    domain d = make_domain(&r, NULL, 0, reach_of(&r));
    mlff_neighbour_list list = list_of(&d, 1, 1);
    const mlff_input input = {
        .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
    double *forces = allocate(3 * (size_t)d.n_all * sizeof *forces);
    mlff_output output = {.forces = forces};
    mlff_evaluator *e = new_evaluator(&r, MLFF_PRECISION_SINGLE);
    assert_int_equal(mlff_evaluate(e, &input, &output, NULL), MLFF_OK);
    const size_t held = mlff_evaluator_get_memory(e);
    for (int step = 0; step < 50; step++) {
        list.rebuilt = step % 7 == 0;
        assert_int_equal(mlff_evaluate(e, &input, &output, NULL), MLFF_OK);
        assert_int_equal(mlff_evaluator_get_memory(e), held);
    }
    mlff_evaluator_free(e);
    free(forces);
    free_domain(&d);
    reference_free(&r);
}

/* A device may record a sequence of launches and replay it: nothing of it may show. */
static void check_repeats(const reference *r)
{
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
        domain d = make_domain(r, NULL, 0, reach_of(r));
        const size_t n = 3 * (size_t)d.n_all;
        double *start = allocate(n * sizeof *start);
        memcpy(start, d.x, n * sizeof *start);
        mlff_evaluator *lasting = new_evaluator(r, p);
        for (int step = 0; step < 14; step++) {
            for (size_t q = 0; q < n; q++) d.x[q] = start[q] + 0.02 * step * cos((double)(d.global[q / 3] + q % 3));
            double energy[2] = {0}, virial[2][9] = {{0}}, *forces[2], *atom_energy[2], *atom_virial[2];
            for (int which = 0; which < 2; which++) {
                forces[which] = allocate(n * sizeof(double));
                atom_energy[which] = allocate((size_t)d.n_local * sizeof(double));
                atom_virial[which] = allocate(3 * n * sizeof(double));
                mlff_evaluator *e = which ? new_evaluator(r, p) : lasting;
                mlff_neighbour_list list = list_of(&d, which || step == 0 || step == 9, 1);
                const mlff_input input = {
                    .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
                mlff_output output = {.energy = &energy[which], .virial = virial[which], .forces = forces[which]};
                if (step % 5 == 3) output.atom_energy = atom_energy[which];
                if (step % 5 == 4) output.atom_virial = atom_virial[which];
                if (step % 7 == 5) output.forces = NULL, output.virial = NULL;
                mlff_error error;
                if (mlff_evaluate(e, &input, &output, &error) != MLFF_OK) fail_msg("%s: %s", r->name, error.message);
                if (which) mlff_evaluator_free(e);
            }
            assert_memory_equal(&energy[0], &energy[1], sizeof energy[0]);
            assert_memory_equal(virial[0], virial[1], sizeof virial[0]);
            assert_memory_equal(forces[0], forces[1], n * sizeof(double));
            assert_memory_equal(atom_energy[0], atom_energy[1], (size_t)d.n_local * sizeof(double));
            assert_memory_equal(atom_virial[0], atom_virial[1], 3 * n * sizeof(double));
            for (int which = 0; which < 2; which++)
                free(forces[which]), free(atom_energy[which]), free(atom_virial[which]);
        }
        mlff_evaluator_free(lasting);
        free(start);
        free_domain(&d);
    }
}

static void a_lasting_evaluator_gives_the_bits_of_a_new_one(void **unused)
{
    (void)unused;
    assert_true(for_every_reference(check_repeats) > 20);
}

static void a_failed_evaluation_leaves_no_trace(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    domain d = make_domain(&r, NULL, 0, reach_of(&r));
    mlff_neighbour_list list = list_of(&d, 1, 1);
    const mlff_input input = {
        .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
    double *forces[2] = {allocate(3 * (size_t)d.n_all * sizeof(double)),
                         allocate(3 * (size_t)d.n_all * sizeof(double))};
    mlff_output output = {.forces = forces[0]};
    mlff_evaluator *e = new_evaluator(&r, MLFF_PRECISION_DOUBLE);
    mlff_error error;
    double *moved = d.x + 3 * (d.firstneigh[0][0] & MASK), bad[3] = {NAN, 0, 0};
    for (int step = 0; step < 6;
         step++) { /* every other one fails: atoms at the same place, a bad number, the same place */
        const double kept[3] = {moved[0], moved[1], moved[2]};
        if (step % 2 == 0) memcpy(moved, step == 2 ? bad : d.x, sizeof bad);
        output.forces = forces[step == 5];
        const mlff_status status = mlff_evaluate(e, &input, &output, &error);
        assert_int_equal(status, step % 2 == 0 ? MLFF_ERROR_NUMERICS : MLFF_OK);
        if (step % 2 == 0) assert_non_null(strstr(error.message, "atom index"));
        memcpy(moved, kept, sizeof kept);
        list.rebuilt = 0;
    }
    assert_memory_equal(forces[0], forces[1], 3 * (size_t)d.n_all * sizeof(double));
    mlff_evaluator_free(e);
    free(forces[0]), free(forces[1]);
    free_domain(&d);
    reference_free(&r);
}

static void sizes_that_wander_allocate_nothing_after_the_largest(void **unused)
{
    (void)unused;
    const char *names[] = {"ortho", "molecule", "isolated", "triclinic", "one_atom"};
    size_t held = 0;
    reference r[5];
    for (int k = 0; k < 5; k++) reference_load(&r[k], "gaussian_ev", names[k]);
    mlff_evaluator *e = new_evaluator(&r[0], MLFF_PRECISION_SINGLE);
    for (int round = 0; round < 6; round++) {
        for (int k = 0; k < 5; k++) {
            domain d = make_domain(&r[k], NULL, 0, reach_of(&r[k]));
            double *forces = allocate(3 * (size_t)d.n_all * sizeof *forces);
            for (int step = 0; step < 3; step++) {
                mlff_neighbour_list list = list_of(&d, step == 0, 1);
                const mlff_input input = {
                    .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
                mlff_output output = {.forces = forces};
                assert_int_equal(mlff_evaluate(e, &input, &output, NULL), MLFF_OK);
            }
            free(forces);
            free_domain(&d);
        }
        if (round == 0) held = mlff_evaluator_get_memory(e);
        assert_int_equal(mlff_evaluator_get_memory(e), held);
    }
    mlff_evaluator_free(e);
    for (int k = 0; k < 5; k++) reference_free(&r[k]);
}

static void atoms_left_out_are_as_if_they_were_not_there(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    const size_t n = (size_t)r.n;
    int32_t *species = allocate(n * sizeof *species), kept = 0;
    reference smaller = r;
    smaller.x = allocate(3 * n * sizeof(double));
    smaller.species = allocate(n * sizeof(int32_t));
    for (int32_t i = 0; i < r.n; i++) {
        species[i] = i % 3 == 1 ? -1 : r.species[i];
        if (species[i] < 0) continue;
        memcpy(smaller.x + 3 * kept, r.x + 3 * i, 3 * sizeof(double));
        smaller.species[kept++] = species[i];
    }
    result all, few;
    evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, r.n, r.x, species, r.cell, r.periodic, &all);
    evaluate_structure(r.model, MLFF_PRECISION_DOUBLE, 1, kept, smaller.x, smaller.species, r.cell, r.periodic, &few);
    assert_at_most("left out", "energy", fabs(all.energy - few.energy), 1e-12 * fabs(few.energy));
    for (int32_t i = 0, k = 0; i < r.n; i++) {
        const double none[3] = {0, 0, 0};
        const double *expected = species[i] < 0 ? none : few.forces + 3 * k++;
        assert_at_most("left out", "force", largest_difference(all.forces + 3 * i, expected, 3), 1e-12);
        if (species[i] < 0) assert_true(all.atom_energy[i] == 0);
    }
    result_free(&all);
    result_free(&few);
    free(species), free(smaller.x), free(smaller.species);
    reference_free(&r);
}

/* -------------------------------------------------------------------------------------------- several ranks */

enum { MAX_RANKS = 3, EVALUATIONS = 3 };

typedef struct world {
    const reference *r;
    int n_ranks, exchanges, rank_of[64];
    domain domain[MAX_RANKS];
    pthread_barrier_t barrier;
    const void *sent[MAX_RANKS];
    int32_t send[MAX_RANKS][64], n_send[MAX_RANKS];        /* owned atoms that another rank has as ghosts */
    int32_t receives[MAX_RANKS][64], n_receive[MAX_RANKS]; /* atoms of the whole system */
    int32_t *source[MAX_RANKS];                            /* of the ghosts */
    int status[MAX_RANKS];
    mlff_status result[MAX_RANKS];
    mlff_precision precision;
    mlff_error error[MAX_RANKS];
    double energy[MAX_RANKS], virial[MAX_RANKS][9], *forces[MAX_RANKS];
} world;

typedef struct member {
    world *w;
    int rank;
} member;

/* A place among the received rows is an atom of the whole system; the row is that of the rank that owns it. */
static int exchange_rows(void *context, const void *sent, void *received, int width, int real_bytes)
{
    const member *m = context;
    world *w = m->w;
    w->sent[m->rank] = sent;
    pthread_barrier_wait(&w->barrier);
    const size_t bytes = (size_t)width * (size_t)real_bytes;
    for (int32_t k = 0; k < w->n_receive[m->rank]; k++) {
        const int32_t atom = w->receives[m->rank][k];
        const int from = w->rank_of[atom];
        int32_t place = 0;
        while (w->domain[from].global[w->send[from][place]] != atom) place++;
        memcpy((char *)received + bytes * (size_t)k, (const char *)w->sent[from] + bytes * (size_t)place, bytes);
    }
    pthread_barrier_wait(&w->barrier);
    if (m->rank == 0) w->exchanges++;
    return 0;
}

static int agree_on(void *context, int status)
{
    const member *m = context;
    m->w->status[m->rank] = status;
    pthread_barrier_wait(&m->w->barrier);
    int worst = 0;
    for (int k = 0; k < m->w->n_ranks; k++)
        if (m->w->status[k] > worst) worst = m->w->status[k];
    pthread_barrier_wait(&m->w->barrier);
    return worst;
}

static void *run_rank(void *argument)
{
    member *m = argument;
    world *w = m->w;
    domain *d = &w->domain[m->rank];
    const mlff_halo halo = {.context = m,
                            .forward = exchange_rows,
                            .agree = agree_on,
                            .n_send = w->n_send[m->rank],
                            .send = w->send[m->rank],
                            .n_receive = w->n_receive[m->rank],
                            .source = w->source[m->rank]};
    mlff_neighbour_list list = list_of(d, 1, 0);
    const mlff_input input = {
        .n_local = d->n_local, .n_all = d->n_all, .x = d->x, .species = d->species, .neighbours = &list, .halo = &halo};
    mlff_output output = {.energy = &w->energy[m->rank], .forces = w->forces[m->rank], .virial = w->virial[m->rank]};
    const mlff_options options = {.device = test_device, .precision = w->precision, .threads = 1};
    mlff_evaluator *e = NULL;
    w->result[m->rank] = mlff_evaluator_create(w->r->model, &options, &e, &w->error[m->rank]);
    for (int step = 0; step < EVALUATIONS && e; step++) {
        /* once one rank alone has a list that was rebuilt */
        list.rebuilt = step == 0 || (step == 1 && m->rank == 0);
        w->result[m->rank] = mlff_evaluate(e, &input, &output, &w->error[m->rank]);
        if (w->result[m->rank] != MLFF_OK) break;
    }
    mlff_evaluator_free(e);
    return NULL;
}

/* Ghosts of this rank's own atoms do not travel, those of another rank's atom share one row. The atoms that this rank
 * sends stand in falling order, and one of them twice: nothing may rest on their order. */
static void plan_rank(world *w, int rank)
{
    const domain *d = &w->domain[rank];
    w->source[rank] = allocate((size_t)(d->n_all + 1) * sizeof(int32_t));
    for (int32_t i = d->n_local; i < d->n_all; i++) {
        int32_t k = 0;
        while (k < w->n_receive[rank] && w->receives[rank][k] != d->global[i]) k++;
        w->source[rank][i] = d->owner[i] >= 0 ? -1 - d->owner[i] : k;
        if (d->owner[i] < 0 && k == w->n_receive[rank]) w->receives[rank][w->n_receive[rank]++] = d->global[i];
    }
    for (int32_t i = d->n_local - 1; i >= 0; i--) w->send[rank][w->n_send[rank]++] = i;
    if (d->n_local > 0) w->send[rank][w->n_send[rank]++] = 0;
}

static void open_world(world *w, const reference *r, int n_ranks)
{
    memset(w, 0, sizeof *w);
    w->r = r;
    w->n_ranks = n_ranks;
    w->precision = MLFF_PRECISION_DOUBLE;
    assert_true(r->n <= 64);
    for (int32_t i = 0; i < r->n; i++) w->rank_of[i] = i % 2; /* of three ranks the last owns nothing */
    for (int k = 0; k < n_ranks; k++) {
        w->domain[k] = make_domain(r, w->rank_of, k, reach_of(r));
        w->forces[k] = allocate(3 * (size_t)(w->domain[k].n_all + 1) * sizeof(double));
    }
    for (int k = 0; k < n_ranks; k++) plan_rank(w, k);
    pthread_barrier_init(&w->barrier, NULL, (unsigned)n_ranks);
}

static void run_world(world *w)
{
    pthread_t threads[MAX_RANKS];
    member members[MAX_RANKS];
    for (int k = 0; k < w->n_ranks; k++) {
        members[k] = (member){w, k};
        assert_int_equal(pthread_create(&threads[k], NULL, run_rank, &members[k]), 0);
    }
    for (int k = 0; k < w->n_ranks; k++) pthread_join(threads[k], NULL);
}

static void close_world(world *w)
{
    pthread_barrier_destroy(&w->barrier);
    for (int k = 0; k < w->n_ranks; k++) {
        free(w->forces[k]);
        free(w->source[k]);
        free_domain(&w->domain[k]);
    }
}

static void check_ranks(const reference *r)
{
    const int L = mlff_model_get_info(r->model)->interactions;
    for (int n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks++)
        for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_SINGLE; p++) {
            world w;
            open_world(&w, r, n_ranks);
            w.precision = p;
            run_world(&w);
            double *forces = allocate(3 * (size_t)r->n * sizeof *forces), virial[9] = {0}, energy = 0;
            for (int k = 0; k < n_ranks; k++) {
                if (w.result[k] != MLFF_OK) fail_msg("%s: rank %d: %s", r->name, k, w.error[k].message);
                energy += w.energy[k];
                for (int q = 0; q < 9; q++) virial[q] += w.virial[k][q];
                for (int32_t i = 0; i < w.domain[k].n_all; i++) /* the engine's reverse exchange */
                    for (int a = 0; a < 3; a++) forces[3 * w.domain[k].global[i] + a] += w.forces[k][3 * i + a];
            }
            assert_int_equal(w.exchanges, EVALUATIONS * 2 * (L - 1));
            const size_t n = 3 * (size_t)r->n;
            if (p == MLFF_PRECISION_DOUBLE) {
                assert_at_most(r->name, "energy error, eV", fabs(energy - r->energy), 1e-8 * r->n);
                assert_at_most(r->name, "relative force error",
                               largest_difference(forces, r->forces, n) / fmax(1e-3, largest(r->forces, n)), 1e-9);
                assert_at_most(r->name, "relative virial error",
                               largest_difference(virial, r->virial, 9) / fmax(1e-3, largest(r->virial, 9)), 1e-9);
            } else if (rms(r->forces, n) > 1e-6) {
                assert_at_most(r->name, "RMS relative force error in single",
                               rms_difference(forces, r->forces, n) / rms(r->forces, n), 3e-6);
            }
            free(forces);
            close_world(&w);
        }
}

static void any_number_of_ranks_gives_the_reference_by_exchange(void **unused)
{
    (void)unused;
    assert_true(for_every_reference(check_ranks) > 20);
}

static void a_rank_that_fails_stops_all_ranks(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    world w;
    open_world(&w, &r, 3);
    w.domain[1].x[4] = NAN;
    run_world(&w);
    assert_int_equal(w.result[1], MLFF_ERROR_NUMERICS);
    assert_non_null(strstr(w.error[1].message, "atom index 1"));
    assert_int_equal(w.result[0], MLFF_ERROR_ELSEWHERE);
    assert_int_equal(w.result[2], MLFF_ERROR_ELSEWHERE);
    assert_int_equal(w.exchanges, 0);
    close_world(&w);
    reference_free(&r);
}

static void a_search_below_the_cutoff_is_refused(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "ortho");
    domain d = make_domain(&r, NULL, 0, reach_of(&r));
    const double bad[3] = {3.0, NAN, -7.0};
    for (int k = 0; k < 3; k++) {
        const mlff_neighbour_list list = {.rebuilt = 1, .owner = d.owner, .reach = bad[k]};
        const mlff_input input = {
            .n_local = d.n_local, .n_all = d.n_all, .x = d.x, .species = d.species, .neighbours = &list};
        double energy;
        mlff_output output = {.energy = &energy};
        mlff_evaluator *e = new_evaluator(&r, MLFF_PRECISION_DOUBLE);
        mlff_error error;
        assert_int_equal(mlff_evaluate(e, &input, &output, &error), MLFF_ERROR_ARGUMENT);
        assert_non_null(strstr(error.message, "expected the model's cutoff, 5"));
        mlff_evaluator_free(e);
    }
    free_domain(&d);
    reference_free(&r);
}

#define BY_SEARCH(test)                                                                                                \
    {                                                                                                                  \
#test " (library searches)", test, let_the_library_search, use_the_engines_list, NULL                          \
    }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ghosts_folded_onto_owners_give_the_reference),
        cmocka_unit_test(positions_may_move_within_the_skin_between_rebuilds),
        cmocka_unit_test(a_steady_run_allocates_nothing),
        cmocka_unit_test(a_lasting_evaluator_gives_the_bits_of_a_new_one),
        cmocka_unit_test(a_failed_evaluation_leaves_no_trace),
        cmocka_unit_test(sizes_that_wander_allocate_nothing_after_the_largest),
        cmocka_unit_test(atoms_left_out_are_as_if_they_were_not_there),
        cmocka_unit_test(any_number_of_ranks_gives_the_reference_by_exchange),
        cmocka_unit_test(a_rank_that_fails_stops_all_ranks),
        BY_SEARCH(ghosts_folded_onto_owners_give_the_reference),
        BY_SEARCH(positions_may_move_within_the_skin_between_rebuilds),
        BY_SEARCH(a_steady_run_allocates_nothing),
        BY_SEARCH(any_number_of_ranks_gives_the_reference_by_exchange),
        BY_SEARCH(a_rank_that_fails_stops_all_ranks),
        cmocka_unit_test(a_search_below_the_cutoff_is_refused),
    };
    return RUN_ON_DEVICE(argc, argv, "engine input", tests);
}
