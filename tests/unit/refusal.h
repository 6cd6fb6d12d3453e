/* SPDX-License-Identifier: MIT */
#ifndef MLFF_REFUSAL_H
#define MLFF_REFUSAL_H
/* What every test of a bad model file asks: the status, no model, and one line that names the file and the fault.
 * Needs cmocka.h, mlff.h and tiny_model.h before it. */

static inline void expect_refusal_of_bytes(const void *bytes, size_t size, mlff_status expected, const char *part)
{
    /* in a block of its own size, so that AddressSanitizer sees a byte too many */
    void *exact = malloc(size ? size : 1);
    if (size) memcpy(exact, bytes, size);
    mlff_model *model = (mlff_model *)&model;
    mlff_error error = {""};
    mlff_status status = mlff_model_load_memory(exact, size, "tiny.safetensors", &model, &error);
    free(exact);
    if (!strstr(error.message, part)) fail_msg("message '%s' lacks '%s'", error.message, part);
    assert_string_equal(mlff_status_name(status), mlff_status_name(expected));
    assert_null(model);
    assert_memory_equal(error.message, "tiny.safetensors: ", 18);
    assert_null(strchr(error.message, '\n'));
}

/* Packs, loads and frees. */
static inline void expect_refusal(tiny_model *tiny, mlff_status expected, const char *part)
{
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    expect_refusal_of_bytes(bytes, size, expected, part);
    free(bytes);
    tiny_free(tiny);
}

/* A file of this header text and no data. */
static inline void expect_refusal_of_header(const char *header, const char *part)
{
    size_t size;
    unsigned char *bytes = tiny_join(header, strlen(header), NULL, 0, &size);
    expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, part);
    free(bytes);
}

static inline mlff_model *expect_model_of_bytes(const void *bytes, size_t size)
{
    mlff_model *model;
    mlff_error error = {""};
    mlff_status status = mlff_model_load_memory(bytes, size, "tiny.safetensors", &model, &error);
    if (status != MLFF_OK) fail_msg("%s", error.message);
    return model;
}

/* Packs, frees and loads; the caller frees the model. */
static inline mlff_model *expect_model(tiny_model *tiny)
{
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    mlff_model *model = expect_model_of_bytes(bytes, size);
    free(bytes);
    tiny_free(tiny);
    return model;
}

#endif
