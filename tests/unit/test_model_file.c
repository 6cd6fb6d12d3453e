/* SPDX-License-Identifier: MIT */
/* Loading a model: tensors against the metadata, weights in their places, files on disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mlff.h"
#include "model.h"
#include "tiny_model.h"

#include "refusal.h"

static const tiny_options *const both[] = {&tiny_gaussian, &tiny_bessel};

/* ------------------------------------------------------------------------------------------- weights */

static void expect_values(const char *tensor, const double *values, int64_t n)
{
    assert_non_null(values);
    for (int64_t i = 0; i < n; i++) {
        if (values[i] != tiny_value(tensor, i)) fail_msg("value %d of %s is elsewhere", (int)i, tensor);
    }
}

static void expect_layer(const char *prefix, int l, const char *layer, const dense_weights *dense, int n_out, int n_in,
                         int bias)
{
    char tensor[64];
    assert_int_equal(dense->n_out, n_out);
    assert_int_equal(dense->n_in, n_in);
    snprintf(tensor, sizeof tensor, prefix, l, layer, "weight");
    expect_values(tensor, dense->W, (int64_t)n_out * n_in);
    snprintf(tensor, sizeof tensor, prefix, l, layer, "bias");
    if (bias) {
        expect_values(tensor, dense->b, n_out);
    } else {
        assert_null(dense->b);
    }
}

static void expect_all_weights(const mlff_model *model, const tiny_options *o)
{
    const int F = o->features, K = o->radial_functions, H = o->readout_features;
    const char *message = "message.%d.%s.%s", *update = "update.%d.%s.%s", *readout = "readout.%d%s.%s";
    expect_values("embedding.weight", model->embedding, (int64_t)o->n_elements * F);
    if (o->bessel) {
        expect_values("radial.frequency", model->frequency, K);
        assert_true(!model->offset && !model->width);
    } else {
        expect_values("radial.offset", model->offset, K);
        expect_values("radial.width", model->width, K);
        assert_null(model->frequency);
    }
    for (int l = 0; l < o->interactions; l++) {
        expect_layer(message, l, "filter", &model->message[l].filter, 3 * F, K, 1);
        expect_layer(message, l, "context.0", &model->message[l].context0, F, F, 1);
        expect_layer(message, l, "context.1", &model->message[l].context1, 3 * F, F, 1);
        expect_layer(update, l, "V", &model->update[l].V, F, F, o->vector_bias);
        expect_layer(update, l, "U", &model->update[l].U, F, F, o->vector_bias);
        expect_layer(update, l, "dense.0", &model->update[l].dense0, F, 2 * F, 1);
        expect_layer(update, l, "dense.1", &model->update[l].dense1, 3 * F, F, 1);
    }
    expect_layer(readout, 0, "", &model->readout0, H, F, 1);
    expect_layer(readout, 1, "", &model->readout1, 1, H, 1);
}

static void weights_are_in_their_places(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        for (int value_size = 4; value_size <= 8; value_size += 4) {
            tiny_options options = *both[k];
            options.value_size = value_size;
            tiny_model *tiny = tiny_make(&options);
            int64_t n_values = (int64_t)(tiny->data_size / (size_t)value_size);
            mlff_model *model = expect_model(tiny);
            expect_all_weights(model, &options);
            assert_int_equal(model->info.n_parameters, n_values);
            mlff_model_free(model);
        }
    }
}

static void order_of_the_header_does_not_matter(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    char *sorted = json_dumps(tiny->header, JSON_COMPACT | JSON_SORT_KEYS);
    size_t size;
    unsigned char *bytes = tiny_join(sorted, strlen(sorted), tiny->data, tiny->data_size, &size);
    mlff_model *model = expect_model_of_bytes(bytes, size);
    expect_all_weights(model, &tiny_gaussian);
    mlff_model_free(model);
    free(bytes);
    free(sorted);
    tiny_free(tiny);
}

static void double_precision_is_kept(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_bessel);
    tiny_set(tiny, "readout.1.bias", 0, 0.1);
    tiny_set(tiny, "embedding.weight", 1, -0x1.fffffffffffffp1023);
    mlff_model *model = expect_model(tiny);
    assert_true(model->readout1.b[0] == 0.1);
    assert_true(model->embedding[1] == -0x1.fffffffffffffp1023);
    mlff_model_free(model);
}

