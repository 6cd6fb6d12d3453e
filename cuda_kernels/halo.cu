/* SPDX-License-Identifier: MIT */
/*
 * The exchange between ranks. The host sees only rows that travel, each once for each rank, as real<T> whatever they
 * are stored in. Kernels read and write the pinned rows themselves, so that packing and the way over the bus are one
 * pass; ghosts that are images of owned atoms are copied on the device.
 *
 * Launch   a thread four values; 256 threads a block.
 * Bytes    over the bus n_send rows down and n_receive up, 5F (features) or 4F (adjoints) values each; ghosts' rows
 *          written.
 */
#include "launch.cuh"
#include "memory.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

template <typename T> struct alignas(4 * sizeof(T)) quad {
    T value[4];
};

/* rows of `tensor` to the host; n quads, `width` of them a row */
template <typename T>
__global__ void __launch_bounds__(256)
    pack_kernel(int64_t n, int width, const int32_t *__restrict__ send_row, const T *__restrict__ tensor, real<T> *sent)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t row = send_row[q / width];
    quad<real<T>> out = {};
    if (row >= 0) {
        const quad<T> in = ((const quad<T> *)tensor)[row * width + q % width];
        for (int c = 0; c < 4; c++) out.value[c] = real<T>(in.value[c]);
    }
    ((quad<real<T>> *)sent)[q] = out;
}

/* ghosts' rows, `first` being the first of them, from rows on the host and from owned rows */
template <typename T>
__global__ void __launch_bounds__(256)
    unpack_kernel(int64_t n, int width, int64_t first, const int32_t *__restrict__ ghost_source,
                  const real<T> *__restrict__ received, T *tensor)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t source = ghost_source[q / width], column = q % width;
    quad<T> *rows = (quad<T> *)tensor, out;
    if (source >= 0) {
        const quad<real<T>> in = ((const quad<real<T>> *)received)[source * width + column];
        for (int c = 0; c < 4; c++) out.value[c] = T(in.value[c]);
    } else {
        out = rows[(-1 - source) * width + column];
    }
    rows[first * width + q] = out;
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status send_exchange(state<T> *s, mlff_error *error)
{
    const exchange *e = s->halo;
    if (s->halo_version == e->version) return MLFF_OK;
    s->halo_version = 0;
    const size_t n_send = e->n_send, n_ghosts = e->n_ghosts;
    const size_t bytes = (n_send + (size_t)e->n_receive) * 5 * s->w.F * sizeof(real<T>);
    const tensor_row table[] = {{&s->send_row, n_send, sizeof(int32_t), "rows to send"},
                                {&s->ghost_source, n_ghosts, sizeof(int32_t), "sources of ghosts"}};
    MLFF_TRY(place_on_device(&s->halo_arena, table, 2, error));
    MLFF_TRY(pin_host_memory(&s->halo_host, &s->halo_bytes, bytes > 0 ? bytes : 1, error));
    const cudaMemcpyKind up = cudaMemcpyHostToDevice;
    if (n_send > 0) CUDA_TRY(cudaMemcpyAsync(s->send_row, e->send_row, n_send * sizeof(int32_t), up, s->stream));
    if (n_ghosts > 0)
        CUDA_TRY(cudaMemcpyAsync(s->ghost_source, e->ghost_source, n_ghosts * sizeof(int32_t), up, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream)); /* the lists may change once this returns */
    s->halo_version = e->version;
    return MLFF_OK;
}

template <typename T> static T *halo_tensor(state<T> *s, halo_kind kind, int l, int *width)
{
    *width = (kind == HALO_FEATURES ? 5 : 4) * s->w.F;
    return kind == HALO_FEATURES ? s->layer[l].features : s->adj;
}

/* Behind the rows that are sent there is room for the widest of them, whatever this exchange's width is. */
template <typename T> static real<T> *received_rows(const state<T> *s)
{
    return (real<T> *)s->halo_host + (size_t)s->halo->n_send * 5 * s->w.F;
}

template <typename T> mlff_status halo_begin(state<T> *s, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    int width;
    const T *tensor = halo_tensor(s, kind, l, &width);
    *rows = {s->halo_host, received_rows(s), width};
    const int64_t quads = (int64_t)s->halo->n_send * (width / 4);
    if (quads > 0)
        pack_kernel<<<blocks_of(quads), 256, 0, s->stream>>>(quads, width / 4, s->send_row, tensor,
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
    const int64_t quads = (int64_t)s->halo->n_ghosts * (width / 4);
    if (quads > 0)
        unpack_kernel<<<blocks_of(quads), 256, 0, s->stream>>>(quads, width / 4, s->N, s->ghost_source,
                                                               received_rows(s), tensor);
    CUDA_TRY_LAUNCH("unpacking of ghost rows");
    return MLFF_OK;
}

#define INSTANTIATE(T)                                                                                                 \
    template mlff_status send_exchange(state<T> *, mlff_error *);                                                      \
    template mlff_status halo_begin(state<T> *, halo_kind, int, halo_rows *, mlff_error *);                            \
    template mlff_status halo_end(state<T> *, halo_kind, int, mlff_error *);
INSTANTIATE(double)
INSTANTIATE(float)
INSTANTIATE(__half)

} // namespace mlff
