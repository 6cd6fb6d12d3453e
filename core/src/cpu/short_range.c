/* SPDX-License-Identifier: MIT */
/*
 * Short-range repulsion (short_range.h), half of each directed edge to its row, in double:
 *   e_i += sum over i's edges of 1/2 V S,   d_adj += 1/2 (V' S + V S')
 * and the edges that are closer than the training frames ever were. A row's sum is made by one thread, in the order of
 * its edges; counting and the search for the first row do not depend on an order. That the network sees these edges at
 * a distance g(d) is in radial.c.
 */
#include "variant.h"

/* Adds to row i; returns how many of its edges are below their outer distance. */
static int64_t add_row(cpu_state *s, int64_t i)
{
    const int32_t *species = s->graph->species;
    const short_range_pair *pairs = s->model->short_range + (size_t)species[i] * (size_t)s->w.n_elements;
    double energy = 0;
    int64_t count = 0;
    for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e++) {
        if (s->edge_slot[e] < 0) continue;
        const short_range_pair *pair = &pairs[species[s->edge_row[e]]];
        const double d = (double)s->edge_d[e];
        if (!(d < pair->outer)) continue;
        double slope;
        energy += 0.5 * mlff_short_range(pair, d, &slope);
        if (s->with_reverse) s->edge_d_adj[e] += (real)(0.5 * slope);
        count++;
    }
    s->atom_energy[i] += energy;
    return count;
}

/* The first edge of a row that is below its outer distance. */
static void keep_first(cpu_state *s, int64_t row)
{
    const mlff_graph *g = s->graph;
    const short_range_pair *pairs = s->model->short_range + (size_t)g->species[row] * (size_t)s->w.n_elements;
    for (int64_t e = s->edge_first[row]; e < s->edge_first[row + 1]; e++) {
        const double d = (double)s->edge_d[e], trained = pairs[g->species[s->edge_row[e]]].outer;
        if (s->edge_slot[e] < 0 || !(d < trained)) continue;
        s->close.atom = g->atom_of_row[row];
        s->close.neighbour = g->atom_of_row[s->edge_row[e]];
        s->close.distance = d;
        s->close.trained = trained;
        return;
    }
}

mlff_status cpu_short_range(void *state, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    int64_t count = 0, first_row = s->N;
#pragma omp parallel for schedule(static) num_threads(s->threads) reduction(+ : count) reduction(min : first_row)
    for (int64_t i = 0; i < s->N; i++) {
        const int64_t here = add_row(s, i);
        count += here;
        if (here && i < first_row) first_row = i;
    }
    s->close = (mlff_close_pairs){.count = count, .atom = -1, .neighbour = -1};
    if (count) keep_first(s, first_row);
    return MLFF_OK;
}

void cpu_close_pairs(const void *state, mlff_close_pairs *pairs)
{
    *pairs = ((const cpu_state *)state)->close;
}
