/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_STAGE_CUH
#define MLFF_CUDA_MESSAGE_STAGE_CUH
/*
 * What a block of the messages through the matrix units has in shared memory (message_matrix.cu). It works on a cluster
 * of consecutive rows (clusters.cu), a warp a row, 16 columns at a time; one or two more warps bring the data
 * (message_producer.cuh). Slices of columns have two or three buffers and passes of edges two, filled and emptied in turn.
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

template <typename T> constexpr bool SPLIT = sizeof(T) == sizeof(float);

struct matrix_arguments {
    int32_t N;
    int F, n_clusters;
    radial_parameters radial;
    const uint2 *fragments; /* [F/16][SLICE_FRAGMENTS] (message_weights.cu) */
    float scale;            /* of W: the weights in the fragments are multiplied by 1/scale */
    const int64_t *first;
    const int32_t *count, *edge_row;
    const edge<float> *edges;
    cluster_list clusters;
    float *sums; /* [blocks][rows of a cluster][5][F] for rows of several passes */
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

/* A number that stays in registers, or is spilled, instead of being made anew from its parts at every use. */
__device__ inline size_t kept(size_t x)
{
    asm volatile("" : "+l"(x));
    return x;
}

/* --------------------------------------------------------------------------------- two and four columns */

__device__ inline void load_four(const float *from, float (&to)[4])
{
    const float4 v = *(const float4 *)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ inline void halves_to_four(uint2 bits, float (&to)[4])
{
    const float2 a = __half22float2(*(const __half2 *)&bits.x), b = __half22float2(*(const __half2 *)&bits.y);
    to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
}

__device__ inline void load_four(const __half *from, float (&to)[4])
{
    halves_to_four(*(const uint2 *)from, to);
}

__device__ inline void store_two(float *to, float a, float b)
{
    *(float2 *)to = make_float2(a, b);
}

__device__ inline void store_two(__half *to, float a, float b)
{
    *(__half2 *)to = __floats2half2_rn(a, b);
}

/* Columns as they lie in memory: what they become is computed later, when they have come. */
struct four_columns {
    float4 bits;
    __device__ void load(const float *from)
    {
        bits = __ldcg((const float4 *)from);
    }
    __device__ void load(const __half *from)
    {
        const float2 two = __ldcg((const float2 *)from);
        bits.x = two.x, bits.y = two.y;
    }
    __device__ void value(float, float (&to)[4]) const
    {
        to[0] = bits.x, to[1] = bits.y, to[2] = bits.z, to[3] = bits.w;
    }
    __device__ void value(__half, float (&to)[4]) const
    {
        halves_to_four(make_uint2(__float_as_uint(bits.x), __float_as_uint(bits.y)), to);
    }
};

/* Four columns at an address of shared memory. */
__device__ inline void load_four_at(uint32_t address, float, float (&to)[4])
{
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address));
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}

__device__ inline void load_four_at(uint32_t address, __half, float (&to)[4])
{
    uint2 bits;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(bits.x), "=r"(bits.y) : "r"(address));
    halves_to_four(bits, to);
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

/* The warp's edges, whose distances only it has read, give them for their neighbour. */
__device__ inline void name_neighbours(staged_edges &edges)
{
    __syncwarp();
#pragma unroll
    for (int q = threadIdx.x % 32; q < PASS_EDGES; q += 32) edges.edge[q].w = __int_as_float(edges.neighbour[q]);
    __syncwarp();
}

/* fragments: of the slice, [3][2][PARTS][32] */
template <bool SPLIT_>
__device__ inline void load_weights(const uint2 *fragments, int kind, int lane, uint2 (&b)[2][PARTS])
{
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            if (SPLIT_ || part != 1) b[half][part] = fragments[((kind * 2 + half) * PARTS + part) * 32 + lane];
}

/* Sums over the eight rows g of four vectors of the lane's four columns; lane 4g + t is left with columns
 * 4t + 2(g % 2), + 1 of vector g / 2. */
__device__ inline float2 sum_over_rows(const float (&x)[4][4], int g)
{
    float two[2][4], one[4], out[2];
    const bool upper = g & 4, odd = g & 2, right = g & 1;
#pragma unroll
    for (int v = 0; v < 2; v++)
#pragma unroll
        for (int q = 0; q < 4; q++)
            two[v][q] =
                (upper ? x[2 + v][q] : x[v][q]) + __shfl_xor_sync(0xffffffffu, upper ? x[v][q] : x[2 + v][q], 16);
#pragma unroll
    for (int q = 0; q < 4; q++)
        one[q] = (odd ? two[1][q] : two[0][q]) + __shfl_xor_sync(0xffffffffu, odd ? two[0][q] : two[1][q], 8);
#pragma unroll
    for (int q = 0; q < 2; q++)
        out[q] = (right ? one[2 + q] : one[q]) + __shfl_xor_sync(0xffffffffu, right ? one[q] : one[2 + q], 4);
    return make_float2(out[0], out[1]);
}

/* The same of one vector: every lane is left with column 4t + g / 2. */
__device__ inline float sum_vector_over_rows(const float (&x)[4], int g)
{
    const bool upper = g & 4, odd = g & 2;
    float two[2];
#pragma unroll
    for (int q = 0; q < 2; q++)
        two[q] = (upper ? x[2 + q] : x[q]) + __shfl_xor_sync(0xffffffffu, upper ? x[q] : x[2 + q], 16);
    const float one = (odd ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, odd ? two[0] : two[1], 8);
    return one + __shfl_xor_sync(0xffffffffu, one, 4);
}

} // namespace mlff

#endif
