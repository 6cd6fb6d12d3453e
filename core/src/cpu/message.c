/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1. Row i gathers from its neighbours j; W = sum_k filter[k] phi_k(d) = (W_s, W_R, W_v):
 *   s_i += sum_j W_s x_s(j)
 *   v_i += sum_j W_R x_R(j) u + W_v y(j)                              y = x_v v, made once an atom (context.c)
 *
 * The reverse is a gather too: the list is full, so row j sees every i that received its message, through the same edge
 * turned round (u -> -u, the same d). With s_adj(i), v_adj(i) gathered and row j's own features at hand:
 *   x_s_adj(j) = sum_i W_s s_adj(i)
 *   x_R_adj(j) = sum_i W_R q,  q = -u . v_adj(i)
 *   y_adj(j)   = sum_i W_v v_adj(i)
 *   d_adj     += sum_f W'_s x_s s_adj(i) + W'_R x_R q + W'_v y . v_adj(i)
 *   u_adj     -= sum_f W_R x_R v_adj(i)
 * No two rows write to the same place; each row's sums have the order of its edges.
 *
 * The filter is the cost: 3F (K+1) multiply-adds an edge forward and twice that in reverse. It is made in registers,
 * for a vector of features and a few edges at a time, and used at once.
 */
#include "variant.h"

/* W[part][edge] for `edges` edges from edge e (all in one block) and one vector of features */
static inline __attribute__((always_inline)) void filter_tile(const real *filter, const real *phi, int functions,
                                                              vec W[3][FILTER_EDGES], const int edges)
{
#pragma GCC unroll 3
    for (int part = 0; part < 3; part++)
#pragma GCC unroll 8
        for (int q = 0; q < edges; q++) W[part][q] = (vec){0};
    for (int k = 0; k < functions; k++) {
        vec w[3];
#pragma GCC unroll 3
        for (int part = 0; part < 3; part++) w[part] = load(filter + (k * 3 + part) * LANES);
#pragma GCC unroll 8
        for (int q = 0; q < edges; q++)
#pragma GCC unroll 3
            for (int part = 0; part < 3; part++) W[part][q] += phi[k * EDGE_BLOCK + q] * w[part];
    }
}

/* W and dW/dd */
static inline __attribute__((always_inline)) void filter_tile_reverse(const real *filter, const real *phi,
                                                                      const real *dphi, int functions,
                                                                      vec W[3][FILTER_EDGES_REVERSE],
                                                                      vec dW[3][FILTER_EDGES_REVERSE])
{
#pragma GCC unroll 3
    for (int part = 0; part < 3; part++)
#pragma GCC unroll 4
        for (int q = 0; q < FILTER_EDGES_REVERSE; q++) W[part][q] = dW[part][q] = (vec){0};
    for (int k = 0; k < functions; k++) {
        vec w[3];
#pragma GCC unroll 3
        for (int part = 0; part < 3; part++) w[part] = load(filter + (k * 3 + part) * LANES);
#pragma GCC unroll 4
        for (int q = 0; q < FILTER_EDGES_REVERSE; q++)
#pragma GCC unroll 3
            for (int part = 0; part < 3; part++) {
                W[part][q] += phi[k * EDGE_BLOCK + q] * w[part];
                dW[part][q] += dphi[k * EDGE_BLOCK + q] * w[part];
            }
    }
}

mlff_status cpu_message_forward(void *state, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int F = s->w.F, functions = s->w.K + 1;
    const layer_tensors *t = &s->layer[l];
#pragma omp parallel for schedule(dynamic, 16) num_threads(s->threads)
    for (int64_t i = 0; i < s->N; i++) {
        real *s_i = s->s + (size_t)i * F, *v_mid = s->v_mid + (size_t)i * 3 * F;
        const real *v_in = t->v + (size_t)i * 3 * F;
        for (int f = 0; f < F; f += LANES) {
            const real *filter = s->w.layer[l].filter + (size_t)(f / LANES) * functions * 3 * LANES;
            vec sum = load(s_i + f), v[3];
            for (int a = 0; a < 3; a++) v[a] = load(v_in + a * F + f);
            for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e += FILTER_EDGES) {
                const real *phi = s->phi + (size_t)(e / EDGE_BLOCK) * functions * EDGE_BLOCK + e % EDGE_BLOCK;
                vec W[3][FILTER_EDGES];
                filter_tile(filter, phi, functions, W, FILTER_EDGES);
#pragma GCC unroll 8
                for (int q = 0; q < FILTER_EDGES; q++) {
                    const real *x = t->features + (size_t)s->edge_row[e + q] * 5 * F + f, *u = s->edge_u + 3 * (e + q);
                    sum += W[0][q] * load(x);
                    const vec R = W[1][q] * load(x + F);
#pragma GCC unroll 3
                    for (int a = 0; a < 3; a++) v[a] += R * u[a] + W[2][q] * load(x + (2 + a) * F);
                }
            }
            store(s_i + f, sum);
            for (int a = 0; a < 3; a++) store(v_mid + a * F + f, v[a]);
        }
    }
    return MLFF_OK;
}

