/* SPDX-License-Identifier: MIT */
/* The model's weights as this variant wants them: rounded to real, padded, transposed where the reverse needs it. */
#include "variant.h"

/* Memory is handed out twice: a first pass with storage NULL counts, the second places. */
typedef struct placing {
    real *storage;
    size_t used;
} placing;

static real *take(placing *p, size_t count)
{
    real *place = p->storage ? p->storage + p->used : NULL;
    p->used += (count + 15) / 16 * 16;
    return place;
}

static void take_matrix(placing *p, matrix *m, int n_in, int n_out, int with_bias)
{
    m->n_in = n_in;
    m->n_out = n_out;
    m->M = take(p, (size_t)n_in * n_out);
    m->b = with_bias ? take(p, (size_t)n_out) : NULL;
}

static void take_pair(placing *p, matrix *m, matrix *transposed, int n_in, int n_out, int with_bias)
{
    take_matrix(p, m, n_in, n_out, with_bias);
    take_matrix(p, transposed, n_out, n_in, 0);
}

static void place_all(cpu_weights *w, placing *p, int vector_bias)
{
    const int F = w->F, functions = w->K + 1;
    w->embedding = take(p, (size_t)w->n_elements * F);
    w->first_s = take(p, (size_t)w->n_elements * functions * F);
    w->first_R = take(p, (size_t)w->n_elements * functions * F);
    for (int l = 0; l < w->L; l++) {
        layer_weights *y = &w->layer[l];
        y->filter = take(p, (size_t)functions * 3 * F);
        take_pair(p, &y->context0, &y->context0_T, F, F, 1);
        take_pair(p, &y->context1, &y->context1_T, F, 3 * F, 1);
        take_pair(p, &y->mix, &y->mix_T, F, 2 * F, vector_bias);
        take_pair(p, &y->dense0, &y->dense0_T, 2 * F, F, 1);
        take_pair(p, &y->dense1, &y->dense1_T, F, l == w->L - 1 ? 2 * F : 3 * F, 1);
    }
    take_pair(p, &w->readout0, &w->readout0_T, F, w->H, 1);
    w->readout1 = take(p, (size_t)w->H);
}

/* Copies a block of a dense layer: inputs from_in.., outputs from_out.., count_in x count_out, to (to_in, to_out) of m
 * and of its transpose, and the bias. */
static void fill(matrix *m, matrix *transposed, const dense_weights *d, int from_in, int from_out, int count_in,
                 int count_out, int to_in, int to_out)
{
    for (int o = 0; o < count_out; o++)
        for (int i = 0; i < count_in; i++) {
            real value = (real)d->W[(size_t)(from_out + o) * d->n_in + from_in + i];
            m->M[(size_t)(to_in + i) * m->n_out + to_out + o] = value;
            transposed->M[(size_t)(to_out + o) * transposed->n_out + to_in + i] = value;
        }
    if (m->b && d->b && from_in == 0)
        for (int o = 0; o < count_out; o++) m->b[to_out + o] = (real)d->b[from_out + o];
}

static void fill_filter(real *filter, const dense_weights *d, int f_model, int K)
{
    for (int k = 0; k <= K; k++)
        for (int part = 0; part < 3; part++)
            for (int f = 0; f < f_model; f++) {
                int out = part * f_model + f;
                real value = (real)(k < K ? d->W[(size_t)out * K + k] : d->b[out]);
                filter[(((size_t)(f / LANES) * (K + 1) + k) * 3 + part) * LANES + f % LANES] = value;
            }
}

static double silu_double(double x)
{
    return x / (1 + exp(-x));
}

/* x = W2 silu(W1 s + b1) + b2 for the embedding of one element, in double: x [3F] of the model */
static void context_of_element(const mlff_model *model, int element, double *hidden, double *x)
{
    const dense_weights *d0 = &model->message[0].context0, *d1 = &model->message[0].context1;
    const double *s = model->embedding + (size_t)element * d0->n_in;
    for (int o = 0; o < d0->n_out; o++) {
        double sum = d0->b[o];
        for (int i = 0; i < d0->n_in; i++) sum += d0->W[(size_t)o * d0->n_in + i] * s[i];
        hidden[o] = silu_double(sum);
    }
    for (int o = 0; o < d1->n_out; o++) {
        x[o] = d1->b[o];
        for (int i = 0; i < d1->n_in; i++) x[o] += d1->W[(size_t)o * d1->n_in + i] * hidden[i];
    }
}

