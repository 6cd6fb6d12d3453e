/* SPDX-License-Identifier: MIT */
/* Graphs of an engine's neighbour list. */
#include "device_search.h"
#include "graph_checks.h"
#include "support.h"

enum { ELEMENTS = 3, MASK = 0x1FFFFFFF };

/* An engine's arrays; tests change what they need. Each is in a block of its own size. */
typedef struct engine {
    mlff_input input;
    mlff_neighbour_list list;
    mlff_halo halo;
    double *x;
    int32_t *species, *ilist, *numneigh, *owner;
    int32_t **firstneigh;
} engine;

static int never_called(void *context, const void *sent, void *received, int width, int real_bytes)
{
    (void)context, (void)sent, (void)received, (void)width, (void)real_bytes;
    fail_msg("making a graph exchanges nothing");
    return 1;
}

static void engine_begin(engine *e, int32_t n_local, int32_t n_all)
{
    const size_t all = (size_t)n_all, local = (size_t)n_local;
    memset(e, 0, sizeof *e);
    e->x = calloc(all ? 3 * all : 1, sizeof(double));
    e->species = calloc(all ? all : 1, sizeof(int32_t));
    e->ilist = calloc(local ? local : 1, sizeof(int32_t));
    e->numneigh = calloc(all ? all : 1, sizeof(int32_t));
    e->owner = calloc(all ? all : 1, sizeof(int32_t));
    e->firstneigh = calloc(all ? all : 1, sizeof(int32_t *));
    for (int32_t i = 0; i < n_local; ++i) e->ilist[i] = e->owner[i] = i;
    e->list = (mlff_neighbour_list){1, n_local, e->ilist, e->numneigh, e->firstneigh, MASK, NULL, 0.0};
    e->input = (mlff_input){.n_local = n_local, .n_all = n_all, .x = e->x, .species = e->species};
    e->halo.forward = never_called;
}

static void engine_free(engine *e)
{
    for (int32_t i = 0; i < e->input.n_all; ++i) free(e->firstneigh[i]);
    free(e->x);
    free(e->species);
    free(e->ilist);
    free(e->numneigh);
    free(e->owner);
    free(e->firstneigh);
}

static void add_neighbour(engine *e, int32_t atom, int32_t neighbour)
{
    const size_t n = (size_t)e->numneigh[atom]++;
    e->firstneigh[atom] = realloc(e->firstneigh[atom], (n + 1) * sizeof(int32_t));
    e->firstneigh[atom][n] = neighbour;
}

static mlff_status build(mlff_graph *graph, engine *e, mlff_error *error)
{
    e->input.neighbours = &e->list;
    error->message[0] = 0;
    return mlff_graph_from_list(graph, &e->input, ELEMENTS, error);
}

static void build_well(mlff_graph *graph, engine *e)
{
    mlff_error error;
    mlff_status status = build(graph, e, &error);
    CHECK(status == MLFF_OK, "refused: %s", error.message);
    check_graph(graph);
    assert_int_equal(graph->n_local, e->input.n_local);
    assert_int_equal(graph->n_all, e->input.n_all);
    assert_int_equal(graph->n_structures, 1);
    assert_null(graph->shift);
}

/* The neighbours of a row, atom by atom, as text: "0 4 2". */
static const char *neighbours_of(const mlff_graph *g, int32_t row, char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int64_t slot = g->first[row]; slot < g->first[row + 1]; ++slot)
        used += (size_t)snprintf(text + used, size - used, "%s%d", used ? " " : "", g->neighbour_atom[slot]);
    return text;
}

/* Four owned atoms and three ghosts, 4 to 6; every atom has neighbours before and behind it. */
static void small_engine(engine *e)
{
    const int32_t lists[4][4] = {{1, 4, 2, -1}, {0, 3, 5, -1}, {0, 6, 3, -1}, {6, 1, 2, -1}};
    engine_begin(e, 4, 7);
    for (int32_t i = 0; i < 4; ++i) {
        for (int k = 0; lists[i][k] >= 0; ++k) add_neighbour(e, i, lists[i][k]);
    }
    for (int32_t i = 0; i < 7; ++i) e->species[i] = i % ELEMENTS;
}

static void fold_ghosts(engine *e)
{
    const int32_t owner[3] = {3, 2, 1};
    for (int32_t k = 0; k < 3; ++k) {
        e->owner[4 + k] = owner[k];
        e->species[4 + k] = e->species[owner[k]];
    }
    e->list.owner = e->owner;
}

