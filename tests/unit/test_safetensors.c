/* SPDX-License-Identifier: MIT */
/* The bytes and the JSON header of a model file: what must be refused, and in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "mlff.h"
#include "tiny_model.h"

#include "refusal.h"

/* ---------------------------------------------------------------------------------------- file sizes */

static void empty_file_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_bytes("", 0, MLFF_ERROR_FORMAT, "the file is empty, expected a safetensors model file");
    mlff_model *model;
    assert_int_equal(mlff_model_load_memory(NULL, 0, "x", &model, NULL), MLFF_ERROR_FORMAT);
}

static void file_under_8_bytes_is_rejected(void **state)
{
    (void)state;
    for (size_t n = 1; n < 8; n++) {
        char part[64];
        snprintf(part, sizeof part, "file size %zu bytes, expected", n);
        expect_refusal_of_bytes("PK\x03\x04\0\0\0", n, MLFF_ERROR_FORMAT, part);
    }
}

static void every_truncation_is_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    size_t header_end = size - tiny->data_size;
    for (size_t n = 8; n < size; n++) {
        expect_refusal_of_bytes(bytes, n, MLFF_ERROR_FORMAT,
                                n < header_end ? "(is the file truncated?)" : "truncated?");
    }
    free(bytes);
    tiny_free(tiny);
}

static void trailing_bytes_are_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    tiny->data = realloc(tiny->data, tiny->data_size + 1);
    tiny->data[tiny->data_size++] = 0;
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "(trailing bytes)");
}

/* ------------------------------------------------------------------------------------- header length */

static void expect_refusal_of_header_length(uint64_t n, const char *part)
{
    tiny_model *tiny = tiny_make(&tiny_bessel);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    for (int k = 0; k < 8; k++) bytes[k] = (unsigned char)(n >> 8 * k);
    expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, part);
    free(bytes);
    tiny_free(tiny);
}

static void header_length_out_of_range_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_header_length(0, "header length 0, expected 2 to 100000000");
    expect_refusal_of_header_length(1, "header length 1, expected 2 to 100000000");
    expect_refusal_of_header_length(100000001, "header length 100000001, expected 2 to 100000000");
    expect_refusal_of_header_length((uint64_t)1 << 63, "header length 9223372036854775808, expected 2 to");
    expect_refusal_of_header_length(UINT64_MAX, "header length 18446744073709551615, expected 2 to");
    expect_refusal_of_header_length(UINT64_MAX - 7, "header length 18446744073709551608, expected 2 to");
}

static void header_length_past_the_file_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_header_length(100000000, "header length 100000000, expected at most the ");
    char part[64];
    tiny_model *tiny = tiny_make(&tiny_bessel);
    size_t size;
    free(tiny_pack(tiny, &size));
    tiny_free(tiny);
    snprintf(part, sizeof part, "header length %zu, expected at most the %zu bytes", size - 7, size - 8);
    expect_refusal_of_header_length(size - 7, part);
}

static void header_length_off_by_one_is_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    size_t size;
    free(tiny_pack(tiny, &size));
    size_t n = size - 8 - tiny->data_size;
    tiny_free(tiny);
    expect_refusal_of_header_length(n + 1, "header has a NUL at byte"); /* the first byte of the data */
    expect_refusal_of_header_length(n - 1, "header is not valid JSON");
}

/* ---------------------------------------------------------------------------------------------- JSON */

static void header_must_begin_with_a_brace(void **state)
{
    (void)state;
    expect_refusal_of_header(" {}", "header begins with byte 0x20, expected '{'");
    expect_refusal_of_header("[1]", "header begins with byte 0x5b, expected '{'");
    expect_refusal_of_header("\xef\xbb\xbf{}", "header begins with byte 0xef, expected '{'");
}

static void only_spaces_may_pad_the_header(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    char *text = json_dumps(tiny->header, JSON_COMPACT);
    size_t n = strlen(text), size;
    char *padded = malloc(n + 7);
    memcpy(padded, text, n);
    memset(padded + n, ' ', 7);
    unsigned char *bytes = tiny_join(padded, n + 7, tiny->data, tiny->data_size, &size);
    mlff_model_free(expect_model_of_bytes(bytes, size));
    free(bytes);

    const struct {
        char last;
        const char *part;
    } bad[] = {{'\n', "ends with byte 0x0a"}, {'\t', "ends with byte 0x09"}, {'\0', "header has a NUL at byte"}};
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        padded[n + 6] = bad[k].last;
        bytes = tiny_join(padded, n + 7, tiny->data, tiny->data_size, &size);
        expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, bad[k].part);
        free(bytes);
    }
    free(padded);
    free(text);
    tiny_free(tiny);
}

