/* SPDX-License-Identifier: MIT */
/* The CUDA backend behind the core's struct: memory, transfers, and the table of functions. */
#include "neighbours.cuh"

#include <limits.h>
#include <math.h>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace mlff
{

/* ------------------------------------------------------------------------------------- one evaluation */

/* A position that is not a number is found before the first exchange, so that all ranks can stop together. */
static mlff_status check_positions(const mlff_graph *g, const double *x, mlff_error *error)
{
    for (int32_t row = 0; row < g->n_rows; row++) {
        const double *at = x + 3 * (size_t)g->atom_of_row[row];
        if (!isfinite(at[0] + at[1] + at[2]) && (!isfinite(at[0]) || !isfinite(at[1]) || !isfinite(at[2])))
            return mlff_fail(error, MLFF_ERROR_NUMERICS,
                             "atom index %d: position (%g, %g, %g), expected finite numbers", (int)g->atom_of_row[row],
                             at[0], at[1], at[2]);
    }
    return MLFF_OK;
}

template <typename T>
static mlff_status prepare(void *state_, const mlff_graph *graph, const double *x, int with_reverse, int with_halo,
                           mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    s->graph = graph;
    s->with_reverse = with_reverse;
    MLFF_TRY(check_positions(graph, x, error));
    const size_t halo = with_halo ? (size_t)graph->n_rows * 5 * s->w.F * sizeof(T) : 0;
    MLFF_TRY(pin_host_memory(&s->halo_host, &s->halo_bytes, halo > 0 ? halo : 1, error));
    if (s->graph_version != graph->version) MLFF_TRY(send_graph(s, graph, error));
    tensor_row table[MAX_TENSORS];
    const int n = tensor_table(s, table);
    MLFF_TRY(place_on_device(&s->arena, table, n, error));
    /* room for positions on their way up and everything on its way down */
    const size_t down = ((size_t)s->n_all * 12 + s->N + (size_t)s->n_chunks * 10) * sizeof(double) + 64;
    MLFF_TRY(pin_host_memory((void **)&s->host, &s->host_bytes, down, error));
    if (s->n_all > 0) {
        memcpy(s->host, x, (size_t)s->n_all * 3 * sizeof(double));
        CUDA_TRY(
            cudaMemcpyAsync(s->x, s->host, (size_t)s->n_all * 3 * sizeof(double), cudaMemcpyHostToDevice, s->stream));
    }
    CUDA_TRY(cudaMemsetAsync(s->bad_row, 0x7f, 2 * sizeof(int), s->stream));
    return radial_forward(s, error);
}

/* Rows with a fault, told as the CPU backend tells them. */
template <typename T>
static mlff_status explain(const state<T> *s, const double *x, const int bad[2], mlff_error *error)
{
    if (bad[0] < s->N) return explain_row(s, x, bad[0], error);
    if (bad[1] < s->N)
        return mlff_fail(error, MLFF_ERROR_NUMERICS, "atom index %d: energy or virial is not a finite number",
                         (int)s->graph->atom_of_row[bad[1]]);
    return MLFF_OK;
}

template <typename T> static mlff_status collect(void *state_, mlff_output *out, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    const size_t A = s->n_all, N = s->N;
    if (out->atom_virial) {
        tensor_row table[] = {{&s->slot_virial, (size_t)s->n_slots * 9, sizeof(double), "edge virials"},
                              {&s->atom_virial, A * 9, sizeof(double), "virials of atoms"}};
        MLFF_TRY(place_on_device(&s->virial_arena, table, 2, error));
        if (A > 0) CUDA_TRY(cudaMemsetAsync(s->atom_virial, 0, A * 9 * sizeof(double), s->stream));
        if (s->n_slots > 0)
            CUDA_TRY(cudaMemsetAsync(s->slot_virial, 0, (size_t)s->n_slots * 9 * sizeof(double), s->stream));
    }
    if (out->forces && A > 0) CUDA_TRY(cudaMemsetAsync(s->forces, 0, A * 3 * sizeof(double), s->stream));
    MLFF_TRY(forces(s, out->atom_virial != NULL, error));

    double *x = (double *)s->host, *force = x + 3 * A, *energy = force + 3 * A, *sums = energy + N;
    int *bad = (int *)(sums + 10 * (size_t)s->n_chunks);
    const cudaMemcpyKind down = cudaMemcpyDeviceToHost;
    if (out->forces && A > 0) CUDA_TRY(cudaMemcpyAsync(force, s->forces, A * 3 * sizeof(double), down, s->stream));
    if (out->atom_energy && N > 0)
        CUDA_TRY(cudaMemcpyAsync(energy, s->atom_energy, N * sizeof(double), down, s->stream));
    if (s->n_chunks > 0)
        CUDA_TRY(cudaMemcpyAsync(sums, s->sums, (size_t)s->n_chunks * 10 * sizeof(double), down, s->stream));
    CUDA_TRY(cudaMemcpyAsync(bad, s->bad_row, 2 * sizeof(int), down, s->stream));
    if (out->atom_virial && A > 0)
        CUDA_TRY(cudaMemcpyAsync(out->atom_virial, s->atom_virial, A * 9 * sizeof(double), down, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    MLFF_TRY(explain(s, x, bad, error));

    if (out->forces && A > 0) memcpy(out->forces, force, A * 3 * sizeof(double));
    if (out->atom_energy) {
        memset(out->atom_energy, 0, (size_t)s->graph->n_local * sizeof(double));
        for (size_t i = 0; i < N; i++) out->atom_energy[s->graph->atom_of_row[i]] = energy[i];
    }
    const size_t S = s->graph->n_structures;
    if (out->energy) memset(out->energy, 0, S * sizeof(double));
    if (out->virial) memset(out->virial, 0, S * 9 * sizeof(double));
    for (int32_t c = 0, row = 0; c < s->n_chunks; c++) { /* the chunks again, in their order */
        const int32_t structure = s->graph->structure_of_row[row];
        if (out->energy) out->energy[structure] += sums[10 * (size_t)c];
        for (int q = 0; q < 9 && out->virial; q++)
            out->virial[9 * (size_t)structure + q] += sums[10 * (size_t)c + 1 + q];
        row = chunk_end(s->graph, row);
    }
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------ life, table */

template <typename T> static void destroy(void *state_)
{
    state<T> *s = (state<T> *)state_;
    if (!s) return;
    weights_free(&s->w);
    cudaFree(s->graph_arena.memory);
    cudaFree(s->arena.memory);
    cudaFree(s->virial_arena.memory);
    if (s->search) device_search_free(s->search);
    free(s->search);
    cudaFreeHost(s->host);
    cudaFreeHost(s->halo_host);
    if (s->stream) cudaStreamDestroy(s->stream);
    delete s;
}

/* Asked for its attributes, to learn whether this build has code for the device. */
__global__ void probe_kernel()
{
}

static mlff_status check_device(mlff_error *error)
{
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0) return MLFF_OK;
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    return mlff_fail(error, MLFF_ERROR_DEVICE,
                     "no usable GPU: %s; the driver offers CUDA %d.%d, this build needs %d.%d",
                     code == cudaSuccess ? "none found" : cudaGetErrorString(code), driver / 1000, driver % 1000 / 10,
                     runtime / 1000, runtime % 1000 / 10);
}

template <typename T> static mlff_status start(state<T> *s, const mlff_model *model, mlff_error *error)
{
    MLFF_TRY(check_device(error));
    int device = 0;
    cudaDeviceProp properties;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaGetDeviceProperties(&properties, device));
    snprintf(s->device_name, sizeof s->device_name, "cuda (%s)", properties.name);
    cudaFuncAttributes attributes;
    const cudaError_t code = cudaFuncGetAttributes(&attributes, (const void *)probe_kernel);
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction)
        return mlff_fail(error, MLFF_ERROR_DEVICE, "%s has compute capability %d.%d, for which this build has no code",
                         properties.name, properties.major, properties.minor);
    CUDA_TRY(code);
    if (padded(model->info.features) > MAX_FEATURES)
        return mlff_fail(error, MLFF_ERROR_UNSUPPORTED, "features %d: the CUDA backend has at most %d",
                         model->info.features, MAX_FEATURES);
    if (model->info.radial_functions + 1 > MAX_FUNCTIONS)
        return mlff_fail(error, MLFF_ERROR_UNSUPPORTED, "radial_functions %d: the CUDA backend has at most %d",
                         model->info.radial_functions, MAX_FUNCTIONS - 1);
    CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    return weights_create(&s->w, model, error);
}

template <typename T> static mlff_status create(const mlff_model *model, int threads, void **out, mlff_error *error)
{
    (void)threads;
    state<T> *s = new (std::nothrow) state<T>();
    if (!s) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the CUDA backend", sizeof *s);
    s->model = model;
    const mlff_status status = start(s, model, error);
    if (status != MLFF_OK) {
        destroy<T>(s);
        return status;
    }
    *out = s;
    return MLFF_OK;
}

template <typename T> static const char *device_of(const void *state_)
{
    return ((const state<T> *)state_)->device_name;
}

template <typename T> static size_t memory(const void *state_)
{
    const state<T> *s = (const state<T> *)state_;
    return s->arena.bytes + s->graph_arena.bytes + s->virial_arena.bytes + s->w.storage_bytes +
           (s->search ? device_search_memory(s->search) : 0);
}

template <typename T>
static void memory_estimate(const void *state_, double *bytes_per_atom, double *bytes_per_neighbour)
{
    const state<T> *s = (const state<T> *)state_;
    const double F = s->w.F, L = s->w.L;
    *bytes_per_atom = sizeof(T) * (F * (4 + 12 + 9 * L + 10 * (L - 1) + 9) + s->w.H) + 200;
    *bytes_per_neighbour = 8 * sizeof(T) + 52;
}

/* A layer's function as the table wants it. */
#define LAYER_OF_ALL(name)                                                                                             \
    template <typename T> static mlff_status do_##name(void *state_, mlff_error *error)                                \
    {                                                                                                                  \
        return name((state<T> *)state_, error);                                                                        \
    }
#define LAYER_OF_ONE(name)                                                                                             \
    template <typename T> static mlff_status do_##name(void *state_, int l, mlff_error *error)                         \
    {                                                                                                                  \
        return name((state<T> *)state_, l, error);                                                                     \
    }
LAYER_OF_ALL(first_message_forward)
LAYER_OF_ALL(first_message_reverse)
LAYER_OF_ALL(readout_forward)
LAYER_OF_ALL(readout_reverse)
LAYER_OF_ONE(context_forward)
LAYER_OF_ONE(context_reverse)
LAYER_OF_ONE(message_forward)
LAYER_OF_ONE(message_reverse)
LAYER_OF_ONE(update_forward)
LAYER_OF_ONE(update_reverse)

template <typename T>
static mlff_status do_search(void *state_, mlff_graph *graph, const mlff_input *input, double reach, mlff_error *error)
{
    return search_graph((state<T> *)state_, graph, input, reach, error);
}

template <typename T>
static mlff_status do_halo_begin(void *state_, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    return halo_begin((state<T> *)state_, kind, l, rows, error);
}

template <typename T> static mlff_status do_halo_end(void *state_, halo_kind kind, int l, mlff_error *error)
{
    return halo_end((state<T> *)state_, kind, l, error);
}

template <typename T> static int halo_width(const void *state_)
{
    return 5 * ((const state<T> *)state_)->w.F;
}

template <typename T> static backend table(const char *precision)
{
    backend b = {};
    b.device = device_of<T>;
    b.precision = precision;
    b.real_bytes = sizeof(T);
    b.create = create<T>;
    b.free = destroy<T>;
    b.search = do_search<T>;
    b.prepare = prepare<T>;
    b.first_message_forward = do_first_message_forward<T>;
    b.context_forward = do_context_forward<T>;
    b.message_forward = do_message_forward<T>;
    b.update_forward = do_update_forward<T>;
    b.readout_forward = do_readout_forward<T>;
    b.readout_reverse = do_readout_reverse<T>;
    b.update_reverse = do_update_reverse<T>;
    b.message_reverse = do_message_reverse<T>;
    b.context_reverse = do_context_reverse<T>;
    b.first_message_reverse = do_first_message_reverse<T>;
    b.halo_begin = do_halo_begin<T>;
    b.halo_end = do_halo_end<T>;
    b.halo_width = halo_width<T>;
    b.collect = collect<T>;
    b.memory = memory<T>;
    b.memory_estimate = memory_estimate<T>;
    return b;
}

} // namespace mlff

extern "C" const backend *mlff_cuda_backend(mlff_precision precision)
{
    static const backend in_double = mlff::table<double>("double"), in_single = mlff::table<float>("single");
    return precision == MLFF_PRECISION_DOUBLE ? &in_double : precision == MLFF_PRECISION_SINGLE ? &in_single : NULL;
}

extern "C" int mlff_cuda_is_usable(mlff_error *error)
{
    return mlff::check_device(error) == MLFF_OK;
}
