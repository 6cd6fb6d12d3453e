/* SPDX-License-Identifier: MIT */
/* The exchange between ranks: rows to the host and back. */
#include "state.cuh"

namespace mlff
{

template <typename T> static T *halo_tensor(state<T> *s, halo_kind kind, int l, int *width)
{
    *width = (kind == HALO_FEATURES ? 5 : 4) * s->w.F;
    return kind == HALO_FEATURES ? s->layer[l].features : s->adj;
}

template <typename T> mlff_status halo_begin(state<T> *s, halo_kind kind, int l, halo_rows *rows, mlff_error *error)
{
    int width;
    const T *tensor = halo_tensor(s, kind, l, &width);
    *rows = {s->halo_host, width};
    if (s->N == 0) return MLFF_OK;
    CUDA_TRY(
        cudaMemcpyAsync(s->halo_host, tensor, (size_t)s->N * width * sizeof(T), cudaMemcpyDeviceToHost, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return MLFF_OK;
}

template <typename T> mlff_status halo_end(state<T> *s, halo_kind kind, int l, mlff_error *error)
{
    int width;
    T *tensor = halo_tensor(s, kind, l, &width);
    const size_t owned = (size_t)s->N * width, ghosts = (size_t)(s->R - s->N) * width;
    if (ghosts == 0) return MLFF_OK;
    CUDA_TRY(cudaMemcpyAsync(tensor + owned, (T *)s->halo_host + owned, ghosts * sizeof(T), cudaMemcpyHostToDevice,
                             s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream)); /* the rows are written again by the next exchange */
    return MLFF_OK;
}

template mlff_status halo_begin(state<float> *, halo_kind, int, halo_rows *, mlff_error *);
template mlff_status halo_end(state<float> *, halo_kind, int, mlff_error *);
template mlff_status halo_begin(state<double> *, halo_kind, int, halo_rows *, mlff_error *);
template mlff_status halo_end(state<double> *, halo_kind, int, mlff_error *);

} // namespace mlff
