/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_STAGE_CUH
#define MLFF_CUDA_MESSAGE_STAGE_CUH
/*
 * What a block of the messages through the matrix units has in shared memory (message_matrix.cu). It works on a cluster
 * of consecutive rows (clusters.cu), a warp a row, 16 columns at a time; one or two more warps bring the data
 * (message_producer.cuh). Slices of columns have two or three buffers and passes of edges two, filled and emptied in
 * turn.
 */
#include "barrier.cuh"
#include "clusters.cuh"
#include "mixed_fragments.cuh"

namespace mlff
{

constexpr int COLUMNS = SLICE, TILES = 4, PASS_EDGES = 16 * TILES;
constexpr int FORWARD_PLANES = 5, REVERSE_PLANES = 4;                            /* x_s, x_R, y (3); s_adj, v_adj (3) */
constexpr int SLICE_FRAGMENTS = 3 * 2 * PARTS * 32;                              /* uint2 of a slice's weights */
constexpr int MIXED_SLICE_FRAGMENTS = 2 * sizeof(mixed_weights) / sizeof(uint2); /* transposed, straight */

template <typename T>
constexpr int SLICE_WEIGHTS = sizeof(T) == sizeof(float) ? SLICE_FRAGMENTS : MIXED_SLICE_FRAGMENTS;

struct matrix_arguments {
    int32_t N;
    int F, n_clusters;
    radial_parameters radial;
    const uint2 *fragments; /* [F/16][SLICE_FRAGMENTS] (message_weights.cu) */
    float scale;            /* of W: the weights in the fragments are multiplied by 1/scale */
    const int64_t *first;
    const int32_t *count, *edge_row;
    const edge<float> *edges;
    cluster_list clusters; /* of at most ROWS rows: warps beyond clusters.n_rows have none */
    float *sums; /* [blocks][rows of a cluster][F/16][5][16] for rows of several passes */
};

/* A row's edges of a pass: (u, d), and u with the neighbour once the radial functions are made. Padding repeats the
 * row's last edge. */
struct staged_edges {
    float4 edge[PASS_EDGES];
    int32_t neighbour[PASS_EDGES]; /* where its seat begins, or -1 - row */
    uint16_t place[PASS_EDGES];    /* of the edge in its row */
};

/* The same 64 edges of each row of a cluster. */
template <int ROWS> struct staged_pass {
    staged_edges row[ROWS];
    int64_t first[ROWS];
    int edges[ROWS];
    int cluster;     /* negative: no more work */
    int begin, more; /* the first edge of the pass; whether another follows */
    int seats, list; /* to fill, and which list says with what */
    int all_seated;  /* every edge of the cluster has a seat */
};

/* PRODUCERS: warps that bring data; BUFFERS: of slices. */
template <typename T, int ROWS_, int PRODUCERS_, int BUFFERS_, int SEATS_, int PLANES_> struct message_shared {
    static constexpr int ROWS = ROWS_, PRODUCERS = PRODUCERS_, BUFFERS = BUFFERS_, SEATS = SEATS_, PLANES = PLANES_;
    static constexpr int WEIGHTS =
        PLANES_ == 5 ? SLICE_WEIGHTS<T> / (sizeof(T) == sizeof(float) ? 1 : 2) : SLICE_WEIGHTS<T>; /* staged */
    alignas(256) char stage[BUFFERS_][SEATS_ * PLANES_ * COLUMNS * sizeof(T)];
    uint2 weights[BUFFERS_][WEIGHTS];
    alignas(16) uint32_t seats[2][SEATS_]; /* message_producer.cuh */
    staged_pass<ROWS_> pass[2];
    radial_table table;
    barrier stage_full[BUFFERS_], stage_empty[BUFFERS_], pass_full[2], pass_empty[2];
};

/* Where a seat begins, in bytes, and byte `at` of it: begin ^ at for four planes, + for five. Of four planes each seat
 * has them in an order of its own, so that lanes that read the same plane of different seats meet different banks; this
 * turn is part of `begin`. */
template <typename T, int PLANES> __device__ inline int seat_begin(int seat)
{
    constexpr int BYTES = COLUMNS * sizeof(T);
    return seat * PLANES * BYTES + (PLANES == 5 ? 0 : seat % (128 / BYTES) * BYTES);
}

template <int PLANES> __device__ inline int inside_seat(int begin, int at)
{
    return PLANES == 4 ? begin ^ at : begin + at;
}

/* All threads of the block. */
template <typename Shared> __device__ inline void prepare_block(const matrix_arguments &a, Shared &shared)
{
    load_radial_table(a.radial, shared.table);
    if (threadIdx.x == 0)
        for (int b = 0; b < Shared::BUFFERS; b++) {
            barrier_init(&shared.stage_full[b], 32); /* lanes of the producer */
            barrier_init(&shared.stage_empty[b], 32 * Shared::ROWS);
            if (b >= 2) continue;
            barrier_init(&shared.pass_full[b], 2 * 32);
            barrier_init(&shared.pass_empty[b], 32 * (Shared::ROWS + Shared::PRODUCERS - 1));
        }
    __syncthreads();
}

/* The row of a warp; a.N where it has none. */
__device__ inline int row_of_warp(const matrix_arguments &a, int cluster, int warp)
{
    return warp < a.clusters.n_rows ? cluster * a.clusters.n_rows + warp : a.N;
}

/* A number that stays in registers, or is spilled, instead of being made anew from its parts at every use. */
__device__ inline size_t kept(size_t x)
{
    asm volatile("" : "+l"(x));
    return x;
}

/* ---------------------------------------------------------------------------------------- a row's edges */

/* Tiles of 16 of the edges that are left for a pass and those after it. */
__device__ inline int tiles_of(int edges)
{
    return edges > 0 ? min(TILES, (edges + 15) / 16) : 0;
}

/* Cutoff functions of the edges of rows g and g + 8 of a tile; padding gives zeros. */
__device__ inline void load_cutoffs(const matrix_arguments &a, const staged_edges &from, int edges, int tile, int g,
                                    edge_cutoff (&to)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int q = tile * 16 + 8 * h + g;
        to[h] = cutoff_of(a.radial, from.edge[q].w);
        if (q >= edges) to[h].d = -1;
    }
}

} // namespace mlff

#endif
