/* SPDX-License-Identifier: MIT */
/*
 * Small structures: everything of an evaluation, edges to forces, in one launch, a cluster of blocks a structure
 * (molecule.cuh). The general path has a launch a layer, in which a structure of 9 atoms keeps one block busy and the
 * others out of work. Formulas are those of the layers' own files (docs/equations.md); in precision mixed too
 * everything is float.
 *
 * Launch   8, 6 or 4 blocks a structure (molecules_plan), 512 threads; 128 features have code of their own. Positions
 *          are arguments (arguments_here), those of more atoms are read from the host's pinned memory, where results
 *          are written: a copy each way would take as long as a layer. Nothing of a launch is kept for the next, so
 *          there is nothing to record (recording.cuh), and a new list costs nothing here.
 * Bytes    each weight once a cluster each way: 88 F^2 bytes a layer for both, 3.9 MB with F = 128, L = 3, from L2; a
 *          row and layer l >= 1: 8 F floats into each block forward, 2 F in reverse and 5 F / BLOCKS from each block.
 * Cost     15 F^2 multiply-adds a row and layer each way, three products each, in tiles of 16 rows; filters 3 F (K + 1)
 *          an edge forward, twice that in reverse, in tiles of 8 edges of a row. 10 exchanges a layer (7 in the first),
 *          4 more, or 3 with tables in global memory.
 * Share    9 atoms: latency of dependent instructions, about 6 cycles each (H200), in stages of 200 to 600; what a
 *          block does between two exchanges counts, not what it waits for (150 to 800 cycles of 3,000).
 * Measured (H200, 128 features, 3 interactions) 9 atoms 75 us, 15 copies 81, 16 and 17 copies 97, 18 to 30 copies 112
 *          to 116, 12 atoms 90, 16 copies of them 126, 21 atoms 163.
 * Order    fixed (molecule_*.cuh), and of the structure alone with eight and with four blocks, which give the same
 *          bits; six add up other parts of the columns, so that 16 molecules may differ from one in the last bits.
 */
#include "molecule_layout.cuh"
#include "molecule_reverse.cuh"

#include <stdlib.h>
#include <string.h>

