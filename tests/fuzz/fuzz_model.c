/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target of the model reader: whatever the bytes, it ends with a sound model or with a status and a sentence.
 *
 * Bytes flipped at random seldom get past the JSON, so half of the mutations edit the header as JSON, put the header
 * length right, and now and then the tensors' offsets and the amount of data too. Others start from another valid
 * model, move the header length a little or cut the file.
 */
#include "../unit/tiny_model.h"

#include "model.h"

#include <inttypes.h>
#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* --------------------------------------------------------------------------------------------- target */

static void require(int condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "not so: %s\n", what);
    abort();
}

static void require_sound_model(const mlff_model *model)
{
    const mlff_model_info *info = mlff_model_get_info(model);
    require(info->features >= 1 && info->features <= 1024, "features in range");
    require(info->interactions >= 1 && info->interactions <= MLFF_MAX_INTERACTIONS, "interactions in range");
    require(info->radial_functions >= 1 && info->radial_functions <= 256, "radial functions in range");
    require(info->n_elements >= 1 && info->n_elements <= 118, "elements in range");
    require(info->cutoff >= 0.1 && info->cutoff <= 100.0, "cutoff in range");
    require(info->epsilon >= 0.0 && isfinite(model->scale), "epsilon and scale are finite");
    for (int k = 0; k < info->n_elements; k++) {
        require(strlen(info->elements[k]) >= 1 && isfinite(model->atom_shift[k]), "elements have symbol and energy");
    }
    for (int64_t i = 0; i < info->n_parameters; i++) require(isfinite(model->storage[i]), "weights are finite");
    require(model->embedding && model->readout1.W && model->readout1.n_in == model->readout_features,
            "readout is there");
    for (int k = 0; model->short_range && k < info->n_elements * info->n_elements; k++) {
        const short_range_pair *pair = &model->short_range[k];
        require(pair->outer == 0.0 || (pair->outer >= 0.01 && pair->outer <= info->cutoff), "outer distance in range");
        require(pair->inner >= 0.0 && (pair->outer == 0.0 || pair->inner < pair->outer), "inner distance in range");
        require(pair->strength > 0.0 && pair->inverse_reach > 0.0, "nuclei repel");
    }
    for (int l = 0; l < info->interactions; l++) {
        require(model->message[l].filter.n_out == 3 * info->features && model->message[l].context1.b,
                "message is there");
        require(model->update[l].dense0.n_in == 2 * info->features, "update is there");
        require((model->update[l].V.b != NULL) == info->vector_bias, "vector bias is there if it should");
    }
    require(!strcmp(mlff_model_get_metadata(model, "architecture"), "painn"), "metadata can be asked for");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mlff_model *model;
    mlff_error error;
    memset(&error, 0x55, sizeof error);
    mlff_status status = mlff_model_load_memory(data, size, "fuzz", &model, &error);
    if (status == MLFF_OK) {
        require_sound_model(model);
    } else {
        require(!model, "no model on failure");
        require(status == MLFF_ERROR_FORMAT || status == MLFF_ERROR_UNSUPPORTED,
                "the status says that the file is bad");
        require(memchr(error.message, '\0', sizeof error.message) != NULL, "the message ends");
        require(!strncmp(error.message, "fuzz: ", 6) && !strchr(error.message, '\n'),
                "the message is a line on the file");
        for (const char *c = error.message; *c; c++) require(*c >= ' ' && *c <= '~', "the message is plain ASCII");
    }
    mlff_model_free(model);
    return 0;
}

/* -------------------------------------------------------------------------------------------- mutator */

typedef struct dice {
    uint64_t state;
} dice;

static uint32_t roll(dice *d, uint32_t n)
{
    d->state = d->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(d->state >> 33) % n;
}

/* A string that libFuzzer has changed; JSON can hold it if it is UTF-8. */
static json_t *mutated_string(const char *text, dice *d)
{
    uint8_t buffer[256];
    size_t n = strlen(text);
    if (n > sizeof buffer / 2) n = sizeof buffer / 2;
    memcpy(buffer, text, n);
    n = LLVMFuzzerMutate(buffer, n, sizeof buffer);
    json_t *string = json_stringn((const char *)buffer, n);
    if (string) return string;
    static const char *const others[] = {"",  "nan",    "1e308", "1",   "2",  "1024",
                                         "H", "bessel", "true",  "F64", "-0", "1e-9"};
    return json_string(others[roll(d, sizeof others / sizeof others[0])]);
}