static void weight_that_is_not_finite_is_rejected_by_tensor_and_index(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        tiny_model *tiny = tiny_make(both[k]);
        tiny_set(tiny, "message.0.context.1.weight", 3, NAN);
        expect_refusal(tiny, MLFF_ERROR_FORMAT,
                       k ? "tensor 'message.0.context.1.weight': value nan at [1,1], expected finite numbers"
                         : "tensor 'message.0.context.1.weight': value nan at [0,3], expected finite numbers");
        tiny = tiny_make(both[k]);
        tiny_set(tiny, "update.0.dense.1.bias", 5, -INFINITY);
        expect_refusal(tiny, MLFF_ERROR_FORMAT, "tensor 'update.0.dense.1.bias': value -inf at [5], expected finite");
    }
}

static void radial_width_or_frequency_that_is_not_positive_is_rejected(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    tiny_set(tiny, "radial.width", 2, 0.0);
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "tensor 'radial.width': value 0 at [2], expected numbers above 0");
    tiny = tiny_make(&tiny_bessel);
    tiny_set(tiny, "radial.frequency", 0, -1.0);
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "tensor 'radial.frequency': value -1 at [0], expected numbers above 0");
    tiny = tiny_make(&tiny_gaussian);
    tiny_set(tiny, "radial.offset", 0, -1.0);
    mlff_model_free(expect_model(tiny));
}

/* ----------------------------------------------------------------------------------- tensors and sizes */

static void every_missing_tensor_is_named(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        tiny_model *whole = tiny_make(both[k]);
        const char *tensor;
        json_t *entry;
        int n = 0;
        json_object_foreach(whole->header, tensor, entry)
        {
            if (!strcmp(tensor, "__metadata__")) continue;
            tiny_options options = *both[k];
            options.left_out = tensor;
            char part[128];
            snprintf(part, sizeof part, "tensor '%s' is missing, expected it with shape [", tensor);
            expect_refusal(tiny_make(&options), MLFF_ERROR_FORMAT, part);
            n++;
        }
        assert_int_equal(n, k ? 2 + 14 + 4 : 3 + 2 * 12 + 4);
        tiny_free(whole);
    }
}

static void unexpected_tensor_is_named(void **state)
{
    (void)state;
    tiny_options options = tiny_gaussian;
    options.extra = "message.2.filter.bias";
    expect_refusal(tiny_make(&options), MLFF_ERROR_FORMAT,
                   "unexpected tensor 'message.2.filter.bias', expected only the");
    options.extra = "embedding.Weight";
    expect_refusal(tiny_make(&options), MLFF_ERROR_FORMAT, "unexpected tensor 'embedding.Weight'");
}

static void transposed_or_extra_dimension_is_rejected(void **state)
{
    (void)state;
    const struct {
        const char *shape, *part;
    } bad[] = {
        {"[3,12]", "shape [3,12], expected [12,3] by the metadata"},
        {"[36]", "shape [36], expected [12,3] by the metadata"},
        {"[12,3,1]", "shape [12,3,1], expected [12,3] by the metadata"},
        {"[1,12,3]", "shape [1,12,3], expected [12,3] by the metadata"},
    };
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        tiny_model *tiny = tiny_make(&tiny_gaussian);
        json_object_set_new(tiny_entry(tiny, "message.1.filter.weight"), "shape", json_loads(bad[k].shape, 0, NULL));
        char part[128];
        snprintf(part, sizeof part, "tensor 'message.1.filter.weight': %s", bad[k].part);
        expect_refusal(tiny, MLFF_ERROR_FORMAT, part);
    }
}

static void metadata_that_contradict_the_tensors_are_rejected(void **state)
{
    (void)state;
    static const char *const bad[][3] = {
        {"features", "5", "tensor 'embedding.weight': shape [3,4], expected [3,5] by the metadata"},
        {"features", "1024", "tensor 'embedding.weight': shape [3,4], expected [3,1024] by the metadata"},
        {"interactions", "3", "tensor 'message.2.filter.weight' is missing, expected it with shape [12,3]"},
        {"interactions", "1", "unexpected tensor 'message.1.filter.weight'"},
        {"radial_functions", "4", "tensor 'radial.offset': shape [3], expected [4] by the metadata"},
        {"radial", "bessel", "tensor 'radial.frequency' is missing, expected it with shape [3]"},
        {"vector_bias", "true", "tensor 'update.0.V.bias' is missing, expected it with shape [4]"},
        {"readout_features", "4", "tensor 'readout.0.weight': shape [2,4], expected [4,4] by the metadata"},
    };
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        tiny_model *tiny = tiny_make(&tiny_gaussian);
        json_object_set_new(tiny->metadata, bad[k][0], json_string(bad[k][1]));
        expect_refusal(tiny, MLFF_ERROR_FORMAT, bad[k][2]);
    }
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    json_object_set_new(tiny->metadata, "elements", json_string("H C"));
    json_object_set_new(tiny->metadata, "element_energies", json_string("1 2"));
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "tensor 'embedding.weight': shape [3,4], expected [2,4] by the metadata");
    tiny = tiny_make(&tiny_bessel);
    json_object_set_new(tiny->metadata, "vector_bias", json_string("false"));
    expect_refusal(tiny, MLFF_ERROR_FORMAT, "unexpected tensor 'update.0.V.bias'");
}

