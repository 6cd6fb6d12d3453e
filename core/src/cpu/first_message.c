/* SPDX-License-Identifier: MIT */
/*
 * Embedding and first message. Before it v = 0 and s_j is the embedding of j's element Z, so that
 *   s_i = emb(Z_i) + sum_Z sum_k A_i[Z][k] first_s[Z][k]        A_i[Z][k] = sum over neighbours of element Z of phi_k
 *   v_i =            sum_Z sum_k B_i[Z][k] (x) first_R[Z][k]    B_i[Z][k] = sum of phi_k u
 * with first_s = Wf_s x_s(Z), first_R = Wf_R x_R(Z) made once (weights.c). Nothing is gathered, no other rank is asked.
 *
 * Reverse: A_adj = first_s . s_adj, B_adj = first_R . v_adj, then for each edge of row i with a neighbour of element Z
 *   d_adj += sum_k dphi_k (A_adj[Z][k] + B_adj[Z][k] . u),   u_adj += sum_k phi_k B_adj[Z][k]
 */
#include "variant.h"

/* scratch: coefficients [n_elements][K+1][4] (A, B_x, B_y, B_z), then a flag an element: does the row see it? */

static void mark_elements(const cpu_state *s, int64_t i, real *present)
{
    for (int z = 0; z < s->w.n_elements; z++) present[z] = 0;
    for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e++)
        if (s->edge_slot[e] >= 0) present[s->graph->species[s->edge_row[e]]] = 1;
}

static void accumulate_coefficients(const cpu_state *s, int64_t i, real *coefficients, const real *present)
{
    const int functions = s->w.K + 1;
    for (int z = 0; z < s->w.n_elements; z++)
        if (present[z] != 0) memset(coefficients + (size_t)z * functions * 4, 0, sizeof(real) * functions * 4);
    for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e++) {
        if (s->edge_slot[e] < 0) continue;
        const real *phi = s->phi + (size_t)(e / EDGE_BLOCK) * functions * EDGE_BLOCK + e % EDGE_BLOCK;
        const real *u = s->edge_u + 3 * e;
        real *c = coefficients + (size_t)s->graph->species[s->edge_row[e]] * functions * 4;
        for (int k = 0; k < functions; k++) {
            const real p = phi[k * EDGE_BLOCK];
            c[4 * k] += p;
            for (int a = 0; a < 3; a++) c[4 * k + 1 + a] += p * u[a];
        }
    }
}

mlff_status cpu_first_message_forward(void *state, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int F = s->w.F, functions = s->w.K + 1, n_elements = s->w.n_elements;
#pragma omp parallel for schedule(dynamic, 16) num_threads(s->threads)
    for (int64_t i = 0; i < s->N; i++) {
        real *coefficients = thread_scratch(s), *present = coefficients + (size_t)n_elements * functions * 4;
        mark_elements(s, i, present);
        accumulate_coefficients(s, i, coefficients, present);
        real *s_i = s->s + (size_t)i * F, *v_i = s->v_mid + (size_t)i * 3 * F;
        for (int f = 0; f < F; f += LANES) {
            vec sum = load(s->w.embedding + (size_t)s->graph->species[i] * F + f), v[3] = {{0}, {0}, {0}};
            for (int z = 0; z < n_elements; z++) {
                if (present[z] == 0) continue;
                const real *c = coefficients + (size_t)z * functions * 4;
                const real *first_s = s->w.first_s + (size_t)z * functions * F + f;
                const real *first_R = s->w.first_R + (size_t)z * functions * F + f;
                for (int k = 0; k < functions; k++) {
                    sum += c[4 * k] * load(first_s + (size_t)k * F);
                    const vec R = load(first_R + (size_t)k * F);
                    for (int a = 0; a < 3; a++) v[a] += c[4 * k + 1 + a] * R;
                }
            }
            store(s_i + f, sum);
            for (int a = 0; a < 3; a++) store(v_i + a * F + f, v[a]);
        }
    }
    return MLFF_OK;
}

/* adjoints of one row's coefficients */
static void reverse_coefficients(const cpu_state *s, int64_t i, real *coefficients_adj, const real *present)
{
    const int F = s->w.F, functions = s->w.K + 1;
    const real *adj = s->adj + (size_t)i * 4 * F; /* s_adj, v_adj */
    for (int z = 0; z < s->w.n_elements; z++) {
        if (present[z] == 0) continue;
        for (int k = 0; k < functions; k++) {
            const real *first_s = s->w.first_s + ((size_t)z * functions + k) * F;
            const real *first_R = s->w.first_R + ((size_t)z * functions + k) * F;
            vec sums[4] = {{0}, {0}, {0}, {0}};
            for (int f = 0; f < F; f += LANES) {
                sums[0] += load(first_s + f) * load(adj + f);
                const vec R = load(first_R + f);
                for (int a = 1; a < 4; a++) sums[a] += R * load(adj + a * F + f);
            }
            for (int a = 0; a < 4; a++) coefficients_adj[((size_t)z * functions + k) * 4 + a] = sum_lanes(sums[a]);
        }
    }
}

mlff_status cpu_first_message_reverse(void *state, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int functions = s->w.K + 1, n_elements = s->w.n_elements;
#pragma omp parallel for schedule(dynamic, 16) num_threads(s->threads)
    for (int64_t i = 0; i < s->N; i++) {
        real *coefficients_adj = thread_scratch(s), *present = coefficients_adj + (size_t)n_elements * functions * 4;
        mark_elements(s, i, present);
        reverse_coefficients(s, i, coefficients_adj, present);
        for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e++) {
            if (s->edge_slot[e] < 0) continue;
            const size_t block = (size_t)(e / EDGE_BLOCK) * functions * EDGE_BLOCK + e % EDGE_BLOCK;
            const real *phi = s->phi + block, *dphi = s->dphi + block, *u = s->edge_u + 3 * e;
            const real *c = coefficients_adj + (size_t)s->graph->species[s->edge_row[e]] * functions * 4;
            real d_adj = 0, u_adj[3] = {0, 0, 0};
            for (int k = 0; k < functions; k++) {
                const real *B_adj = c + 4 * k + 1;
                d_adj += dphi[k * EDGE_BLOCK] * (c[4 * k] + B_adj[0] * u[0] + B_adj[1] * u[1] + B_adj[2] * u[2]);
                for (int a = 0; a < 3; a++) u_adj[a] += phi[k * EDGE_BLOCK] * B_adj[a];
            }
            s->edge_d_adj[e] += d_adj;
            for (int a = 0; a < 3; a++) s->edge_u_adj[3 * e + a] += u_adj[a];
        }
    }
    return MLFF_OK;
}
