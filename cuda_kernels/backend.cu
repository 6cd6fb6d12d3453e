/* SPDX-License-Identifier: MIT */
/* The CUDA backend behind the core's struct: memory, transfers, and the table of functions. */
#include "state.cuh"

#include <limits.h>
#include <math.h>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace mlff
{

mlff_status cuda_failure(cudaError_t code, const char *what, mlff_error *error)
{
    return mlff_fail(error, code == cudaErrorMemoryAllocation ? MLFF_ERROR_MEMORY : MLFF_ERROR_DEVICE,
                     "CUDA: %s failed: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
}

/* ----------------------------------------------------------------------------------------------- memory */

/* As mlff_arena_place, on the device. */
static mlff_status place(device_arena *a, const tensor_row *rows, int n_rows, mlff_error *error)
{
    size_t total = 0;
    for (int r = 0; r < n_rows; r++) total += (rows[r].count * rows[r].size + 255) / 256 * 256;
    if (total > a->bytes) {
        const size_t wanted = total + total / 8;
        CUDA_TRY(cudaFree(a->memory));
        *a = {};
        const cudaError_t code = cudaMalloc((void **)&a->memory, wanted);
        if (code == cudaErrorMemoryAllocation) {
            size_t free_bytes = 0, all_bytes = 0;
            cudaGetLastError(); /* the failure is told here; later calls must not meet it */
            cudaMemGetInfo(&free_bytes, &all_bytes);
            return mlff_fail(
                error, MLFF_ERROR_MEMORY,
                "out of GPU memory: %zu bytes asked for, %zu of %zu bytes free; fewer atoms a GPU are needed", wanted,
                free_bytes, all_bytes);
        }
        CUDA_TRY(code);
        a->bytes = wanted;
    }
    char *next = a->memory;
    for (int r = 0; r < n_rows; r++) {
        void *at = rows[r].count ? next : NULL;
        memcpy(rows[r].pointer, &at, sizeof at);
        next += (rows[r].count * rows[r].size + 255) / 256 * 256;
    }
    return MLFF_OK;
}

/* Pinned host memory of at least so many bytes. */
static mlff_status pinned(void **memory, size_t *bytes, size_t wanted, mlff_error *error)
{
    if (wanted <= *bytes) return MLFF_OK;
    wanted += wanted / 4;
    CUDA_TRY(cudaFreeHost(*memory));
    *memory = NULL;
    *bytes = 0;
    CUDA_TRY(cudaMallocHost(memory, wanted));
    *bytes = wanted;
    return MLFF_OK;
}

enum { LAYER_ROWS = 8, MAX_TENSORS = MLFF_MAX_INTERACTIONS * LAYER_ROWS + 32 };

template <typename T> static int tensor_table(state<T> *s, tensor_row *table)
{
    const size_t F = s->w.F, H = s->w.H, N = s->N, R = s->R, E = s->n_slots, A = s->n_all;
    const size_t reverse = s->with_reverse ? 1 : 0, widest = 12 * F > 2 * H ? 12 * F : 2 * H;
    int n = 0;
    table[n++] = {&s->x, A * 3, sizeof(double), "positions"};
    table[n++] = {&s->count, N, sizeof(int32_t), "edge counts"};
    table[n++] = {&s->edges, E, sizeof(edge<T>), "edges"};
    table[n++] = {&s->edge_row, E, sizeof(int32_t), "edge rows"};
    table[n++] = {&s->edge_slot, E, sizeof(int64_t), "edge slots"};
    table[n++] = {&s->edge_adj, E * reverse, sizeof(edge_adjoint<T>), "edge adjoints"};
    table[n++] = {&s->slot_gradient, E * 3 * reverse, sizeof(double), "edge gradients"};
    table[n++] = {&s->s, N * F, sizeof(T), "s"};
    table[n++] = {&s->v_mid, N * 3 * F, sizeof(T), "v_mid"};
    for (int l = 0; l < s->w.L; l++) {
        layer_tensors<T> *y = &s->layer[l];
        const size_t message = l > 0 ? 1 : 0;
        table[n++] = {&y->context_slope, message * N * F, sizeof(T), "context slope"};
        table[n++] = {&y->x_v, message * N * F, sizeof(T), "x_v"};
        table[n++] = {&y->features, message * R * 5 * F, sizeof(T), "features"};
        table[n++] = {&y->v, message * N * 3 * F, sizeof(T), "v"};
        table[n++] = {&y->VU, N * 6 * F, sizeof(T), "VU"};
        table[n++] = {&y->dense_slope, N * F, sizeof(T), "dense slope"};
        table[n++] = {&y->y_sv, N * F, sizeof(T), "y_sv"};
        table[n++] = {&y->y_v, N * F, sizeof(T), "y_v"};
    }
    table[n++] = {&s->readout_slope, N * H, sizeof(T), "readout slope"};
    table[n++] = {&s->atom_energy, N, sizeof(double), "atom energies"};
    table[n++] = {&s->adj, reverse * R * 4 * F, sizeof(T), "adjoints of s and v"};
    table[n++] = {&s->features_adj, reverse * N * 5 * F, sizeof(T), "adjoints of features"};
    table[n++] = {&s->row_virial, reverse * N * 9, sizeof(double), "virials of rows"};
    table[n++] = {&s->sums, (size_t)s->n_chunks * 10, sizeof(double), "sums"};
    table[n++] = {&s->forces, reverse * A * 3, sizeof(double), "forces"};
    table[n++] = {&s->scratch, N * widest, sizeof(T), "temporaries"};
    table[n++] = {&s->bad_row, 2, sizeof(int), "fault marks"};
    return n;
}

/* ------------------------------------------------------------------------------------------------ graph */

/* Rows of one structure, at most CHUNK_ROWS of them. Rows of a structure are neighbours. */
enum { CHUNK_ROWS = 4096 };

static int32_t make_chunks(const mlff_graph *g, chunk *chunks)
{
    int32_t n = 0;
    for (int32_t row = 0; row < g->n_owned;) {
        int32_t end = row;
        while (end < g->n_owned && end - row < CHUNK_ROWS && g->structure_of_row[end] == g->structure_of_row[row])
            end++;
        if (chunks) chunks[n] = {g->structure_of_row[row], row, end};
        n++;
        row = end;
    }
    return n;
}

template <typename T> static mlff_status send_graph(state<T> *s, const mlff_graph *g, mlff_error *error)
{
    s->N = g->n_owned, s->R = g->n_rows, s->n_all = g->n_all, s->n_slots = g->n_slots;
    s->n_chunks = make_chunks(g, NULL);
    const size_t N = s->N, R = s->R, E = s->n_slots;
    const tensor_row table[] = {
        {&s->first, N + 1, sizeof(int64_t), "first candidates"},
        {&s->neighbour_row, E, sizeof(int32_t), "neighbour rows"},
        {&s->neighbour_atom, E, sizeof(int32_t), "neighbour atoms"},
        {&s->shift, g->shift ? E * 3 : 0, sizeof(double), "image shifts"},
        {&s->atom_of_row, R, sizeof(int32_t), "atoms of rows"},
        {&s->species, R, sizeof(int32_t), "species"},
        {&s->incoming_first, R + 1, sizeof(int64_t), "first incoming"},
        {&s->incoming, E, sizeof(int64_t), "incoming"},
        {&s->chunks, (size_t)s->n_chunks, sizeof(chunk), "chunks"},
    };
    MLFF_TRY(place(&s->graph_arena, table, sizeof table / sizeof table[0], error));
    const struct {
        void *to;
        const void *from;
        size_t bytes;
    } copies[] = {
        {s->first, g->first, (N + 1) * sizeof(int64_t)},
        {s->neighbour_row, g->neighbour_row, E * sizeof(int32_t)},
        {s->neighbour_atom, g->neighbour_atom, E * sizeof(int32_t)},
        {s->shift, g->shift, g->shift ? E * 3 * sizeof(double) : 0},
        {s->atom_of_row, g->atom_of_row, R * sizeof(int32_t)},
        {s->species, g->species, R * sizeof(int32_t)},
        {s->incoming_first, g->incoming_first, (R + 1) * sizeof(int64_t)},
        {s->incoming, g->incoming, E * sizeof(int64_t)},
    };
    for (const auto &c : copies)
        if (c.bytes) CUDA_TRY(cudaMemcpyAsync(c.to, c.from, c.bytes, cudaMemcpyHostToDevice, s->stream));
    if (s->n_chunks > 0) {
        chunk *chunks = (chunk *)malloc((size_t)s->n_chunks * sizeof *chunks);
        if (!chunks) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %d chunks of rows", (int)s->n_chunks);
        make_chunks(g, chunks);
        const cudaError_t code =
            cudaMemcpy(s->chunks, chunks, (size_t)s->n_chunks * sizeof *chunks, cudaMemcpyHostToDevice);
        free(chunks);
        CUDA_TRY(code);
    }
    CUDA_TRY(cudaStreamSynchronize(s->stream)); /* the graph's arrays may change once this returns */
    s->graph_version = g->version;
    return MLFF_OK;
}

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
    MLFF_TRY(pinned(&s->halo_host, &s->halo_bytes, halo > 0 ? halo : 1, error));
    if (s->graph_version != graph->version) MLFF_TRY(send_graph(s, graph, error));
    tensor_row table[MAX_TENSORS];
    const int n = tensor_table(s, table);
    MLFF_TRY(place(&s->arena, table, n, error));
    /* room for positions on their way up and everything on its way down */
    const size_t down = ((size_t)s->n_all * 12 + s->N + (size_t)s->n_chunks * 10) * sizeof(double) + 64;
    MLFF_TRY(pinned((void **)&s->host, &s->host_bytes, down, error));
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
    if (bad[0] < s->N) return mlff_graph_explain_row(s->graph, x, bad[0], error);
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
        MLFF_TRY(place(&s->virial_arena, table, 2, error));
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
        const int32_t begin = row;
        while (row < s->N && row - begin < CHUNK_ROWS && s->graph->structure_of_row[row] == structure) row++;
    }
    return MLFF_OK;
}

