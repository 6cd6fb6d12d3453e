/* SPDX-License-Identifier: MIT */
#ifndef MLFF_TINY_MODEL_H
#define MLFF_TINY_MODEL_H
/*
 * Model files of a few kB, made in memory, for tests that spoil them and for the seeds of the fuzzer. The header is
 * a JSON object until it is packed, so that a test can edit any entry.
 *
 *     tiny_model *tiny = tiny_make(&tiny_gaussian);
 *     json_object_set_new(tiny->metadata, "cutoff", json_string("nan"));
 *     size_t size;
 *     unsigned char *bytes = tiny_pack(tiny, &size); ... free(bytes); tiny_free(tiny);
 */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tiny_options {
    int features, interactions, radial_functions, readout_features; /* F, L, K, H */
    const char *elements, *element_energies;
    const char *energy_unit;
    int n_elements, bessel, vector_bias;
    int value_size;            /* 4 or 8 */
    const char *left_out;      /* a tensor that the file does not have, or NULL */
    const char *extra;         /* a tensor [2] that no model has, or NULL */
    const char *inner, *outer; /* of a short-range term, for random_model; or NULL */
} tiny_options;

static const tiny_options tiny_gaussian = {.features = 4,
                                           .interactions = 2,
                                           .radial_functions = 3,
                                           .readout_features = 2,
                                           .n_elements = 3,
                                           .elements = "H C O",
                                           .element_energies = "-13.5 1.0 2e0",
                                           .energy_unit = "eV",
                                           .value_size = 4};
static const tiny_options tiny_bessel = {.features = 2,
                                         .interactions = 1,
                                         .radial_functions = 1,
                                         .readout_features = 1,
                                         .n_elements = 1,
                                         .elements = "Si",
                                         .element_energies = "-1e-1",
                                         .energy_unit = "kcal/mol",
                                         .bessel = 1,
                                         .vector_bias = 1,
                                         .value_size = 8};

typedef struct tiny_model {
    json_t *header;
    json_t *metadata; /* header's __metadata__ */
    unsigned char *data;
    size_t data_size;
    tiny_options options;
} tiny_model;

/* Value i of the tensor of that name: above 0, exact in single precision, another one for each name and index. */
static inline double tiny_value(const char *name, int64_t i)
{
    uint32_t hash = 2166136261u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 16777619u;
    hash = (hash ^ (uint32_t)i) * 2654435761u;
    return (1 + (hash >> 12)) / 1048576.0; /* in (0, 1] */
}

/* Writes a value into the data, little-endian. */
static inline void tiny_store(unsigned char *p, int value_size, double value)
{
    uint64_t bits = 0;
    if (value_size == 8) {
        memcpy(&bits, &value, 8);
    } else {
        float single = (float)value;
        uint32_t single_bits;
        memcpy(&single_bits, &single, 4);
        bits = single_bits;
    }
    for (int k = 0; k < value_size; k++) p[k] = (unsigned char)(bits >> 8 * k);
}

/* columns 0: one dimension */
static inline void tiny_add(tiny_model *tiny, const char *name, int rows, int columns)
{
    const tiny_options *o = &tiny->options;
    if (o->left_out && !strcmp(name, o->left_out)) return;
    int64_t n = (int64_t)rows * (columns ? columns : 1);
    size_t begin = tiny->data_size, end = begin + (size_t)n * (size_t)o->value_size;
    tiny->data = realloc(tiny->data, end);
    tiny->data_size = end;
    for (int64_t i = 0; i < n; i++) {
        tiny_store(tiny->data + begin + (size_t)(i * o->value_size), o->value_size, tiny_value(name, i));
    }
    json_t *shape = columns ? json_pack("[i,i]", rows, columns) : json_pack("[i]", rows);
    json_object_set_new(tiny->header, name,
                        json_pack("{s:s, s:o, s:[I,I]}", "dtype", o->value_size == 8 ? "F64" : "F32", "shape", shape,
                                  "data_offsets", (json_int_t)begin, (json_int_t)end));
}

static inline void tiny_add_dense(tiny_model *tiny, const char *block, int l, const char *layer, int n_out, int n_in,
                                  int bias)
{
    char name[64];
    snprintf(name, sizeof name, block, l, layer, "weight");
    tiny_add(tiny, name, n_out, n_in);
    if (!bias) return;
    snprintf(name, sizeof name, block, l, layer, "bias");
    tiny_add(tiny, name, n_out, 0);
}