namespace mlff
{

using namespace molecule;

/* Clusters that run at the same time take a time of about (rows + START) each; clusters of six and four blocks so many
 * times that of one of eight (H200, 9 atoms: 1.3 and 1.5). What would last longer than MOST_TIME is faster on the
 * general path, which fills the machine with all structures at once. H200, 128 features, us, here (2026-11-21, a tenth
 * less since) and there: 9 atoms 84 and 218, 30 copies 141 and 238, 45 copies 243 and 247, 90 copies 392 and 276; 16
 * atoms, 30 copies 231 and 248; 21 atoms 166 and 234, 30 copies 331 and 261; 32 atoms 240 and 233. */
constexpr double START = 8, MOST_TIME = 48, SIX_SLOWER = 1.3, FOUR_SLOWER = 1.5;
constexpr int MOST_STRUCTURES = 1024;

/* ----------------------------------------------------------------------------------------------- kernel */

/* `mix`: weights of V and U of the first layer; `reverse`: filled with those of readout0's reverse. */
template <typename B>
__device__ inline void forward(B &b, warp_weights<2, B::tiles(2)> &mix, warp_weights<4 * B::EACH, 1> &reverse)
{
    const auto &a = b.a;
    const int F = b.F(), L = a.w.L;
#pragma unroll 1
    for (int l = 0;; l++) {
        exchange(b, 3 * b.n * F);
        update(b, l, mix);
        if (l == L - 1) break;
        warp_weights<2, B::tiles(1)> context0;
        load_gathered(context0, a.layer[l + 1].context0, F, 1, b);
        exchange(b, b.n * F);
        const auto load_mix = [&](bool now) {
            if (now) load_gathered(mix, a.layer[l + 1].mix, F, 2, b);
        };
        context(b, l + 1, context0, [&] { load_mix(B::LOADS_EARLY); });
        message(b, l + 1, [&] { load_mix(!B::LOADS_EARLY); });
    }
    warp_weights<2, 2 * B::EACH> readout0; /* loaded in the loop they would have registers in all of it */
    load_readout(readout0, b);
    exchange(b, b.n * F);
    const auto load_reverse = [&](bool now) {
        if (now) load_readout_reverse(reverse, b);
    };
    load_reverse(B::LOADS_EARLY);
    readout(b, readout0, [&] { load_reverse(!B::LOADS_EARLY); });
}

/* The structure's rows and candidates; what the host knows is not read. */
template <typename B> __device__ inline void find_rows(B &b, int structure)
{
    const auto &a = b.a;
    if (a.is_alone) {
        b.n = a.at.rows, b.n_slots = a.at.slots;
        return;
    }
    if (B::BLOCKS < 8 && a.structures_here) {
        b.begin = structure > 0 ? a.row_end[structure - 1] : 0, b.n = a.row_end[structure] - b.begin;
        b.first_slot = a.first_slot[structure], b.n_slots = a.first_slot[structure + 1] - a.first_slot[structure];
        return;
    }
    const chunk rows = a.structures[structure];
    b.n = rows.end - rows.begin, b.begin = rows.begin;
    b.first_slot = a.first[rows.begin];
    b.n_slots = (int)(a.first[rows.end] - b.first_slot);
}

template <int BLOCKS, int OWN, bool SHARED>
__global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
    molecule_kernel(const __grid_constant__ arguments_here<BLOCKS> a)
{
    typedef block<BLOCKS, OWN, SHARED> B;
    extern __shared__ __align__(16) char shared[];
    const int structure = blockIdx.x / BLOCKS, rank = cluster_rank();
    B b = {a, (float *)shared, a.scratch + structure * a.scratch_size, rank};
    b.first_column = rank * b.own();
    if (threadIdx.x < 2) {
        b.ints(a.at.bad)[threadIdx.x] = NO_ROW;
        make_arrivals((uint64_t *)(b.memory + a.at.arrivals) + threadIdx.x, THREADS);
    }
    cluster_arrive();
    find_rows(b, structure);
    read_rows(b);
    load_biases(b);
    clear_filter(b);
    warp_weights<2, B::tiles(2)> mix;
    load_gathered(mix, a.layer[0].mix, b.F(), 2, b);
    __syncthreads();
    b.n_elements = *b.ints(a.at.n_elements);
    make_edges(b, b.ints(a.at.bad));
    warp_weights<4, B::EACH> first_s, first_R;
    const int inputs = min(a.w.slots, b.n_elements) * a.w.paired;
    load_first(b, first_s, first_R, 0, inputs);
    const float2 embedding = load_embedding(b);
    __syncthreads();
    make_edge_tiles(b);
    cluster_wait(); /* every block's barriers are made */
    const bool shared_tables = SHARED || a.at.shared_tables;
    make_tables(b, shared_tables);
    if (!shared_tables)
        cluster_barrier();
    else
        exchange(b, 2 * b.n_slots * a.w.table);
    first_message(b, first_s, first_R, embedding);
    warp_weights<4 * B::EACH, 1> readout0_T;
    forward(b, mix, readout0_T);
    if (a.with_reverse) reverse(b, readout0_T);
    results(b, structure);
}

/* 128 features are worth code of their own, and so is memory that is known to be shared; four blocks have no other. */
static const void *function_of(const widths &w, int shared_layers, int shared_tables)
{
    if (w.blocks == 4) return (const void *)molecule_kernel<4, 2 * MOST_PART, true>;
    if (w.blocks == 6) return (const void *)molecule_kernel<6, OWN_OF_SIX, true>;
    if (!in_pairs(w)) return (const void *)molecule_kernel<8, 0, false>;
    return all_shared(w, shared_layers, shared_tables) ? (const void *)molecule_kernel<8, MOST_PART, true>
                                                       : (const void *)molecule_kernel<8, MOST_PART, false>;
}

/* ------------------------------------------------------------------------------------------------- plan */

/* Most rows and candidates of a structure; 0 where one is too large. `first` as in the graph. */
static int measure(const mlff_graph *g, const int64_t *first, int32_t *rows, int32_t *slots)
{
    *rows = 0, *slots = 0;
    for (int32_t row = 0, end; row < g->n_owned; row = end) {
        end = chunk_end(g, row);
        const int64_t candidates = first[end] - first[row];
        if (end - row > MOST_ROWS || candidates > MOST_CANDIDATES) return 0;
        *rows = larger(*rows, end - row);
        *slots = larger(*slots, (int)candidates);
    }
    return 1;
}

template <typename T> static int model_suits(const state<T> *s)
{
    return sizeof(T) != sizeof(double) && s->w.F <= MOST_FEATURES && s->w.H <= MOST_READOUT &&
           (s->w.K + 2) / 2 * 2 <= MOST_INPUTS;
}

/* Clusters that run at the same time with so much shared memory; 0: none, also where the device has no clusters. Allows
 * the kernel all that a block may have: other evaluators launch it too. */
static int clusters_at_a_time(const void *kernel, int blocks, size_t shared_bytes, int most_bytes)
{
    int device = 0, major = 0, n = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (major < 9) return 0;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks), config.blockDim = dim3(THREADS), config.dynamicSmemBytes = shared_bytes;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)blocks, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
    config.attrs = &cluster, config.numAttrs = 1;
    cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes);
    if (code == cudaSuccess) code = cudaOccupancyMaxActiveClusters(&n, kernel, &config);
    if (code == cudaSuccess) return n;
    cudaGetLastError(); /* the general path does without */
    return 0;
}