static void header_that_is_not_json_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_header("{\"a\":}", "header is not valid JSON at byte");
    expect_refusal_of_header("{}{}", "header is not valid JSON at byte");
    expect_refusal_of_header("{\"a\":1,}", "header is not valid JSON at byte");
    expect_refusal_of_header("{'a':1}", "header is not valid JSON at byte");
    expect_refusal_of_header("{\"a\":NaN}", "header is not valid JSON at byte");
    expect_refusal_of_header("{\"a\":01}", "header is not valid JSON at byte");
    expect_refusal_of_header("{/**/}", "header is not valid JSON at byte");
}

static void header_that_is_not_utf8_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_header("{\"a\xff\":{}}", "unable to decode byte 0xff");
    expect_refusal_of_header("{\"\xc0\xaf\":{}}", "unable to decode byte 0xc0");         /* overlong */
    expect_refusal_of_header("{\"\xed\xa0\x80\":{}}", "unable to decode byte 0xed");     /* a surrogate */
    expect_refusal_of_header("{\"\xf4\x90\x80\x80\":{}}", "unable to decode byte 0xf4"); /* past U+10FFFF */
    expect_refusal_of_header("{\"\\ud800\":{}}", "header is not valid JSON");            /* half a pair, escaped */
}

static void nul_in_the_header_is_rejected(void **state)
{
    (void)state;
    size_t size;
    unsigned char *bytes = tiny_join("{\"a\0b\":{}}", 10, NULL, 0, &size);
    expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, "header has a NUL at byte 3");
    free(bytes);
    expect_refusal_of_header("{\"a\\u0000b\":{}}", "NUL byte in object key not supported");
}

static void deep_nesting_is_rejected(void **state)
{
    (void)state;
    static const char *const openers[] = {"[", "{\"a\":"};
    enum { depth = 100000 };
    char *text = malloc(5 * depth + 16);
    for (int kind = 0; kind < 2; kind++) {
        size_t n = (size_t)sprintf(text, "{\"a\":");
        for (int k = 0; k < depth; k++) n += (size_t)sprintf(text + n, "%s", openers[kind]);
        strcpy(text + n, "}");
        expect_refusal_of_header(text, "maximum parsing depth reached");
    }
    free(text);
}

static void duplicate_keys_are_rejected(void **state)
{
    (void)state;
    const char *entry = "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
    char text[512];
    snprintf(text, sizeof text, "{\"a\":%s,\"a\":%s}", entry, entry);
    expect_refusal_of_header(text, "duplicate object key");
    snprintf(text, sizeof text, "{\"a\":%s,\"\\u0061\":%s}", entry, entry);
    expect_refusal_of_header(text, "duplicate object key");
    expect_refusal_of_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"shape\":[0]}}",
                             "duplicate object key");
    expect_refusal_of_header("{\"__metadata__\":{\"cutoff\":\"5\",\"cutoff\":\"6\"}}", "duplicate object key");
    expect_refusal_of_header("{\"__metadata__\":{},\"__metadata__\":{}}", "duplicate object key");
}

static void text_of_the_file_cannot_break_the_line_of_a_message(void **state)
{
    (void)state; /* expect_refusal_of_bytes looks for line breaks */
    expect_refusal_of_header("{\"a\\nb\\u001b[31m\":1}", "tensor 'a?b?[31m' is an integer");
    char text[4096];
    int n = sprintf(text, "{\"");
    memset(text + n, 'x', 3000);
    strcpy(text + n + 3000, "\":1}");
    expect_refusal_of_header(text, "xxx...' is an integer, expected an object with dtype");
}

/* ------------------------------------------------------------------------------------ tensor entries */

static const char *const name = "message.0.context.1.weight"; /* [6,2] F64 in tiny_bessel */

/* Replaces a field of that tensor by the JSON text `value` (NULL: takes it away) and expects a refusal. */
static void expect_refusal_of_field(const char *field, const char *value, const char *part)
{
    tiny_model *tiny = tiny_make(&tiny_bessel);
    if (value) {
        json_error_t why;
        json_t *json = json_loads(value, JSON_DECODE_ANY, &why);
        assert_non_null(json);
        json_object_set_new(tiny_entry(tiny, name), field, json);
    } else {
        json_object_del(tiny_entry(tiny, name), field);
    }
    char where[64];
    snprintf(where, sizeof where, "tensor '%s': ", name);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, where);
    expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, part);
    free(bytes);
    tiny_free(tiny);
}

static void entry_that_is_not_an_object_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_header("{\"a\":null}", "tensor 'a' is null, expected an object");
    expect_refusal_of_header("{\"a\":[]}", "tensor 'a' is an array, expected an object");
    expect_refusal_of_header("{\"a\":\"F32\"}", "tensor 'a' is a string, expected an object");
}

static void missing_field_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_field("dtype", NULL, "field 'dtype' is missing");
    expect_refusal_of_field("shape", NULL, "field 'shape' is missing");
    expect_refusal_of_field("data_offsets", NULL, "field 'data_offsets' is missing");
}

