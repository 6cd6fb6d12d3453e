/* SPDX-License-Identifier: MIT */
/*
 * The exchange between ranks. The host sees only rows that travel: owned rows that a neighbouring rank has as ghosts
 * ("border rows"), then the ghosts, as real<T> whatever they are stored in. Kernels read and write the pinned rows
 * themselves, so that packing and the way over the bus are one pass.
 *
 * Launch   a thread four values; 256 threads a block.
 * Bytes    border rows down and ghost rows up, 5F (features) or 4F (adjoints) values each.
 */
#include "launch.cuh"
#include "memory.cuh"

#include <stdlib.h>

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct alignas(4 * sizeof(T)) quad {
    T value[4];
};

/* rows of `tensor` named by `border` to the host; n quads, `width` of them a row */
template <typename T>
__global__ void __launch_bounds__(256)
    pack_kernel(int64_t n, int width, const int32_t *__restrict__ border, const T *__restrict__ tensor, real<T> *rows)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t from = (int64_t)border[q / width] * width + q % width;
    const quad<T> in = ((const quad<T> *)tensor)[from];
    quad<real<T>> out;
    for (int c = 0; c < 4; c++) out.value[c] = real<T>(in.value[c]);
    ((quad<real<T>> *)rows)[q] = out;
}

/* ghost rows from the host */
template <typename T>
__global__ void __launch_bounds__(256) unpack_kernel(int64_t n, const real<T> *__restrict__ rows, T *tensor)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const quad<real<T>> in = ((const quad<real<T>> *)rows)[q];
    quad<T> out;
    for (int c = 0; c < 4; c++) out.value[c] = T(in.value[c]);
    ((quad<T> *)tensor)[q] = out;
}

/* -------------------------------------------------------------------------------------------- the plan */

/* Room for the map on the host, kept from plan to plan. */
template <typename T> static mlff_status reserve_places(state<T> *s, size_t n, mlff_error *error)
{
    if (n <= s->capacity_places && s->place_of_atom) return MLFF_OK;
    free(s->place_of_atom);
    s->capacity_places = n + n / 4 + 1;
    s->place_of_atom = (int32_t *)malloc(s->capacity_places * sizeof *s->place_of_atom);
    if (s->place_of_atom) return MLFF_OK;
    s->capacity_places = 0;
    return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the places of travelling rows",
                     n * sizeof *s->place_of_atom);
}

/* border [N] host: rows that travel, ascending; fills place_of_atom. */
template <typename T> static void find_places(state<T> *s, const uint8_t *travels, int32_t *border)
{
    const mlff_graph *g = s->graph;
    int32_t n = 0;
    for (int32_t atom = 0; atom < g->n_all; atom++) s->place_of_atom[atom] = -1;
    for (int32_t row = 0; row < g->n_owned; row++) {
        const int32_t atom = g->atom_of_row[row];
        if (travels && !travels[atom]) continue;
        s->place_of_atom[atom] = n;
        border[n++] = row;
    }
    s->n_border = n;
    for (int32_t row = g->n_owned; row < g->n_rows; row++) s->place_of_atom[g->atom_of_row[row]] = n++;
}

template <typename T> mlff_status plan_exchange(state<T> *s, const uint8_t *travels, mlff_error *error)
{
    MLFF_TRY(reserve_places(s, (size_t)s->graph->n_all, error));
    int32_t *border = (int32_t *)malloc(((size_t)s->N + 1) * sizeof *border);
    if (!border) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %d border rows", (int)s->N);
    find_places(s, travels, border);

    const size_t rows = (size_t)s->n_border + (size_t)(s->R - s->N), bytes = rows * 5 * s->w.F * sizeof(real<T>);
    const tensor_row table[] = {{&s->border, (size_t)s->n_border, sizeof *border, "border rows"}};
    mlff_status status = place_on_device(&s->halo_arena, table, 1, error);
    if (status == MLFF_OK) status = pin_host_memory(&s->halo_host, &s->halo_bytes, bytes > 0 ? bytes : 1, error);
    cudaError_t code = cudaSuccess;
    if (status == MLFF_OK && s->n_border > 0)
        code = cudaMemcpy(s->border, border, (size_t)s->n_border * sizeof *border, cudaMemcpyHostToDevice);
    free(border);
    MLFF_TRY(status);
    CUDA_TRY(code);
    return MLFF_OK;
}

/* -------------------------------------------------------------------------------------------- exchange */

template <typename T> static T *halo_tensor(state<T> *s, halo_kind kind, int l, int *width)
{
    *width = (kind == HALO_FEATURES ? 5 : 4) * s->w.F;
    return kind == HALO_FEATURES ? s->layer[l].features : s->adj;
}

template <typename T> mlff_status halo_begin(state<T> *s, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    int width;
    const T *tensor = halo_tensor(s, kind, l, &width);
    *rows = {s->halo_host, width, s->place_of_atom};
    const int64_t quads = (int64_t)s->n_border * (width / 4);
    if (quads > 0)
        pack_kernel<<<blocks_of(quads), 256, 0, s->stream>>>(quads, width / 4, s->border, tensor,
                                                             (real<T> *)s->halo_host);
    CUDA_TRY_LAUNCH("packing of travelling rows");
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return MLFF_OK;
}

/* Does not wait: the next exchange packs its rows behind this on the same stream, and waits for both. */
template <typename T> mlff_status halo_end(state<T> *s, halo_kind kind, int l, mlff_error *error)
{
    int width;
    T *tensor = halo_tensor(s, kind, l, &width);
    const int64_t quads = (int64_t)(s->R - s->N) * (width / 4);
    if (quads > 0)
        unpack_kernel<<<blocks_of(quads), 256, 0, s->stream>>>(
            quads, (const real<T> *)s->halo_host + (size_t)s->n_border * width, tensor + (size_t)s->N * width);
    CUDA_TRY_LAUNCH("unpacking of ghost rows");
    return MLFF_OK;
}

#define INSTANTIATE(T)                                                                                                 \
    template mlff_status plan_exchange(state<T> *, const uint8_t *, mlff_error *);                                     \
    template mlff_status halo_begin(state<T> *, halo_kind, int, halo_rows *, mlff_error *);                            \
    template mlff_status halo_end(state<T> *, halo_kind, int, mlff_error *);
INSTANTIATE(double)
INSTANTIATE(float)
INSTANTIATE(__half)

} // namespace mlff