/* The same, which is asked again only where memory has changed. */
static int at_a_time(molecule_clusters *known, const widths &w, const layout &at, int most_bytes)
{
    if (known->shared_bytes != bytes_of(at))
        known->at_a_time =
            clusters_at_a_time(function_of(w, at.shared_layers, at.shared_tables), w.blocks, bytes_of(at), most_bytes);
    known->shared_bytes = bytes_of(at);
    return known->at_a_time;
}

/* Fewer blocks than eight have code for 128 features and shared memory for everything alone; each block's readout
 * columns are two parts of whole steps (scattered). */
static int fewer_suit(const widths &w, const layout &at, int most_bytes)
{
    return in_pairs(w) && bytes_of(at) <= (size_t)most_bytes;
}

/* Of so many structures, where so many clusters run at a time. */
static int waves_of(int32_t structures, int at_a_time)
{
    return (structures + at_a_time - 1) / at_a_time;
}

template <typename T> mlff_status molecules_plan(state<T> *s, mlff_error *error)
{
    molecule_plan *p = &s->molecules;
    const mlff_graph *g = s->graph;
    p->suits = 0;
    if (!model_suits(s) || s->N == 0 || s->R != s->N || s->n_chunks > MOST_STRUCTURES ||
        (int64_t)s->N > (int64_t)s->n_chunks * MOST_ROWS)
        return MLFF_OK;
    const int64_t *first = g->first;
    int64_t from_device[MOST_ROWS + 1], *copy = NULL;
    if (g->on_device) {
        if (s->N > MOST_ROWS) copy = (int64_t *)malloc(((size_t)s->N + 1) * sizeof *copy);
        if (s->N > MOST_ROWS && !copy)
            return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: first slots of %d rows", (int)s->N);
        int64_t *to = copy ? copy : from_device;
        const cudaError_t code =
            cudaMemcpyAsync(to, s->first, ((size_t)s->N + 1) * sizeof *to, cudaMemcpyDeviceToHost, s->stream);
        const cudaError_t done = code == cudaSuccess ? cudaStreamSynchronize(s->stream) : code;
        if (done != cudaSuccess) free(copy);
        CUDA_TRY(done);
        first = to;
    }
    int32_t rows, slots;
    const int small = measure(g, first, &rows, &slots);
    free(copy);
    if (!small) return MLFF_OK;
    int most = 0;
    CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, s->device_index));
    layout at;
    widths w = widths_of(s->w, 8);
    if (!choose_layout(w, rows, slots, (size_t)most, &at)) return MLFF_OK;
    const int of_eight = at_a_time(&p->of_eight, w, at, most);
    if (of_eight < 1) return MLFF_OK;
    double waves = waves_of(s->n_chunks, of_eight);
    const auto try_fewer = [&](int blocks, double slower, molecule_clusters *known) {
        const widths w_fewer = widths_of(s->w, blocks);
        const layout at_fewer = make_layout(w_fewer, rows, slots, w_fewer.L, 1);
        const int n = fewer_suit(w_fewer, at_fewer, most) ? at_a_time(known, w_fewer, at_fewer, most) : 0;
        if (n < 1 || slower * waves_of(s->n_chunks, n) >= waves) return;
        waves = slower * waves_of(s->n_chunks, n);
        w = w_fewer, at = at_fewer;
    };
    try_fewer(6, SIX_SLOWER, &p->of_six);
    try_fewer(4, FOUR_SLOWER, &p->of_four);
    if ((rows + START) * waves > MOST_TIME) return MLFF_OK;
    p->blocks = w.blocks, p->shared_bytes = bytes_of(at);
    p->rows = rows, p->slots = slots;
    p->shared_layers = at.shared_layers, p->shared_tables = at.shared_tables;
    p->scratch_size =
        (size_t)w.blocks * scratch_of_block(at, w.L) + (at.shared_tables ? 0 : 2 * (size_t)at.slots * (size_t)w.table);
    p->suits = 1;
    return MLFF_OK;
}

