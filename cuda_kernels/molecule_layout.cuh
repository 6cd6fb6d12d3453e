/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_LAYOUT_CUH
#define MLFF_CUDA_MOLECULE_LAYOUT_CUH
/* What of a structure lies where in a block's shared memory (struct layout, molecule.cuh): the host's part. */
#include "memory.cuh"
#include "molecule_results.cuh"

namespace mlff
{
namespace molecule
{

/* As pairs_fit. */
static int in_pairs(const widths &w)
{
    return w.F == PAIRED_FEATURES && w.H % (8 * PARTS) == 0;
}

/* Whether code runs that knows that everything is in shared memory. */
static int all_shared(const widths &w, int shared_layers, int shared_tables)
{
    return in_pairs(w) && shared_layers == w.L && shared_tables;
}

static int larger(int x, int y)
{
    return x > y ? x : y;
}

template <typename R> static widths widths_of(const weights<R> &w, int blocks)
{
    widths y = {};
    y.F = w.F, y.K = w.K, y.H = w.H, y.L = w.L, y.n_elements = w.n_elements;
    y.blocks = blocks;
    y.own = blocks == 6 ? OWN_OF_SIX : w.F / blocks;
    y.own_readout = w.H / (blocks == 6 ? 4 : blocks); /* none for the last two of six */
    y.functions = w.K + 1, y.paired = (y.functions + 1) / 2 * 2;
    y.table = stride_of(y.functions);
    y.short_range = w.short_range != NULL;
    /* as many elements as fit beside v of all columns: no more memory for them */
    y.slots = 1;
    while (y.slots < MOST_SLOTS && y.slots < w.n_elements && (y.slots + 1) * y.paired <= MOST_INPUTS &&
           4 * stride_of((y.slots + 1) * y.paired) <= 3 * stride_of(w.F))
        y.slots++;
    y.coefficient = stride_of(y.slots * y.paired);
    return y;
}

static int part_floats(const widths &w, int n)
{
    const int chunk = chunk_of(w.blocks);
    const auto floats = [](int rows, int most, int columns) {
        return (rows < most ? rows : most) * parts_stride(stride_of(columns));
    };
    return larger(larger(floats(3 * n, chunk, 2 * w.own), floats(n, CHUNK_WIDE, 3 * w.own)),
                  floats(n, chunk, w.own_readout));
}

/* Places in a block's memory, for structures of up to n rows and E candidates. */
static layout make_layout(const widths &w, int n, int E, int shared_layers, int shared_tables)
{
    layout at = {};
    int next = 0;
    const auto take = [&](int floats) {
        const int place = next;
        next += (floats + 3) / 4 * 4;
        return place;
    };
    at.rows = n, at.slots = E, at.shared_layers = shared_layers, at.shared_tables = shared_tables;
    at.row_sums = take(2 * n * ROW_VALUES);
    at.energy = take(2 * n * parts_of_block(w.blocks));
    at.energy_terms = take(n * w.own_readout);
    at.position = take(6 * n);
    at.edges = take(4 * E);
    at.distance = take(w.short_range ? E : 0);
    at.edge_adj = take(4 * E * parts_of_block(w.blocks));
    at.edge_rows = take(E);
    at.row_first = take(n + 1), at.row_count = take(n), at.row_element = take(n), at.row_slot = take(n);
    at.row_tiles = take(n + 1), at.edge_tiles = take(most_tiles(n, E));
    at.n_elements = take(1), at.slot_element = take(n);
    at.arrivals = take(4);
    at.bad = take(2), at.close = take(2);
    at.exchange_size = larger(larger(3 * n * stride_of(w.F), n * stride_of(2 * w.F)),
                              larger(4 * n * w.coefficient, results_floats(n, E, w.blocks)));
    at.exchange_size = larger(at.exchange_size, 3 * n * w.blocks * w.own);
    for (int q = 0; q < 2; q++) at.exchange[q] = take(at.exchange_size);
    at.part = take(larger(part_floats(w, n), most_tiles(n, E) * MOST_KINDS * w.own));
    at.operand =
        take(larger(larger(n * stride_of(3 * w.own), 3 * n * stride_of(2 * w.own)), n * stride_of(w.own_readout)));
    at.adj = take(n * stride_of(4 * w.own)); /* begins when the state has ended */
    at.s = at.adj, at.v = at.s + n * w.own;
    at.biases = take(w.L * BIASES * w.own + 2 * w.own_readout);
    const int filter_numbers = all_shared(w, shared_layers, shared_tables) ? 2 : 1;
    at.filter = take((w.functions + 7) / 8 * filter_blocks(w.blocks, filter_numbers) * FILTER_FLOATS);
    at.layer_size = (n * (stride_of(5 * w.own) + 14 * w.own) + 3) / 4 * 4;
    at.tables = take(shared_tables ? 2 * E * w.table : 0);
    at.layers = take(shared_layers * at.layer_size);
    at.floats = next;
    return at;
}

/* What lies in shared memory: everything if it fits, else fewer layers, else no tables either. 0: it does not fit. */
static int choose_layout(const widths &w, int n, int E, size_t most_bytes, layout *at)
{
    for (int tables = 1; tables >= 0; tables--)
        for (int layers = w.L; layers >= 0; layers--) {
            *at = make_layout(w, n, E, layers, tables);
            if ((size_t)at->floats * sizeof(float) <= most_bytes) return 1;
        }
    return 0;
}

static size_t bytes_of(const layout &at)
{
    return (size_t)at.floats * sizeof(float);
}

/* F and H are padded (packed_weights.h). */
static_assert(FEATURE_PAD % (2 * PARTS) == 0, "a part of the columns is a whole number of float2");

} // namespace molecule
} // namespace mlff

#endif