static json_t *other_value(const json_t *value, dice *d)
{
    static const json_int_t integers[] = {0,
                                          1,
                                          2,
                                          3,
                                          4,
                                          8,
                                          -1,
                                          255,
                                          1024,
                                          INT32_MAX,
                                          UINT32_MAX,
                                          INT64_MAX,
                                          INT64_MIN,
                                          (json_int_t)1 << 61,
                                          (json_int_t)1 << 62};
    if (json_is_string(value) && roll(d, 8)) return mutated_string(json_string_value(value), d);
    if (json_is_integer(value) && roll(d, 2)) {
        return json_integer((json_int_t)((uint64_t)json_integer_value(value) + roll(d, 17) - 8));
    }
    switch (roll(d, 8)) {
    case 0: return json_object();
    case 1: return json_array();
    case 2: return json_real(2.5);
    case 3: return json_null();
    case 4: return json_true();
    case 5: return mutated_string("F32", d);
    default: return json_integer(integers[roll(d, sizeof integers / sizeof integers[0])]);
    }
}

static const char *key_at(json_t *object, size_t index)
{
    void *at = json_object_iter(object);
    while (index-- > 0) at = json_object_iter_next(object, at);
    return json_object_iter_key(at);
}

/* Changes one thing in an object, or in something below it. */
static void edit(json_t *object, dice *d)
{
    size_t n = json_object_size(object);
    if (n == 0) {
        json_object_set_new(object, "a", other_value(NULL, d));
        return;
    }
    const char *key = key_at(object, roll(d, (uint32_t)n));
    if (json_object_get(object, "__metadata__") && roll(d, 3) == 0) key = "__metadata__";
    json_t *value = json_object_get(object, key);
    uint32_t what = roll(d, 10);
    if (json_is_object(value) && what > 1) {
        edit(value, d);
    } else if (json_is_array(value) && what > 1) {
        size_t length = json_array_size(value), at = length ? roll(d, (uint32_t)length) : 0;
        if (length == 0 || what == 2)
            json_array_append_new(value, other_value(NULL, d));
        else if (what == 3)
            json_array_remove(value, at);
        else
            json_array_set_new(value, at, other_value(json_array_get(value, at), d));
    } else if (what == 0) {
        json_object_del(object, key);
    } else if (what == 1) { /* the same under another name */
        json_t *name = mutated_string(key, d), *copy = json_deep_copy(value);
        json_object_set_new(object, json_string_value(name), copy);
        json_decref(name);
    } else {
        json_object_set_new(object, key, other_value(value, d));
    }
}

/* Gives every tensor the offsets that its shape and dtype ask for, but for one that may get a few bytes too many or
 * too few. Returns the bytes of data, 0 if there are too many for `most`. */
static size_t lay_out(json_t *header, size_t most, dice *d)
{
    size_t total = 0, odd_one = roll(d, 2) ? roll(d, (uint32_t)json_object_size(header) + 1) : SIZE_MAX;
    const char *key;
    json_t *entry;
    json_object_foreach(header, key, entry)
    {
        json_t *shape = json_object_get(entry, "shape"), *extent;
        const char *dtype = json_string_value(json_object_get(entry, "dtype"));
        if (!strcmp(key, "__metadata__") || !json_is_array(shape)) continue;
        size_t bytes = dtype && !strcmp(dtype, "F64") ? 8 : 4, k;
        json_array_foreach(shape, k, extent)
        {
            json_int_t n = json_integer_value(extent);
            if (n < 0 || (size_t)n > most) return 0;
            bytes *= (size_t)n;
            if (bytes > most) return 0;
        }
        if (odd_one-- == 0) bytes = bytes / 2 + roll(d, 2) * 4;
        json_object_set_new(entry, "data_offsets", json_pack("[I,I]", (json_int_t)total, (json_int_t)(total + bytes)));
        total += bytes;
        if (total > most) return 0;
    }
    return total;
}