/* ------------------------------------------------------------------------------------------ images of owned atoms */

static void an_image_has_its_owners_row_and_its_own_position(void **state)
{
    (void)state;
    char text[64];
    engine e;
    mlff_graph g = {0};
    small_engine(&e);
    fold_ghosts(&e);
    build_well(&g, &e);
    assert_int_equal(g.n_owned, 4);
    assert_int_equal(g.n_rows, 4);
    assert_int_equal(g.n_slots, 12);
    assert_string_equal(neighbours_of(&g, 0, text, sizeof text), "1 4 2");
    assert_string_equal(neighbours_of(&g, 2, text, sizeof text), "0 6 3");
    assert_int_equal(g.neighbour_row[1], 3);
    assert_int_equal(g.row_of_atom[4], 3);
    assert_int_equal(g.row_of_atom[6], 1);
    for (int32_t row = 0; row < 4; ++row) assert_int_equal(g.species[row], row % ELEMENTS);
    mlff_graph_free(&g);
    engine_free(&e);
}

static void rows_follow_the_order_of_the_list(void **state)
{
    (void)state;
    char text[64];
    const int32_t order[4] = {2, 0, 3, 1};
    engine e;
    mlff_graph g = {0};
    small_engine(&e);
    fold_ghosts(&e);
    memcpy(e.ilist, order, sizeof order);
    build_well(&g, &e);
    for (int32_t row = 0; row < 4; ++row) {
        assert_int_equal(g.atom_of_row[row], order[row]);
        assert_int_equal(g.species[row], order[row] % ELEMENTS);
    }
    assert_string_equal(neighbours_of(&g, 0, text, sizeof text), "0 6 3");
    assert_int_equal(g.neighbour_row[0], 1);
    assert_int_equal(g.neighbour_row[1], 3);
    mlff_graph_free(&g);
    engine_free(&e);
}

static void bits_beside_the_index_are_masked(void **state)
{
    (void)state;
    engine e;
    mlff_graph plain = {0}, flagged = {0};
    small_engine(&e);
    fold_ghosts(&e);
    build_well(&plain, &e);
    for (int32_t i = 0; i < 4; ++i) {
        for (int32_t k = 0; k < e.numneigh[i]; ++k)
            e.firstneigh[i][k] |= (int32_t)((uint32_t)(k + 1) << 29); /* up to the sign bit */
    }
    assert_true(e.firstneigh[0][2] > e.input.n_all && e.firstneigh[0][1] != 4);
    build_well(&flagged, &e);
    assert_int_equal(flagged.n_slots, plain.n_slots);
    assert_memory_equal(flagged.neighbour_atom, plain.neighbour_atom, (size_t)plain.n_slots * sizeof(int32_t));
    mlff_graph_free(&plain);
    mlff_graph_free(&flagged);
    engine_free(&e);
}

static void atoms_left_out_are_not_seen_at_all(void **state)
{
    (void)state;
    char text[64];
    engine e;
    mlff_graph g = {0};
    small_engine(&e);
    fold_ghosts(&e);
    e.species[1] = e.species[6] = -1; /* 6 is the image of 1 */
    free(e.firstneigh[1]);
    e.firstneigh[1] = NULL; /* never read */
    build_well(&g, &e);
    assert_int_equal(g.n_rows, 3);
    assert_int_equal(g.row_of_atom[1], -1);
    assert_int_equal(g.row_of_atom[6], -1);
    assert_int_equal(g.atom_of_row[1], 2);
    assert_string_equal(neighbours_of(&g, 0, text, sizeof text), "4 2");
    assert_string_equal(neighbours_of(&g, 1, text, sizeof text), "0 3");
    assert_string_equal(neighbours_of(&g, 2, text, sizeof text), "2");
    mlff_graph_free(&g);
    engine_free(&e);
}

static void atoms_without_a_row_in_the_list_and_their_images_are_skipped(void **state)
{
    (void)state;
    char text[64];
    engine e;
    mlff_graph g = {0};
    small_engine(&e);
    fold_ghosts(&e);
    e.list.n_listed = 3; /* without atom 3, whose image is 4 */
    build_well(&g, &e);
    assert_int_equal(g.n_rows, 3);
    assert_int_equal(g.row_of_atom[3], -1);
    assert_int_equal(g.row_of_atom[4], -1);
    assert_string_equal(neighbours_of(&g, 0, text, sizeof text), "1 2");
    assert_string_equal(neighbours_of(&g, 1, text, sizeof text), "0 5");
    mlff_graph_free(&g);
    engine_free(&e);
}

