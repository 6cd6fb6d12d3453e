/* SPDX-License-Identifier: MIT */
/* The CUDA backend behind the core's struct: memory, transfers, and the table of functions. */
#include "memory.cuh"
#include "message_matrix.cuh"
#include "neighbours.cuh"
#include "positions.cuh"
#include "recording.cuh"

#include <limits.h>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace mlff
{

/* ------------------------------------------------------------------------------------- one evaluation */

/* Rows of the caller's arrays that results are for: ghosts have forces only when they belong to other ranks. */
template <typename T> static size_t rows_down(const state<T> *s)
{
    return s->halo ? (size_t)s->n_all : (size_t)s->graph->n_local;
}

/* Bytes of pinned memory for positions, in front of the results. */
template <typename T> static size_t positions_bytes(const state<T> *s)
{
    return ((size_t)s->n_all * 3 * sizeof(double) + 255) / 256 * 256;
}

/* Where a result stands in pinned memory: results lie there as they lie on the device behind bad_row. */
template <typename T> static char *result_on_host(const state<T> *s, const void *on_device)
{
    return s->host + positions_bytes(s) + ((const char *)on_device - (const char *)s->bad_row);
}

/* Bytes of results that are asked for. */
template <typename T> static size_t results_bytes(const state<T> *s)
{
    const char *begin = (const char *)s->bad_row, *end = (const char *)(s->bad_row + 2);
    if (s->close) end = (const char *)(s->close + 1);
    if (s->sums) end = (const char *)(s->sums + 10 * (size_t)s->n_chunks);
    if (s->forces) end = (const char *)(s->forces + 3 * rows_down(s));
    if (s->atom_energy && s->wanted & WANT_ATOM_ENERGY) end = (const char *)(s->atom_energy + s->N);
    return (size_t)(end - begin);
}

/* The graph on the device, every tensor in its place, no fault marked. */
template <typename T> static mlff_status place_all(state<T> *s, mlff_error *error)
{
    s->placed_for = 0;
    MLFF_TRY(make_room(s, s->graph, error));
    const size_t A = s->wanted & WANT_ATOM_VIRIAL ? s->n_all : 0;
    const tensor_row virials[] = {{&s->slot_virial, A ? (size_t)s->n_slots * 9 : 0, sizeof(double), "edge virials"},
                                  {&s->atom_virial, A * 9, sizeof(double), "virials of atoms"}};
    MLFF_TRY(place_on_device(&s->virial_arena, virials, 2, error));
    MLFF_TRY(pin_host_memory((void **)&s->host, &s->host_bytes,
                             positions_bytes(s) + results_bytes(s) + A * 9 * sizeof(double), error));
    /* also the gaps between results, which travel with them */
    CUDA_TRY(cudaMemsetAsync(s->bad_row, 0x7f, results_bytes(s), s->stream));
    s->placed_for = 1 + s->wanted + (s->halo ? WANT_COMBINATIONS : 0);
    return MLFF_OK;
}

/* First in every call that works on the device: the device is the thread's current one, and nothing is left of an
 * evaluation that failed. */
template <typename T> static mlff_status enter(state<T> *s, mlff_error *error)
{
    CUDA_TRY(cudaSetDevice(s->device_index));
    if (s->capturing) recording_abandon(s->stream, s->beside, s->joined);
    s->capturing = NULL;
    if (s->is_under_way) { /* an evaluation that failed on its way, and may have left fault marks */
        CUDA_TRY(cudaStreamSynchronize(s->stream));
        CUDA_TRY(cudaStreamSynchronize(s->beside));
        s->placed_for = 0;
    }
    s->is_under_way = s->is_replayed = s->are_molecules = s->is_forked = s->are_positions_sent = 0;
    return MLFF_OK;
}

template <typename T>
static mlff_status prepare(void *state_, const mlff_graph *graph, const double *x, int wanted, const exchange *halo,
                           mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    MLFF_TRY(enter(s, error));
    s->graph = graph;
    s->wanted = wanted, s->with_reverse = (wanted & WANT_REVERSE) != 0, s->halo = halo;
    const int place = 1 + wanted + (halo ? WANT_COMBINATIONS : 0);
    if (s->graph_version != graph->version || s->placed_for != place) MLFF_TRY(place_all(s, error));
    if (halo) MLFF_TRY(send_exchange(s, error));
    return positions_send(s, x, error);
}

/* Edges; before them the choice between one launch for small structures, launches, a recording of launches, and a
 * recording made before. */
template <typename T> static mlff_status begin(void *state_, int *replayed, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    s->is_under_way = 1;
    if (replayed && s->molecules.suits) {
        *replayed = s->is_replayed = s->are_molecules = 1;
        char *results = result_on_host(s, s->bad_row);
        return molecules_evaluate(s, results, results + results_bytes(s), error);
    }
    if (!s->are_positions_sent) MLFF_TRY(positions_send_all(s, error));
    if (replayed) {
        recording *r = &s->recordings[s->wanted];
        const recording now =
            recording_of(s->graph_version, s->arena.memory, s->graph_arena.memory, s->virial_arena.memory, s->host);
        if (!recording_fits(r, &now)) {
            recording_announce(r, &now);
        } else if (r->is_recorded) {
            *replayed = s->is_replayed = 1;
            return recording_replay(r, s->stream, error);
        } else {
            MLFF_TRY(recording_begin(s->stream, error));
            s->capturing = r;
        }
    }
    return radial_forward(s, error);
}

/* Forces, sums and their way down. Atoms without a row get zeros. */
template <typename T> static mlff_status send_results(state<T> *s, mlff_error *error)
{
    const size_t rows = rows_down(s), with_row = s->halo ? s->R : s->N;
    const int with_atom_virial = s->wanted & WANT_ATOM_VIRIAL;
    if (s->with_reverse && with_row < rows)
        CUDA_TRY(cudaMemsetAsync(s->forces, 0, rows * 3 * sizeof(double), s->stream));
    if (with_atom_virial && with_row < rows)
        CUDA_TRY(cudaMemsetAsync(s->atom_virial, 0, rows * 9 * sizeof(double), s->stream));
    MLFF_TRY(forces(s, with_atom_virial, error));
    CUDA_TRY(cudaMemcpyAsync(result_on_host(s, s->bad_row), s->bad_row, results_bytes(s), cudaMemcpyDeviceToHost,
                             s->stream));
    if (with_atom_virial && rows > 0)
        CUDA_TRY(cudaMemcpyAsync(result_on_host(s, s->bad_row) + results_bytes(s), s->atom_virial,
                                 rows * 9 * sizeof(double), cudaMemcpyDeviceToHost, s->stream));
    return MLFF_OK;
}

/* Rows with a fault, told as the CPU backend tells them. */
template <typename T> static mlff_status explain(state<T> *s, mlff_error *error)
{
    const int *bad = (const int *)result_on_host(s, s->bad_row);
    if (bad[0] >= s->N && bad[1] >= s->N) return MLFF_OK;
    s->placed_for = 0; /* the next evaluation clears the marks */
    if (bad[0] < s->N) return explain_row(s, (const double *)s->host, bad[0], error);
    return mlff_fail(error, MLFF_ERROR_NUMERICS, "atom index %d: energy or virial is not a finite number",
                     (int)s->graph->atom_of_row[bad[1]]);
}

/* Energies and virials of structures: the chunks' sums in the order of chunks. */
template <typename T> static void add_chunks(const state<T> *s, mlff_output *out)
{
    const mlff_graph *g = s->graph;
    const double *sums = (const double *)result_on_host(s, s->sums);
    if (out->energy) memset(out->energy, 0, (size_t)g->n_structures * sizeof(double));
    if (out->virial) memset(out->virial, 0, (size_t)g->n_structures * 9 * sizeof(double));
    for (int32_t c = 0, row = 0; c < s->n_chunks; c++) {
        const int32_t structure = g->structure_of_row[row];
        if (out->energy) out->energy[structure] += sums[10 * (size_t)c];
        for (int q = 0; q < 9 && out->virial; q++)
            out->virial[9 * (size_t)structure + q] += sums[10 * (size_t)c + 1 + q];
        row = chunk_end(g, row);
    }
}

/* Ghosts without forces of their own; while the device works: there may be more of them than owned atoms. */
template <typename T> static void clear_ghosts(const state<T> *s, mlff_output *out)
{
    const size_t rows = rows_down(s), rest = (size_t)s->n_all - rows;
    if (out->forces && rest > 0) memset(out->forces + 3 * rows, 0, rest * 3 * sizeof(double));
    if (out->atom_virial && rest > 0) memset(out->atom_virial + 9 * rows, 0, rest * 9 * sizeof(double));
}

template <typename T> static void hand_out(const state<T> *s, mlff_output *out)
{
    const mlff_graph *g = s->graph;
    const size_t rows = rows_down(s);
    if (out->forces && rows > 0)
        mlff_copy(out->forces, (const double *)result_on_host(s, s->forces), rows * 3, s->threads);
    if (out->atom_virial && rows > 0)
        memcpy(out->atom_virial, result_on_host(s, s->bad_row) + results_bytes(s), rows * 9 * sizeof(double));
    if (out->atom_energy) {
        const double *energy = (const double *)result_on_host(s, s->atom_energy);
        if (s->N < g->n_local) memset(out->atom_energy, 0, (size_t)g->n_local * sizeof(double));
        for (int32_t row = 0; row < s->N; row++) out->atom_energy[g->atom_of_row[row]] = energy[row];
    }
    add_chunks(s, out);
}

template <typename T> static mlff_status collect(void *state_, mlff_output *out, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    if (!s->is_replayed) MLFF_TRY(send_results(s, error));
    MLFF_TRY(message_matrix_await_list(s, error));
    if (s->capturing) {
        recording *r = s->capturing;
        s->capturing = NULL;
        MLFF_TRY(recording_end(r, s->stream, error));
    }
    clear_ghosts(s, out);
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    s->is_under_way = 0;
    if (s->are_molecules) molecules_mark(s, result_on_host(s, s->bad_row));
    MLFF_TRY(explain(s, error));
    hand_out(s, out);
    return MLFF_OK;
}

template <typename T> static void close_pairs(const void *state_, mlff_close_pairs *pairs)
{
    const state<T> *s = (const state<T> *)state_;
    const close_record *close = (const close_record *)result_on_host(s, s->close);
    *pairs = {};
    pairs->atom = pairs->neighbour = -1;
    pairs->count = (int64_t)close->count;
    if (!close->count) return;
    pairs->atom = s->graph->atom_of_row[s->N - close->rows_to_end];
    pairs->neighbour = s->graph->atom_of_row[close->neighbour_row];
    pairs->distance = close->distance;
    pairs->trained = close->trained;
}

/* ------------------------------------------------------------------------------------ life, table */

template <typename T> static void destroy(void *state_)
{
    state<T> *s = (state<T> *)state_;
    if (!s) return;
    if (s->stream) cudaSetDevice(s->device_index);
    for (recording &r : s->recordings) recording_free(&r);
    weights_free(&s->w);
    cudaFree(s->halo_arena.memory);
    cudaFree(s->graph_arena.memory);
    cudaFree(s->arena.memory);
    cudaFree(s->virial_arena.memory);
    if (s->search) device_search_free(s->search);
    free(s->search);
    cudaFreeHost(s->host);
    cudaFreeHost(s->halo_host);
    if (s->stream) cudaStreamDestroy(s->stream);
    if (s->beside) cudaStreamDestroy(s->beside);
    if (s->forked) cudaEventDestroy(s->forked);
    if (s->joined) cudaEventDestroy(s->joined);
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

/* Makes the device that was asked for the current one. */
static mlff_status choose_device(int wanted, int *device, mlff_error *error)
{
    MLFF_TRY(check_device(error));
    int count = 0;
    CUDA_TRY(cudaGetDeviceCount(&count));
    if (wanted >= count)
        return mlff_fail(error, MLFF_ERROR_DEVICE, "device_index %d: this process sees %d GPU%s, expected 0 to %d",
                         wanted, count, count == 1 ? "" : "s", count - 1);
    if (wanted >= 0) CUDA_TRY(cudaSetDevice(wanted));
    CUDA_TRY(cudaGetDevice(device));
    return MLFF_OK;
}

template <typename T> static mlff_status start(state<T> *s, const mlff_model *model, int device, mlff_error *error)
{
    MLFF_TRY(choose_device(device, &s->device_index, error));
    cudaDeviceProp properties;
    CUDA_TRY(cudaGetDeviceProperties(&properties, s->device_index));
    snprintf(s->device_name, sizeof s->device_name, "cuda (%s)", properties.name);
    CUDA_TRY(cudaDeviceGetPCIBusId(s->gpu, sizeof s->gpu, s->device_index));
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
    /* what runs beside gets what the layers leave free: the end of each, when most of its blocks are done */
    int last = 0, first = 0;
    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&last, &first));
    CUDA_TRY(cudaStreamCreateWithPriority(&s->stream, cudaStreamNonBlocking, first));
    CUDA_TRY(cudaStreamCreateWithPriority(&s->beside, cudaStreamNonBlocking, last));
    CUDA_TRY(cudaEventCreateWithFlags(&s->forked, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&s->joined, cudaEventDisableTiming));
    return weights_create(&s->w, model, error);
}