/* Edits the header as JSON. Returns the new size, 0 if it is not JSON or does not fit. */
static size_t mutate_json(uint8_t *bytes, size_t header_size, size_t size, size_t max_size, dice *d)
{
    json_t *header = json_loadb((const char *)bytes + 8, header_size, 0, NULL);
    if (!json_is_object(header)) {
        json_decref(header);
        return 0;
    }
    for (uint32_t k = 0, n = 1 + roll(d, 3); k < n; k++) edit(header, d);
    size_t data_size = size - 8 - header_size;
    size_t wanted = roll(d, 2) ? lay_out(header, max_size, d) : 0;
    if (wanted == 0) wanted = data_size;

    size_t new_size = 0;
    char *text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(header);
    if (text && 8 + strlen(text) + wanted <= max_size) {
        uint8_t *data = calloc(wanted + 1, 1);
        memcpy(data, bytes + 8 + header_size, data_size < wanted ? data_size : wanted);
        for (size_t k = data_size; k < wanted; k++) data[k] = k % 4 == 3 ? 0x3f : 0; /* small positive numbers */
        unsigned char *joined = tiny_join(text, strlen(text), data, wanted, &new_size);
        memcpy(bytes, joined, new_size);
        free(joined);
        free(data);
    }
    free(text);
    return new_size;
}

/* Changes the header's text and puts its length right. */
static size_t mutate_text(uint8_t *bytes, size_t header_size, size_t size, size_t max_size)
{
    size_t data_size = size - 8 - header_size, room = max_size - 8 - data_size;
    uint8_t *text = malloc(room + 1), *data = malloc(data_size + 1);
    memcpy(text, bytes + 8, header_size);
    memcpy(data, bytes + 8 + header_size, data_size);
    size_t n = LLVMFuzzerMutate(text, header_size, room), new_size;
    unsigned char *joined = tiny_join(text, n, data, data_size, &new_size);
    memcpy(bytes, joined, new_size);
    free(joined);
    free(data);
    free(text);
    return new_size;
}

/* Puts an odd number among the weights. */
static void mutate_weight(uint8_t *bytes, size_t header_size, size_t size, dice *d)
{
    static const double odd[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, -1.0, 1e308, 5e-324, 3.4e38};
    size_t value_size = roll(d, 2) ? 8 : 4, n = (size - 8 - header_size) / value_size;
    if (n == 0) return;
    tiny_store(bytes + 8 + header_size + value_size * roll(d, (uint32_t)n), (int)value_size,
               odd[roll(d, sizeof odd / sizeof odd[0])]);
}

/* Moves the header length a little, puts it near the end of the file, or cuts the file. */
static size_t mutate_length(uint8_t *bytes, uint64_t n, size_t size, dice *d)
{
    switch (roll(d, 3)) {
    case 0: n += roll(d, 33) - 16u; break;
    case 1: n = size - 16 + roll(d, 24); break;
    default: size -= roll(d, 16) % (size - 8);
    }
    for (int k = 0; k < 8; k++) bytes[k] = (uint8_t)(n >> 8 * k);
    return size;
}

/* Another valid model altogether. */
static size_t fresh_model(uint8_t *bytes, size_t max_size, dice *d)
{
    tiny_options options = roll(d, 2) ? tiny_gaussian : tiny_bessel;
    options.features = 1 + (int)roll(d, 3);
    options.interactions = 1 + (int)roll(d, 3);
    options.radial_functions = 1 + (int)roll(d, 3);
    options.readout_features = 1 + (int)roll(d, 3);
    options.bessel = (int)roll(d, 2);
    options.vector_bias = (int)roll(d, 2);
    options.value_size = roll(d, 2) ? 4 : 8;
    tiny_model *tiny = tiny_make(&options);
    size_t size;
    unsigned char *packed = tiny_pack(tiny, &size);
    if (size <= max_size) memcpy(bytes, packed, size);
    free(packed);
    tiny_free(tiny);
    return size <= max_size ? size : 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    dice d = {seed * 0x9e3779b97f4a7c15u + 1};
    uint64_t n = 0;
    for (int k = 7; k >= 0 && size >= 8; k--) n = n << 8 | data[k];
    uint32_t what = roll(&d, 20);
    size_t new_size = 0;
    if (what == 0) new_size = fresh_model(data, max_size, &d);
    if (what == 1 && size > 16) new_size = mutate_length(data, n, size, &d);
    if (new_size > 0) return new_size;

    if (size <= 10 || n == 0 || n > size - 8 || what < 4) return LLVMFuzzerMutate(data, size, max_size);
    if (what < 6) return mutate_text(data, (size_t)n, size, max_size);
    if (what < 8) {
        mutate_weight(data, (size_t)n, size, &d);
        return size;
    }
    new_size = mutate_json(data, (size_t)n, size, max_size, &d);
    return new_size ? new_size : mutate_text(data, (size_t)n, size, max_size);
}
