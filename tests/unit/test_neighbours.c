/* SPDX-License-Identifier: MIT */
/* Graphs of plain structures against all pairs and all images. */
#include "device_search.h"
#include "graph_checks.h"
#include "support.h"

enum { ELEMENTS = 3 };
#define CUTOFF 5.0

/* A batch as the library is given it. */
typedef struct batch {
    int32_t n_structures, n_atoms;
    int32_t *first_atom, *species, *periodic;
    double *x, *cell;
} batch;

static const int32_t all_periodic[3] = {1, 1, 1};
static const int32_t none_periodic[3] = {0, 0, 0};
static const double cube_12[9] = {12, 0, 0, 0, 12, 0, 0, 0, 12};

static void batch_begin(batch *b)
{
    memset(b, 0, sizeof *b);
    b->first_atom = calloc(1, sizeof(int32_t));
}

/* Adds n atoms at lattice coordinates in [low, high), every seventh left out if `leave_out`. */
static void batch_add(batch *b, int32_t n, const double *cell, const int32_t *periodic, double low, double high,
                      int leave_out, uint64_t seed)
{
    const size_t total = (size_t)(b->n_atoms + n), s = (size_t)b->n_structures;
    b->x = realloc(b->x, (total ? total : 1) * 3 * sizeof(double));
    b->species = realloc(b->species, (total ? total : 1) * sizeof(int32_t));
    b->first_atom = realloc(b->first_atom, (s + 2) * sizeof(int32_t));
    b->cell = realloc(b->cell, (s + 1) * 9 * sizeof(double));
    b->periodic = realloc(b->periodic, (s + 1) * 3 * sizeof(int32_t));
    memcpy(b->cell + 9 * s, cell, 9 * sizeof(double));
    memcpy(b->periodic + 3 * s, periodic, 3 * sizeof(int32_t));
    for (int32_t i = b->n_atoms; i < b->n_atoms + n; ++i) {
        double u[3];
        for (int d = 0; d < 3; ++d) u[d] = low + (high - low) * uniform(&seed);
        for (int c = 0; c < 3; ++c) b->x[3 * i + c] = u[0] * cell[c] + u[1] * cell[3 + c] + u[2] * cell[6 + c];
        b->species[i] = leave_out && i % 7 == 3 ? -1 : i % ELEMENTS;
    }
    b->n_atoms += n;
    b->first_atom[++b->n_structures] = b->n_atoms;
}

static void batch_free(batch *b)
{
    free(b->first_atom);
    free(b->species);
    free(b->periodic);
    free(b->x);
    free(b->cell);
}

static mlff_status build(mlff_graph *graph, const batch *b, double cutoff, int threads, mlff_error *error)
{
    mlff_structures structures = {b->n_structures, b->first_atom, b->cell, b->periodic};
    mlff_input input = {.n_local = b->n_atoms, .n_all = b->n_atoms, .x = b->x, .species = b->species};
    input.structures = &structures;
    error->message[0] = 0;
    return graph_from_structures(graph, &input, ELEMENTS, cutoff, threads, error);
}

static void build_well(mlff_graph *graph, const batch *b, double cutoff, int threads)
{
    mlff_error error;
    mlff_status status = build(graph, b, cutoff, threads, &error);
    CHECK(status == MLFF_OK, "refused: %s", error.message);
    check_graph(graph);
}