/* ------------------------------------------------------------------------------------------------- halo */

template <typename T> static T *halo_tensor(state<T> *s, halo_kind kind, int l, int *width)
{
    *width = (kind == HALO_FEATURES ? 5 : 4) * s->w.F;
    return kind == HALO_FEATURES ? s->layer[l].features : s->adj;
}

template <typename T>
static mlff_status halo_begin(void *state_, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    int width;
    const T *tensor = halo_tensor(s, kind, l, &width);
    *rows = {s->halo_host, width};
    if (s->N == 0) return MLFF_OK;
    CUDA_TRY(
        cudaMemcpyAsync(s->halo_host, tensor, (size_t)s->N * width * sizeof(T), cudaMemcpyDeviceToHost, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return MLFF_OK;
}

template <typename T> static mlff_status halo_end(void *state_, halo_kind kind, int l, mlff_error *error)
{
    state<T> *s = (state<T> *)state_;
    int width;
    T *tensor = halo_tensor(s, kind, l, &width);
    const size_t owned = (size_t)s->N * width, ghosts = (size_t)(s->R - s->N) * width;
    if (ghosts == 0) return MLFF_OK;
    CUDA_TRY(cudaMemcpyAsync(tensor + owned, (T *)s->halo_host + owned, ghosts * sizeof(T), cudaMemcpyHostToDevice,
                             s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream)); /* the rows are written again by the next exchange */
    return MLFF_OK;
}

template <typename T> static int halo_width(const void *state_)
{
    return 5 * ((const state<T> *)state_)->w.F;
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
    return s->arena.bytes + s->graph_arena.bytes + s->virial_arena.bytes + s->w.storage_bytes;
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

template <typename T> static backend table(const char *precision)
{
    backend b = {};
    b.device = device_of<T>;
    b.precision = precision;
    b.real_bytes = sizeof(T);
    b.create = create<T>;
    b.free = destroy<T>;
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
    b.halo_begin = halo_begin<T>;
    b.halo_end = halo_end<T>;
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
