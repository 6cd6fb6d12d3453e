/* SPDX-License-Identifier: MIT */
/* Loading a model with every allocation failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <unistd.h>

#include "mlff.h"
#include "tiny_model.h"

static char path[] = "/tmp/mlff_memory_XXXXXX";

static int write_tiny_file(void **state)
{
    (void)state;
    tiny_model *tiny = tiny_make(&tiny_gaussian);
    tiny_add_short_range(tiny, "0 0 0 0 0 1", "0 0 0 0 0 2");
    size_t size;
    unsigned char *bytes = tiny_pack(tiny, &size);
    int fd = mkstemp(path);
    int written = fd >= 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0;
    free(bytes);
    tiny_free(tiny);
    return written ? 0 : -1;
}

static int remove_file(void **state)
{
    (void)state;
    return remove(path);
}

/* The linker sends the library's allocations here (--wrap): the one after `allocations_left` fails. */
static long allocations_left = -1; /* -1: none fails */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);

static int allocation_fails(void)
{
    if (allocations_left < 0) return 0;
    return allocations_left == 0 || allocations_left-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return allocation_fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return allocation_fails() ? NULL : __real_calloc(n, size);
}

static void plain_free(void *block)
{
    free(block);
}

/* Loads with the allocation after n others failing. Returns 0 when the model could be loaded all the same. */
static int load_with_failing_allocation(long n, mlff_status *status, mlff_error *error)
{
    mlff_model *model;
    allocations_left = n;
    *status = mlff_model_load(path, &model, error);
    allocations_left = -1;
    assert_int_equal(*status == MLFF_OK, model != NULL);
    mlff_model_free(model);
    return *status != MLFF_OK;
}

static void every_failed_allocation_is_reported_with_its_bytes(void **state)
{
    (void)state;
    mlff_status status;
    mlff_error error;
    long n;
    int n_header = 0, n_weights = 0, n_model = 0;
    tiny_model *tiny = tiny_make(&tiny_gaussian); /* 4-byte weights become doubles; a shift for each element */
    char weights[64];
    snprintf(weights, sizeof weights, ": cannot allocate %zu bytes for the weights", 2 * tiny->data_size + 3 * 8);
    tiny_free(tiny);
    for (n = 0; load_with_failing_allocation(n, &status, &error); n++) {
        if (status != MLFF_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, error.message);
        assert_non_null(strstr(error.message, ": cannot allocate "));
        n_header += strstr(error.message, " bytes for the header") != NULL;
        n_weights += strstr(error.message, weights) != NULL;
        n_model += strstr(error.message, " bytes for the model") != NULL;
    }
    assert_int_equal(n_weights, 1);
    assert_int_equal(n_header, 2);
    assert_int_equal(n_model, 2 + 2 + 46);                   /* file and struct, name and table, 23 keys and values */
    assert_int_equal(n, n_weights + n_header + n_model + 2); /* and the elements, the short range */
}

/* The same within the JSON library, which calls some failed allocations invalid JSON. */
static void failed_allocation_of_the_json_library_is_reported(void **state)
{
    (void)state;
    json_set_alloc_funcs(__wrap_malloc, plain_free);
    mlff_status status;
    mlff_error error;
    long n;
    for (n = 0; load_with_failing_allocation(n, &status, &error); n++) {
        if (status == MLFF_ERROR_FORMAT) assert_non_null(strstr(error.message, "header is not valid JSON"));
        if (status != MLFF_ERROR_FORMAT) assert_int_equal(status, MLFF_ERROR_MEMORY);
    }
    json_set_alloc_funcs(malloc, plain_free);
    assert_in_range(n, 200, 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failed_allocation_is_reported_with_its_bytes),
        cmocka_unit_test(failed_allocation_of_the_json_library_is_reported),
    };
    return cmocka_run_group_tests_name("memory for a model", tests, write_tiny_file, remove_file);
}
