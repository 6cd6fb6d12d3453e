/* SPDX-License-Identifier: MIT */
/*
 * Memory: the device arenas, pinned host memory, and the table of every tensor of one evaluation.
 *
 * Bytes an atom, without neighbours (t = sizeof(T), r = sizeof(real<T>); in brackets single, F = 128, L = 3, H = 64)
 *   s and v_mid, later their adjoints                          max(F r + 3F t, 4F t)      [2,048]
 *   each layer: VU, dense slope, y_sv; all but the last: y_v   9F t, less F t             [13,312]
 *   layers l >= 1: context slope, x_v, features, v             10F t each                 [10,240]
 *   readout slope                                              H t                        [256]
 *   positions, forces, sums of a row, counts, graph            180                        [180]
 *   clusters of rows (seats, sizes), single and mixed          132 and 150                [132]
 *   temporaries of dense layers that are not fused             of 65,536 rows at most     [0]
 *   all                                                                                   [26,168]
 * Bytes a neighbour candidate, skin included:
 *   graph: row, atom, incoming                                 12                         [12]
 *   edge, its adjoint, its row, its place                      8r + 8                     [40]
 *   its place in the order of a cluster, single and mixed      4                          [4]
 *   with structures: the image's shift                         24
 *   with a short-range term: its distance                      r
 *   with virials of atoms                                      72
 * 4,019,679 atoms with 52.9 neighbours of the library's own search ran on one H200 (150 GB): 36.2 kB each, 2026-11-21.
 */
#include "dense.cuh"
#include "message_matrix.cuh"
#include "neighbours.cuh"

#include <stdio.h>
#include <string.h>