/* ------------------------------------------------------------------------------------------ ghosts of other ranks */

static void ghosts_of_other_ranks_have_rows_after_the_owned_ones(void **state)
{
    (void)state;
    engine e;
    mlff_graph g = {0};
    small_engine(&e);
    e.input.halo = &e.halo;
    e.firstneigh[0][1] = 6; /* now nobody has ghost 4, and 6 is found before 5 */
    build_well(&g, &e);
    assert_int_equal(g.n_owned, 4);
    assert_int_equal(g.n_rows, 6);
    assert_int_equal(g.row_of_atom[4], -1);
    assert_int_equal(g.atom_of_row[4], 5);
    assert_int_equal(g.atom_of_row[5], 6);
    assert_int_equal(g.species[4], 5 % ELEMENTS);
    assert_int_equal(g.species[5], 6 % ELEMENTS);
    assert_int_equal(g.incoming_first[5] - g.incoming_first[4], 1);
    assert_int_equal(g.incoming_first[6] - g.incoming_first[5], 3);
    mlff_graph_free(&g);
    engine_free(&e);
}

static void ghosts_left_out_have_no_row(void **state)
{
    (void)state;
    char text[64];
    engine e;
    mlff_graph g = {0};
    small_engine(&e);
    e.input.halo = &e.halo;
    e.species[5] = -1;
    build_well(&g, &e);
    assert_int_equal(g.n_rows, 6);
    assert_int_equal(g.row_of_atom[5], -1);
    assert_int_equal(g.atom_of_row[4], 4);
    assert_int_equal(g.atom_of_row[5], 6);
    assert_string_equal(neighbours_of(&g, 1, text, sizeof text), "0 3");
    mlff_graph_free(&g);
    engine_free(&e);
}

static void ranks_without_atoms_or_neighbours_have_a_graph(void **state)
{
    (void)state;
    engine e;
    mlff_graph g = {0};
    engine_begin(&e, 0, 0);
    e.list.ilist = NULL;
    e.list.numneigh = NULL;
    e.list.firstneigh = NULL;
    e.input.x = NULL;
    e.input.species = NULL;
    build_well(&g, &e);
    assert_int_equal(g.n_rows, 0);
    engine_free(&e);

    engine_begin(&e, 0, 5); /* ghosts alone */
    e.input.halo = &e.halo;
    build_well(&g, &e);
    assert_int_equal(g.n_rows, 0);
    engine_free(&e);

    engine_begin(&e, 3, 3);
    build_well(&g, &e);
    assert_int_equal(g.n_rows, 3);
    assert_int_equal(g.n_slots, 0);
    engine_free(&e);
    mlff_graph_free(&g);
}

/* ------------------------------------------------------------------------------------------ lists and structures */

/* A full list with a skin over images as an engine makes them, of atoms in a small tilted cell. */
static void engine_of_cell(engine *e, int32_t n, const double cell[9], double reach, uint64_t seed)
{
    enum { LAYERS = 4 };
    const int32_t cells = (2 * LAYERS + 1) * (2 * LAYERS + 1) * (2 * LAYERS + 1);
    engine_begin(e, n, n * cells);
    for (int32_t k = 0; k < 3 * n; ++k) e->x[k] = 0.0;
    for (int32_t i = 0; i < n; ++i) {
        for (int d = 0; d < 3; ++d) {
            double u = uniform(&seed);
            for (int c = 0; c < 3; ++c) e->x[3 * i + c] += u * cell[3 * d + c];
        }
        e->species[i] = i % 5 == 4 ? -1 : i % ELEMENTS;
    }
    int32_t ghost = n;
    for (int32_t k = 0; k < cells; ++k) {
        const int32_t t[3] = {k % (2 * LAYERS + 1) - LAYERS, k / (2 * LAYERS + 1) % (2 * LAYERS + 1) - LAYERS,
                              k / (2 * LAYERS + 1) / (2 * LAYERS + 1) - LAYERS};
        if (!t[0] && !t[1] && !t[2]) continue;
        for (int32_t i = 0; i < n; ++i, ++ghost) {
            for (int c = 0; c < 3; ++c)
                e->x[3 * ghost + c] = e->x[3 * i + c] + t[0] * cell[c] + t[1] * cell[3 + c] + t[2] * cell[6 + c];
            e->owner[ghost] = i;
            e->species[ghost] = e->species[i];
        }
    }
    e->list.owner = e->owner;
    for (int32_t i = 0; i < n; ++i) {
        for (int32_t j = 0; j < e->input.n_all; ++j) {
            double d2 = 0.0;
            for (int c = 0; c < 3; ++c) d2 += (e->x[3 * j + c] - e->x[3 * i + c]) * (e->x[3 * j + c] - e->x[3 * i + c]);
            if (j != i && d2 < reach * reach) add_neighbour(e, i, j);
        }
    }
}