/* Edges of a graph, whole cells recovered from the shifts, which have to be whole. */
static void collect_edges(edges *found, const mlff_graph *g, const batch *b)
{
    for (int32_t row = 0; row < g->n_owned; ++row) {
        const int32_t s = g->structure_of_row[row];
        const double *cell = b->cell + 9 * s;
        double inverse[3][3];
        reference_inverse(cell, b->periodic + 3 * s, inverse);
        for (int64_t slot = g->first[row]; slot < g->first[row + 1]; ++slot) {
            const double *shift = g->shift + 3 * slot;
            edge e = {g->atom_of_row[row], g->neighbour_atom[slot], {0, 0, 0}};
            double whole[3] = {0.0, 0.0, 0.0}, size = 1.0;
            for (int d = 0; d < 3; ++d) {
                double t = shift[0] * inverse[0][d] + shift[1] * inverse[1][d] + shift[2] * inverse[2][d];
                e.cells[d] = llround(t);
                if (!b->periodic[3 * s + d]) assert_int_equal(e.cells[d], 0);
                for (int c = 0; c < 3 && e.cells[d] != 0; ++c) {
                    whole[c] += (double)e.cells[d] * cell[3 * d + c];
                    size = fmax(size, fabs((double)e.cells[d] * cell[3 * d + c]));
                }
            }
            for (int c = 0; c < 3; ++c) assert_true(fabs(whole[c] - shift[c]) <= 1e-15 * size * 4);
            assert_int_equal(g->structure_of_row[g->neighbour_row[slot]], s);
            add_edge(found, e);
        }
    }
}

static void check_against_reference(const batch *b, double cutoff, const char *what)
{
    mlff_graph graph = {0};
    edges found = {0}, expected = {0};
    build_well(&graph, b, cutoff, 1);
    int32_t taking_part = 0;
    for (int32_t i = 0; i < b->n_atoms; ++i) {
        taking_part += b->species[i] >= 0;
        if (b->species[i] < 0) assert_int_equal(graph.row_of_atom[i], -1);
    }
    assert_int_equal(graph.n_owned, taking_part);
    assert_int_equal(graph.n_rows, taking_part);
    for (int32_t row = 0; row < graph.n_rows; ++row)
        assert_int_equal(graph.species[row], b->species[graph.atom_of_row[row]]);
    collect_edges(&found, &graph, b);
    for (int32_t s = 0; s < b->n_structures; ++s) {
        add_reference_edges(&expected, b->x, b->species, b->first_atom[s], b->first_atom[s + 1], b->cell + 9 * s,
                            b->periodic + 3 * s, cutoff);
    }
    check_same_edges(&found, &expected, what);
    free(found.edge);
    free(expected.edge);
    mlff_graph_free(&graph);
}

static void check_structure(int32_t n, const double *cell, const int32_t *periodic, double low, double high,
                            const char *what)
{
    for (uint64_t seed = 1; seed <= 3; ++seed) {
        batch b;
        batch_begin(&b);
        batch_add(&b, n, cell, periodic, low, high, seed == 2, seed);
        check_against_reference(&b, CUTOFF, what);
        batch_free(&b);
    }
}

/* ------------------------------------------------------------------------------------------ any cell */

static void orthogonal_cells_have_every_pair(void **state)
{
    (void)state;
    check_structure(150, cube_12, all_periodic, 0, 1, "cube of 12");
    check_structure(400, (double[]){31, 0, 0, 0, 17.3, 0, 0, 0, 10.01}, all_periodic, 0, 1, "box of 31 x 17 x 10");
}

static void triclinic_cells_have_every_pair(void **state)
{
    (void)state;
    check_structure(150, (double[]){12, 0, 0, 5.5, 11, 0, -4, 3, 13}, all_periodic, 0, 1, "triclinic");
    check_structure(250, (double[]){20, 1, -3, 11, 16, 2, -9, 7, 15}, all_periodic, 0, 1, "rotated triclinic");
    check_structure(60, (double[]){9, 0, 0, 80, 8, 0, -50, 30, 10}, all_periodic, 0, 1, "strongly tilted");
    check_structure(30, (double[]){0, 7, 7, 7, 0, 7, 7, 7, 0}, all_periodic, 0, 1, "face-centred primitive");
}

static void left_handed_cells_have_every_pair(void **state)
{
    (void)state;
    check_structure(150, (double[]){0, 12, 0, 12, 0, 0, 0, 0, 12}, all_periodic, 0, 1, "left-handed cube");
    check_structure(120, (double[]){3, 11, 1, 12, -2, 0, 4, 2, 13}, all_periodic, 0, 1, "left-handed triclinic");
    check_structure(20, (double[]){6, 0, 0, 0, 6, 0, 1, 0, -6}, all_periodic, 0, 1, "negative third vector");
}