/* --------------------------------------------------------------------------------------------- evaluation */

static layer_pointers pointers_of(const layer_weights<float> &y, int in_pairs, int all_shared)
{
    const auto of = [=](const matrix<float> &m) { return in_pairs ? m.pairs : m.M; };
    return {all_shared ? y.filter_halves
            : in_pairs ? y.filter_pairs
                       : y.filter,
            y.filter_stacked,
            of(y.context0),
            y.context0.b,
            of(y.context0_T),
            of(y.context1),
            y.context1.b,
            of(y.context1_T),
            of(y.mix),
            y.mix.b,
            of(y.mix_T),
            of(y.dense0),
            y.dense0.b,
            of(y.dense0_T),
            of(y.dense1),
            y.dense1.b,
            of(y.dense1_T)};
}

template <typename T> static void fill_arguments(const state<T> *s, arguments &a)
{
    const weights<float> &w = s->w;
    const molecule_plan &p = s->molecules;
    a.w = widths_of(w, p.blocks);
    a.at = make_layout(a.w, p.rows, p.slots, p.shared_layers, p.shared_tables);
    a.radial = radial_of(w);
    a.cutoff = w.cutoff, a.scale = w.scale, a.readout1_bias = w.readout1_bias, a.epsilon = w.epsilon;
    a.atom_shift = w.atom_shift, a.short_range = w.short_range;
    a.embedding = w.embedding, a.first_s = w.first_s, a.first_R = w.first_R;
    a.first_s_fours = w.first_s_fours, a.first_R_fours = w.first_R_fours;
    a.readout0 = in_pairs(a.w) ? w.readout0.pairs : w.readout0.M;
    a.readout0_T = in_pairs(a.w) ? w.readout0_T.pairs : w.readout0_T.M;
    a.readout0_bias = w.readout0.b, a.readout1 = w.readout1;
    const int shared = all_shared(a.w, p.shared_layers, p.shared_tables);
    for (int l = 0; l < w.L; l++) a.layer[l] = pointers_of(w.layer[l], in_pairs(a.w), shared);
    a.is_alone = s->n_chunks == 1, a.rows_in_all = s->N;
    a.structures = s->chunks;
    a.first = s->first, a.neighbour_row = s->neighbour_row, a.neighbour_atom = s->neighbour_atom;
    a.atom_of_row = s->atom_of_row, a.species = s->species, a.shift = s->shift;
    a.by_row = s->n_all == s->graph->n_local;
    a.x = a.by_row ? (const double *)s->host : s->x;
    a.with_reverse = s->with_reverse;
    a.scratch = s->molecule_scratch, a.scratch_size = p.scratch_size;
}

/* Positions and places of structures, where there is room for them. */
template <int BLOCKS, typename T> static void fill_arguments_here(const state<T> *s, arguments_here<BLOCKS> &a)
{
    const mlff_graph *g = s->graph;
    a.positions_here = a.by_row && s->n_all <= a.ATOMS;
    if (a.positions_here) memcpy(a.position, s->host, (size_t)s->n_all * 3 * sizeof(double));
    a.structures_here = s->n_chunks <= a.STRUCTURES && !g->on_device;
    for (int32_t c = 0, row = 0; a.structures_here && c < s->n_chunks; c++) {
        row = a.row_end[c] = chunk_end(g, row);
        a.first_slot[c + 1] = (int)g->first[row];
    }
}

