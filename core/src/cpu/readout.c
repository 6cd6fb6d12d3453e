/* SPDX-License-Identifier: MIT */
/*
 * Readout: h = w1 s + b1, e_i = scale (w2 . silu(h) + b2) + atom_shift(Z_i), in eV; the last steps in double.
 * Reverse, the start of all adjoints: s_adj = W1^T (scale w2 silu'(h)), v_adj = 0.
 */
#include "variant.h"

mlff_status cpu_readout_forward(void *state, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int F = s->w.F, H = s->w.H;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += ROW_BLOCK) {
        const int64_t rows = min_rows(ROW_BLOCK, s->N - first);
        real *h = thread_scratch(s); /* [rows][H] */
        dense_rows(&s->w.readout0, s->s + (size_t)first * F, F, h, H, rows, 0);
        for (int64_t r = 0; r < rows; r++) {
            const size_t i = (size_t)(first + r);
            double sum = s->w.readout1_bias;
            for (int q = 0; q < H; q++)
                sum += (double)silu(h[r * H + q], &s->readout_slope[i * H + q]) * (double)s->w.readout1[q];
            s->atom_energy[i] = s->w.scale * sum + s->w.atom_shift[s->graph->species[i]];
        }
    }
    return MLFF_OK;
}

mlff_status cpu_readout_reverse(void *state, mlff_error *error)
{
    (void)error;
    cpu_state *s = state;
    const int F = s->w.F, H = s->w.H;
    const real scale = (real)s->w.scale;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += ROW_BLOCK) {
        const int64_t rows = min_rows(ROW_BLOCK, s->N - first);
        real *h_adj = thread_scratch(s); /* [rows][H] */
        for (int64_t r = 0; r < rows; r++)
            for (int q = 0; q < H; q++)
                h_adj[r * H + q] = scale * s->w.readout1[q] * s->readout_slope[(size_t)(first + r) * H + q];
        dense_rows(&s->w.readout0_T, h_adj, H, s->adj + (size_t)first * 4 * F, 4 * F, rows, 0);
        for (int64_t r = 0; r < rows; r++) memset(s->adj + (size_t)(first + r) * 4 * F + F, 0, sizeof(real) * 3 * F);
    }
    return MLFF_OK;
}
