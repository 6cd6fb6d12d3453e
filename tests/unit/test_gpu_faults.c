/* SPDX-License-Identifier: MIT */
/*
 * What goes wrong with a GPU: none is visible, its memory is full, a kernel failed, half precision overflows.
 *
 * A kernel that failed spoils the process's context, and the visible GPUs are counted once a process, so these tests
 * run this program again: test_gpu_faults in PART.
 */
#include "backend.h"
#include "gpu_faults.h"
#include "safetensors.h"
#include "status.h"
#include "support.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static mlff_status create(const reference *r, mlff_device device, mlff_precision precision, int index,
                          mlff_evaluator **e, mlff_error *error)
{
    const mlff_options options = {.device = device, .precision = precision, .threads = 1, .device_index = index};
    return mlff_evaluator_create(r->model, &options, e, error);
}

/* One evaluation of `copies` molecules; forces [copies n][3] eV/angstrom. */
static mlff_status evaluate_forces(mlff_evaluator *e, const reference *r, int copies, double *forces, mlff_error *error)
{
    const size_t n = (size_t)r->n * (size_t)copies;
    int32_t *first = malloc(((size_t)copies + 1) * sizeof *first), *species = malloc(n * sizeof *species);
    double *x = malloc(3 * n * sizeof *x);
    for (int k = 0; k <= copies; k++) first[k] = k * r->n;
    for (size_t i = 0; i < n; i++) species[i] = r->species[i % (size_t)r->n];
    for (size_t q = 0; q < 3 * n; q++) x[q] = r->x[q % (3 * (size_t)r->n)];
    const mlff_structures structures = {.n_structures = copies, .first_atom = first};
    const mlff_input input = {
        .n_local = (int32_t)n, .n_all = (int32_t)n, .x = x, .species = species, .structures = &structures};
    mlff_output output = {.forces = forces};
    const mlff_status status = mlff_evaluate(e, &input, &output, error);
    if (status == MLFF_OK)
        for (size_t q = 0; q < 3 * n; q++) assert_true(isfinite(forces[q]));
    free(first), free(species), free(x);
    return status;
}

static mlff_status evaluate(mlff_evaluator *e, const reference *r, int copies, mlff_error *error)
{
    double *forces = malloc(3 * (size_t)r->n * (size_t)copies * sizeof *forces);
    const mlff_status status = evaluate_forces(e, r, copies, forces, error);
    free(forces);
    return status;
}

static void assert_fails(mlff_status got, const mlff_error *error, mlff_status expected, const char *part)
{
    if (got != expected || !strstr(error->message, part))
        fail_msg("status %d \"%s\", expected %d with \"%s\"", (int)got, error->message, (int)expected, part);
}

/* ---------------------------------------------------------------------------------------- in this process */