/* The evaluation's launch, whose results go to the host's memory. */
template <int BLOCKS, typename T>
static mlff_status launch(const state<T> *s, char *results, char *atom_virials, mlff_error *error)
{
    arguments_here<BLOCKS> a = {};
    fill_arguments(s, a);
    fill_arguments_here(s, a);
    const auto on_host = [&](const void *on_device) {
        return results + ((const char *)on_device - (char *)s->bad_row);
    };
    a.marks = (int *)on_host(s->marks);
    a.sums = (double *)on_host(s->sums);
    if (a.short_range) a.close = (close_record *)on_host(s->molecule_close);
    if (s->with_reverse) a.forces = (double *)on_host(s->forces);
    if (s->wanted & WANT_ATOM_ENERGY) a.atom_energy = (double *)on_host(s->atom_energy);
    if (s->wanted & WANT_ATOM_VIRIAL) a.atom_virial = (double *)atom_virials;
    if (s->with_reverse && s->N < s->graph->n_local) /* atoms without a row */
        memset(a.forces, 0, (size_t)s->graph->n_local * 3 * sizeof(double));
    if (a.atom_virial) memset(a.atom_virial, 0, (size_t)s->graph->n_local * 9 * sizeof(double));
    if (!a.by_row)
        CUDA_TRY(
            cudaMemcpyAsync(s->x, s->host, (size_t)s->n_all * 3 * sizeof(double), cudaMemcpyHostToDevice, s->stream));
    const void *kernel = function_of(a.w, s->molecules.shared_layers, s->molecules.shared_tables);
    void *parameters[] = {&a};
    cudaLaunchKernel(kernel, dim3((unsigned)(s->n_chunks * a.w.blocks)), dim3(THREADS), parameters,
                     s->molecules.shared_bytes, s->stream);
    CUDA_TRY_LAUNCH("molecules");
    return MLFF_OK;
}

template <typename T> mlff_status molecules_evaluate(state<T> *s, char *results, char *atom_virials, mlff_error *error)
{
    if constexpr (sizeof(T) != sizeof(double)) {
        if (s->molecules.blocks == 4) return launch<4>(s, results, atom_virials, error);
        if (s->molecules.blocks == 6) return launch<6>(s, results, atom_virials, error);
        return launch<8>(s, results, atom_virials, error);
    }
    return MLFF_OK;
}

template <typename T> void molecules_mark(const state<T> *s, char *results)
{
    int *bad = (int *)results;
    const int *marks = (const int *)(results + ((const char *)s->marks - (const char *)s->bad_row));
    bad[0] = bad[1] = NO_ROW;
    for (int32_t c = 0; c < s->n_chunks; c++)
        for (int q = 0; q < 2; q++)
            if (marks[2 * (size_t)c + q] < bad[q]) bad[q] = marks[2 * (size_t)c + q];
    if (!s->w.short_range) return;
    const auto on_host = [&](const close_record *on_device) {
        return (close_record *)(results + ((const char *)on_device - (const char *)s->bad_row));
    };
    const close_record *of_structures = on_host(s->molecule_close);
    close_record *close = on_host(s->close);
    *close = {};
    for (int32_t c = 0; c < s->n_chunks; c++) {
        if (close->count == 0)
            *close = of_structures[c]; /* the first structure that has one */
        else
            close->count += of_structures[c].count;
    }
}

template mlff_status molecules_plan(state<float> *, mlff_error *);
template mlff_status molecules_plan(state<double> *, mlff_error *);
template mlff_status molecules_plan(state<__half> *, mlff_error *);
template mlff_status molecules_evaluate(state<float> *, char *, char *, mlff_error *);
template mlff_status molecules_evaluate(state<double> *, char *, char *, mlff_error *);
template mlff_status molecules_evaluate(state<__half> *, char *, char *, mlff_error *);
template void molecules_mark(const state<float> *, char *);
template void molecules_mark(const state<double> *, char *);
template void molecules_mark(const state<__half> *, char *);

} // namespace mlff
