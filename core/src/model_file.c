/* SPDX-License-Identifier: MIT */
/* The tensors of a model file: one table says their names, shapes and where they go. */
#include "model_file.h"

#include "status.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------------------------- table of tensors */

/* What a dimension is made of; NONE ends a shape. */
typedef enum extent { NONE, ONE, ELEMENTS, F, F2, F3, K, H } extent;

/* Which struct a destination is a member of; those of one interaction are there L times. */
typedef enum owner { MODEL, MESSAGE, UPDATE } owner;

typedef enum presence { ALWAYS, ONLY_GAUSSIAN, ONLY_BESSEL, ONLY_VECTOR_BIAS } presence;

/* VALUES goes to a `const double *`, WEIGHT and BIAS to a dense_weights. */
typedef enum member { VALUES, POSITIVE_VALUES, WEIGHT, BIAS } member;

typedef struct tensor_rule {
    owner owner;
    const char *name; /* of MODEL; of one interaction without the "message.l." or "update.l." before it */
    presence presence;
    extent shape[2];
    member member;
    size_t offset; /* of the destination in its owner */
} tensor_rule;

/* clang-format off */
/* A dense layer has a weight [out, in] and a bias [out]. */
#define DENSE(owner, type, name, out, in, place, bias_presence)                                                        \
    {owner, name ".weight", ALWAYS, {out, in}, WEIGHT, offsetof(type, place)},                                         \
    {owner, name ".bias", bias_presence, {out}, BIAS, offsetof(type, place)}

static const tensor_rule rules[] = {
    {MODEL, "embedding.weight", ALWAYS, {ELEMENTS, F}, VALUES, offsetof(struct mlff_model, embedding)},
    {MODEL, "radial.offset", ONLY_GAUSSIAN, {K}, VALUES, offsetof(struct mlff_model, offset)},
    {MODEL, "radial.width", ONLY_GAUSSIAN, {K}, POSITIVE_VALUES, offsetof(struct mlff_model, width)},
    {MODEL, "radial.frequency", ONLY_BESSEL, {K}, POSITIVE_VALUES, offsetof(struct mlff_model, frequency)},
    DENSE(MESSAGE, message_weights, "filter", F3, K, filter, ALWAYS),
    DENSE(MESSAGE, message_weights, "context.0", F, F, context0, ALWAYS),
    DENSE(MESSAGE, message_weights, "context.1", F3, F, context1, ALWAYS),
    DENSE(UPDATE, update_weights, "V", F, F, V, ONLY_VECTOR_BIAS),
    DENSE(UPDATE, update_weights, "U", F, F, U, ONLY_VECTOR_BIAS),
    DENSE(UPDATE, update_weights, "dense.0", F, F2, dense0, ALWAYS),
    DENSE(UPDATE, update_weights, "dense.1", F3, F, dense1, ALWAYS),
    DENSE(MODEL, struct mlff_model, "readout.0", H, F, readout0, ALWAYS),
    DENSE(MODEL, struct mlff_model, "readout.1", ONE, H, readout1, ALWAYS),
};
/* clang-format on */
enum { n_rules = sizeof rules / sizeof rules[0], max_slots = n_rules * MLFF_MAX_INTERACTIONS };

/* One tensor that this model must have. */
typedef struct slot {
    const tensor_rule *rule;
    int interaction;
    const safetensors_tensor *tensor;
} slot;

static int extent_size(const struct mlff_model *model, extent e)
{
    switch (e) {
    case NONE: break;
    case ONE: return 1;
    case ELEMENTS: return model->info.n_elements;
    case F: return model->info.features;
    case F2: return 2 * model->info.features;
    case F3: return 3 * model->info.features;
    case K: return model->info.radial_functions;
    case H: return model->readout_features;
    }
    return 0;
}

static int is_wanted(const struct mlff_model *model, presence when)
{
    switch (when) {
    case ALWAYS: return 1;
    case ONLY_GAUSSIAN: return model->radial == RADIAL_GAUSSIAN;
    case ONLY_BESSEL: return model->radial == RADIAL_BESSEL;
    case ONLY_VECTOR_BIAS: return model->info.vector_bias;
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------ matching */

/* Finds the tensor of a slot and holds its shape against the table. */
static mlff_status match(const safetensors_file *file, const struct mlff_model *model, slot *s, mlff_error *error)
{
    static const char *const prefixes[] = {[MESSAGE] = "message", [UPDATE] = "update"};
    char name[64];
    if (s->rule->owner == MODEL) {
        snprintf(name, sizeof name, "%s", s->rule->name);
    } else {
        snprintf(name, sizeof name, "%s.%d.%s", prefixes[s->rule->owner], s->interaction, s->rule->name);
    }
    int64_t expected[2];
    int n_expected = 0;
    while (n_expected < 2 && s->rule->shape[n_expected] != NONE) {
        expected[n_expected] = extent_size(model, s->rule->shape[n_expected]);
        n_expected++;
    }
    s->tensor = NULL;
    for (size_t k = 0; k < file->n_tensors && !s->tensor; k++) {
        if (!strcmp(file->tensors[k].name, name)) s->tensor = &file->tensors[k];
    }
    if (!s->tensor) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s' is missing, expected it with shape %s", file->name,
                         name, mlff_quote_shape(expected, n_expected).text);
    }
    if (s->tensor->n_dimensions != n_expected ||
        memcmp(s->tensor->shape, expected, (size_t)n_expected * sizeof expected[0])) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': shape %s, expected %s by the metadata", file->name,
                         name, mlff_quote_shape(s->tensor->shape, s->tensor->n_dimensions).text,
                         mlff_quote_shape(expected, n_expected).text);
    }
    if (s->tensor->dtype != file->tensors[0].dtype) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': dtype %s, expected %s as tensor '%s' has",
                         file->name, name, mlff_safetensors_dtype_name(s->tensor->dtype),
                         mlff_safetensors_dtype_name(file->tensors[0].dtype), mlff_quote(file->tensors[0].name).text);
    }
    return MLFF_OK;
}

