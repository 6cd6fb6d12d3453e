/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_STAGE_CUH
#define MLFF_CUDA_MESSAGE_STAGE_CUH
/*
 * How the messages through the matrix units go through the rows (message_matrix.cu): a block takes a cluster of consecutive
 * rows (clusters.cu), one or two warps a row, 16 columns at a time. What the rows gather of these columns is copied to shared memory
 * once, a slice ahead of its use.
 */
#include "clusters.cuh"
#include "mma.cuh"
#include "radial_fragments.cuh"

namespace mlff
{

constexpr int COLUMNS = 16, TILES = 4, PASS_EDGES = 16 * TILES;

template <typename T> constexpr bool SPLIT = sizeof(T) == sizeof(float);

struct matrix_arguments {
    int32_t N;
    int F, n_clusters;
    radial_parameters radial;
    const uint2 *fragments; /* [F/16][3][2][PARTS][32] */
    float scale;            /* of W: the weights in the fragments are multiplied by 1/scale */
    const int64_t *first;
    const int32_t *count, *edge_row;
    const edge<float> *edges;
    cluster_list clusters;
    float *sums; /* [blocks][rows of a cluster][5][F] for rows of several passes */
};

/* ----------------------------------------------------------------------------------------- shared memory */

/* Where a seat begins, in bytes, and byte `at` of it: begin ^ at for four planes, + for five. Of four planes each seat has its
 * pieces in an order of its own, so that lanes that read the same piece of different seats meet different banks: the
 * eight columns that a warp of the reverse pass reads are 8 (half: 4) banks wide. The turn is part of `begin`. */
template <typename T, int PLANES> __device__ inline int seat_begin(int seat)
{
    constexpr int BYTES = COLUMNS * sizeof(T);
    const int turn = PLANES == 5 ? 0 : sizeof(T) == 4 ? (seat & 1) * 64 + (seat >> 1 & 1) * 32 : (seat & 7) * 16;
    return seat * PLANES * BYTES + turn;
}

template <int PLANES> __device__ inline int inside_seat(int begin, int at)
{
    return PLANES == 4 ? begin ^ at : begin + at;
}

/* Starts the copy of a cluster's list of neighbours to shared memory. */
__device__ inline void stage_list(int32_t *rows, const cluster_list &clusters, int cluster)
{
    const int32_t *from = clusters.rows + (size_t)cluster * clusters.seats;
    for (int q = threadIdx.x; q < clusters.seats / 4; q += blockDim.x) copy_16_async(rows + 4 * q, from + 4 * q, true);
}

/* Starts the copies of all seats' columns; from [rows][PLANES][F], at the slice's first column. */
template <typename T, int PLANES>
__device__ inline void stage_neighbours(char *stage, const T *from, int F, const int32_t *rows, int seats)
{
    constexpr int WIDTH = 16 / sizeof(T),
                  PIECES = COLUMNS / WIDTH;                       /* 16-byte pieces of a plane, neighbouring threads */
    const int piece = threadIdx.x % PIECES, half = 8 * sizeof(T), /* bytes of eight columns: what a turn moves about */
        high = piece * 16 / half * half, low = piece * 16 % half;
    from += piece * WIDTH;
    stage += low;
    for (int seat = threadIdx.x / PIECES; seat < seats; seat += blockDim.x / PIECES) {
        const int32_t row = rows[seat];
        if (row < 0) continue;
        const T *source = from + (size_t)row * (PLANES * F);
        const int begin = seat_begin<T, PLANES>(seat);
#pragma unroll
        for (int plane = 0; plane < PLANES; plane++, source += F)
            copy_16_async(stage + inside_seat<PLANES>(begin, plane * COLUMNS * (int)sizeof(T) + high), source, true);
    }
}

constexpr int SLICE_FRAGMENTS = 3 * 2 * PARTS * 32; /* uint2 of a slice's weights */

__device__ inline void stage_weights(uint2 *weights, const uint2 *fragments, int slice)
{
    const uint2 *from = fragments + (size_t)slice * SLICE_FRAGMENTS;
    for (int q = 2 * threadIdx.x; q < SLICE_FRAGMENTS; q += 2 * blockDim.x) copy_16_async(weights + q, from + q, true);
}

__device__ inline void load_four(const float *from, float (&to)[4])
{
    const float4 v = *(const float4 *)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ inline void load_four(const __half *from, float (&to)[4])
{
    const uint2 bits = *(const uint2 *)from;
    const float2 a = __half22float2(*(const __half2 *)&bits.x), b = __half22float2(*(const __half2 *)&bits.y);
    to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
}

__device__ inline void store_two(float *to, float a, float b)
{
    *(float2 *)to = make_float2(a, b);
}

__device__ inline void store_two(__half *to, float a, float b)
{
    *(__half2 *)to = __floats2half2_rn(a, b);
}

__device__ inline float2 load_two(const float *from)
{
    return *(const float2 *)from;
}

__device__ inline float2 load_two(const __half *from)
{
    return __half22float2(*(const __half2 *)from);
}

/* Two columns at an address of shared memory. */
__device__ inline float2 load_two_at(uint32_t address, float)
{
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address));
    return x;
}

