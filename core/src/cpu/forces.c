/* SPDX-License-Identifier: MIT */
/*
 * From the adjoints of the edges to forces and virials, in double. For each slot with r = x_j - x_i, u = r/d:
 *   G = dE/dr = d_adj u + (u_adj - (u_adj . u) u)/d
 *   F_i = sum over row i of G - sum over the slots that name i as neighbour of G
 *   virial = -dE/dstrain = -sum r (x) G; an atom's: half of each edge that it is an end of
 * The second sum runs over the transposed list, so nothing is scattered and the order is fixed.
 */
#include "variant.h"

static void slot_gradients(cpu_state *s)
{
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t e = 0; e < s->E; e++) {
        if (s->edge_slot[e] < 0) continue;
        const real *u = s->edge_u + 3 * e, *u_adj = s->edge_u_adj + 3 * e;
        const double along = (double)u_adj[0] * u[0] + (double)u_adj[1] * u[1] + (double)u_adj[2] * u[2];
        double *G = s->slot_gradient + 3 * s->edge_slot[e];
        for (int a = 0; a < 3; a++)
            G[a] = (double)s->edge_d_adj[e] * u[a] + ((double)u_adj[a] - along * u[a]) / (double)s->edge_d[e];
    }
}

static void forces(const cpu_state *s, double *out)
{
    const mlff_graph *g = s->graph;
    memset(out, 0, sizeof(double) * 3 * (size_t)g->n_all);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t row = 0; row < s->R; row++) {
        double F[3] = {0, 0, 0};
        if (row < s->N)
            for (int64_t slot = g->first[row]; slot < g->first[row + 1]; slot++)
                for (int a = 0; a < 3; a++) F[a] += s->slot_gradient[3 * slot + a];
        for (int64_t q = g->incoming_first[row]; q < g->incoming_first[row + 1]; q++)
            for (int a = 0; a < 3; a++) F[a] -= s->slot_gradient[3 * g->incoming[q] + a];
        for (int a = 0; a < 3; a++) out[3 * (size_t)g->atom_of_row[row] + a] = F[a];
    }
}

/* row_virial: of the row's own edges */
static void row_virials(cpu_state *s)
{
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t i = 0; i < s->N; i++) {
        double *W = s->row_virial + 9 * i;
        memset(W, 0, 9 * sizeof *W);
        for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e++) {
            if (s->edge_slot[e] < 0) continue;
            const double *G = s->slot_gradient + 3 * s->edge_slot[e];
            for (int a = 0; a < 3; a++)
                for (int b = 0; b < 3; b++) W[3 * a + b] -= (double)s->edge_u[3 * e + a] * (double)s->edge_d[e] * G[b];
        }
    }
}

/* Half of a row's own edges stays; the other half goes to the neighbours, summed through the transposed list. */
static void atom_virials(cpu_state *s, double *out)
{
    const mlff_graph *g = s->graph;
    memset(out, 0, sizeof(double) * 9 * (size_t)g->n_all);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t row = 0; row < s->R; row++) {
        double W[9] = {0};
        if (row < s->N)
            for (int q = 0; q < 9; q++) W[q] = 0.5 * s->row_virial[9 * row + q];
        for (int64_t q = g->incoming_first[row]; q < g->incoming_first[row + 1]; q++) {
            const int64_t e = s->slot_edge[g->incoming[q]];
            if (e < 0) continue;
            const double *G = s->slot_gradient + 3 * g->incoming[q];
            for (int a = 0; a < 3; a++)
                for (int b = 0; b < 3; b++)
                    W[3 * a + b] -= 0.5 * (double)s->edge_u[3 * e + a] * (double)s->edge_d[e] * G[b];
        }
        memcpy(out + 9 * (size_t)g->atom_of_row[row], W, sizeof W);
    }
}

/* Sums over rows, in the order of the rows. */
static void sum_by_structure(const cpu_state *s, const double *values, int width, double *out)
{
    memset(out, 0, sizeof(double) * (size_t)width * (size_t)s->graph->n_structures);
    for (int64_t i = 0; i < s->N; i++)
        for (int q = 0; q < width; q++) out[s->graph->structure_of_row[i] * width + q] += values[i * width + q];
}

/* Energies and gradients that are not finite are a failure, not a result. */
static mlff_status check_finite(const cpu_state *s, mlff_error *error)
{
    for (int64_t i = 0; i < s->N; i++) {
        const int atom = s->graph->atom_of_row[i];
        if (!isfinite(s->atom_energy[i]))
            return mlff_fail(error, MLFF_ERROR_NUMERICS, "atom index %d: energy %g, expected a finite number", atom,
                             s->atom_energy[i]);
        if (!s->with_reverse) continue;
        for (int q = 0; q < 9; q++)
            if (!isfinite(s->row_virial[9 * i + q]))
                return mlff_fail(error, MLFF_ERROR_NUMERICS, "atom index %d: virial %g, expected a finite number", atom,
                                 s->row_virial[9 * i + q]);
    }
    return MLFF_OK;
}

mlff_status cpu_collect_forces(void *state, mlff_output *out, mlff_error *error)
{
    cpu_state *s = state;
    if (s->with_reverse) {
        slot_gradients(s);
        row_virials(s);
    }
    MLFF_TRY(check_finite(s, error));
    if (out->energy) sum_by_structure(s, s->atom_energy, 1, out->energy);
    if (out->atom_energy) {
        memset(out->atom_energy, 0, sizeof(double) * (size_t)s->graph->n_local);
        for (int64_t i = 0; i < s->N; i++) out->atom_energy[s->graph->atom_of_row[i]] = s->atom_energy[i];
    }
    if (out->forces) forces(s, out->forces);
    if (out->virial) sum_by_structure(s, s->row_virial, 9, out->virial);
    if (out->atom_virial) atom_virials(s, out->atom_virial);
    return MLFF_OK;
}