static void cells_shorter_than_the_cutoff_have_all_images(void **state)
{
    (void)state;
    check_structure(1, (double[]){2, 0, 0, 0, 2, 0, 0, 0, 2}, all_periodic, 0, 1, "one atom in a cube of 2");
    check_structure(2, (double[]){2, 0, 0, 0.7, 2.1, 0, -0.6, 0.8, 1.9}, all_periodic, 0, 1, "two in triclinic 2");
    check_structure(5, (double[]){2, 0, 0, 0, 30, 0, 0, 0, 4}, all_periodic, 0, 1, "2 x 30 x 4");
    check_structure(40, (double[]){4.9, 0, 0, 0, 5.1, 0, 0, 0, 10}, all_periodic, 0, 1, "about the cutoff");
    check_structure(3, (double[]){1.3, 0, 0, 0, -1.2, 0, 0.4, 0, 1.1}, all_periodic, -4, 5, "a very dense one");
}

static void slabs_and_wires_have_images_only_where_periodic(void **state)
{
    (void)state;
    const double cell[9] = {11, 1, 0, -3, 9, 0, 2, 2, 14};
    for (int mask = 1; mask < 7; ++mask) {
        const int32_t periodic[3] = {mask & 1, mask >> 1 & 1, mask >> 2 & 1};
        check_structure(120, cell, periodic, 0, 1, "slab or wire");
        check_structure(60, cell, periodic, -3, 3, "slab or wire, atoms outside");
        check_structure(4, (double[]){2, 0, 1, 0, 2, 0, 0.5, 0, 3}, periodic, 0, 1, "thin slab or wire");
    }
    check_structure(2, (double[]){0, 0, 2, 0, 0, 0, 0, 0, 0}, (int32_t[]){1, 0, 0}, 0, 1, "wire along z");
}

/* What stands in a direction that is not periodic plays no part: zero, parallel to another one, or long. */
static void vectors_that_are_not_periodic_play_no_part(void **state)
{
    (void)state;
    const double third[4][3] = {{0, 0, 0}, {12, 0, 0}, {1e9, 2, -3}, {0, 0, 15}};
    batch b;
    batch_begin(&b);
    batch_add(&b, 100, (double[]){12, 0, 0, 3, 11, 0, 0, 0, 15}, (int32_t[]){1, 1, 0}, 0, 1, 0, 4);
    for (int k = 0; k < 4; ++k) {
        memcpy(b.cell + 6, third[k], sizeof third[k]);
        check_against_reference(&b, CUTOFF, "slab with another third vector");
    }
    batch_free(&b);
}

static void molecules_need_no_cell(void **state)
{
    (void)state;
    check_structure(200, (double[]){25, 0, 0, 0, 25, 0, 0, 0, 25}, none_periodic, -0.5, 0.5, "molecule");
    check_structure(30, (double[]){25, 0, 0, 0, 0, 0, 0, 0, 0}, none_periodic, 0, 1, "atoms on a line");

    batch b;
    batch_begin(&b);
    batch_add(&b, 80, cube_12, none_periodic, 0, 1, 0, 5);
    mlff_graph with_cell = {0}, without = {0};
    build_well(&with_cell, &b, CUTOFF, 1);
    double *cell = b.cell;
    int32_t *periodic = b.periodic;
    b.cell = NULL;
    b.periodic = NULL;
    build_well(&without, &b, CUTOFF, 1);
    assert_true(without.n_slots > 80);
    assert_int_equal(without.n_slots, with_cell.n_slots);
    assert_memory_equal(without.neighbour_atom, with_cell.neighbour_atom, (size_t)without.n_slots * sizeof(int32_t));
    b.cell = cell;
    b.periodic = periodic;
    mlff_graph_free(&with_cell);
    mlff_graph_free(&without);
    batch_free(&b);
}