/* Edges within the cutoff: rows' atoms, and the distance vector in units of 1e-6 angstrom. */
static void collect_edges(edges *found, const mlff_graph *g, const double *x, double cutoff)
{
    for (int32_t row = 0; row < g->n_owned; ++row) {
        for (int64_t slot = g->first[row]; slot < g->first[row + 1]; ++slot) {
            edge e = {g->atom_of_row[row], g->atom_of_row[g->neighbour_row[slot]], {0, 0, 0}};
            double d2 = 0.0;
            for (int c = 0; c < 3; ++c) {
                double r = x[3 * g->neighbour_atom[slot] + c] - x[3 * e.i + c];
                if (g->shift) r += g->shift[3 * slot + c];
                d2 += r * r;
                e.cells[c] = llround(r * 1e6);
            }
            if (d2 < cutoff * cutoff) add_edge(found, e);
        }
    }
}

static void list_and_structures_give_the_same_edges(void **state)
{
    (void)state;
    const double cells[2][9] = {{3.1, 0, 0, 0.4, 2.9, 0, -0.3, 0.6, 3.3}, {0, 5.2, 0, 4.8, 0, 0, 0, 1, 6}};
    const int32_t periodic[3] = {1, 1, 1};
    for (int k = 0; k < 2; ++k) {
        engine e;
        mlff_graph list = {0}, structure = {0};
        edges of_list = {0}, of_structure = {0};
        engine_of_cell(&e, 6, cells[k], 6.0, 40 + (uint64_t)k);
        build_well(&list, &e);
        const int32_t first_atom[2] = {0, 6};
        mlff_structures s = {1, first_atom, cells[k], periodic};
        mlff_input input = {.n_local = 6, .n_all = 6, .x = e.x, .species = e.species, .structures = &s};
        mlff_error error;
        assert_int_equal(graph_from_structures(&structure, &input, ELEMENTS, 5.0, 1, &error), MLFF_OK);
        check_graph(&structure);
        collect_edges(&of_list, &list, e.x, 5.0);
        collect_edges(&of_structure, &structure, e.x, 5.0);
        assert_true(of_list.n > 50);
        assert_int_equal(of_structure.n, structure.n_slots);
        check_same_edges(&of_structure, &of_list, "structure against list");

        /* and the same graph may be made one way after the other */
        build_well(&structure, &e);
        assert_int_equal(structure.n_slots, list.n_slots);
        assert_int_equal(graph_from_structures(&list, &input, ELEMENTS, 5.0, 1, &error), MLFF_OK);
        assert_int_equal(list.n_slots, of_structure.n);
        assert_non_null(list.shift);
        free(of_list.edge);
        free(of_structure.edge);
        mlff_graph_free(&list);
        mlff_graph_free(&structure);
        engine_free(&e);
    }
}

/* The library's search among an engine's atoms finds what the list of all pairs has; with a halo, the same ghosts. */
static void a_search_finds_what_a_list_has(void **state)
{
    (void)state;
    const double cells[2][9] = {{3.1, 0, 0, 0.4, 2.9, 0, -0.3, 0.6, 3.3}, {0, 5.2, 0, 4.8, 0, 0, 0, 1, 6}};
    for (int k = 0; k < 4; ++k) {
        engine e;
        mlff_graph list = {0}, search = {0};
        edges of_list = {0}, of_search = {0};
        engine_of_cell(&e, 6, cells[k / 2], 6.0, 50 + (uint64_t)k);
        if (k % 2) {
            e.list.owner = NULL;
            e.input.halo = &e.halo;
        }
        build_well(&list, &e);
        const mlff_neighbour_list request = {.rebuilt = 1, .owner = e.list.owner, .reach = 6.0};
        e.input.neighbours = &request;
        mlff_error error;
        for (int threads = 1; threads <= 3; ++threads) {
            const mlff_status status = graph_from_search(&search, &e.input, ELEMENTS, threads, &error);
            CHECK(status == MLFF_OK, "refused: %s", error.message);
            check_graph(&search);
            assert_int_equal(search.n_rows, list.n_rows);
            for (int32_t atom = 0; atom < e.input.n_all; ++atom) { /* the order of rows is another matter */
                const int32_t row = search.row_of_atom[atom];
                assert_int_equal(row < 0, list.row_of_atom[atom] < 0);
                if (row >= 0) assert_int_equal(search.species[row], e.species[atom]);
            }
            of_list.n = of_search.n = 0;
            collect_edges(&of_list, &list, e.x, 100.0);
            collect_edges(&of_search, &search, e.x, 100.0);
            assert_true(of_list.n > 50);
            check_same_edges(&of_search, &of_list, "search against list");
        }
        e.x[3 * (e.input.n_all - 1)] = INFINITY; /* a ghost */
        assert_true(e.species[e.input.n_all - 1] >= 0);
        assert_int_equal(graph_from_search(&search, &e.input, ELEMENTS, 1, &error), MLFF_ERROR_NUMERICS);
        assert_int_equal(search.n_rows, 0);
        free(of_list.edge);
        free(of_search.edge);
        mlff_graph_free(&list);
        mlff_graph_free(&search);
        engine_free(&e);
    }
}

