/* SPDX-License-Identifier: MIT */
#include "safetensors.h"

#include "status.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {[SAFETENSORS_F32] = {"F32", 4}, [SAFETENSORS_F64] = {"F64", 8}};
enum { n_dtypes = sizeof dtypes / sizeof dtypes[0] };

size_t mlff_safetensors_value_size(safetensors_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *mlff_safetensors_dtype_name(safetensors_dtype dtype)
{
    return dtypes[dtype].name;
}

/* ------------------------------------------------------------------------------------ text in messages */

quoted mlff_quote(const char *text)
{
    static const char ellipsis[] = "...";
    quoted out;
    size_t n = 0;
    for (; text[n] && n < sizeof out.text - 1; n++) {
        out.text[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
    }
    out.text[n] = '\0';
    if (text[n]) memcpy(out.text + sizeof out.text - sizeof ellipsis, ellipsis, sizeof ellipsis);
    return out;
}

quoted mlff_quote_shape(const int64_t *shape, int n_dimensions)
{
    quoted out = {"["};
    size_t n = 1;
    for (int k = 0; k < n_dimensions && n < sizeof out.text; k++) {
        n += (size_t)snprintf(out.text + n, sizeof out.text - n, "%s%" PRId64, k ? "," : "", shape[k]);
    }
    if (n < sizeof out.text - 1) memcpy(out.text + n, "]", 2);
    return out;
}

/* --------------------------------------------------------------------------------------- first bytes */

static uint64_t read_u64(const unsigned char *p)
{
    uint64_t value = 0;
    for (int k = 7; k >= 0; k--) value = value << 8 | p[k];
    return value;
}

/* What else a file may be, told by its first bytes; NULL if that is not known. n >= 8. */
static const char *foreign_format(const unsigned char *p)
{
    static const struct {
        const char *magic, *format;
    } known[] = {
        {"PK\x03\x04", "a zip archive (PyTorch checkpoints are zip archives)"},
        {"\x1f\x8b", "a gzip file"},
        {"GGUF", "a GGUF file"},
        {"\x89HDF\r\n\x1a\n", "an HDF5 file"},
        {"version ", "a Git LFS pointer instead of the file that it stands for"},
        {"<!DOCTYP", "a web page"},
        {"<html", "a web page"},
    };
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        if (!memcmp(p, known[k].magic, strlen(known[k].magic))) return known[k].format;
    }
    if (p[0] == 0x80 && p[1] >= 2 && p[1] <= 5 && p[2]) return "a Python pickle (old PyTorch checkpoints are pickles)";
    /* ModelProto: field 1 (ir_version) is a small integer, then any length-delimited field */
    if (p[0] == 0x08 && p[1] >= 1 && p[1] < 0x40 && (p[2] & 7) == 2) return "an ONNX (protobuf) file";
    return NULL;
}

mlff_status mlff_safetensors_check_start(const void *start, size_t n_start, uint64_t file_size, const char *name,
                                         mlff_error *error)
{
    const unsigned char *p = start;
    if (file_size == 0) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: the file is empty, expected a safetensors model file", name);
    }
    if (file_size < 8 || n_start < 8) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: file size %" PRIu64 " bytes, expected a safetensors model file, which opens with 8 bytes "
                         "of header length",
                         name, file_size);
    }
    uint64_t n = read_u64(p);
    int not_json = n_start > 8 && p[8] != '{';
    if (n > SAFETENSORS_MAX_HEADER || not_json) {
        const char *format = foreign_format(p);
        if (format) {
            return mlff_fail(error, MLFF_ERROR_FORMAT,
                             "%s: found %s, expected a safetensors model file; mlff-convert makes model files from "
                             "checkpoints",
                             name, format);
        }
    }
    if (n < 2 || n > SAFETENSORS_MAX_HEADER) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: header length %" PRIu64 ", expected 2 to %u (is it a model file?)", name, n,
                         SAFETENSORS_MAX_HEADER);
    }
    if (n > file_size - 8) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: header length %" PRIu64 ", expected at most the %" PRIu64 " bytes that follow it (is the "
                         "file truncated?)",
                         name, n, file_size - 8);
    }
    if (not_json) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: header begins with byte 0x%02x, expected '{'", name, p[8]);
    }
    return MLFF_OK;
}