/* first_s[Z][k][f] = filter_s[f][k] x_s(Z)[f], first_R likewise: the first message needs no gather */
static void fill_first_message(cpu_weights *w, const mlff_model *model, double *hidden, double *x)
{
    const int F = w->F, K = w->K, f_model = model->info.features;
    const dense_weights *filter = &model->message[0].filter;
    for (int z = 0; z < w->n_elements; z++) {
        context_of_element(model, z, hidden, x);
        for (int k = 0; k <= K; k++)
            for (int f = 0; f < f_model; f++) {
                int out_s = f, out_R = f_model + f;
                double W_s = k < K ? filter->W[(size_t)out_s * K + k] : filter->b[out_s];
                double W_R = k < K ? filter->W[(size_t)out_R * K + k] : filter->b[out_R];
                size_t place = ((size_t)z * (K + 1) + k) * F + f;
                w->first_s[place] = (real)(W_s * x[out_s]);
                w->first_R[place] = (real)(W_R * x[out_R]);
            }
    }
}

static void fill_layer(layer_weights *y, const mlff_model *model, int l, int F, int last)
{
    const int f = model->info.features, K = model->info.radial_functions;
    const message_weights *message = &model->message[l];
    const update_weights *update = &model->update[l];
    fill_filter(y->filter, &message->filter, f, K);
    fill(&y->context0, &y->context0_T, &message->context0, 0, 0, f, f, 0, 0);
    for (int part = 0; part < 3; part++)
        fill(&y->context1, &y->context1_T, &message->context1, 0, part * f, f, f, 0, part * F);
    fill(&y->mix, &y->mix_T, &update->V, 0, 0, f, f, 0, 0);
    fill(&y->mix, &y->mix_T, &update->U, 0, 0, f, f, 0, F);
    for (int part = 0; part < 2; part++)
        fill(&y->dense0, &y->dense0_T, &update->dense0, part * f, 0, f, f, part * F, 0);
    const int place_of_part[3] = {0, 2, 1}; /* the file's (s, v, sv) as (s, sv, v): the last layer leaves v out */
    for (int part = 0; part < 3; part++)
        if (!(last && part == 1))
            fill(&y->dense1, &y->dense1_T, &update->dense1, 0, part * f, f, f, 0, place_of_part[part] * F);
}

mlff_status cpu_weights_create(cpu_weights *w, const mlff_model *model, mlff_error *error)
{
    const mlff_model_info *info = &model->info;
    *w = (cpu_weights){.F = padded(info->features),
                       .K = info->radial_functions,
                       .L = info->interactions,
                       .H = padded(model->readout_features),
                       .n_elements = info->n_elements,
                       .radial = model->radial,
                       .cutoff = info->cutoff,
                       .offset = model->offset,
                       .width = model->width,
                       .frequency = model->frequency,
                       .epsilon = (real)info->epsilon,
                       .scale = model->scale,
                       .atom_shift = model->atom_shift,
                       .readout1_bias = model->readout1.b[0]};
    placing p = {0};
    place_all(w, &p, info->vector_bias);
    w->storage_bytes = p.used * sizeof(real);
    w->storage = aligned_alloc(64, (w->storage_bytes + 63) / 64 * 64);
    double *temporary = malloc((size_t)4 * info->features * sizeof *temporary);
    if (!w->storage || !temporary) {
        free(temporary);
        cpu_weights_free(w);
        return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the weights", w->storage_bytes);
    }
    memset(w->storage, 0, w->storage_bytes);
    p = (placing){.storage = w->storage};
    place_all(w, &p, info->vector_bias);

    for (int z = 0; z < w->n_elements; z++)
        for (int f = 0; f < info->features; f++)
            w->embedding[(size_t)z * w->F + f] = (real)model->embedding[(size_t)z * info->features + f];
    fill_first_message(w, model, temporary, temporary + info->features);
    for (int l = 0; l < w->L; l++) fill_layer(&w->layer[l], model, l, w->F, l == w->L - 1);
    fill(&w->readout0, &w->readout0_T, &model->readout0, 0, 0, info->features, model->readout_features, 0, 0);
    for (int h = 0; h < model->readout_features; h++) w->readout1[h] = (real)model->readout1.W[h];
    free(temporary);
    return MLFF_OK;
}

void cpu_weights_free(cpu_weights *w)
{
    free(w->storage);
    w->storage = NULL;
}