__device__ inline float2 load_two_at(uint32_t address, __half)
{
    uint32_t bits;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(bits) : "r"(address));
    return __half22float2(*(const __half2 *)&bits);
}

__device__ inline uint32_t shared_address(const void *at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* A row with its edges. */
struct row_edges {
    int row, edges;
    int64_t first;
};

__device__ inline row_edges row_of(const matrix_arguments &a, int row)
{
    return row < a.N ? row_edges{row, a.count[row], a.first[row]} : row_edges{row, 0, 0};
}

/* A pass's edges in shared memory: (u, d), and u with the neighbour once the radial functions are made. Padding repeats the
 * last edge. */
struct staged_edges {
    float4 edge[PASS_EDGES];
    int32_t neighbour[PASS_EDGES]; /* where its seat begins, or -1 - row */
};

/* Tiles of 16 of the edges that are left for a pass and those after it. */
__device__ inline int tiles_of(int edges)
{
    return edges > 0 ? min(TILES, (edges + 15) / 16) : 0;
}

/* The k-th edge of a pass that the thread looks after: a row's WARPS warps share its 64. */
template <int WARPS> __device__ inline int own_edge(int k)
{
    return WARPS == 1 ? 32 * k + threadIdx.x % 32 : threadIdx.x % 64;
}

/* A lane's edges of a pass, in the order of the sums. */
template <int WARPS>
__device__ inline void load_places(const matrix_arguments &a, const row_edges &r, int pass, uint32_t (&place)[2])
{
#pragma unroll
    for (int k = 0; k < 2 / WARPS; k++)
        if (r.edges > 0) place[k] = a.clusters.places[r.first + min(pass + own_edge<WARPS>(k), r.edges - 1)];
}

template <typename T, int PLANES, int WARPS>
__device__ inline void stage_edges(const matrix_arguments &a, const row_edges &r, const uint32_t (&place)[2],
                                   staged_edges &to)
{
    if (r.edges == 0) return;
#pragma unroll
    for (int k = 0; k < 2 / WARPS; k++) {
        const int64_t e = r.first + (place[k] >> 16);
        const int seat = place[k] & 0xffff, q = own_edge<WARPS>(k);
        copy_16_async(&to.edge[q], a.edges + e, true);
        to.neighbour[q] = seat == NO_SEAT ? -1 - a.edge_row[e] : seat_begin<T, PLANES>(seat);
    }
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
template <int WARPS> __device__ inline void name_neighbours(staged_edges &edges)
{
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 2 / WARPS; k++) {
        const int q = own_edge<WARPS>(k);
        edges.edge[q].w = __int_as_float(edges.neighbour[q]);
    }
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

/* ------------------------------------------------------------------------------------------------- walk */

/* A block's way through its clusters, and through the slices of 16 columns of each, while the data of the next slice come.
 * `shared` has stage [2][...], weights [2][SLICE_FRAGMENTS], rows [2][seats] and edges [2][rows of a cluster]. */
struct walk {
    int cluster, taken, next_taken, list, buffer; /* list: which half of rows and edges is this cluster's */
    bool goes_on;                                 /* to another cluster */
    row_edges row, next_row;                      /* the warp's */
    uint32_t place[2];                            /* the lane's two edges, on their way */
};

template <typename T, int PLANES, typename Shared>
__device__ inline void stage_slice(const matrix_arguments &a, const T *from, Shared &shared, int slice, int buffer,
                                   int list, int taken)
{
    stage_neighbours<T, PLANES>(shared.stage[buffer], from + slice * COLUMNS, a.F, shared.rows[list], abs(taken));
    stage_weights(shared.weights[buffer], a.fragments, slice);
}

/* What is known of the next cluster before its data are asked for. */
__device__ inline void look_ahead(const matrix_arguments &a, int rows, walk &w)
{
    w.goes_on = w.cluster + gridDim.x < a.n_clusters;
    w.next_taken = w.goes_on ? a.clusters.taken[w.cluster + gridDim.x] : 0;
    w.next_row = row_of(a, w.goes_on ? w.row.row + gridDim.x * rows : a.N);
}

template <typename T, int PLANES, int WARPS, typename Shared>
__device__ inline void begin_walk(const matrix_arguments &a, const T *from, int rows, Shared &shared, walk &w)
{
    const int own = threadIdx.x / (32 * WARPS);
    w.cluster = blockIdx.x, w.list = w.buffer = 0;
    w.taken = a.clusters.taken[w.cluster];
    w.row = row_of(a, w.cluster * rows + own);
    look_ahead(a, rows, w);
    load_radial_table(a.radial, shared.table);
    stage_list(shared.rows[0], a.clusters, w.cluster);
    load_places<WARPS>(a, w.row, 0, w.place);
    stage_edges<T, PLANES, WARPS>(a, w.row, w.place, shared.edges[0][own]);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    stage_slice<T, PLANES>(a, from, shared, 0, 0, 0, w.taken);
    commit_copies();
}

/* The edges of a later pass; those of the first came with the cluster. */
template <typename T, int PLANES, int WARPS, typename Shared>
__device__ inline void begin_pass(const matrix_arguments &a, int pass, Shared &shared, walk &w)
{
    if (pass == 0) return;
    load_places<WARPS>(a, w.row, pass, w.place);
    stage_edges<T, PLANES, WARPS>(a, w.row, w.place, shared.edges[w.list][threadIdx.x / (32 * WARPS)]);
    commit_copies();
    wait_copies<0>();
    __syncwarp();
}

/* Waits for a slice's data and starts the copies of the next one's: of this cluster, of its next pass (more), or of the next
 * cluster, whose list comes during slice 0 and whose edges come during slices 0 and 1 of this one's last pass. */
template <typename T, int PLANES, int WARPS, typename Shared>
__device__ inline void begin_slice(const matrix_arguments &a, const T *from, int slice, int slices, bool more,
                                   Shared &shared, walk &w)
{
    wait_copies<0>();
    __syncthreads();
    const int next = slice + 1 < slices ? slice + 1 : 0;
    const bool same = next > 0 || more;
    if (same || w.goes_on)
        stage_slice<T, PLANES>(a, from, shared, next, w.buffer ^ 1, same ? w.list : w.list ^ 1,
                               same ? w.taken : w.next_taken);
    if (slice == 0 && w.goes_on && !more) {
        stage_list(shared.rows[w.list ^ 1], a.clusters, w.cluster + gridDim.x);
        load_places<WARPS>(a, w.next_row, 0, w.place);
    }
    if (slice == 1 && w.goes_on && !more)
        stage_edges<T, PLANES, WARPS>(a, w.next_row, w.place, shared.edges[w.list ^ 1][threadIdx.x / (32 * WARPS)]);
    commit_copies();
}

__device__ inline void next_cluster(const matrix_arguments &a, int rows, int slices, walk &w)
{
    if (slices > 2)
        wait_copies<1>(); /* the edges; the first slice is still on its way */
    else
        wait_copies<0>();
    __syncwarp();
    w.cluster += gridDim.x, w.list ^= 1;
    w.taken = w.next_taken;
    w.row = w.next_row;
    if (w.cluster < a.n_clusters) look_ahead(a, rows, w);
}

} // namespace mlff

#endif
