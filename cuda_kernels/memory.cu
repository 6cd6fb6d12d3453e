/* SPDX-License-Identifier: MIT */
/* Memory: the device arenas, pinned host memory, and the table of every tensor of one evaluation. */
#include "memory.cuh"

#include <string.h>

namespace mlff
{

mlff_status cuda_failure(cudaError_t code, const char *what, mlff_error *error)
{
    return mlff_fail(error, code == cudaErrorMemoryAllocation ? MLFF_ERROR_MEMORY : MLFF_ERROR_DEVICE,
                     "CUDA: %s failed: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
}

/* As mlff_arena_place, on the device. */
mlff_status place_on_device(device_arena *a, const tensor_row *rows, int n_rows, mlff_error *error)
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

template <typename T> int tensor_table(state<T> *s, tensor_row *table)
{
    const size_t F = s->w.F, H = s->w.H, N = s->N, R = s->R, E = s->n_slots, A = s->n_all;
    const size_t reverse = s->with_reverse ? 1 : 0, widest = 12 * F > 2 * H ? 12 * F : 2 * H;
    int n = 0;
    table[n++] = {&s->x, A * 3, sizeof(double), "positions"};
    table[n++] = {&s->count, N, sizeof(int32_t), "edge counts"};
    table[n++] = {&s->edges, E, sizeof(edge<real<T>>), "edges"};
    table[n++] = {&s->edge_row, E, sizeof(int32_t), "edge rows"};
    table[n++] = {&s->edge_slot, E, sizeof(int64_t), "edge slots"};
    table[n++] = {&s->edge_adj, E * reverse, sizeof(edge_adjoint<real<T>>), "edge adjoints"};
    table[n++] = {&s->slot_gradient, E * 3 * reverse, sizeof(double), "edge gradients"};
    table[n++] = {&s->s, N * F, sizeof(real<T>), "s"};
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
    table[n++] = {&s->adj, reverse * R * 4 * F, sizeof(T), "adjoints of s and v"};
    table[n++] = {&s->features_adj, reverse * N * 5 * F, sizeof(T), "adjoints of features"};
    table[n++] = {&s->row_virial, reverse * N * 9, sizeof(double), "virials of rows"};
    table[n++] = {&s->scratch, N * widest, sizeof(T), "temporaries"};
    /* results, in the order of backend.cu's `results_bytes`: one transfer brings as many as are asked for */
    table[n++] = {&s->bad_row, 2, sizeof(int), "fault marks"};
    table[n++] = {&s->sums, (size_t)s->n_chunks * 10, sizeof(double), "sums"};
    table[n++] = {&s->forces, reverse * A * 3, sizeof(double), "forces"};
    table[n++] = {&s->atom_energy, N, sizeof(double), "atom energies"};
    return n;
}

template int tensor_table(state<float> *, tensor_row *);
template int tensor_table(state<double> *, tensor_row *);

} // namespace mlff