static void a_launch_that_cannot_be_is_reported_by_name(void **unused)
{
    (void)unused;
    mlff_error error = {""};
    assert_fails(launch_with_too_many_threads(&error), &error, MLFF_ERROR_DEVICE, "launch of too many threads");
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e;
    if (create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_SINGLE, 0, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
    if (evaluate(e, &r, 1, &error) != MLFF_OK) fail_msg("%s", error.message);
    mlff_evaluator_free(e);
    reference_free(&r);
}

static const backend *whole_backend;
static int context_calls, context_fails;

/* Behind the first message and the first update, before the messages that wait for what runs beside these. */
static mlff_status context_that_may_fail(void *state, int l, mlff_error *error)
{
    context_calls++;
    if (context_fails) return mlff_fail(error, MLFF_ERROR_DEVICE, "context %d shall fail", l);
    return whole_backend->context_forward(state, l, error);
}

static void a_layer_that_fails_leaves_no_trace_in_launches_or_recordings(void **unused)
{
    (void)unused;
    enum { COPIES = 300, STEPS = 6 };
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    const size_t bytes = 3 * (size_t)r.n * COPIES * sizeof(double);
    double *expected = malloc(bytes), *forces = malloc(bytes);
    for (int p = MLFF_PRECISION_DOUBLE; p <= MLFF_PRECISION_MIXED; p++) {
        whole_backend = mlff_cuda_backend((mlff_precision)p);
        backend b = *whole_backend;
        b.context_forward = context_that_may_fail;
        for (int failing = 0; failing < 3; failing++) { /* the second evaluation is recorded, the third a replay */
            mlff_evaluator *e;
            mlff_error error;
            const mlff_options options = {.threads = 1, .device_index = -1};
            if (mlff_evaluator_create_on(&b, r.model, &options, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
            context_calls = 0;
            for (int step = 0; step < STEPS; step++) {
                context_fails = step == failing;
                const int calls = context_calls;
                const mlff_status status = evaluate_forces(e, &r, COPIES, forces, &error);
                const int fails = context_fails && context_calls > calls; /* a replay calls no layer */
                if (fails) assert_fails(status, &error, MLFF_ERROR_DEVICE, "shall fail");
                if (!fails && status != MLFF_OK) fail_msg("%s", error.message);
                if (failing == 0 && step == 1) memcpy(expected, forces, bytes);
                if (!fails) assert_memory_equal(forces, expected, bytes);
            }
            assert_true(context_calls > 0);
            mlff_evaluator_free(e);
        }
    }
    free(expected), free(forces);
    reference_free(&r);
}

static void memory_that_is_taken_is_an_error_with_the_bytes_and_no_end(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e;
    mlff_error error;
    if (create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_DOUBLE, -1, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
    if (evaluate(e, &r, 1, &error) != MLFF_OK) fail_msg("%s", error.message);
    size_t free_bytes, all_bytes;
    void *ballast = NULL;
    assert_int_equal(cudaMemGetInfo(&free_bytes, &all_bytes), cudaSuccess);
    for (size_t left = 64 << 20; !ballast && left < free_bytes; left *= 2)
        if (cudaMalloc(&ballast, free_bytes - left) != cudaSuccess) ballast = NULL, cudaGetLastError();
    assert_non_null(ballast);
    const int many = 1 << 16;
    assert_fails(evaluate(e, &r, many, &error), &error, MLFF_ERROR_MEMORY, "bytes asked for");
    if (evaluate(e, &r, 1, &error) != MLFF_OK) fail_msg("after the failure: %s", error.message);
    assert_int_equal(cudaFree(ballast), cudaSuccess);
    if (evaluate(e, &r, many, &error) != MLFF_OK) fail_msg("with memory again: %s", error.message);
    mlff_evaluator_free(e);
    reference_free(&r);
}

static void a_device_that_is_not_there_is_refused(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e;
    mlff_error error;
    assert_fails(create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_SINGLE, mlff_gpu_count(), &e, &error), &error,
                 MLFF_ERROR_DEVICE, "device_index");
    for (int k = -1; k < mlff_gpu_count(); k++) {
        if (create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_SINGLE, k, &e, &error) != MLFF_OK)
            fail_msg("%s", error.message);
        const mlff_evaluator_info *info = mlff_evaluator_get_info(e);
        if (k >= 0) assert_int_equal(info->device_index, k);
        assert_true(strlen(info->gpu) >= 10);
        if (evaluate(e, &r, 1, &error) != MLFF_OK) fail_msg("%s", error.message);
        mlff_evaluator_free(e);
    }
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    reference_free(&r);
}

/* A model whose features are far above the largest half (65,504) while all sums fit in single. */
static mlff_model *loud_model(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s cannot be opened", path);
    static unsigned char bytes[1 << 22];
    const size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    safetensors_file file;
    mlff_error error;
    assert_int_equal(mlff_safetensors_open(bytes, size, path, &file, &error), MLFF_OK);
    for (size_t t = 0; t < file.n_tensors; t++) {
        const safetensors_tensor *tensor = &file.tensors[t];
        if (!strstr(tensor->name, "embedding")) continue;
        assert_int_equal(tensor->dtype, SAFETENSORS_F32);
        for (int64_t i = 0; i < tensor->n_values; i++) {
            float value;
            unsigned char *at = bytes + (tensor->data - bytes) + 4 * i;
            memcpy(&value, at, 4);
            value *= 1e6f;
            memcpy(at, &value, 4);
        }
    }
    mlff_safetensors_close(&file);
    mlff_model *model;
    if (mlff_model_load_memory(bytes, size, path, &model, &error) != MLFF_OK) fail_msg("%s", error.message);
    return model;
}

static void half_precision_that_overflows_is_an_error_and_single_is_not(void **unused)
{
    (void)unused;
    reference r;
    reference_load(&r, "one_interaction", "molecule");
    mlff_model *quiet = r.model;
    r.model = loud_model(mlff_model_get_info(quiet)->name);
    mlff_evaluator *e;
    mlff_error error;
    if (create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_SINGLE, -1, &e, &error) != MLFF_OK) fail_msg("%s", error.message);
    if (evaluate(e, &r, 1, &error) != MLFF_OK) fail_msg("in single: %s", error.message);
    mlff_evaluator_free(e);
    const mlff_status status = create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_MIXED, -1, &e, &error);
    if (status == MLFF_OK) {
        /* so many that they go the general way: few small structures are in single there too */
        assert_fails(evaluate(e, &r, 2000, &error), &error, MLFF_ERROR_NUMERICS, "not a finite number");
        mlff_evaluator_free(e);
    }
    mlff_model_free(quiet);
    reference_free(&r);
    if (status == MLFF_ERROR_UNSUPPORTED) {
        print_message("the part for mixed is skipped: %s\n", error.message);
        skip();
    }
    assert_int_equal(status, MLFF_OK);
}

