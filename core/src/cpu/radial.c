/* SPDX-License-Identifier: MIT */
/*
 * Edges and radial functions. From the candidates of row i keep d = |r| < rc, r = x_j - x_i (+ shift), u = r/d, and
 *   fc    = 0.5 (cos(pi d/rc) + 1)
 *   phi_k = rbf_k(d) fc for k < K, phi_K = fc, so that a filter is W = sum_k Wf[k] phi_k with the bias as Wf[K]
 *   gaussian rbf_k = exp(-0.5 ((d - o_k)/w_k)^2)        bessel rbf_k = sin(f_k d)/d
 * Of a pair closer than in any training frame phi is that of the distance g(d), and dphi/dd has the factor g'
 * (short_range.h, for models whose file has it). Positions are subtracted in double, and (d - o_k)/w_k too: rounded
 * first, the tails of a narrow Gaussian would lose ten times the precision of single.
 */
#include "variant.h"

/* Numbers near the end of the exponent's range as 0: a denormal operand stops an FMA for a hundred cycles and more (the
 * tails of narrow Gaussians in single: seven times the whole evaluation's time), and 1e-30 of a sum is nothing. */
static const double smallest = sizeof(real) == 4 ? 1e-30 : 1e-290, smallest_exponent = sizeof(real) == 4 ? 69 : 667;

static inline real without_denormal(real value)
{
    return fabs((double)value) < smallest ? 0 : value;
}

/* phi and dphi of one edge, written at stride EDGE_BLOCK; pair: its short range, or NULL. */
static void radial_functions(const cpu_weights *w, double d, const short_range_pair *pair, real *phi, real *dphi)
{
    double seen_slope = 1;
    if (pair && d < pair->outer) d = mlff_seen_distance(pair, d, &seen_slope);
    const double argument = M_PI * d / w->cutoff;
    const real fc = (real)(0.5 * (cos(argument) + 1)), dfc = (real)(-0.5 * M_PI / w->cutoff * sin(argument));
    for (int k = 0; k < w->K; k++) {
        real rbf, drbf;
        if (w->radial == RADIAL_GAUSSIAN) {
            const double z = (d - w->offset[k]) / w->width[k];
            rbf = 0.5 * z * z < smallest_exponent ? real_exp((real)(-0.5 * z * z)) : 0;
            drbf = (real)(-z / w->width[k]) * rbf;
        } else {
            const double sine = sin(w->frequency[k] * d), cosine = cos(w->frequency[k] * d);
            rbf = (real)(sine / d);
            drbf = (real)((w->frequency[k] * cosine - sine / d) / d);
        }
        phi[k * EDGE_BLOCK] = without_denormal(rbf * fc);
        dphi[k * EDGE_BLOCK] = without_denormal((real)seen_slope * (drbf * fc + rbf * dfc));
    }
    phi[w->K * EDGE_BLOCK] = without_denormal(fc);
    dphi[w->K * EDGE_BLOCK] = without_denormal((real)seen_slope * dfc);
}

/* Counts each row's edges; fails naming the first row that has a distance of 0 or one that is not finite. */
static mlff_status count_edges(cpu_state *s, const double *x, mlff_error *error)
{
    const mlff_graph *g = s->graph;
    const double cutoff = s->w.cutoff;
    int64_t bad = s->N;
#pragma omp parallel for schedule(static) num_threads(s->threads) reduction(min : bad)
    for (int64_t i = 0; i < s->N; i++) {
        const double *centre = x + 3 * (size_t)g->atom_of_row[i];
        int64_t count = 0;
        int good = isfinite(centre[0]) && isfinite(centre[1]) && isfinite(centre[2]);
        for (int64_t slot = g->first[i]; slot < g->first[i + 1]; slot++) {
            double r[3], d = mlff_graph_separation(g, x, slot, centre, r);
            good &= d > 0 && d < INFINITY;
            count += d < cutoff;
        }
        s->edge_count[i] = count;
        if (!good && i < bad) bad = i;
    }
    return bad < s->N ? mlff_graph_explain_row(g, x, bad, error) : MLFF_OK;
}