static void unknown_field_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_field("strides", "[1]", "4 fields, expected only dtype, shape and data_offsets");
}

static void unknown_dtype_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_field("dtype", "\"BF16\"", "dtype BF16, expected F32 or F64");
    expect_refusal_of_field("dtype", "\"f64\"", "dtype f64, expected F32 or F64");
    expect_refusal_of_field("dtype", "\"\"", "dtype , expected F32 or F64");
    expect_refusal_of_field("dtype", "\"I64\"", "dtype I64, expected F32 or F64"); /* of the right size */
    expect_refusal_of_field("dtype", "8", "dtype is an integer, expected \"F32\" or \"F64\"");
}

static void wrong_dimension_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_field("shape", "[-6,-2]", "dimension 0 is -6, expected 0 or more");
    expect_refusal_of_field("shape", "[6,2.0]", "dimension 1 is a fractional number, expected an integer");
    expect_refusal_of_field("shape", "[6,\"2\"]", "dimension 1 is a string, expected an integer");
    expect_refusal_of_field("shape", "[6,true]", "dimension 1 is a boolean, expected an integer");
    expect_refusal_of_field("shape", "12", "shape is an integer, expected an array of integers");
    expect_refusal_of_field("shape", "{}", "shape is an object, expected an array of integers");
    expect_refusal_of_field("shape", "[1,1,1,1,1,1,1,6,2]", "9 dimensions, expected at most 8");
}

static void overflowing_shape_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_field("shape", "[4294967296,4294967296]", "shape [4294967296,4294967296] has more values than");
    /* 2^61 values of 8 bytes wrap to 0 bytes */
    expect_refusal_of_field("shape", "[2305843009213693952]", "expected 2305843009213693952 values of 8 bytes");
    /* 2^64 * 12 wraps to 12 */
    expect_refusal_of_field("shape", "[4294967296,4294967296,12]", "has more values than");
    expect_refusal_of_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551628],\"data_offsets\":[0,0]}}",
                             "too big integer");
}

static void size_that_contradicts_the_shape_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_field("shape", "[6,1]", "span 96 bytes, expected 6 values of 8 bytes (F64, shape [6,1])");
    expect_refusal_of_field("shape", "[]", "span 96 bytes, expected 1 values of 8 bytes (F64, shape [])");
    expect_refusal_of_field("dtype", "\"F32\"", "span 96 bytes, expected 12 values of 4 bytes (F32, shape [6,2])");
}

static void wrong_offsets_are_rejected(void **state)
{
    (void)state;
    const char *not_two = "data_offsets is not an array of two integers";
    expect_refusal_of_field("data_offsets", "[0]", not_two);
    expect_refusal_of_field("data_offsets", "[0,96,96]", not_two);
    expect_refusal_of_field("data_offsets", "96", not_two);
    expect_refusal_of_field("data_offsets", "[0,96.0]", "data offset 1 is a fractional number, expected an integer");
    expect_refusal_of_field("data_offsets", "[-96,0]", "data offset 0 is -96, expected 0 or more");
    expect_refusal_of_field("data_offsets", "[96,0]", "data_offsets [96,0], expected begin <= end");
    expect_refusal_of_field("data_offsets", "[0,9223372036854775807]",
                            "data_offsets [0,9223372036854775807], expected");
    expect_refusal_of_field("data_offsets", "[9223372036854775711,9223372036854775807]", "expected begin <= end <= ");
}

static void overlapping_tensors_are_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    json_t *copy = json_deep_copy(json_object_get(tiny_entry(tiny, "update.0.U.weight"), "data_offsets"));
    json_object_set_new(tiny_entry(tiny, "update.0.V.weight"), "data_offsets", copy);
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "(there is a hole)"); /* where V was */

    tiny = tiny_make(&tiny_bessel);
    copy = json_deep_copy(json_object_get(tiny_entry(tiny, "update.0.V.weight"), "data_offsets"));
    json_object_set_new(tiny_entry(tiny, "update.0.U.weight"), "data_offsets", copy);
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "(they overlap)");
}

static void hole_in_the_data_is_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    json_object_del(tiny->header, "update.0.U.weight");
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "tensor 'update.0.U.bias': data begin at offset");

    tiny = tiny_make(&tiny_bessel);
    json_object_del(tiny->header, "embedding.weight");
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "data begin at offset 16, expected 0");
}

static void tensors_of_no_values_do_not_confuse_the_coverage(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    json_object_set_new(tiny->header, "nothing",
                        json_pack("{s:s,s:[i,i],s:[i,i]}", "dtype", "F64", "shape", 0, 7, "data_offsets", 16, 16));
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "unexpected tensor 'nothing'"); /* got as far as that */
}