/* One tensor in F64 among F32, with offsets and shape that fit it: [4] F32 is as long as [2] F64. */
static void mixed_dtypes_are_rejected(void **state)
{
    (void)state;
    tiny_options options = tiny_bessel;
    options.value_size = 4; /* readout.1.bias [1]: made F64, with 4 bytes more at the end of the data */
    tiny_model *tiny = tiny_make(&options);
    json_t *entry = tiny_entry(tiny, "readout.1.bias");
    json_object_set_new(entry, "dtype", json_string("F64"));
    json_array_set_new(json_object_get(entry, "data_offsets"), 1, json_integer((json_int_t)tiny->data_size + 4));
    tiny->data = realloc(tiny->data, tiny->data_size + 4);
    memset(tiny->data + tiny->data_size, 0, 4);
    tiny->data_size += 4;
    expect_refusal(tiny, MLFF_ERROR_FORMAT,
                   "tensor 'readout.1.bias': dtype F64, expected F32 as tensor 'embedding.weight' has");
}

/* --------------------------------------------------------------------------------------- files on disk */

static char folder[] = "/tmp/mlff_model_XXXXXX";
static char path[128];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return chmod(folder, 0755);
}

static int remove_folder(void **state)
{
    (void)state;
    remove(path);
    return rmdir(folder);
}