/* -------------------------------------------------------------------------------------------- header */

static mlff_status out_of_memory(const char *name, uint64_t bytes, mlff_error *error)
{
    return mlff_fail(error, MLFF_ERROR_MEMORY, "%s: cannot allocate %" PRIu64 " bytes for the header", name, bytes);
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a fractional number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: break;
    }
    return "null";
}

/* Makes file->json from the header's text. */
static mlff_status parse_json(const char *text, size_t n, safetensors_file *file, mlff_error *error)
{
    const char *nul = memchr(text, '\0', n);
    if (nul) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: header has a NUL at byte %zu, expected JSON text", file->name,
                         (size_t)(nul - text));
    }
    size_t used = n;
    while (used > 0 && text[used - 1] == ' ') used--;
    if (text[used - 1] != '}') {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: header ends with byte 0x%02x, expected '}' and then at most spaces", file->name,
                         (unsigned char)text[used - 1]);
    }
    json_error_t why;
    file->json = json_loadb(text, used, JSON_REJECT_DUPLICATES, &why);
    if (!file->json) {
        /* jansson leaves the text empty when it could not allocate */
        if (!why.text[0] || json_error_code(&why) == json_error_out_of_memory) {
            return out_of_memory(file->name, n, error);
        }
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: header is not valid JSON at byte %d: %s", file->name,
                         why.position, mlff_quote(why.text).text);
    }
    if (!json_is_object((json_t *)file->json)) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: header is %s, expected a JSON object", file->name,
                         type_name(file->json));
    }
    return MLFF_OK;
}

static mlff_status read_metadata(safetensors_file *file, json_t *object, mlff_error *error)
{
    if (!json_is_object(object)) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: __metadata__ is %s, expected an object", file->name,
                         type_name(object));
    }
    size_t n = json_object_size(object);
    file->metadata = calloc(n ? n : 1, sizeof *file->metadata);
    if (!file->metadata) return out_of_memory(file->name, (uint64_t)n * sizeof *file->metadata, error);

    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value)) {
            return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: metadata '%s' is %s, expected a string", file->name,
                             mlff_quote(key).text, type_name(value));
        }
        file->metadata[file->n_metadata].key = key;
        file->metadata[file->n_metadata].value = json_string_value(value);
        file->n_metadata++;
    }
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------- tensor entries */

static mlff_status read_dtype(const safetensors_file *file, const json_t *value, safetensors_tensor *tensor,
                              mlff_error *error)
{
    const char *text = json_string_value(value);
    if (!text) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': dtype is %s, expected \"F32\" or \"F64\"",
                         file->name, mlff_quote(tensor->name).text, type_name(value));
    }
    for (int k = 0; k < n_dtypes; k++) {
        if (!strcmp(text, dtypes[k].name)) {
            tensor->dtype = (safetensors_dtype)k;
            return MLFF_OK;
        }
    }
    return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': dtype %s, expected F32 or F64", file->name,
                     mlff_quote(tensor->name).text, mlff_quote(text).text);
}

/* Reads an array of n integers >= 0, called `what` in messages. */
static mlff_status read_integers(const safetensors_file *file, const json_t *array, const safetensors_tensor *tensor,
                                 const char *what, size_t n, int64_t *values, mlff_error *error)
{
    for (size_t k = 0; k < n; k++) {
        const json_t *value = json_array_get(array, k);
        if (!json_is_integer(value)) {
            return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': %s %zu is %s, expected an integer", file->name,
                             mlff_quote(tensor->name).text, what, k, type_name(value));
        }
        if (json_integer_value(value) < 0) {
            return mlff_fail(error, MLFF_ERROR_FORMAT,
                             "%s: tensor '%s': %s %zu is %" JSON_INTEGER_FORMAT ", expected 0 or more", file->name,
                             mlff_quote(tensor->name).text, what, k, json_integer_value(value));
        }
        values[k] = json_integer_value(value);
    }
    return MLFF_OK;
}

