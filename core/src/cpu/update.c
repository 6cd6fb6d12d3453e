/* SPDX-License-Identifier: MIT */
/*
 * Update, atom by atom.
 *   V = Wv v (+ bias), U = Wu v (+ bias);  n = sqrt(|V|^2 + epsilon)
 *   h = A1 [s, n] + a1;  y = A2 silu(h) + a2 = (y_s, y_sv, y_v)      (the file's order is s, v, sv)
 *   s += y_s + y_sv (U.V);   v += y_v U                              the last layer's v is never used
 * Reverse, from s_adj and v_adj of the outputs:
 *   y_s_adj = s_adj, y_sv_adj = s_adj (U.V), y_v_adj = sum_xyz v_adj U
 *   [s, n]_adj = A1^T (silu'(h) A2^T y_adj);   s_adj += its first half
 *   V_adj = n_adj V/n + s_adj y_sv U,   U_adj = s_adj y_sv V + v_adj y_v     (s_adj of the output; 0 for V/n at n = 0)
 *   v_adj += Wv^T V_adj + Wu^T U_adj
 */
#include "variant.h"

/* n = |V| of one row; U.V where it is wanted */
static inline void norms(const real *VU, int F, real epsilon, real *n, real *UV)
{
    for (int f = 0; f < F; f++) {
        real square = 0, product = 0;
        for (int a = 0; a < 3; a++) {
            const real V = VU[a * 2 * F + f], U = VU[a * 2 * F + F + f];
            square += V * V;
            product += U * V;
        }
        n[f] = real_sqrt(square + epsilon);
        UV[f] = product;
    }
}

static void update_block(cpu_state *s, int l, int64_t first, int64_t rows)
{
    const int F = s->w.F, last = l == s->w.L - 1, y_width = last ? 2 * F : 3 * F;
    const layer_weights *w = &s->w.layer[l];
    const layer_tensors *t = &s->layer[l];
    real *in = thread_scratch(s), *h = in + (size_t)ROW_BLOCK * 2 * F, *y = h + (size_t)ROW_BLOCK * F,
         *UV = y + (size_t)ROW_BLOCK * 3 * F; /* [rows][2F], [F], [3F], [F] */
    real *VU = t->VU + (size_t)first * 6 * F;
    dense_rows(&w->mix, s->v_mid + (size_t)first * 3 * F, F, VU, 2 * F, rows * 3, 0);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(in + r * 2 * F, s->s + (size_t)(first + r) * F, sizeof(real) * F);
        norms(VU + r * 6 * F, F, s->w.epsilon, in + r * 2 * F + F, UV + r * F);
    }
    dense_rows(&w->dense0, in, 2 * F, h, F, rows, 0);
    real *slope = t->dense_slope + (size_t)first * F;
    for (int64_t q = 0; q < rows * F; q++) h[q] = silu(h[q], &slope[q]);
    dense_rows(&w->dense1, h, F, y, y_width, rows, 0);

    for (int64_t r = 0; r < rows; r++) {
        const size_t i = (size_t)(first + r);
        const real *y_r = y + r * y_width, *VU_r = VU + r * 6 * F;
        real *s_i = s->s + i * F;
        for (int f = 0; f < F; f++) s_i[f] += y_r[f] + y_r[F + f] * UV[r * F + f];
        memcpy(t->y_sv + i * F, y_r + F, sizeof(real) * F);
        if (last) continue;
        memcpy(t->y_v + i * F, y_r + 2 * F, sizeof(real) * F);
        const real *v_mid = s->v_mid + i * 3 * F;
        real *v_out = s->layer[l + 1].v + i * 3 * F;
        for (int a = 0; a < 3; a++)
            for (int f = 0; f < F; f++) v_out[a * F + f] = v_mid[a * F + f] + y_r[2 * F + f] * VU_r[a * 2 * F + F + f];
    }
}

mlff_status cpu_update_forward(void *state, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += ROW_BLOCK)
        update_block(s, l, first, min_rows(ROW_BLOCK, s->N - first));
    return MLFF_OK;
}