/* ------------------------------------------------------------------------------- in processes of their own */

static int child_failure(const char *what, const mlff_error *error)
{
    printf("%s: %s\n", what, error->message);
    return 1;
}

/* An evaluator that was well meets a context that another kernel has broken. */
static int after_a_kernel_that_failed(void)
{
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e;
    mlff_error error = {""};
    if (create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_SINGLE, -1, &e, &error) != MLFF_OK)
        return child_failure("create", &error);
    if (evaluate(e, &r, 1, &error) != MLFF_OK) return child_failure("before", &error);
    launch_a_kernel_that_fails();
    const mlff_status status = evaluate(e, &r, 1, &error);
    printf("after a kernel that failed: %s\n", error.message);
    mlff_evaluator_free(e);
    reference_free(&r);
    return !(status == MLFF_ERROR_DEVICE && strstr(error.message, "CUDA"));
}

static int without_a_visible_gpu(void)
{
    reference r;
    reference_load(&r, "gaussian_ev", "molecule");
    mlff_evaluator *e;
    mlff_error error = {""};
    if (mlff_gpu_count() != 0) return child_failure("a GPU is visible", &error);
    mlff_status status = create(&r, MLFF_DEVICE_CUDA, MLFF_PRECISION_SINGLE, -1, &e, &error);
    printf("device cuda without a visible GPU: %s\n", error.message);
    if (status != MLFF_ERROR_DEVICE || !strstr(error.message, "driver offers CUDA")) return 1;
    if (create(&r, MLFF_DEVICE_AUTO, MLFF_PRECISION_DEFAULT, -1, &e, &error) != MLFF_OK)
        return child_failure("device auto", &error);
    const mlff_evaluator_info *info = mlff_evaluator_get_info(e);
    if (strncmp(info->device, "cpu", 3) != 0 || strcmp(info->precision, "double") != 0 || info->device_index != -1 ||
        *info->gpu)
        return child_failure(info->device, &error);
    mlff_evaluator_free(e);
    reference_free(&r);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
} parts[] = {{"failed_kernel", after_a_kernel_that_failed}, {"no_gpu", without_a_visible_gpu}};

/* `variable`: "NAME=value" of the part's environment, or NULL. */
static void assert_part_passes(const char *part, char *variable)
{
    char self[1024];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    fflush(stdout);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (variable) putenv(variable);
        execl(self, self, "in", part, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_msg("part %s ended with wait status %d", part, status);
}

static void a_kernel_that_failed_is_reported_by_the_next_evaluation(void **unused)
{
    (void)unused;
    assert_part_passes("failed_kernel", NULL);
}

static void without_a_visible_gpu_cuda_is_refused_and_auto_takes_the_cpu(void **unused)
{
    (void)unused;
    static char none[] = "CUDA_VISIBLE_DEVICES=";
    assert_part_passes("no_gpu", none);
}

int main(int argc, char **argv)
{
    for (size_t k = 0; k < sizeof parts / sizeof parts[0] && argc > 2 && strcmp(argv[1], "in") == 0; k++)
        if (strcmp(argv[2], parts[k].name) == 0) return parts[k].run();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_launch_that_cannot_be_is_reported_by_name),
        cmocka_unit_test(a_kernel_that_failed_is_reported_by_the_next_evaluation),
        cmocka_unit_test(without_a_visible_gpu_cuda_is_refused_and_auto_takes_the_cpu),
        cmocka_unit_test(a_device_that_is_not_there_is_refused),
        cmocka_unit_test(half_precision_that_overflows_is_an_error_and_single_is_not),
        cmocka_unit_test(a_layer_that_fails_leaves_no_trace_in_launches_or_recordings),
        cmocka_unit_test(memory_that_is_taken_is_an_error_with_the_bytes_and_no_end),
    };
    char *on_cuda[] = {argv[0], "cuda"}; /* these tests have no other device */
    return RUN_ON_DEVICE(2, on_cuda, "GPU faults", tests);
}