static void atoms_outside_of_the_cell_are_found(void **state)
{
    (void)state;
    check_structure(150, cube_12, all_periodic, -7, 9, "cube, atoms up to 9 cells outside");
    check_structure(80, (double[]){9, 0, 0, 4, 8, 0, -3, 2, 10}, all_periodic, -1000, 1000, "1000 cells outside");
}

/* Pairs that only the second bin, or image, has are rare, so many atoms stand on a line across them. */
static void lengths_just_below_a_multiple_of_the_cutoff_miss_nothing(void **state)
{
    (void)state;
    const double lengths[3] = {4.9, 9.8, 19.6};
    for (int k = 0; k < 9; ++k) {
        const double a = lengths[k / 3];
        const int along = k % 3;
        batch b;
        batch_begin(&b);
        batch_add(&b, 200, (double[]){a, 0, 0, 0, a, 0, 0, 0, a}, all_periodic, 0, 1, 0, 32);
        for (int32_t i = 0; i < 200; ++i) {
            for (int c = 0; c < 3; ++c) b.x[3 * i + c] = c == along ? a * i / 200 : 0.0;
        }
        check_against_reference(&b, CUTOFF, "line, periodic");
        b.periodic[along] = 0;
        check_against_reference(&b, CUTOFF, "line, not periodic");
        batch_free(&b);
    }
}

static void a_sparse_gas_and_an_uneven_one_have_every_pair(void **state)
{
    (void)state;
    const double wide[9] = {900, 0, 0, 0, 800, 0, 0, 0, 1000};
    check_structure(300, wide, all_periodic, 0, 1, "gas");
    batch b;
    batch_begin(&b);
    batch_add(&b, 300, wide, all_periodic, 0, 0.02, 0, 6);
    check_against_reference(&b, CUTOFF, "droplet in a corner");
    for (int32_t i = 0; i < 150; ++i) b.x[3 * i] -= 10.0;
    check_against_reference(&b, CUTOFF, "droplet across a face");
    batch_free(&b);
}

/* ------------------------------------------------------------------------------------------ distances */

static void a_pair_at_exactly_the_cutoff_is_left_out(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 1, (double[]){2.5, 0, 0, 0, 2.5, 0, 0, 0, 2.5}, all_periodic, 0, 1, 0, 7);
    check_against_reference(&b, CUTOFF, "simple cubic");
    mlff_graph graph = {0};
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_slots, 6 + 12 + 8); /* at 2.5 times the roots of 1, 2 and 3; six more at 5 */
    build_well(&graph, &b, nextafter(CUTOFF, 6.0), 1);
    assert_int_equal(graph.n_slots, 6 + 12 + 8 + 6);
    mlff_graph_free(&graph);
    batch_free(&b);

    batch_begin(&b);
    batch_add(&b, 2, cube_12, none_periodic, 0, 1, 0, 7);
    memcpy(b.x, (double[]){1, 2, 3, 1, 7, 3}, 6 * sizeof(double));
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_slots, 0);
    b.x[4] = nextafter(7.0, 0.0);
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_slots, 2);
    mlff_graph_free(&graph);
    batch_free(&b);
}

/* Perfect crystals put whole shells at the cutoff; whatever rounding says, both ends must say the same. */
static void every_edge_has_its_way_back(void **state)
{
    (void)state;
    for (int k = 0; k < 6; ++k) {
        const double a = 5.0 / (k + 1) * (k % 2 ? 1.0 : sqrt(2.0));
        batch b;
        batch_begin(&b);
        batch_add(&b, 8, (double[]){a, 0.1 * a, 0, 0, a, 0, 0, 0.3 * a, a}, all_periodic, 0, 1, 0, 8);
        for (int32_t i = 0; i < 8; ++i) { /* the corners of a half-sized cell, in far cells, at no round numbers */
            for (int c = 0; c < 3; ++c) {
                double corner = 0.5 * (i >> c & 1);
                b.x[3 * i + c] = 0.1 + corner * (b.cell[c] + b.cell[3 + c] + b.cell[6 + c]) + 17.0 * i * b.cell[c];
            }
        }
        mlff_graph graph = {0};
        edges there = {0}, back = {0};
        build_well(&graph, &b, CUTOFF, 1);
        collect_edges(&there, &graph, &b);
        for (size_t e = 0; e < there.n; ++e) {
            const edge *t = &there.edge[e];
            add_edge(&back, (edge){t->j, t->i, {-t->cells[0], -t->cells[1], -t->cells[2]}});
        }
        assert_true(there.n > 0);
        check_same_edges(&back, &there, "way back");
        free(there.edge);
        free(back.edge);
        mlff_graph_free(&graph);
        batch_free(&b);
    }
}

