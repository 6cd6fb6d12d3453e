/* SPDX-License-Identifier: MIT */
#include "packed_weights.h"

#define MLFF_VARIANT_NAME double_base
#define MLFF_REAL_IS_SINGLE 0
#define MLFF_ISA_IS_AVX512 0
#define MLFF_ISA_IS_AVX2 0
#include "cpu/variant.h"

typedef struct owner {
    cpu_weights w;
    double *filters; /* [L][K+1][3][F] */
} owner;

static packed_matrix of(const matrix *m)
{
    return (packed_matrix){.n_in = m->n_in, .n_out = m->n_out, .M = m->M, .b = m->b};
}

mlff_status mlff_packed_weights_create(packed_weights *p, const mlff_model *model, mlff_error *error)
{
    *p = (packed_weights){0};
    owner *o = calloc(1, sizeof *o);
    if (!o) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for packed weights", sizeof *o);
    p->owner = o;
    const mlff_status status = cpu_weights_create(&o->w, model, error);
    const cpu_weights *w = &o->w;
    const size_t functions = (size_t)w->K + 1, F = (size_t)w->F, filter = functions * 3 * F;
    if (status == MLFF_OK) o->filters = malloc((size_t)w->L * filter * sizeof(double));
    if (status != MLFF_OK || !o->filters) {
        mlff_packed_weights_free(p);
        return status != MLFF_OK ? status
                                 : mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the filters",
                                             (size_t)w->L * filter * sizeof(double));
    }
    p->F = w->F, p->K = w->K, p->L = w->L, p->H = w->H;
    p->embedding = w->embedding, p->first_s = w->first_s, p->first_R = w->first_R;
    p->readout0 = of(&w->readout0), p->readout0_T = of(&w->readout0_T);
    p->readout1 = w->readout1, p->readout1_bias = w->readout1_bias;
    for (int l = 0; l < w->L; l++) {
        const layer_weights *y = &w->layer[l];
        const packed_matrix all[PACKED_MATRICES] = {
            of(&y->context0), of(&y->context0_T), of(&y->context1), of(&y->context1_T), of(&y->mix),
            of(&y->mix_T),    of(&y->dense0),     of(&y->dense0_T), of(&y->dense1),     of(&y->dense1_T)};
        memcpy(p->matrix[l], all, sizeof all);
        double *to = o->filters + (size_t)l * filter;
        for (size_t k = 0; k < functions; k++)
            for (size_t part = 0; part < 3; part++)
                for (size_t f = 0; f < F; f++)
                    to[(k * 3 + part) * F + f] =
                        y->filter[((f / LANES * functions + k) * 3 + part) * LANES + f % LANES];
        p->filter[l] = to;
    }
    return MLFF_OK;
}

void mlff_packed_weights_free(packed_weights *p)
{
    owner *o = p->owner;
    if (!o) return;
    cpu_weights_free(&o->w);
    free(o->filters);
    free(o);
    *p = (packed_weights){0};
}
