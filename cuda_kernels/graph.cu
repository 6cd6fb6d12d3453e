/* SPDX-License-Identifier: MIT */
/* The graph of candidate neighbours on the device: sent when it was rebuilt. */
#include "memory.cuh"

#include <stdlib.h>

namespace mlff
{

/* Returns how many there are; chunks may be NULL. Rows of a structure are neighbours. */
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

/* Slots in 32 bits, narrowed in pieces on the way. */
static mlff_status send_narrowed(int32_t *to, const int64_t *from, size_t count, mlff_error *error)
{
    const size_t piece = count < 1 << 20 ? count : 1 << 20;
    if (count == 0) return MLFF_OK;
    int32_t *narrow = (int32_t *)malloc(piece * sizeof *narrow);
    if (!narrow) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes", piece * sizeof *narrow);
    cudaError_t code = cudaSuccess;
    for (size_t begin = 0; begin < count && code == cudaSuccess; begin += piece) {
        const size_t n = count - begin < piece ? count - begin : piece;
        for (size_t q = 0; q < n; q++) narrow[q] = (int32_t)from[begin + q];
        code = cudaMemcpy(to + begin, narrow, n * sizeof *narrow, cudaMemcpyHostToDevice);
    }
    free(narrow);
    CUDA_TRY(code);
    return MLFF_OK;
}

template <typename T> mlff_status send_graph(state<T> *s, const mlff_graph *g, mlff_error *error)
{
    s->N = g->n_owned, s->R = g->n_rows, s->n_all = g->n_all, s->n_slots = g->n_slots;
    s->n_chunks = make_chunks(g, NULL);
    const size_t N = s->N, R = s->R, E = s->n_slots, wide = E > INT32_MAX ? E : 0;
    const tensor_row table[] = {
        {&s->first, N + 1, sizeof(int64_t), "first candidates"},
        {&s->neighbour_row, E, sizeof(int32_t), "neighbour rows"},
        {&s->neighbour_atom, E, sizeof(int32_t), "neighbour atoms"},
        {&s->shift, g->shift ? E * 3 : 0, sizeof(double), "image shifts"},
        {&s->atom_of_row, R, sizeof(int32_t), "atoms of rows"},
        {&s->species, R, sizeof(int32_t), "species"},
        {&s->incoming_first, R + 1, sizeof(int64_t), "first incoming"},
        {&s->incoming, E - wide, sizeof(int32_t), "incoming"},
        {&s->incoming_wide, wide, sizeof(int64_t), "incoming"},
        {&s->chunks, (size_t)s->n_chunks, sizeof(chunk), "chunks"},
    };
    MLFF_TRY(place_on_device(&s->graph_arena, table, sizeof table / sizeof table[0], error));
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
        {s->incoming_wide, g->incoming, wide * sizeof(int64_t)},
    };
    for (const auto &c : copies)
        if (c.bytes) CUDA_TRY(cudaMemcpyAsync(c.to, c.from, c.bytes, cudaMemcpyHostToDevice, s->stream));
    MLFF_TRY(send_narrowed(s->incoming, g->incoming, E - wide, error));
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

template mlff_status send_graph(state<float> *, const mlff_graph *, mlff_error *);
template mlff_status send_graph(state<double> *, const mlff_graph *, mlff_error *);
template mlff_status send_graph(state<__half> *, const mlff_graph *, mlff_error *);

} // namespace mlff