/* One vector of features of one row: its own features' adjoints, and the edges' sums over features in
 * edge_sums [edges][4][LANES] (d_adj, u_adj). */
static void reverse_strip(const cpu_state *s, int l, int64_t i, int f, real *edge_sums)
{
    const int F = s->w.F, functions = s->w.K + 1;
    const real *filter = s->w.layer[l].filter + (size_t)(f / LANES) * functions * 3 * LANES;
    const real *own = s->layer[l].features + (size_t)i * 5 * F + f;
    const vec x_s = load(own), x_R = load(own + F), y[3] = {load(own + 2 * F), load(own + 3 * F), load(own + 4 * F)};
    vec x_s_adj = {0}, x_R_adj = {0}, y_adj[3] = {{0}, {0}, {0}};
    for (int64_t e = s->edge_first[i]; e < s->edge_first[i + 1]; e += FILTER_EDGES_REVERSE) {
        const size_t block = (size_t)(e / EDGE_BLOCK) * functions * EDGE_BLOCK + e % EDGE_BLOCK;
        vec W[3][FILTER_EDGES_REVERSE], dW[3][FILTER_EDGES_REVERSE];
        filter_tile_reverse(filter, s->phi + block, s->dphi + block, functions, W, dW);
#pragma GCC unroll 4
        for (int q = 0; q < FILTER_EDGES_REVERSE; q++) {
            const real *adj = s->adj + (size_t)s->edge_row[e + q] * 4 * F + f, *u = s->edge_u + 3 * (e + q);
            const vec s_adj = load(adj), v_adj[3] = {load(adj + F), load(adj + 2 * F), load(adj + 3 * F)};
            const vec along = -(u[0] * v_adj[0] + u[1] * v_adj[1] + u[2] * v_adj[2]);
            x_s_adj += W[0][q] * s_adj;
            x_R_adj += W[1][q] * along;
            for (int a = 0; a < 3; a++) y_adj[a] += W[2][q] * v_adj[a];
            real *sums = edge_sums + (size_t)(e + q - s->edge_first[i]) * 4 * LANES;
            const vec inner = y[0] * v_adj[0] + y[1] * v_adj[1] + y[2] * v_adj[2];
            store(sums, load(sums) + dW[0][q] * (x_s * s_adj) + dW[1][q] * (x_R * along) + dW[2][q] * inner);
            const vec R = W[1][q] * x_R;
            for (int a = 0; a < 3; a++) store(sums + (1 + a) * LANES, load(sums + (1 + a) * LANES) - R * v_adj[a]);
        }
    }
    real *own_adj = s->features_adj + (size_t)i * 5 * F + f;
    store(own_adj, x_s_adj);
    store(own_adj + F, x_R_adj);
    for (int a = 0; a < 3; a++) store(own_adj + (2 + a) * F, y_adj[a]);
}

mlff_status cpu_message_reverse(void *state, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
#pragma omp parallel for schedule(dynamic, 16) num_threads(s->threads)
    for (int64_t i = 0; i < s->N; i++) {
        real *edge_sums = thread_scratch(s);
        const int64_t first = s->edge_first[i], edges = s->edge_first[i + 1] - first;
        memset(edge_sums, 0, sizeof(real) * (size_t)edges * 4 * LANES);
        for (int f = 0; f < s->w.F; f += LANES) reverse_strip(s, l, i, f, edge_sums);
        for (int64_t e = 0; e < edges; e++) {
            const real *sums = edge_sums + (size_t)e * 4 * LANES;
            s->edge_d_adj[first + e] += sum_lanes(load(sums));
            for (int a = 0; a < 3; a++) s->edge_u_adj[3 * (first + e) + a] += sum_lanes(load(sums + (1 + a) * LANES));
        }
    }
    return MLFF_OK;
}