/* ------------------------------------------------------------------------------------- other formats */

static void other_formats_are_named_with_a_hint(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *part;
        size_t n;
    } others[] = {
        {"PK\x03\x04\x00\x00\x08\x08\x00\x00", "found a zip archive", 10},
        {"\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.", "found a Python pickle", 15},
        {"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00}\x94.", "found a Python pickle", 14},
        {"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03", "found a gzip file", 10},
        {"GGUF\x03\x00\x00\x00\x01\x00\x00\x00", "found a GGUF file", 12},
        {"\x08\x07\x12\x07pytorch\x1a\x05", "found an ONNX (protobuf) file", 13},
        {"\x89HDF\r\n\x1a\n\x00\x00", "found an HDF5 file", 10},
        {"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer", 43},
        {"<!DOCTYPE html><html>", "found a web page", 21},
    };
    for (size_t k = 0; k < sizeof others / sizeof others[0]; k++) {
        expect_refusal_of_bytes(others[k].bytes, others[k].n, MLFF_ERROR_FORMAT, others[k].part);
        expect_refusal_of_bytes(others[k].bytes, others[k].n, MLFF_ERROR_FORMAT, "mlff-convert makes model files");
    }
}

/* A header length may look like another format's first bytes: 640 is 80 02 .. like a pickle. */
static void header_length_that_looks_like_a_pickle_is_fine(void **state)
{
    (void)state;
    for (size_t n = 0x0280; n <= 0x0580; n += 0x0100) {
        char *text = malloc(n);
        memset(text, ' ', n);
        memcpy(text, "{}", 2);
        size_t size;
        unsigned char *bytes = tiny_join(text, n, NULL, 0, &size);
        expect_refusal_of_bytes(bytes, size, MLFF_ERROR_FORMAT, "metadata 'mlff_format' is missing");
        free(bytes);
        free(text);
    }
}

/* --------------------------------------------------------------------------------------------- flips */

/* Every bit of the header in turn: refused, or a model like any other. */
static void bit_flips_in_the_header_never_crash(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    size_t n_bits = 8 * (size - tiny->data_size), n_refused = 0;
    for (size_t bit = 0; bit < n_bits; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        mlff_model *model;
        mlff_error error = {""};
        mlff_status status = mlff_model_load_memory(bytes, size, "tiny.safetensors", &model, &error);
        assert_true(status == MLFF_OK || status == MLFF_ERROR_FORMAT || status == MLFF_ERROR_UNSUPPORTED);
        assert_int_equal(status == MLFF_OK, model != NULL);
        assert_int_equal(status == MLFF_OK, error.message[0] == '\0');
        n_refused += status != MLFF_OK;
        mlff_model_free(model);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    /* what may pass are digits of numbers and letters of texts */
    assert_true(n_refused > n_bits * 9 / 10);
    free(bytes);
    tiny_free(tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_file_is_rejected),
        cmocka_unit_test(file_under_8_bytes_is_rejected),
        cmocka_unit_test(every_truncation_is_rejected),
        cmocka_unit_test(trailing_bytes_are_rejected),
        cmocka_unit_test(header_length_out_of_range_is_rejected),
        cmocka_unit_test(header_length_past_the_file_is_rejected),
        cmocka_unit_test(header_length_off_by_one_is_rejected),
        cmocka_unit_test(header_must_begin_with_a_brace),
        cmocka_unit_test(only_spaces_may_pad_the_header),
        cmocka_unit_test(header_that_is_not_json_is_rejected),
        cmocka_unit_test(header_that_is_not_utf8_is_rejected),
        cmocka_unit_test(nul_in_the_header_is_rejected),
        cmocka_unit_test(deep_nesting_is_rejected),
        cmocka_unit_test(duplicate_keys_are_rejected),
        cmocka_unit_test(text_of_the_file_cannot_break_the_line_of_a_message),
        cmocka_unit_test(entry_that_is_not_an_object_is_rejected),
        cmocka_unit_test(missing_field_is_rejected),
        cmocka_unit_test(unknown_field_is_rejected),
        cmocka_unit_test(unknown_dtype_is_rejected),
        cmocka_unit_test(wrong_dimension_is_rejected),
        cmocka_unit_test(overflowing_shape_is_rejected),
        cmocka_unit_test(size_that_contradicts_the_shape_is_rejected),
        cmocka_unit_test(wrong_offsets_are_rejected),
        cmocka_unit_test(overlapping_tensors_are_rejected),
        cmocka_unit_test(hole_in_the_data_is_rejected),
        cmocka_unit_test(tensors_of_no_values_do_not_confuse_the_coverage),
        cmocka_unit_test(other_formats_are_named_with_a_hint),
        cmocka_unit_test(header_length_that_looks_like_a_pickle_is_fine),
        cmocka_unit_test(bit_flips_in_the_header_never_crash),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
