/* SPDX-License-Identifier: MIT */
/*
 * The exchange between ranks. The host sees only rows that travel, each once for each rank and stored as on the device
 * (in mixed as halves). Kernels read and write the pinned rows themselves, so that packing and the way over the bus are
 * one pass; ghosts that are images of owned atoms are copied on the device.
 *
 * Launch   a thread 16 bytes; 256 threads a block.
 * Bytes    over the bus n_send rows down and n_receive up, 5F (features) or 4F (adjoints) values each; ghosts' rows
 *          written.
 */
#include "launch.cuh"
#include "memory.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- kernels */

/* Rows are copied as they are stored, 16 bytes a thread: a row is a multiple of that in every precision. */
typedef uint4 piece;

/* rows of `tensor` to the host; n pieces, `width` of them a row */
__global__ void __launch_bounds__(256) pack_kernel(int64_t n, int width, const int32_t *__restrict__ send_row,
                                                   const piece *__restrict__ tensor, piece *sent)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t row = send_row[q / width];
    sent[q] = row < 0 ? make_uint4(0, 0, 0, 0) : tensor[row * width + q % width];
}

/* ghosts' rows, `first` being the first of them, from rows on the host and from owned rows */
__global__ void __launch_bounds__(256)
    unpack_kernel(int64_t n, int width, int64_t first, const int32_t *__restrict__ ghost_source,
                  const piece *__restrict__ received, piece *tensor)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= n) return;
    const int64_t source = ghost_source[q / width], column = q % width;
    tensor[first * width + q] =
        source >= 0 ? received[source * width + column] : tensor[(-1 - source) * width + column];
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status send_exchange(state<T> *s, mlff_error *error)
{
    const exchange *e = s->halo;
    if (s->halo_version == e->version) return MLFF_OK;
    s->halo_version = 0;
    const size_t n_send = e->n_send, n_ghosts = e->n_ghosts;
    const size_t bytes = (n_send + (size_t)e->n_receive) * 5 * s->w.F * sizeof(T);
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

template <typename T> static piece *halo_tensor(state<T> *s, halo_kind kind, int l, int *width)
{
    *width = (kind == HALO_FEATURES ? 5 : 4) * s->w.F;
    return (piece *)(kind == HALO_FEATURES ? s->layer[l].features : s->adj);
}

template <typename T> static int pieces_of(int width)
{
    static_assert(FEATURE_PAD * sizeof(T) % sizeof(piece) == 0, "rows are whole pieces");
    return (int)(width * sizeof(T) / sizeof(piece));
}

/* Behind the rows that are sent there is room for the widest of them, whatever this exchange's width is. */
template <typename T> static piece *received_rows(const state<T> *s)
{
    return (piece *)((T *)s->halo_host + (size_t)s->halo->n_send * 5 * s->w.F);
}

template <typename T> mlff_status halo_begin(state<T> *s, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    int width;
    const piece *tensor = halo_tensor(s, kind, l, &width);
    *rows = {s->halo_host, received_rows(s), width};
    const int pieces = pieces_of<T>(width);
    const int64_t n = (int64_t)s->halo->n_send * pieces;
    if (n > 0) pack_kernel<<<blocks_of(n), 256, 0, s->stream>>>(n, pieces, s->send_row, tensor, (piece *)s->halo_host);
    CUDA_TRY_LAUNCH("packing of travelling rows");
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return MLFF_OK;
}

/* Does not wait: the next exchange packs its rows behind this on the same stream, and waits for both. */
template <typename T> mlff_status halo_end(state<T> *s, halo_kind kind, int l, mlff_error *error)
{
    int width;
    piece *tensor = halo_tensor(s, kind, l, &width);
    const int pieces = pieces_of<T>(width);
    const int64_t n = (int64_t)s->halo->n_ghosts * pieces;
    if (n > 0)
        unpack_kernel<<<blocks_of(n), 256, 0, s->stream>>>(n, pieces, s->N, s->ghost_source, received_rows(s), tensor);
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