/* Fills slots: [max_slots]. */
static mlff_status match_all(const safetensors_file *file, const struct mlff_model *model, slot *slots, int *n_slots,
                             mlff_error *error)
{
    *n_slots = 0;
    for (int k = 0; k < n_rules; k++) {
        if (!is_wanted(model, rules[k].presence)) continue;
        int n_times = rules[k].owner == MODEL ? 1 : model->info.interactions;
        for (int l = 0; l < n_times; l++) {
            slot *s = &slots[(*n_slots)++];
            *s = (slot){&rules[k], l, NULL};
            MLFF_TRY(match(file, model, s, error));
        }
    }
    /* names are unique in a file, so there are unexpected tensors exactly if there are more than slots */
    for (size_t t = 0; t < file->n_tensors && file->n_tensors > (size_t)*n_slots; t++) {
        int expected = 0;
        for (int k = 0; k < *n_slots && !expected; k++) expected = slots[k].tensor == &file->tensors[t];
        if (!expected) {
            return mlff_fail(error, MLFF_ERROR_FORMAT,
                             "%s: unexpected tensor '%s', expected only the %d tensors that the metadata call for",
                             file->name, mlff_quote(file->tensors[t].name).text, *n_slots);
        }
    }
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------------- weights */

static mlff_status allocate(const safetensors_file *file, const slot *slots, int n_slots, struct mlff_model *model,
                            mlff_error *error)
{
    int64_t n_values = 0;
    int overflow = 0;
    for (int k = 0; k < n_slots; k++)
        overflow |= __builtin_add_overflow(n_values, slots[k].tensor->n_values, &n_values);
    model->info.n_parameters = n_values;

    size_t bytes = 0;
    overflow |= __builtin_add_overflow(n_values, model->info.n_elements, &n_values); /* atom_shift */
    overflow |= __builtin_mul_overflow(n_values, sizeof(double), &bytes);
    if (!overflow) model->storage = malloc(bytes);
    if (!model->storage) {
        return mlff_fail(error, MLFF_ERROR_MEMORY, "%s: cannot allocate %zu bytes for the weights", file->name,
                         overflow ? SIZE_MAX : bytes);
    }
    return MLFF_OK;
}

static mlff_status copy_values(const safetensors_file *file, const slot *s, double *values, mlff_error *error)
{
    const safetensors_tensor *tensor = s->tensor;
    for (int64_t i = 0; i < tensor->n_values; i++) {
        values[i] = mlff_safetensors_value(tensor, i);
        int bad = !isfinite(values[i]);
        if (bad || (s->rule->member == POSITIVE_VALUES && values[i] <= 0.0)) {
            int64_t columns = tensor->n_dimensions == 2 ? tensor->shape[1] : tensor->n_values;
            int64_t index[2] = {i / columns, i % columns};
            return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': value %g at %s, expected %s", file->name,
                             tensor->name, values[i],
                             mlff_quote_shape(index + 2 - tensor->n_dimensions, tensor->n_dimensions).text,
                             bad ? "finite numbers" : "numbers above 0");
        }
    }
    return MLFF_OK;
}

static void place(struct mlff_model *model, const slot *s, const double *values)
{
    char *base = (char *)model;
    if (s->rule->owner == MESSAGE) base = (char *)&model->message[s->interaction];
    if (s->rule->owner == UPDATE) base = (char *)&model->update[s->interaction];
    void *destination = base + s->rule->offset;
    dense_weights *dense = destination;
    switch (s->rule->member) {
    case VALUES:
    case POSITIVE_VALUES: *(const double **)destination = values; break;
    case WEIGHT:
        dense->n_out = (int)s->tensor->shape[0];
        dense->n_in = (int)s->tensor->shape[1];
        dense->W = values;
        break;
    case BIAS: dense->b = values; break;
    }
}

mlff_status mlff_model_from_safetensors(const safetensors_file *file, struct mlff_model *model, mlff_error *error)
{
    double atom_shift[MLFF_MAX_ELEMENTS];
    MLFF_TRY(mlff_model_read_metadata(file, model, atom_shift, error));

    slot slots[max_slots];
    int n_slots;
    MLFF_TRY(match_all(file, model, slots, &n_slots, error));
    MLFF_TRY(allocate(file, slots, n_slots, model, error));

    double *values = model->storage;
    for (int k = 0; k < n_slots; k++) {
        MLFF_TRY(copy_values(file, &slots[k], values, error));
        place(model, &slots[k], values);
        values += slots[k].tensor->n_values;
    }
    memcpy(values, atom_shift, (size_t)model->info.n_elements * sizeof *values);
    model->atom_shift = values;
    return MLFF_OK;
}
