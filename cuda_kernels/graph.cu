/* SPDX-License-Identifier: MIT */
/* The graph of candidate neighbours on the device: sent when it was rebuilt, or found there (neighbours.cu). */
#include "neighbours.cuh"

#include <stdlib.h>

namespace mlff
{

int32_t chunk_end(const mlff_graph *g, int32_t row)
{
    const int32_t structure = g->structure_of_row[row];
    int32_t end = g->n_owned - row < CHUNK_ROWS ? g->n_owned : row + CHUNK_ROWS;
    if (g->structure_of_row[end - 1] == structure) return end;
    for (end = row + 1; g->structure_of_row[end] == structure;) end++;
    return end;
}

/* Returns how many there are; chunks may be NULL. */
static int32_t make_chunks(const mlff_graph *g, chunk *chunks)
{
    int32_t n = 0;
    for (int32_t row = 0, end; row < g->n_owned; row = end, n++) {
        end = chunk_end(g, row);
        if (chunks) chunks[n] = {g->structure_of_row[row], row, end};
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

/* The graph is there already. */
template <typename T> static mlff_status take_graph(state<T> *s, mlff_error *error)
{
    const tensor_row table[] = {{&s->chunks, (size_t)s->n_chunks, sizeof(chunk), "chunks"}};
    MLFF_TRY(place_on_device(&s->graph_arena, table, 1, error));
    const device_graph &g = s->search->graph;
    s->first = g.first;
    s->neighbour_row = g.neighbour_row;
    s->neighbour_atom = g.neighbour_atom;
    s->shift = g.shift;
    s->atom_of_row = g.atom_of_row;
    s->species = g.species;
    s->incoming_first = g.incoming_first;
    s->incoming = g.incoming;
    s->incoming_wide = g.incoming_wide;
    return MLFF_OK;
}

template <typename T> static mlff_status send_chunks(state<T> *s, const mlff_graph *g, mlff_error *error)
{
    if (s->n_chunks == 0) return MLFF_OK;
    chunk *chunks = (chunk *)malloc((size_t)s->n_chunks * sizeof *chunks);
    if (!chunks) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %d chunks of rows", (int)s->n_chunks);
    make_chunks(g, chunks);
    const cudaError_t code =
        cudaMemcpy(s->chunks, chunks, (size_t)s->n_chunks * sizeof *chunks, cudaMemcpyHostToDevice);
    free(chunks);
    CUDA_TRY(code);
    return MLFF_OK;
}

template <typename T> static mlff_status send_slots(state<T> *s, const mlff_graph *g, mlff_error *error)
{
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
    CUDA_TRY(cudaStreamSynchronize(s->stream)); /* the graph's arrays may change once this returns */
    return MLFF_OK;
}

template <typename T> mlff_status send_graph(state<T> *s, const mlff_graph *g, mlff_error *error)
{
    s->N = g->n_owned, s->R = g->n_rows, s->n_all = g->n_all, s->n_slots = g->n_slots;
    s->n_chunks = make_chunks(g, NULL);
    MLFF_TRY(g->on_device ? take_graph(s, error) : send_slots(s, g, error));
    MLFF_TRY(send_chunks(s, g, error));
    s->graph_version = g->version;
    return MLFF_OK;
}

template <typename T>
mlff_status search_graph(state<T> *s, mlff_graph *graph, const mlff_input *input, double reach, mlff_error *error)
{
    if (!s->search) s->search = (device_search *)calloc(1, sizeof *s->search);
    if (!s->search)
        return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for a search", sizeof *s->search);
    const mlff_status status =
        search_on_device(s->search, s->stream, graph, input, s->model->info.n_elements, reach, error);
    if (status != MLFF_ERROR_MEMORY) return status;
    s->N = s->R = input->n_local, s->n_all = input->n_all, s->n_slots = s->search->n_slots; /* what was too much */
    s->n_chunks = s->N / CHUNK_ROWS + 1, s->with_reverse = 1;
    return tell_what_fits(s, error);
}

template <typename T> mlff_status explain_row(const state<T> *s, const double *x, int64_t row, mlff_error *error)
{
    if (!s->graph->on_device) return mlff_graph_explain_row(s->graph, x, row, error);
    int64_t ends[2];
    CUDA_TRY(cudaMemcpy(ends, s->first + row, sizeof ends, cudaMemcpyDeviceToHost));
    const size_t n = (size_t)(ends[1] - ends[0]);
    double *shift = (double *)malloc((n + 1) * (3 * sizeof(double) + sizeof(int32_t)));
    if (!shift) return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu neighbours", n);
    int32_t *atoms = (int32_t *)(shift + 3 * n);
    cudaError_t code = cudaMemcpy(atoms, s->neighbour_atom + ends[0], n * sizeof *atoms, cudaMemcpyDeviceToHost);
    if (code == cudaSuccess && s->shift)
        code = cudaMemcpy(shift, s->shift + 3 * ends[0], n * 3 * sizeof *shift, cudaMemcpyDeviceToHost);
    const mlff_status status = code == cudaSuccess ? mlff_graph_explain_slots(s->graph, x, row, (int64_t)n, atoms,
                                                                              s->shift ? shift : NULL, error)
                                                   : cuda_failure(code, "cudaMemcpy of a row's neighbours", error);
    free(shift);
    return status;
}

template mlff_status send_graph(state<float> *, const mlff_graph *, mlff_error *);
template mlff_status send_graph(state<double> *, const mlff_graph *, mlff_error *);
template mlff_status search_graph(state<float> *, mlff_graph *, const mlff_input *, double, mlff_error *);
template mlff_status search_graph(state<double> *, mlff_graph *, const mlff_input *, double, mlff_error *);
template mlff_status explain_row(const state<float> *, const double *, int64_t, mlff_error *);
template mlff_status explain_row(const state<double> *, const double *, int64_t, mlff_error *);
template mlff_status send_graph(state<__half> *, const mlff_graph *, mlff_error *);
template mlff_status search_graph(state<__half> *, mlff_graph *, const mlff_input *, double, mlff_error *);
template mlff_status explain_row(const state<__half> *, const double *, int64_t, mlff_error *);

} // namespace mlff