/* (V_adj, U_adj) of one row from s_adj, n_adj, v_adj (NULL in the last layer) */
static void reverse_products(const real *VU, const real *s_adj, const real *n_adj, const real *v_adj, const real *y_sv,
                             const real *y_v, int F, real epsilon, real *VU_adj)
{
    for (int f = 0; f < F; f++) {
        real square = epsilon;
        for (int a = 0; a < 3; a++) square += VU[a * 2 * F + f] * VU[a * 2 * F + f];
        const real n = real_sqrt(square), along = n > 0 ? n_adj[f] / n : 0, across = s_adj[f] * y_sv[f];
        for (int a = 0; a < 3; a++) {
            const real V = VU[a * 2 * F + f], U = VU[a * 2 * F + F + f];
            VU_adj[a * 2 * F + f] = along * V + across * U;
            VU_adj[a * 2 * F + F + f] = across * V + (v_adj ? v_adj[a * F + f] * y_v[f] : 0);
        }
    }
}

static void reverse_block(cpu_state *s, int l, int64_t first, int64_t rows)
{
    const int F = s->w.F, last = l == s->w.L - 1, y_width = last ? 2 * F : 3 * F;
    const layer_weights *w = &s->w.layer[l];
    const layer_tensors *t = &s->layer[l];
    real *in_adj = thread_scratch(s), *h_adj = in_adj + (size_t)ROW_BLOCK * 2 * F,
         *y_adj = h_adj + (size_t)ROW_BLOCK * F,
         *VU_adj = y_adj + (size_t)ROW_BLOCK * 3 * F; /* [rows][2F], [F], [3F], [6F] */
    const real *VU = t->VU + (size_t)first * 6 * F;
    for (int64_t r = 0; r < rows; r++) {
        const real *VU_r = VU + r * 6 * F, *adj = s->adj + (size_t)(first + r) * 4 * F;
        real *y_adj_r = y_adj + r * y_width;
        for (int f = 0; f < F; f++) {
            real UV = 0, Uv = 0;
            for (int a = 0; a < 3; a++) {
                UV += VU_r[a * 2 * F + F + f] * VU_r[a * 2 * F + f];
                Uv += VU_r[a * 2 * F + F + f] * adj[(1 + a) * F + f];
            }
            y_adj_r[f] = adj[f];
            y_adj_r[F + f] = adj[f] * UV;
            if (!last) y_adj_r[2 * F + f] = Uv;
        }
    }
    dense_rows(&w->dense1_T, y_adj, y_width, h_adj, F, rows, 0);
    const real *slope = t->dense_slope + (size_t)first * F;
    for (int64_t q = 0; q < rows * F; q++) h_adj[q] *= slope[q];
    dense_rows(&w->dense0_T, h_adj, F, in_adj, 2 * F, rows, 0);

    for (int64_t r = 0; r < rows; r++) {
        const size_t i = (size_t)(first + r);
        real *adj = s->adj + i * 4 * F;
        reverse_products(VU + r * 6 * F, adj, in_adj + r * 2 * F + F, last ? NULL : adj + F, t->y_sv + i * F,
                         last ? NULL : t->y_v + i * F, F, s->w.epsilon, VU_adj + r * 6 * F);
        for (int f = 0; f < F; f++) adj[f] += in_adj[r * 2 * F + f];
    }
    real *v_part = y_adj; /* [rows][3F], no longer needed as y_adj */
    dense_rows(&w->mix_T, VU_adj, 2 * F, v_part, F, rows * 3, 0);
    for (int64_t r = 0; r < rows; r++) {
        real *v_adj = s->adj + (size_t)(first + r) * 4 * F + F;
        for (int q = 0; q < 3 * F; q++) v_adj[q] += v_part[r * 3 * F + q];
    }
}

mlff_status cpu_update_reverse(void *state, int l, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += ROW_BLOCK)
        reverse_block(s, l, first, min_rows(ROW_BLOCK, s->N - first));
    return MLFF_OK;
}