static void atoms_at_one_place_are_neighbours_but_none_is_its_own(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 3, (double[]){40, 0, 0, 0, 40, 0, 0, 0, 40}, all_periodic, 0.25, 0.25, 0, 9);
    mlff_graph graph = {0};
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_slots, 6);
    for (int64_t slot = 0; slot < 6; ++slot) assert_int_not_equal(graph.neighbour_row[slot], slot / 2);
    mlff_graph_free(&graph);
    batch_free(&b);
}

static void far_away_molecules_keep_their_neighbours(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 60, cube_12, none_periodic, 0, 1, 0, 10);
    for (int32_t k = 0; k < 3 * 60; ++k)
        b.x[k] = round(b.x[k] * 1024.0) / 1024.0; /* so that the move below rounds nothing */
    mlff_graph near = {0}, far = {0};
    build_well(&near, &b, CUTOFF, 1);
    for (int32_t k = 0; k < 60; ++k) b.x[3 * k] += 0x1p36;
    build_well(&far, &b, CUTOFF, 1);
    assert_true(near.n_slots > 100);
    assert_int_equal(far.n_slots, near.n_slots);
    for (int32_t row = 0; row < 60; ++row) assert_int_equal(far.first[row], near.first[row]);
    check_against_reference(&b, CUTOFF, "far away");
    mlff_graph_free(&near);
    mlff_graph_free(&far);
    batch_free(&b);
}

/* ------------------------------------------------------------------------------------------ batches */

static void batches_of_all_kinds_have_every_pair(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 0, cube_12, all_periodic, 0, 1, 0, 1);
    batch_add(&b, 90, cube_12, all_periodic, -1, 2, 1, 11);
    batch_add(&b, 1, cube_12, none_periodic, 0, 1, 0, 12);
    batch_add(&b, 0, cube_12, none_periodic, 0, 1, 0, 1);
    batch_add(&b, 50, (double[]){2, 0, 0, 0, 20, 0, 3, 0, 9}, (int32_t[]){1, 0, 1}, 0, 1, 1, 13);
    batch_add(&b, 1, (double[]){2, 0, 0, 0, 2, 0, 0, 0, 2}, all_periodic, 0, 1, 0, 14);
    batch_add(&b, 40, (double[]){0, 12, 0, 12, 0, 0, 0, 0, 12}, none_periodic, 0, 1, 0, 15);
    batch_add(&b, 0, cube_12, all_periodic, 0, 1, 0, 1);
    check_against_reference(&b, CUTOFF, "batch");
    for (int32_t i = b.first_atom[1]; i < b.first_atom[3]; ++i) b.species[i] = -1;
    check_against_reference(&b, CUTOFF, "batch with structures left out whole");
    batch_free(&b);
}

