/* SPDX-License-Identifier: MIT */
/*
 * Context of interactions l >= 1, atom by atom: what a neighbour will gather.
 *   h = W1 s + b1;  x = W2 silu(h) + b2 = (x_s, x_R, x_v);  y = x_v v       features = (x_s, x_R, y)
 * Reverse, from features_adj = (x_s_adj, x_R_adj, y_adj):
 *   x_v_adj = sum_xyz y_adj v,   v_adj += x_v y_adj,   s_adj += W1^T (silu'(h) W2^T x_adj)
 */
#include "variant.h"

mlff_status cpu_context_forward(void *state, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int F = s->w.F;
    const layer_weights *w = &s->w.layer[l];
    const layer_tensors *t = &s->layer[l];
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += ROW_BLOCK) {
        const int64_t rows = min_rows(ROW_BLOCK, s->N - first);
        real *h = thread_scratch(s), *x = h + (size_t)ROW_BLOCK * F; /* [rows][F], [rows][3F] */
        dense_rows(&w->context0, s->s + (size_t)first * F, F, h, F, rows, 0);
        real *slope = t->context_slope + (size_t)first * F;
        for (int64_t q = 0; q < rows * F; q++) h[q] = silu(h[q], &slope[q]);
        dense_rows(&w->context1, h, F, x, 3 * F, rows, 0);
        for (int64_t r = 0; r < rows; r++) {
            const real *x_r = x + r * 3 * F, *v = t->v + (size_t)(first + r) * 3 * F;
            real *features = t->features + (size_t)(first + r) * 5 * F;
            memcpy(features, x_r, sizeof(real) * 2 * F);
            memcpy(t->x_v + (size_t)(first + r) * F, x_r + 2 * F, sizeof(real) * F);
            for (int a = 0; a < 3; a++)
                for (int f = 0; f < F; f++) features[(2 + a) * F + f] = x_r[2 * F + f] * v[a * F + f];
        }
    }
    return MLFF_OK;
}

mlff_status cpu_context_reverse(void *state, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int F = s->w.F;
    const layer_weights *w = &s->w.layer[l];
    const layer_tensors *t = &s->layer[l];
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += ROW_BLOCK) {
        const int64_t rows = min_rows(ROW_BLOCK, s->N - first);
        real *h_adj = thread_scratch(s), *x_adj = h_adj + (size_t)ROW_BLOCK * F;
        for (int64_t r = 0; r < rows; r++) {
            const size_t i = (size_t)(first + r);
            const real *features_adj = s->features_adj + i * 5 * F, *v = t->v + i * 3 * F, *x_v = t->x_v + i * F;
            real *v_adj = s->adj + i * 4 * F + F, *x_adj_r = x_adj + r * 3 * F;
            memcpy(x_adj_r, features_adj, sizeof(real) * 2 * F);
            for (int f = 0; f < F; f++) x_adj_r[2 * F + f] = 0;
            for (int a = 0; a < 3; a++)
                for (int f = 0; f < F; f++) {
                    const real y_adj = features_adj[(2 + a) * F + f];
                    x_adj_r[2 * F + f] += y_adj * v[a * F + f];
                    v_adj[a * F + f] += y_adj * x_v[f];
                }
        }
        dense_rows(&w->context1_T, x_adj, 3 * F, h_adj, F, rows, 0);
        const real *slope = t->context_slope + (size_t)first * F;
        for (int64_t q = 0; q < rows * F; q++) h_adj[q] *= slope[q];
        dense_rows(&w->context0_T, h_adj, F, s->adj + (size_t)first * 4 * F, 4 * F, rows, 1);
    }
    return MLFF_OK;
}
