/* SPDX-License-Identifier: MIT */
#ifndef MLFF_RANDOM_MODEL_H
#define MLFF_RANDOM_MODEL_H
/* Models of any size with random weights. */
#include "support.h"
#include "tiny_model.h"

#include <math.h>

static uint64_t random_seed;

static inline double random_number(void) /* -1 to 1 */
{
    random_seed = random_seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_seed >> 11) / 9007199254740992.0 * 2 - 1;
}

/* Weights of variance 1 / inputs, small biases; radial functions spread over the cutoff. filter_size below 1 is for
 * many neighbours, so that forces stay some eV/angstrom: half has no room for adjoints of hundreds. */
static inline void randomise(tiny_model *tiny, double filter_size)
{
    const char *name;
    json_t *entry;
    json_object_foreach(tiny->header, name, entry)
    {
        const json_t *shape = json_object_get(entry, "shape");
        if (!shape) continue;
        const int rows = (int)json_integer_value(json_array_get(shape, 0));
        const int columns = json_array_size(shape) > 1 ? (int)json_integer_value(json_array_get(shape, 1)) : 0;
        const int radial = !strncmp(name, "radial.", 7), n = rows * (columns ? columns : 1);
        double size = columns == 0 ? 0.1 : strcmp(name, "embedding.weight") ? sqrt(3.0 / columns) : 1;
        if (strstr(name, "filter")) size *= filter_size;
        for (int i = 0; i < n; i++) {
            double spread = strcmp(name, "radial.width") ? 5.0 * i / (rows - 1) : 5.0 / (rows - 1);
            if (!strcmp(name, "radial.frequency")) spread = 3.14159265358979323846 / 5.0 * (i + 1);
            tiny_set(tiny, name, i, radial ? spread : size * random_number());
        }
    }
}

/* sizes: features, interactions, readout_features, vector_bias, bessel, a short-range term, and radial_functions or 0 for
 * 12. Three elements. */
static inline mlff_model *random_model(const tiny_options *sizes, double filter_size)
{
    tiny_options options = tiny_gaussian;
    options.features = sizes->features, options.interactions = sizes->interactions;
    options.readout_features = sizes->readout_features, options.vector_bias = sizes->vector_bias;
    options.radial_functions = sizes->radial_functions ? sizes->radial_functions : 12;
    options.bessel = sizes->bessel, options.value_size = 8;
    tiny_model *tiny = tiny_make(&options);
    randomise(tiny, filter_size);
    if (sizes->outer) tiny_add_short_range(tiny, sizes->inner, sizes->outer);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    mlff_model *model = NULL;
    mlff_error error;
    if (mlff_model_load_memory(bytes, size, "random", &model, &error) != MLFF_OK) fail_msg("%s", error.message);
    free(bytes);
    tiny_free(tiny);
    return model;
}

#endif