static void nothing_at_all_is_a_graph(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    mlff_graph graph = {0};
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_structures, 0);
    batch_add(&b, 0, cube_12, all_periodic, 0, 1, 0, 1);
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_structures, 1);
    assert_int_equal(graph.n_rows, 0);
    batch_add(&b, 1, cube_12, all_periodic, 0, 1, 0, 1);
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_rows, 1);
    assert_int_equal(graph.n_slots, 0);
    mlff_graph_free(&graph);
    mlff_graph_free(NULL);
    batch_free(&b);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 700, (double[]){20, 0, 0, 6, 19, 0, -5, 3, 21}, all_periodic, -2, 2, 1, 16);
    batch_add(&b, 300, cube_12, none_periodic, 0, 1, 0, 17);
    mlff_graph one = {0};
    build_well(&one, &b, CUTOFF, 1);
    for (int threads = 0; threads <= 5; ++threads) {
        mlff_graph many = {0};
        build_well(&many, &b, CUTOFF, threads);
        const size_t slots = (size_t)one.n_slots, rows = (size_t)one.n_rows;
        assert_int_equal(many.n_slots, one.n_slots);
        assert_int_equal(many.n_rows, one.n_rows);
        assert_memory_equal(many.first, one.first, (rows + 1) * sizeof(int64_t));
        assert_memory_equal(many.neighbour_row, one.neighbour_row, slots * sizeof(int32_t));
        assert_memory_equal(many.neighbour_atom, one.neighbour_atom, slots * sizeof(int32_t));
        assert_memory_equal(many.shift, one.shift, slots * 3 * sizeof(double));
        assert_memory_equal(many.incoming_first, one.incoming_first, (rows + 1) * sizeof(int64_t));
        assert_memory_equal(many.incoming, one.incoming, slots * sizeof(int64_t));
        mlff_graph_free(&many);
    }
    mlff_graph_free(&one);
    batch_free(&b);
}

static void a_steady_state_allocates_nothing(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 200, cube_12, all_periodic, 0, 1, 0, 18);
    mlff_graph graph = {0};
    build_well(&graph, &b, CUTOFF, 1);
    const mlff_graph before = graph;
    for (int step = 0; step < 5; ++step) {
        build_well(&graph, &b, CUTOFF - 0.1 * step, 1);
        assert_ptr_equal(graph.shift, before.shift);
        assert_ptr_equal(graph.incoming, before.incoming);
        assert_ptr_equal(graph.first, before.first);
        assert_ptr_equal(graph.scratch, before.scratch);
        assert_int_equal(graph.capacity_slots, before.capacity_slots);
    }
    mlff_graph_free(&graph);
    batch_free(&b);
}

static void a_huge_sparse_box_costs_no_memory(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 50, (double[]){1e10, 0, 0, 0, 1e10, 0, 0, 0, 1e10}, all_periodic, 0, 1, 0, 19);
    batch_add(&b, 50, (double[]){1e11, 0, 0, 0, 1e11, 0, 0, 0, 1e11}, none_periodic, 0, 1, 0, 20);
    for (int c = 0; c < 3; ++c) b.x[3 * 60 + c] = b.x[3 * 90 + c] + 1.0;
    mlff_graph graph = {0};
    build_well(&graph, &b, CUTOFF, 1);
    assert_int_equal(graph.n_slots, 2);
    assert_true(graph.capacity_scratch < 100 * 1000);
    mlff_graph_free(&graph);
    batch_free(&b);
}

/* ------------------------------------------------------------------------------------------ refusals */

static void expect_refusal(const batch *b, mlff_status expected, const char *part)
{
    mlff_graph graph = {0};
    mlff_error error;
    mlff_status status = build(&graph, b, CUTOFF, 2, &error);
    expect_graph_refusal(status, &error, &graph, expected, part);

    batch good; /* the same graph works after the refusal */
    batch_begin(&good);
    batch_add(&good, 20, cube_12, all_periodic, 0, 1, 0, 21);
    build_well(&graph, &good, CUTOFF, 1);
    assert_true(graph.n_slots > 0);
    batch_free(&good);
    mlff_graph_free(&graph);
}