template <typename T>
static mlff_status create(const mlff_model *model, const mlff_options *options, void **out, mlff_error *error)
{
    state<T> *s = new (std::nothrow) state<T>();
    if (!s) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the CUDA backend", sizeof *s);
    s->model = model;
    s->threads = options->threads;
    const mlff_status status = start(s, model, options->device_index, error);
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

template <typename T> static const char *gpu_of(const void *state_, int *device_index)
{
    const state<T> *s = (const state<T> *)state_;
    *device_index = s->device_index;
    return s->gpu;
}

template <typename T> static size_t memory(const void *state_)
{
    const state<T> *s = (const state<T> *)state_;
    return s->arena.bytes + s->graph_arena.bytes + s->virial_arena.bytes + s->halo_arena.bytes + s->w.storage_bytes +
           (s->search ? device_search_memory(s->search) : 0);
}

template <typename T>
static void memory_estimate(const void *state_, double *bytes_per_atom, double *bytes_per_neighbour)
{
    const state<T> *s = (const state<T> *)state_;
    estimate_memory(s, bytes_per_atom, bytes_per_neighbour);
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
LAYER_OF_ALL(first_message_reverse)
LAYER_OF_ALL(readout_forward)
LAYER_OF_ALL(readout_reverse)
LAYER_OF_ALL(short_range)
LAYER_OF_ONE(context_forward)
LAYER_OF_ONE(context_reverse)
LAYER_OF_ONE(message_forward)
LAYER_OF_ONE(message_reverse)
LAYER_OF_ONE(update_reverse)

/* Lists of clusters are made beside the layers in front of the messages: what those need is there with the edges. The
 * list for the reverse takes the other's place once the last message has run. */
template <typename T> static mlff_status do_first_message_forward(void *state_, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    MLFF_TRY(message_matrix_start_list(s, false, error));
    return first_message_forward(s, error);
}

template <typename T> static mlff_status do_update_forward(void *state_, int l, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    if (s->with_reverse && l == s->w.L - 1) MLFF_TRY(message_matrix_start_list(s, true, error));
    return update_forward(s, l, error);
}

template <typename T>
static mlff_status do_search(void *state_, mlff_graph *graph, const mlff_input *input, double reach, mlff_error *error)
{
    MLFF_TRY(enter((state<T> *)state_, error));
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
    b.gpu = gpu_of<T>;
    b.create = create<T>;
    b.free = destroy<T>;
    b.search = do_search<T>;
    b.prepare = prepare<T>;
    b.begin = begin<T>;
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
    b.short_range = do_short_range<T>;
    b.close_pairs = close_pairs<T>;
    b.collect = collect<T>;
    b.memory = memory<T>;
    b.memory_estimate = memory_estimate<T>;
    return b;
}

} // namespace mlff

extern "C" const backend *mlff_cuda_backend(mlff_precision precision)
{
    static const backend in_double = mlff::table<double>("double"), in_single = mlff::table<float>("single"),
                         in_mixed = mlff::table<__half>("mixed");
    switch (precision) {
    case MLFF_PRECISION_DOUBLE: return &in_double;
    case MLFF_PRECISION_SINGLE: return &in_single;
    case MLFF_PRECISION_MIXED: return &in_mixed;
    default: return NULL;
    }
}

extern "C" int mlff_cuda_is_usable(mlff_error *error)
{
    return mlff::check_device(error) == MLFF_OK;
}

extern "C" int mlff_cuda_device_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError(); /* told by mlff_cuda_is_usable */
    return 0;
}