namespace mlff
{

constexpr size_t ALIGNMENT = 256, LARGE = (size_t)1 << 30;
constexpr double GRAPH_BYTES_OF_ROW = 24, GRAPH_BYTES_OF_SLOT = 12; /* as graph.cu's table has them */

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t bytes_of(const tensor_row *rows, int n_rows)
{
    size_t total = 0;
    for (int r = 0; r < n_rows; r++) total += aligned(rows[r].count * rows[r].size);
    return total;
}

mlff_status cuda_failure(cudaError_t code, const char *what, mlff_error *error)
{
    return mlff_fail(error, code == cudaErrorMemoryAllocation ? MLFF_ERROR_MEMORY : MLFF_ERROR_DEVICE,
                     "CUDA: %s failed: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
}

/* Small arenas get slack, so that a list that wanders in size does not reallocate at every rebuild; large ones little,
 * and none where the slack does not fit. */
static mlff_status grow(device_arena *a, mlff_error *error)
{
    const size_t slack = a->wanted < LARGE ? a->wanted / 8 : a->bytes > 0 ? a->wanted / 50 : 0;
    CUDA_TRY(cudaFree(a->memory));
    a->memory = NULL;
    a->bytes = 0;
    for (size_t bytes : {a->wanted + slack, a->wanted}) {
        const cudaError_t code = cudaMalloc((void **)&a->memory, bytes);
        if (code == cudaSuccess) {
            a->bytes = bytes;
            return MLFF_OK;
        }
        a->memory = NULL;
        cudaGetLastError(); /* the failure is told here; later calls must not meet it */
        if (code != cudaErrorMemoryAllocation) return cuda_failure(code, "cudaMalloc", error);
    }
    size_t free_bytes = 0, all_bytes = 0;
    cudaMemGetInfo(&free_bytes, &all_bytes);
    return mlff_fail(error, MLFF_ERROR_MEMORY, "out of GPU memory: %zu bytes asked for, %zu of %zu bytes free",
                     a->wanted, free_bytes, all_bytes);
}

mlff_status place_on_device(device_arena *a, const tensor_row *rows, int n_rows, mlff_error *error)
{
    a->wanted = bytes_of(rows, n_rows);
    if (a->wanted > a->bytes) MLFF_TRY(grow(a, error));
    char *next = a->memory;
    for (int r = 0; r < n_rows; r++) {
        void *at = rows[r].count ? next : NULL;
        memcpy(rows[r].pointer, &at, sizeof at);
        next += aligned(rows[r].count * rows[r].size);
    }
    return MLFF_OK;
}

/* Pinned host memory of at least so many bytes. */
mlff_status pin_host_memory(void **memory, size_t *bytes, size_t wanted, mlff_error *error)
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

/* ---------------------------------------------------------------------------------------- the tensors */

template <typename T> static size_t bytes_of_s(const state<T> *s)
{
    return aligned((size_t)s->N * s->w.F * sizeof(real<T>));
}

/* s and v_mid, whose place their adjoints take */
template <typename T> static size_t bytes_of_states(const state<T> *s)
{
    const size_t F = s->w.F, states = bytes_of_s(s) + (size_t)s->N * 3 * F * sizeof(T),
                 adjoints = s->with_reverse ? (size_t)s->R * 4 * F * sizeof(T) : 0;
    return states > adjoints ? states : adjoints;
}

/* The tensors of one evaluation, [MAX_TENSORS] at most; returns their number. */
template <typename T> static int tensor_table(state<T> *s, tensor_row *table)
{
    const size_t F = s->w.F, H = s->w.H, N = s->N, R = s->R, E = s->n_slots, A = s->n_all;
    const size_t reverse = s->with_reverse ? 1 : 0;
    int n = 0;
    table[n++] = {&s->x, A * 3, sizeof(double), "positions"};
    table[n++] = {&s->count, N, sizeof(int32_t), "edge counts"};
    table[n++] = {&s->edges, E, sizeof(edge<real<T>>), "edges"};
    table[n++] = {&s->edge_row, E, sizeof(int32_t), "edge rows"};
    table[n++] = {&s->distance, s->w.short_range ? E : 0, sizeof(real<T>), "distances of edges"};
    table[n++] = {&s->slot_dropped, E * reverse, sizeof(int32_t), "places of edges"};
    table[n++] = {&s->edge_adj, E * reverse, sizeof(edge_adjoint<real<T>>), "edge adjoints"};
    const size_t clusters = message_matrix_suits(s) ? 1 : 0;
    table[n++] = {&s->clusters.rows, clusters * message_matrix_seats<T>(s->N), sizeof(int32_t), "rows of clusters"};
    table[n++] = {&s->clusters.taken, clusters * N, sizeof(int32_t), "sizes of clusters"};
    table[n++] = {&s->clusters.sums, clusters * message_matrix_sums(s), sizeof(float), "sums of clusters"};
    table[n++] = {&s->clusters.places, clusters * E, sizeof(uint32_t), "places of edges"};
    table[n++] = {&s->s, bytes_of_states(s), 1, "s and v_mid, later their adjoints"};
    for (int l = 0; l < s->w.L; l++) {
        layer_tensors<T> *y = &s->layer[l];
        const size_t message = l > 0 ? 1 : 0, last = l == s->w.L - 1 ? 1 : 0;
        table[n++] = {&y->context_slope, message * N * F, sizeof(T), "context slope"};
        table[n++] = {&y->x_v, message * N * F, sizeof(T), "x_v"};
        table[n++] = {&y->features, message * R * 5 * F, sizeof(T), "features, later their adjoints"};
        table[n++] = {&y->v, message * N * 3 * F, sizeof(T), "v"};
        table[n++] = {&y->VU, N * 6 * F, sizeof(T), "VU"};
        table[n++] = {&y->dense_slope, N * F, sizeof(T), "dense slope"};
        table[n++] = {&y->y_sv, N * F, sizeof(T), "y_sv"};
        table[n++] = {&y->y_v, (1 - last) * N * F, sizeof(T), "y_v"};
    }
    table[n++] = {&s->readout_slope, N * H, sizeof(T), "readout slope"};
    table[n++] = {&s->row_sums, reverse * N * 12, sizeof(double), "sums of rows"};
    table[n++] = {&s->scratch, scratch_values(s), sizeof(real<T>), "temporaries"};
    const size_t molecules = s->molecules.suits ? (size_t)s->n_chunks : 0;
    table[n++] = {&s->molecule_scratch, molecules * s->molecules.scratch_size, sizeof(float), "layers of molecules"};
    table[n++] = {&s->bad_row, 2, sizeof(int), "fault marks"}; /* results from here on: one transfer may bring them */
    table[n++] = {&s->close, s->w.short_range ? (size_t)1 : 0, sizeof(close_record), "close pairs"};
    table[n++] = {&s->marks, molecules * 2, sizeof(int), "fault marks of molecules"};
    table[n++] = {&s->molecule_close, s->w.short_range ? molecules : 0, sizeof(close_record),
                  "close pairs of molecules"};
    table[n++] = {&s->sums, (size_t)s->n_chunks * 10, sizeof(double), "sums"};
    table[n++] = {&s->forces, reverse * A * 3, sizeof(double), "forces"};
    table[n++] = {&s->atom_energy, N, sizeof(double), "atom energies"};
    return n;
}

/* Pointers into the place of another tensor. */
template <typename T> static void share_places(state<T> *s)
{
    s->v_mid = (T *)((char *)s->s + bytes_of_s(s));
    s->adj = s->with_reverse ? (T *)s->s : nullptr;
    for (int l = 0; l < s->w.L; l++) s->layer[l].features_adj = s->layer[l].features;
}

/* How many atoms like those of `s` so many bytes hold; tensors that have a largest size weigh more in small systems. */
template <typename T> static double atoms_that_fit(const state<T> *s, double free_bytes, double graph_bytes)
{
    tensor_row table[MAX_TENSORS];
    double fit = s->N;
    for (int round = 0; round < 8 && fit >= 1; round++) {
        const double part = fit / s->N;
        state<T> probe = *s;
        probe.N = probe.R = (int32_t)fit;
        probe.n_all = (int32_t)(part * s->n_all);
        probe.n_slots = (int64_t)(part * (double)s->n_slots);
        probe.n_chunks = (int32_t)(part * s->n_chunks) + 1;
        const double needed = (double)bytes_of(table, tensor_table(&probe, table)) + part * graph_bytes;
        fit = fmin(s->N, fit * free_bytes / needed);
    }
    return fit;
}

template <typename T> mlff_status tell_what_fits(state<T> *s, mlff_error *error)
{
    tensor_row table[MAX_TENSORS];
    const size_t graph_bytes = s->graph_arena.wanted + (s->search ? device_search_wanted(s->search) : 0);
    const size_t needed = bytes_of(table, tensor_table(s, table)) + graph_bytes;
    for (device_arena *a : {&s->graph_arena, &s->arena, &s->virial_arena}) {
        cudaFree(a->memory);
        *a = {};
    }
    s->graph_version = 0;
    size_t free_bytes = 0, all_bytes = 0;
    cudaMemGetInfo(&free_bytes, &all_bytes);
    cudaGetLastError();
    if (s->search) free_bytes += device_search_memory(s->search); /* the next search has it again */
    const double margin = 64 << 20;                               /* fragments */
    const double fit =
        (double)free_bytes > margin ? atoms_that_fit(s, (double)free_bytes - margin, (double)graph_bytes) : 0;
    if (error) {
        const size_t length = strlen(error->message);
        snprintf(error->message + length, sizeof error->message - length,
                 "; %d atoms with %.1f neighbours in the list, skin included, need %zu bytes on this GPU, about %.0f "
                 "such atoms fit",
                 (int)s->N, s->N > 0 ? (double)s->n_slots / s->N : 0.0, needed, fit);
    }
    return MLFF_ERROR_MEMORY;
}

template <typename T> static mlff_status try_to_make_room(state<T> *s, const mlff_graph *graph, mlff_error *error)
{
    if (s->graph_version != graph->version) {
        MLFF_TRY(send_graph(s, graph, error));
        MLFF_TRY(molecules_plan(s, error));
    }
    tensor_row table[MAX_TENSORS];
    const int n = tensor_table(s, table);
    MLFF_TRY(place_on_device(&s->arena, table, n, error));
    share_places(s);
    return MLFF_OK;
}

template <typename T> mlff_status make_room(state<T> *s, const mlff_graph *graph, mlff_error *error)
{
    const mlff_status status = try_to_make_room(s, graph, error);
    return status == MLFF_ERROR_MEMORY ? tell_what_fits(s, error) : status;
}

template <typename T> void estimate_memory(const state<T> *s, double *bytes_per_atom, double *bytes_per_neighbour)
{
    tensor_row table[MAX_TENSORS];
    state<T> probe = *s;
    const int32_t atoms =
        1 << 16; /* as many rows as temporaries have at most: what larger systems save is not counted */
    probe.N = probe.R = probe.n_all = atoms;
    probe.n_chunks = atoms / CHUNK_ROWS;
    probe.n_slots = 0;
    probe.molecules = {};
    probe.with_reverse = 1;
    const size_t without = bytes_of(table, tensor_table(&probe, table));
    probe.n_slots = atoms;
    const size_t with_one = bytes_of(table, tensor_table(&probe, table));
    *bytes_per_atom = (double)without / atoms + GRAPH_BYTES_OF_ROW;
    *bytes_per_neighbour = (double)(with_one - without) / atoms + GRAPH_BYTES_OF_SLOT;
}

template mlff_status tell_what_fits(state<float> *, mlff_error *);
template mlff_status tell_what_fits(state<double> *, mlff_error *);
template mlff_status tell_what_fits(state<__half> *, mlff_error *);
template mlff_status make_room(state<float> *, const mlff_graph *, mlff_error *);
template mlff_status make_room(state<double> *, const mlff_graph *, mlff_error *);
template mlff_status make_room(state<__half> *, const mlff_graph *, mlff_error *);
template void estimate_memory(const state<float> *, double *, double *);
template void estimate_memory(const state<double> *, double *, double *);
template void estimate_memory(const state<__half> *, double *, double *);

} // namespace mlff