static inline void tiny_add_metadata(tiny_model *tiny)
{
    const tiny_options *o = &tiny->options;
    char sizes[4][16];
    const int values[4] = {o->features, o->interactions, o->radial_functions, o->readout_features};
    for (int k = 0; k < 4; k++) snprintf(sizes[k], sizeof sizes[k], "%d", values[k]);
    /* clang-format off */
    const char *const pairs[][2] = {
        {"mlff_format", "1"}, {"architecture", "painn"}, {"features", sizes[0]}, {"interactions", sizes[1]},
        {"radial", o->bessel ? "bessel" : "gaussian"}, {"radial_functions", sizes[2]}, {"cutoff_function", "cosine"},
        {"cutoff", "5.0"}, {"epsilon", "1e-08"}, {"vector_bias", o->vector_bias ? "true" : "false"},
        {"readout_features", sizes[3]}, {"elements", o->elements}, {"energy_unit", o->energy_unit},
        {"length_unit", "angstrom"}, {"scale", "1.5"}, {"shift", "-2.25"}, {"element_energies", o->element_energies},
        {"provenance", "made by a test"}, {"licence", "MIT"}, {"info.note", "anything"}};
    /* clang-format on */
    tiny->metadata = json_object();
    json_object_set_new(tiny->header, "__metadata__", tiny->metadata);
    for (size_t k = 0; k < sizeof pairs / sizeof pairs[0]; k++) {
        json_object_set_new(tiny->metadata, pairs[k][0], json_string(pairs[k][1]));
    }
}

static inline tiny_model *tiny_make(const tiny_options *options)
{
    tiny_model *tiny = calloc(1, sizeof *tiny);
    tiny->options = *options;
    tiny->header = json_object();
    tiny_add_metadata(tiny);
    const int F = options->features, K = options->radial_functions, H = options->readout_features;
    const char *message = "message.%d.%s.%s", *update = "update.%d.%s.%s", *readout = "readout.%d%s.%s";
    tiny_add(tiny, "embedding.weight", options->n_elements, F);
    if (options->bessel) {
        tiny_add(tiny, "radial.frequency", K, 0);
    } else {
        tiny_add(tiny, "radial.offset", K, 0);
        tiny_add(tiny, "radial.width", K, 0);
    }
    for (int l = 0; l < options->interactions; l++) {
        tiny_add_dense(tiny, message, l, "filter", 3 * F, K, 1);
        tiny_add_dense(tiny, message, l, "context.0", F, F, 1);
        tiny_add_dense(tiny, message, l, "context.1", 3 * F, F, 1);
        tiny_add_dense(tiny, update, l, "V", F, F, options->vector_bias);
        tiny_add_dense(tiny, update, l, "U", F, F, options->vector_bias);
        tiny_add_dense(tiny, update, l, "dense.0", F, 2 * F, 1);
        tiny_add_dense(tiny, update, l, "dense.1", 3 * F, F, 1);
    }
    tiny_add_dense(tiny, readout, 0, "", H, F, 1);
    tiny_add_dense(tiny, readout, 1, "", 1, H, 1);
    if (options->extra) tiny_add(tiny, options->extra, 2, 0);
    return tiny;
}

/* A short-range term with these distances, for each pair of the elements. */
static inline void tiny_add_short_range(tiny_model *tiny, const char *inner, const char *outer)
{
    json_object_set_new(tiny->metadata, "short_range", json_string("zbl"));
    json_object_set_new(tiny->metadata, "short_range_inner", json_string(inner));
    json_object_set_new(tiny->metadata, "short_range_outer", json_string(outer));
}

/* The entry of a tensor, to be edited. */
static inline json_t *tiny_entry(const tiny_model *tiny, const char *name)
{
    return json_object_get(tiny->header, name);
}

/* Overwrites value i of a tensor. */
static inline void tiny_set(tiny_model *tiny, const char *name, int64_t i, double value)
{
    int64_t begin = json_integer_value(json_array_get(json_object_get(tiny_entry(tiny, name), "data_offsets"), 0));
    tiny_store(tiny->data + begin + i * tiny->options.value_size, tiny->options.value_size, value);
}

/* A file of this header text and data. The caller frees it. */
static inline unsigned char *tiny_join(const void *header, size_t n, const void *data, size_t data_size, size_t *size)
{
    *size = 8 + n + data_size;
    unsigned char *bytes = malloc(*size);
    for (int k = 0; k < 8; k++) bytes[k] = (unsigned char)((uint64_t)n >> 8 * k);
    memcpy(bytes + 8, header, n);
    if (data_size) memcpy(bytes + 8 + n, data, data_size);
    return bytes;
}

static inline unsigned char *tiny_pack(const tiny_model *tiny, size_t *size)
{
    char *text = json_dumps(tiny->header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    unsigned char *bytes = tiny_join(text, strlen(text), tiny->data, tiny->data_size, size);
    free(text);
    return bytes;
}

static inline void tiny_free(tiny_model *tiny)
{
    json_decref(tiny->header);
    free(tiny->data);
    free(tiny);
}

#endif