static mlff_status place_edges(cpu_state *s, mlff_error *error)
{
    const size_t E = (size_t)s->E, functions = (size_t)s->w.K + 1, reverse = s->with_reverse ? 1 : 0;
    const tensor_row table[] = {
        {&s->edge_row, E, sizeof(int32_t), "edge rows"},
        {&s->edge_slot, E, sizeof(int64_t), "edge slots"},
        {&s->edge_u, E * 3, sizeof(real), "edge directions"},
        {&s->edge_d, E, sizeof(real), "edge distances"},
        {&s->phi, E * functions, sizeof(real), "radial functions"},
        {&s->dphi, E * functions * reverse, sizeof(real), "derivatives of radial functions"},
        {&s->edge_d_adj, E * reverse, sizeof(real), "distance adjoints"},
        {&s->edge_u_adj, E * 3 * reverse, sizeof(real), "direction adjoints"},
        {&s->slot_edge, (size_t)s->graph->n_slots * reverse, sizeof(int64_t), "edges of slots"},
        {&s->slot_gradient, (size_t)s->graph->n_slots * 3 * reverse, sizeof(double), "edge gradients"},
    };
    return mlff_arena_place(&s->edges, table, sizeof table / sizeof table[0], error);
}

/* Row i's edges, in the order of its slots, then padding up to whole blocks. */
static void fill_row(cpu_state *s, const double *x, int64_t i, real *unwanted)
{
    const mlff_graph *g = s->graph;
    const int functions = s->w.K + 1;
    const double *centre = x + 3 * (size_t)g->atom_of_row[i];
    const short_range_pair *pairs = s->model->short_range;
    if (pairs) pairs += (size_t)g->species[i] * (size_t)s->w.n_elements;
    int64_t e = s->edge_first[i];
    for (int64_t slot = g->first[i]; slot < g->first[i + 1]; slot++) {
        double r[3], d = mlff_graph_separation(g, x, slot, centre, r);
        if (s->with_reverse) {
            memset(s->slot_gradient + 3 * slot, 0, 3 * sizeof(double));
            s->slot_edge[slot] = d < s->w.cutoff ? e : -1;
        }
        if (!(d < s->w.cutoff)) continue;
        s->edge_row[e] = g->neighbour_row[slot];
        s->edge_slot[e] = slot;
        s->edge_d[e] = (real)d;
        for (int a = 0; a < 3; a++) s->edge_u[3 * e + a] = (real)(r[a] / d);
        const size_t block = (size_t)(e / EDGE_BLOCK) * functions * EDGE_BLOCK + e % EDGE_BLOCK;
        const short_range_pair *pair = pairs ? &pairs[g->species[g->neighbour_row[slot]]] : NULL;
        radial_functions(&s->w, d, pair, s->phi + block, s->dphi ? s->dphi + block : unwanted);
        e++;
    }
    const int64_t first = s->edge_first[i], edges = s->edge_first[i + 1] - first;
    if (s->with_reverse && edges > 0) { /* without a single edge in the whole system these arrays are NULL */
        memset(s->edge_d_adj + first, 0, (size_t)edges * sizeof(real));
        memset(s->edge_u_adj + 3 * first, 0, 3 * (size_t)edges * sizeof(real));
    }
    for (; e < s->edge_first[i + 1]; e++) {
        s->edge_row[e] = (int32_t)i;
        s->edge_slot[e] = -1;
        s->edge_d[e] = 1;
        for (int a = 0; a < 3; a++) s->edge_u[3 * e + a] = 0;
        const size_t block = (size_t)(e / EDGE_BLOCK) * functions * EDGE_BLOCK + e % EDGE_BLOCK;
        for (int k = 0; k < functions; k++) {
            s->phi[block + k * EDGE_BLOCK] = 0;
            if (s->dphi) s->dphi[block + k * EDGE_BLOCK] = 0;
        }
    }
}

mlff_status cpu_radial_forward(cpu_state *s, const double *x, mlff_error *error)
{
    const tensor_row counts[] = {
        {&s->edge_count, (size_t)s->N, sizeof(int64_t), "edge counts"},
        {&s->edge_first, (size_t)s->N + 1, sizeof(int64_t), "first edges"},
    };
    MLFF_TRY(mlff_arena_place(&s->counts, counts, 2, error));
    MLFF_TRY(count_edges(s, x, error));
    s->edge_first[0] = 0;
    s->max_row_edges = 0;
    for (int64_t i = 0; i < s->N; i++) {
        int64_t whole = (s->edge_count[i] + EDGE_BLOCK - 1) / EDGE_BLOCK * EDGE_BLOCK;
        s->edge_first[i + 1] = s->edge_first[i] + whole;
        if (whole > s->max_row_edges) s->max_row_edges = whole;
    }
    s->E = s->edge_first[s->N];
    MLFF_TRY(place_edges(s, error));

#pragma omp parallel num_threads(s->threads)
    {
        real unwanted[(256 + 1) * EDGE_BLOCK]; /* derivatives that nobody asked for; K <= 256 */
#pragma omp for schedule(dynamic, 64)
        for (int64_t i = 0; i < s->N; i++) fill_row(s, x, i, unwanted);
    }
    return MLFF_OK;
}