static void rebuilding_allocates_nothing_in_a_steady_state(void **state)
{
    (void)state;
    engine e;
    mlff_graph g = {0};
    engine_of_cell(&e, 6, (double[]){3.1, 0, 0, 0.4, 2.9, 0, -0.3, 0.6, 3.3}, 6.0, 42);
    build_well(&g, &e);
    const mlff_graph before = g;
    for (int step = 0; step < 5; ++step) {
        e.numneigh[step] -= 2;
        build_well(&g, &e);
        assert_true(g.n_slots < before.n_slots);
        assert_ptr_equal(g.neighbour_row, before.neighbour_row);
        assert_ptr_equal(g.neighbour_atom, before.neighbour_atom);
        assert_ptr_equal(g.incoming, before.incoming);
        assert_ptr_equal(g.first, before.first);
        assert_ptr_equal(g.row_of_atom, before.row_of_atom);
    }
    mlff_graph_free(&g);
    engine_free(&e);
}

static void room_grows_in_few_steps(void **state)
{
    (void)state;
    mlff_graph g = {0};
    int grown = 0;
    for (int32_t n = 1; n <= 300; ++n) {
        const size_t before[3] = {g.capacity_atoms, g.capacity_rows, g.capacity_slots};
        engine e;
        engine_begin(&e, n, n);
        for (int32_t i = 0; i + 1 < n; ++i) add_neighbour(&e, i, i + 1);
        build_well(&g, &e);
        grown += (g.capacity_atoms > before[0]) + (g.capacity_rows > before[1]) + (g.capacity_slots > before[2]);
        assert_true(g.capacity_atoms >= (size_t)n && g.capacity_rows >= (size_t)n);
        assert_true(g.capacity_slots >= (size_t)g.n_slots);
        engine_free(&e);
    }
    assert_true(grown < 60);
    mlff_graph_free(&g);
}

/* ------------------------------------------------------------------------------------------ refusals */

static void expect_refusal(engine *e, const char *part)
{
    mlff_graph g = {0};
    mlff_error error;
    mlff_status status = build(&g, e, &error);
    expect_graph_refusal(status, &error, &g, MLFF_ERROR_ARGUMENT, part);
    assert_int_equal(mlff_graph_from_list(&g, &e->input, ELEMENTS, NULL), MLFF_ERROR_ARGUMENT);

    engine good; /* the same graph works after the refusal */
    small_engine(&good);
    fold_ghosts(&good);
    build_well(&g, &good);
    assert_int_equal(g.n_slots, 12);
    engine_free(&good);
    mlff_graph_free(&g);
}

/* Makes the small engine, folded, for one change and the refusal of it. */
#define REFUSED(change, part)                                                                                          \
    do {                                                                                                               \
        engine e;                                                                                                      \
        small_engine(&e);                                                                                              \
        fold_ghosts(&e);                                                                                               \
        change;                                                                                                        \
        expect_refusal(&e, part);                                                                                      \
        e.input.n_all = 7;                                                                                             \
        engine_free(&e);                                                                                               \
    } while (0)