static mlff_status read_shape(const safetensors_file *file, const json_t *array, safetensors_tensor *tensor,
                              mlff_error *error)
{
    if (!json_is_array(array)) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': shape is %s, expected an array of integers",
                         file->name, mlff_quote(tensor->name).text, type_name(array));
    }
    size_t n = json_array_size(array);
    if (n > SAFETENSORS_MAX_DIMENSIONS) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: tensor '%s': %zu dimensions, expected at most %d", file->name,
                         mlff_quote(tensor->name).text, n, SAFETENSORS_MAX_DIMENSIONS);
    }
    MLFF_TRY(read_integers(file, array, tensor, "dimension", n, tensor->shape, error));
    tensor->n_dimensions = (int)n;
    tensor->n_values = 1;
    for (size_t k = 0; k < n; k++) {
        if (__builtin_mul_overflow(tensor->n_values, tensor->shape[k], &tensor->n_values)) {
            return mlff_fail(error, MLFF_ERROR_FORMAT,
                             "%s: tensor '%s': shape %s has more values than a 64-bit integer can count, expected "
                             "fewer",
                             file->name, mlff_quote(tensor->name).text,
                             mlff_quote_shape(tensor->shape, tensor->n_dimensions).text);
        }
    }
    return MLFF_OK;
}

static mlff_status read_offsets(const safetensors_file *file, const json_t *array, uint64_t data_size,
                                safetensors_tensor *tensor, mlff_error *error)
{
    if (!json_is_array(array) || json_array_size(array) != 2) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: tensor '%s': data_offsets is not an array of two integers, expected [begin, end]",
                         file->name, mlff_quote(tensor->name).text);
    }
    int64_t offsets[2];
    MLFF_TRY(read_integers(file, array, tensor, "data offset", 2, offsets, error));
    tensor->begin = (uint64_t)offsets[0];
    tensor->end = (uint64_t)offsets[1];
    if (tensor->begin > tensor->end || tensor->end > data_size) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: tensor '%s': data_offsets [%" PRIu64 ",%" PRIu64 "], expected begin <= end <= %" PRIu64
                         ", the bytes of data in the file%s",
                         file->name, mlff_quote(tensor->name).text, tensor->begin, tensor->end, data_size,
                         tensor->end > data_size ? " (is it truncated?)" : "");
    }
    uint64_t bytes;
    if (__builtin_mul_overflow((uint64_t)tensor->n_values, (uint64_t)dtypes[tensor->dtype].bytes, &bytes) ||
        bytes != tensor->end - tensor->begin) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: tensor '%s': data_offsets [%" PRIu64 ",%" PRIu64 "] span %" PRIu64
                         " bytes, expected %" PRId64 " values of %zu bytes (%s, shape %s)",
                         file->name, mlff_quote(tensor->name).text, tensor->begin, tensor->end,
                         tensor->end - tensor->begin, tensor->n_values, dtypes[tensor->dtype].bytes,
                         dtypes[tensor->dtype].name, mlff_quote_shape(tensor->shape, tensor->n_dimensions).text);
    }
    return MLFF_OK;
}

static mlff_status read_tensor(const safetensors_file *file, const json_t *entry, uint64_t data_size,
                               safetensors_tensor *tensor, mlff_error *error)
{
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    enum { n_fields = 3 };
    if (!json_is_object(entry)) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: tensor '%s' is %s, expected an object with dtype, shape and data_offsets", file->name,
                         mlff_quote(tensor->name).text, type_name(entry));
    }
    const json_t *value[n_fields];
    for (int k = 0; k < n_fields; k++) {
        value[k] = json_object_get(entry, fields[k]);
        if (!value[k]) {
            return mlff_fail(error, MLFF_ERROR_FORMAT,
                             "%s: tensor '%s': field '%s' is missing, expected dtype, shape and data_offsets",
                             file->name, mlff_quote(tensor->name).text, fields[k]);
        }
    }
    if (json_object_size(entry) != n_fields) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: tensor '%s': %zu fields, expected only dtype, shape and data_offsets", file->name,
                         mlff_quote(tensor->name).text, json_object_size(entry));
    }
    MLFF_TRY(read_dtype(file, value[0], tensor, error));
    MLFF_TRY(read_shape(file, value[1], tensor, error));
    return read_offsets(file, value[2], data_size, tensor, error);
}