static void positions_that_are_not_finite_are_refused_with_the_atom(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 4, cube_12, none_periodic, 0, 1, 0, 22);
    batch_add(&b, 10, cube_12, all_periodic, 0, 1, 0, 23);
    const double bad[4] = {NAN, INFINITY, -INFINITY, 1e13};
    for (int k = 0; k < 4; ++k) {
        const double before = b.x[3 * 7 + k % 3];
        b.x[3 * 7 + k % 3] = bad[k];
        b.x[3 * 11 + 2] = NAN;
        expect_refusal(&b, MLFF_ERROR_NUMERICS, "atom index 7:");
        b.x[3 * 7 + k % 3] = before;
    }
    expect_refusal(&b, MLFF_ERROR_NUMERICS, "atom index 11:");
    b.species[11] = -1; /* not seen at all */
    check_against_reference(&(batch){1, 4, b.first_atom, b.species, b.periodic, b.x, b.cell}, CUTOFF, "first");
    mlff_graph graph = {0};
    build_well(&graph, &b, CUTOFF, 1);
    mlff_graph_free(&graph);
    batch_free(&b);
}

static void atoms_of_structures_have_to_follow_each_other(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 4, cube_12, all_periodic, 0, 1, 0, 24);
    batch_add(&b, 4, cube_12, all_periodic, 0, 1, 0, 25);
    b.first_atom[0] = 1;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "first_atom[0] = 1, expected 0");
    b.first_atom[0] = 0;
    b.first_atom[1] = 9;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "first_atom[2] = 8 after 9");
    b.first_atom[1] = 4;
    b.first_atom[2] = 7;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "first_atom[2] = 7, expected n_local = 8");
    b.first_atom[2] = 8;
    b.species[5] = ELEMENTS;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "atom index 5: found species 3");
    b.species[5] = -2;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "atom index 5: found species -2");
    b.species[5] = 0;
    b.n_structures = -1;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "n_structures -1");
    b.n_structures = 2;

    mlff_graph graph = {0};
    mlff_error error;
    mlff_structures s = {1, NULL, b.cell, b.periodic};
    mlff_input input = {.n_local = 8, .n_all = 8, .x = b.x, .species = b.species, .structures = &s};
    mlff_status status = graph_from_structures(&graph, &input, ELEMENTS, CUTOFF, 1, &error);
    expect_graph_refusal(status, &error, &graph, MLFF_ERROR_ARGUMENT, "first_atom NULL");
    s.first_atom = b.first_atom;
    input.n_local = 7;
    status = graph_from_structures(&graph, &input, ELEMENTS, CUTOFF, 1, &error);
    expect_graph_refusal(status, &error, &graph, MLFF_ERROR_ARGUMENT, "n_all 8, expected n_local = 7");
    input.structures = NULL;
    status = graph_from_structures(&graph, &input, ELEMENTS, CUTOFF, 1, &error);
    expect_graph_refusal(status, &error, &graph, MLFF_ERROR_ARGUMENT, "structures: found NULL");
    input.x = NULL;
    status = graph_from_structures(&graph, &input, ELEMENTS, CUTOFF, 1, &error);
    expect_graph_refusal(status, &error, &graph, MLFF_ERROR_ARGUMENT, "x: found NULL");
    mlff_graph_free(&graph);
    batch_free(&b);
}

static void cells_that_cannot_be_periodic_are_refused(void **state)
{
    (void)state;
    const struct {
        double cell[9];
        int32_t periodic[3];
        const char *part;
    } bad[] = {
        {{12, 0, 0, 0, NAN, 0, 0, 0, 12}, {1, 1, 1}, "structure 1: found nan in lattice vector 1"},
        {{12, 0, 0, 0, 12, 0, 0, 0, INFINITY}, {1, 1, 0}, "structure 1: found inf in lattice vector 2"},
        {{12, 0, 0, 0, 0, 0, 0, 0, 12}, {0, 1, 0}, "structure 1: found lattice vector 1 of length 0"},
        {{12, 0, 0, 0, 12, 0, 12, 12, 0}, {1, 1, 1}, "structure 1: found periodic lattice vectors that are linearly"},
        {{12, 0, 0, -24, 0, 0, 0, 0, 12}, {1, 1, 0}, "structure 1: found periodic lattice vectors that are linearly"},
        {{12, 0, 0, 0, 12, 0, 12, 12, 1e-7}, {1, 1, 1}, "structure 1: found periodic lattice vectors that are linear"},
        {{1e200, 0, 0, 0, 1e200, 0, 0, 0, 1}, {1, 1, 1}, "structure 1: found "},
        {{12, 0, 0, 0, 12, 0, 0, 0, 12}, {1, 2, 1}, "structure 1: found periodic 2 for lattice vector 1"},
    };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; ++k) {
        batch b;
        batch_begin(&b);
        batch_add(&b, 3, cube_12, all_periodic, 0, 1, 0, 26);
        batch_add(&b, 3, cube_12, all_periodic, 0, 1, 0, 27);
        memcpy(b.cell + 9, bad[k].cell, sizeof bad[k].cell);
        memcpy(b.periodic + 3, bad[k].periodic, sizeof bad[k].periodic);
        expect_refusal(&b, MLFF_ERROR_ARGUMENT, bad[k].part);
        batch_free(&b);
    }
    batch b;
    batch_begin(&b);
    batch_add(&b, 3, cube_12, all_periodic, 0, 1, 0, 28);
    double *cell = b.cell;
    b.cell = NULL;
    expect_refusal(&b, MLFF_ERROR_ARGUMENT, "structure 0: found no cell");
    b.cell = cell;
    batch_free(&b);
}