static void write_file(const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void write_tiny_file(void)
{
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    write_file(bytes, size);
    free(bytes);
    tiny_free(tiny);
}

static void expect_refusal_of_path(const char *what, mlff_status expected, const char *part)
{
    mlff_model *model = (mlff_model *)&model;
    mlff_error error = {""};
    assert_int_equal(mlff_model_load(what, &model, &error), expected);
    assert_null(model);
    if (!strstr(error.message, part)) fail_msg("message '%s' lacks '%s'", error.message, part);
    assert_memory_equal(error.message, what, strlen(what));
    assert_int_equal(mlff_model_load(what, &model, NULL), expected);
}

static void file_on_disk_is_loaded(void **state)
{
    (void)state;
    write_tiny_file();
    mlff_model *model;
    mlff_error error;
    assert_int_equal(mlff_model_load(path, &model, &error), MLFF_OK);
    expect_all_weights(model, &tiny_gaussian);
    assert_string_equal(mlff_model_get_info(model)->name, path);
    mlff_model_free(model);
}

static void missing_file_is_rejected(void **state)
{
    (void)state;
    remove(path);
    expect_refusal_of_path(path, MLFF_ERROR_FILE, "cannot open the model file: No such file or directory");
    expect_refusal_of_path("", MLFF_ERROR_FILE, "cannot open the model file");
}

static void directory_is_rejected(void **state)
{
    (void)state;
    expect_refusal_of_path(folder, MLFF_ERROR_FILE, "found a directory, expected a model file");
}

static void pipe_or_device_is_rejected_without_waiting(void **state)
{
    (void)state;
    remove(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refusal_of_path(path, MLFF_ERROR_FILE, "found a pipe or a device, expected a model file");
    remove(path);
    expect_refusal_of_path("/dev/zero", MLFF_ERROR_FILE, "found a pipe or a device, expected a model file");
}

static void unreadable_file_is_rejected(void **state)
{
    (void)state;
    write_tiny_file();
    assert_int_equal(chmod(path, 0), 0);
    int is_root = geteuid() == 0; /* who may read anything */
    if (is_root) assert_int_equal(seteuid(65534), 0);
    expect_refusal_of_path(path, MLFF_ERROR_FILE, "cannot open the model file: Permission denied");
    if (is_root) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

static void empty_short_or_foreign_file_on_disk_is_rejected(void **state)
{
    (void)state;
    write_file("", 0);
    expect_refusal_of_path(path, MLFF_ERROR_FORMAT, "the file is empty");
    write_file("abcdefg", 7);
    expect_refusal_of_path(path, MLFF_ERROR_FORMAT, "file size 7 bytes");
    write_file("abcdefgh", 8);
    expect_refusal_of_path(path, MLFF_ERROR_FORMAT, "header length 7523094288207667809, expected 2 to");
    write_file("PK\x03\x04\x00\x00\x08\x08\x00\x00", 10);
    expect_refusal_of_path(path, MLFF_ERROR_FORMAT, "found a zip archive");
}

/* Terabytes that a sparse file claims: refused by its first bytes, or for its size. */
static void huge_file_is_rejected_before_it_is_read(void **state)
{
    (void)state;
    write_file("\x02\0\0\0\0\0\0\0{}", 10);
    if (truncate(path, (off_t)1 << 40)) {
        print_message("skipped: this file system takes no sparse file of 1 TB\n");
        skip();
    }
    expect_refusal_of_path(path, MLFF_ERROR_FORMAT, "file size 1099511627776 bytes, expected at most 2147483648");
    write_file("\x02\0\0\0\0\0\0\x01{}", 10);
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    expect_refusal_of_path(path, MLFF_ERROR_FORMAT, "header length 72057594037927938, expected 2 to 100000000");
}

static void model_outlives_its_file(void **state)
{
    (void)state;
    write_tiny_file();
    mlff_model *model;
    assert_int_equal(mlff_model_load(path, &model, NULL), MLFF_OK);
    write_file("something else altogether", 25);
    expect_all_weights(model, &tiny_gaussian);
    assert_string_equal(mlff_model_get_metadata(model, "licence"), "MIT");
    mlff_model_free(model);
}

static void long_path_leaves_room_for_the_sentence(void **state)
{
    (void)state;
    char longer[6000];
    memset(longer, 'd', sizeof longer - 1);
    strcpy(longer + sizeof longer - 8, "/m\n.bin");
    mlff_model *model;
    mlff_error error;
    assert_int_equal(mlff_model_load(longer, &model, &error), MLFF_ERROR_FILE);
    assert_memory_equal(error.message, "...ddd", 6);
    assert_non_null(strstr(error.message, "ddd/m?.bin: cannot open the model file: File name too long"));
    assert_int_equal(mlff_model_load_memory("{}", 2, longer, &model, &error), MLFF_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "ddd/m?.bin: file size 2 bytes"));
}

/* ------------------------------------------------------------------------------------------ arguments */

static void wrong_arguments_are_rejected(void **state)
{
    (void)state;
    mlff_model *model;
    mlff_error error;
    assert_int_equal(mlff_model_load(NULL, &model, &error), MLFF_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "path is NULL"));
    assert_null(model);
    assert_int_equal(mlff_model_load("x", NULL, &error), MLFF_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "model is NULL"));
    assert_int_equal(mlff_model_load_memory("x", 1, "x", NULL, &error), MLFF_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "x: model is NULL"));
    assert_int_equal(mlff_model_load_memory(NULL, 9, NULL, &model, &error), MLFF_ERROR_ARGUMENT);
    assert_string_equal(error.message, "model in memory: bytes is NULL, expected 9 bytes");
    mlff_model_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_in_their_places),
        cmocka_unit_test(order_of_the_header_does_not_matter),
        cmocka_unit_test(double_precision_is_kept),
        cmocka_unit_test(weight_that_is_not_finite_is_rejected_by_tensor_and_index),
        cmocka_unit_test(radial_width_or_frequency_that_is_not_positive_is_rejected),
        cmocka_unit_test(every_missing_tensor_is_named),
        cmocka_unit_test(unexpected_tensor_is_named),
        cmocka_unit_test(transposed_or_extra_dimension_is_rejected),
        cmocka_unit_test(metadata_that_contradict_the_tensors_are_rejected),
        cmocka_unit_test(mixed_dtypes_are_rejected),
        cmocka_unit_test(file_on_disk_is_loaded),
        cmocka_unit_test(missing_file_is_rejected),
        cmocka_unit_test(directory_is_rejected),
        cmocka_unit_test(pipe_or_device_is_rejected_without_waiting),
        cmocka_unit_test(unreadable_file_is_rejected),
        cmocka_unit_test(empty_short_or_foreign_file_on_disk_is_rejected),
        cmocka_unit_test(huge_file_is_rejected_before_it_is_read),
        cmocka_unit_test(model_outlives_its_file),
        cmocka_unit_test(long_path_leaves_room_for_the_sentence),
        cmocka_unit_test(wrong_arguments_are_rejected),
    };
    return cmocka_run_group_tests_name("model file", tests, make_folder, remove_folder);
}