static void counts_that_cannot_be_are_refused(void **state)
{
    (void)state;
    REFUSED(e.input.n_local = -1, "n_local: found -1");
    REFUSED(e.input.n_all = 3, "n_all: found 3, expected n_local = 4 or more");
    REFUSED(e.list.n_listed = -1, "n_listed -1");
    REFUSED(e.list.n_listed = 5, "n_listed 5, expected 0 to n_local = 4");
    REFUSED(e.numneigh[2] = -3, "neighbours of atom index 2: found numneigh -3");
}

static void missing_arrays_are_refused_by_name(void **state)
{
    (void)state;
    REFUSED(e.input.x = NULL, "x: found NULL");
    REFUSED(e.input.species = NULL, "species: found NULL");
    REFUSED(e.list.ilist = NULL, "NULL for ilist");
    REFUSED(e.list.numneigh = NULL, "NULL for numneigh");
    REFUSED(e.list.firstneigh = NULL, "NULL for firstneigh");
    REFUSED((free(e.firstneigh[3]), e.firstneigh[3] = NULL),
            "neighbours of atom index 3: found NULL, expected 3 neighbours");

    mlff_graph g = {0};
    mlff_error error;
    engine e;
    small_engine(&e);
    mlff_status status = mlff_graph_from_list(&g, &e.input, ELEMENTS, &error);
    expect_graph_refusal(status, &error, &g, MLFF_ERROR_ARGUMENT, "neighbours: found NULL");
    mlff_graph_free(&g);
    engine_free(&e);
}

static void atoms_out_of_range_are_refused_with_their_value(void **state)
{
    (void)state;
    REFUSED(e.ilist[1] = 4, "found atom index 4 at ilist[1], expected an owned atom, 0 to 3");
    REFUSED(e.ilist[1] = -1, "found atom index -1 at ilist[1]");
    REFUSED(e.ilist[3] = 1, "found atom index 1 a second time at ilist[3]");
    REFUSED((e.species[1] = e.species[6] = -1, e.ilist[3] = 1), "found atom index 1 a second time at ilist[3]");
    REFUSED(e.firstneigh[2][1] = 7, "neighbours of atom index 2: found 7, expected an atom index, 0 to 6");
    REFUSED((e.list.index_mask = -1, e.firstneigh[2][1] = -7), "neighbours of atom index 2: found -7");
    REFUSED(e.firstneigh[2][1] = 2, "neighbours of atom index 2: found the atom itself");
    REFUSED(e.list.index_mask = 0, "index_mask 0");
    REFUSED(e.species[6] = ELEMENTS, "atom index 6: found species 3, expected -1 (left out) to 2");
    REFUSED(e.species[2] = -2, "atom index 2: found species -2");
}

static void ghosts_need_an_owner_or_a_halo(void **state)
{
    (void)state;
    REFUSED(e.list.owner = NULL, "found 3 ghost atoms with neither owner nor halo");
    REFUSED(e.owner[5] = 4, "atom index 5: found owner 4, expected an owned atom, 0 to 3");
    REFUSED(e.owner[5] = -1, "atom index 5: found owner -1");
    REFUSED(e.owner[2] = 1, "atom index 2: found owner 1, expected 2");
    REFUSED(e.species[5] = 0, "atom index 5: found species 0, expected 2 as its owner, atom index 2");
    REFUSED(e.species[5] = -1, "atom index 5: found species -1, expected 2 as its owner, atom index 2");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_has_its_owners_row_and_its_own_position),
        cmocka_unit_test(rows_follow_the_order_of_the_list),
        cmocka_unit_test(bits_beside_the_index_are_masked),
        cmocka_unit_test(atoms_left_out_are_not_seen_at_all),
        cmocka_unit_test(atoms_without_a_row_in_the_list_and_their_images_are_skipped),
        cmocka_unit_test(ghosts_of_other_ranks_have_rows_after_the_owned_ones),
        cmocka_unit_test(ghosts_left_out_have_no_row),
        cmocka_unit_test(ranks_without_atoms_or_neighbours_have_a_graph),
        cmocka_unit_test(list_and_structures_give_the_same_edges),
        cmocka_unit_test(a_search_finds_what_a_list_has),
        cmocka_unit_test(rebuilding_allocates_nothing_in_a_steady_state),
        cmocka_unit_test(room_grows_in_few_steps),
        cmocka_unit_test(counts_that_cannot_be_are_refused),
        cmocka_unit_test(missing_arrays_are_refused_by_name),
        cmocka_unit_test(atoms_out_of_range_are_refused_with_their_value),
        cmocka_unit_test(ghosts_need_an_owner_or_a_halo),
    };
    return RUN_ON_DEVICE(argc, argv, "graph", tests);
}