static int by_begin_then_end(const void *a, const void *b)
{
    const safetensors_tensor *p = a, *q = b;
    if (p->begin != q->begin) return p->begin < q->begin ? -1 : 1;
    return (p->end > q->end) - (p->end < q->end);
}

/* The tensors, in the order of their data, must cover it exactly. */
static mlff_status check_coverage(const safetensors_file *file, uint64_t data_size, mlff_error *error)
{
    uint64_t covered = 0;
    for (size_t k = 0; k < file->n_tensors; k++) {
        const safetensors_tensor *tensor = &file->tensors[k];
        if (tensor->begin != covered) {
            return mlff_fail(error, MLFF_ERROR_FORMAT,
                             "%s: tensor '%s': data begin at offset %" PRIu64 ", expected %" PRIu64
                             ", where the tensor before ends (%s)",
                             file->name, mlff_quote(tensor->name).text, tensor->begin, covered,
                             tensor->begin < covered ? "they overlap" : "there is a hole");
        }
        covered = tensor->end;
    }
    if (covered != data_size) {
        return mlff_fail(error, MLFF_ERROR_FORMAT,
                         "%s: %" PRIu64 " bytes of data, expected %" PRIu64
                         ", where the last tensor ends (trailing bytes)",
                         file->name, data_size, covered);
    }
    return MLFF_OK;
}

static mlff_status read_header(const unsigned char *bytes, size_t size, safetensors_file *file, mlff_error *error)
{
    MLFF_TRY(mlff_safetensors_check_start(bytes, size, size, file->name, error));
    size_t n = (size_t)read_u64(bytes);
    uint64_t data_size = size - 8 - n;
    MLFF_TRY(parse_json((const char *)bytes + 8, n, file, error));

    size_t n_entries = json_object_size(file->json);
    file->tensors = calloc(n_entries ? n_entries : 1, sizeof *file->tensors);
    if (!file->tensors) return out_of_memory(file->name, (uint64_t)n_entries * sizeof *file->tensors, error);

    const char *key;
    json_t *value;
    json_object_foreach((json_t *)file->json, key, value)
    {
        if (!strcmp(key, "__metadata__")) {
            MLFF_TRY(read_metadata(file, value, error));
            continue;
        }
        safetensors_tensor *tensor = &file->tensors[file->n_tensors];
        tensor->name = key;
        MLFF_TRY(read_tensor(file, value, data_size, tensor, error));
        tensor->data = bytes + 8 + n + tensor->begin;
        file->n_tensors++;
    }
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_begin_then_end);
    return check_coverage(file, data_size, error);
}

mlff_status mlff_safetensors_open(const void *bytes, size_t size, const char *name, safetensors_file *file,
                                  mlff_error *error)
{
    *file = (safetensors_file){.name = name};
    mlff_status status = read_header(bytes, size, file, error);
    if (status != MLFF_OK) mlff_safetensors_close(file);
    return status;
}

void mlff_safetensors_close(safetensors_file *file)
{
    if (!file) return;
    free(file->tensors);
    free(file->metadata);
    json_decref(file->json);
    *file = (safetensors_file){0};
}

/* -------------------------------------------------------------------------------------------- values */

double mlff_safetensors_value(const safetensors_tensor *tensor, int64_t i)
{
    if (tensor->dtype == SAFETENSORS_F64) {
        uint64_t bits = read_u64(tensor->data + 8 * i);
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    const unsigned char *p = tensor->data + 4 * i;
    uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