static void requests_beyond_any_memory_are_refused_at_once(void **state)
{
    (void)state;
    batch b;
    batch_begin(&b);
    batch_add(&b, 4, (double[]){1e-4, 0, 0, 0, 1e-4, 0, 0, 0, 1e-4}, all_periodic, 0, 1, 0, 29);
    expect_refusal(&b, MLFF_ERROR_MEMORY, "bytes");
    batch_free(&b);
    batch_begin(&b);
    batch_add(&b, 4, (double[]){1e-13, 0, 0, 0, 1e4, 0, 0, 0, 1e4}, all_periodic, 0, 1, 0, 30);
    expect_refusal(&b, MLFF_ERROR_MEMORY, "bytes");
    batch_free(&b);
    batch_begin(&b);
    batch_add(&b, 1, (double[]){10, 0, 0, 0, 10, 0, 7, 7, 2e-5}, all_periodic, 0, 1, 0, 31);
    expect_refusal(&b, MLFF_ERROR_UNSUPPORTED, "structure 0: found a cell so flat");
    batch_free(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orthogonal_cells_have_every_pair),
        cmocka_unit_test(triclinic_cells_have_every_pair),
        cmocka_unit_test(left_handed_cells_have_every_pair),
        cmocka_unit_test(cells_shorter_than_the_cutoff_have_all_images),
        cmocka_unit_test(slabs_and_wires_have_images_only_where_periodic),
        cmocka_unit_test(vectors_that_are_not_periodic_play_no_part),
        cmocka_unit_test(molecules_need_no_cell),
        cmocka_unit_test(atoms_outside_of_the_cell_are_found),
        cmocka_unit_test(lengths_just_below_a_multiple_of_the_cutoff_miss_nothing),
        cmocka_unit_test(a_sparse_gas_and_an_uneven_one_have_every_pair),
        cmocka_unit_test(a_pair_at_exactly_the_cutoff_is_left_out),
        cmocka_unit_test(every_edge_has_its_way_back),
        cmocka_unit_test(atoms_at_one_place_are_neighbours_but_none_is_its_own),
        cmocka_unit_test(far_away_molecules_keep_their_neighbours),
        cmocka_unit_test(batches_of_all_kinds_have_every_pair),
        cmocka_unit_test(nothing_at_all_is_a_graph),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(a_steady_state_allocates_nothing),
        cmocka_unit_test(a_huge_sparse_box_costs_no_memory),
        cmocka_unit_test(positions_that_are_not_finite_are_refused_with_the_atom),
        cmocka_unit_test(atoms_of_structures_have_to_follow_each_other),
        cmocka_unit_test(cells_that_cannot_be_periodic_are_refused),
        cmocka_unit_test(requests_beyond_any_memory_are_refused_at_once),
    };
    return RUN_ON_DEVICE(argc, argv, "neighbours", tests);
}
