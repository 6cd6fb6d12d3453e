/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1 in single and mixed (docs/equations.md): filters through the matrix units
 * (radial_fragments.cuh), neighbours from shared memory. message.cu has the plain kernels for what does not fit here.
 *
 * Launch   a block works on a cluster of consecutive rows (clusters.cu), 16 columns at a time: what its rows gather of these
 *          columns is copied to shared memory once, while the block still works on the 16 columns before.
 *          Forward: a warp a row, its fragments in registers; 12 rows (single) or 16 (mixed).
 *          Reverse: two warps a row, eight columns each, the fragments in shared memory; 8 rows.
 * Passes   a row's edges are taken 64 at a time.
 * Cost     per 16 edges and 16 columns 24 (forward), 48 (reverse) matrix instructions in single, half of that in mixed;
 *          10 and 8 values of the neighbours a lane and column.
 * Order    sums over edges: tiles of 16, then a fixed tree over their rows; sums over features: slices, then a lane's two
 *          columns, the four lanes, the two warps.
 */
#include "launch.cuh"
#include "message_matrix.cuh"
#include "message_stage.cuh"

namespace mlff
{

/* Rows of a cluster, and seats: as many as registers and shared memory hold. */
template <typename T> constexpr int FORWARD_ROWS = 12;
template <typename T> constexpr int FORWARD_SEATS = 272;
template <typename T> constexpr int REVERSE_ROWS = 8;
template <typename T> constexpr int REVERSE_SEATS = 200;
template <> constexpr int FORWARD_ROWS<__half> = 16;
template <> constexpr int FORWARD_SEATS<__half> = 320;
template <> constexpr int REVERSE_SEATS<__half> = 256;

constexpr int FORWARD_PLANES = 5, REVERSE_PLANES = 4;          /* x_s, x_R, y (3); s_adj, v_adj (3) */
constexpr int MIN_ROWS = 1024;                                 /* fewer do not fill the machine with clusters */
template <typename T> constexpr int STORED = SPLIT<T> ? 3 : 2; /* parts of a fragment in shared memory */

/* ---------------------------------------------------------------------------------------------- forward */

template <typename T> struct forward_shared {
    alignas(256) char stage[2][FORWARD_SEATS<T> * FORWARD_PLANES * COLUMNS * sizeof(T)];
    uint2 weights[2][SLICE_FRAGMENTS];
    int32_t rows[2][FORWARD_SEATS<T>];
    staged_edges edges[2][FORWARD_ROWS<T>];
    radial_table table;
};

/* The lane's four columns of plane p of an edge's neighbour, which is where its seat begins, or -1 - row where it has none.
 * stage: at the lane's columns. ALL: every edge of the cluster has a seat. */
template <typename T, bool ALL>
__device__ inline void gather(const char *stage, const T *features, int F, int neighbour, int plane, int column,
                              float (&to)[4])
{
    if (ALL || neighbour >= 0)
        load_four((const T *)(stage + neighbour + plane * COLUMNS * (int)sizeof(T)), to);
    else
        load_four(features + ((size_t)(-1 - neighbour) * FORWARD_PLANES + plane) * F + column, to);
}

/* One slice of a row: sum [4][4] of s and v of the lane's columns, over its rows g of every tile. */
template <typename T, bool ALL>
__device__ inline void forward_slice(const matrix_arguments &a, const char *stage, const uint2 *weights,
                                     const T *features, const float4 *geometry, const uint4 (&phi)[TILES][PARTS],
                                     int tiles, int column, float (&sum)[4][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const char *lane_stage = stage + 4 * t * sizeof(T);
    uint2 b[3][2][PARTS];
#pragma unroll
    for (int kind = 0; kind < 3; kind++) load_weights<SPLIT<T>>(weights, kind, lane, b[kind]);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        float W[3][2][4];
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter<SPLIT<T>>(phi[tile], b[kind], W[kind]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 r = geometry[tile * 16 + 8 * h + g];
            float x[5][4];
#pragma unroll
            for (int p = 0; p < 5; p++)
                gather<T, ALL>(lane_stage, features, a.F, __float_as_int(r.w), p, column + 4 * t, x[p]);
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                const float R = W[1][q / 2][at] * x[1][q], w = W[2][q / 2][at];
                sum[0][q] += W[0][q / 2][at] * x[0][q];
                sum[1][q] += R * r.x;
                sum[1][q] += w * x[2][q];
                sum[2][q] += R * r.y;
                sum[2][q] += w * x[3][q];
                sum[3][q] += R * r.z;
                sum[3][q] += w * x[4][q];
            }
        }
    }
}

/* What a row's slice is added to: vector g / 2 of (s, v), two columns of the lane. */
struct row_part {
    int vector;
    size_t at; /* in s, or in v */
};

__device__ inline row_part part_of(int row, int F, int slice, int g, int t)
{
    const int vector = g / 2, f = slice * COLUMNS + 4 * t + 2 * (g % 2);
    return {vector, vector == 0 ? (size_t)row * F + f : ((size_t)row * 3 + vector - 1) * F + f};
}

template <typename T, bool GAUSSIAN>
__global__ void __launch_bounds__(FORWARD_ROWS<T> * 32, 1)
    message_matrix_kernel(matrix_arguments a, const T *__restrict__ features, const T *__restrict__ v_in, float *s,
                          T *v_out)
{
    extern __shared__ __align__(256) char memory[];
    forward_shared<T> &shared = *(forward_shared<T> *)memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = a.F / COLUMNS;
    walk w;
    for (begin_walk<T, FORWARD_PLANES, 1>(a, features, FORWARD_ROWS<T>, shared, w); w.cluster < a.n_clusters;
         next_cluster(a, FORWARD_ROWS<T>, slices, w)) {
        staged_edges &edges = shared.edges[w.list][warp];
        for (int pass = 0, more = 1; more; pass += PASS_EDGES) {
            more = __syncthreads_or(w.row.edges > pass + PASS_EDGES);
            begin_pass<T, FORWARD_PLANES, 1>(a, pass, shared, w);
            const int tiles = tiles_of(w.row.edges - pass);
            uint4 phi[TILES][PARTS], unused[PARTS];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                if (tile % 2 == 0 && tile >= tiles) break;
                edge_cutoff cutoff[2];
                load_cutoffs(a, edges, w.row.edges - pass, tile, g, cutoff);
                edge_fragments<GAUSSIAN, false>(shared.table, cutoff, t, phi[tile], unused);
            }
            name_neighbours<1>(edges);
            for (int slice = 0; slice < slices; slice++, w.buffer ^= 1) {
                const row_part to = part_of(w.row.row, a.F, slice, g, t);
                float2 old = make_float2(0, 0);
                if (w.row.row < a.N)
                    old = to.vector == 0 ? load_two(s + to.at) : load_two((pass > 0 ? v_out : v_in) + to.at);
                begin_slice<T, FORWARD_PLANES, 1>(a, features, slice, slices, more, shared, w);
                float sum[4][4] = {};
                const char *stage = shared.stage[w.buffer];
                const uint2 *weights = shared.weights[w.buffer];
                if (w.taken >= 0)
                    forward_slice<T, true>(a, stage, weights, features, edges.edge, phi, tiles, slice * COLUMNS, sum);
                else
                    forward_slice<T, false>(a, stage, weights, features, edges.edge, phi, tiles, slice * COLUMNS, sum);
                const float2 part = sum_over_rows(sum, g);
                if (w.row.row >= a.N) continue;
                if (to.vector == 0)
                    store_two(s + to.at, old.x + part.x * a.scale, old.y + part.y * a.scale);
                else
                    store_two(v_out + to.at, old.x + part.x * a.scale, old.y + part.y * a.scale);
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------- reverse */

constexpr int PAIR =
    2; /* warps of a row: each has eight of the slice's columns, and makes the fragments of half the tiles */

template <typename T> struct reverse_shared {
    alignas(256) char stage[2][REVERSE_SEATS<T> * REVERSE_PLANES * COLUMNS * sizeof(T)];
    uint4 fragments[REVERSE_ROWS<T>][TILES][2][STORED<T>][32]; /* of phi and dphi/dd; then sums of edges */
    uint2 weights[2][SLICE_FRAGMENTS];
    int32_t rows[2][REVERSE_SEATS<T>];
    staged_edges edges[2][REVERSE_ROWS<T>];
    radial_table table;
};

/* A lane's fragments of one tile to shared memory and back; mixed has no low halves. */
template <bool SPLIT_, int STORED_> __device__ inline void keep(uint4 (*to)[32], const uint4 (&a)[PARTS], int lane)
{
    to[0][lane] = a[0];
    to[1][lane] = a[2];
    if (SPLIT_) to[STORED_ - 1][lane] = a[1];
}

template <bool SPLIT_, int STORED_> __device__ inline void recall(const uint4 (*from)[32], uint4 (&a)[PARTS], int lane)
{
    a[0] = from[0][lane];
    a[2] = from[1][lane];
    if (SPLIT_) a[1] = from[STORED_ - 1][lane];
}

/* Where a lane's two columns of a slice begin: column n of a warp's tile is column n of its eight. */
__device__ inline int lane_column(int half, int t)
{
    return 8 * half + 2 * t;
}

/* The lane's two columns of the four planes of an edge's neighbour; stage: at the lane's columns of its warp's eight in the
 * first plane. The stage begins at a multiple of a seat's bytes, so the turn of a seat works on the address too. */
template <typename T, bool ALL>
__device__ inline void gather_planes(uint32_t stage, const T *adj, int F, int neighbour, int half, int column,
                                     float2 (&to)[REVERSE_PLANES])
{
    constexpr int BYTES = COLUMNS * sizeof(T);
    const uint32_t at = stage + neighbour ^ half * 8 * (int)sizeof(T);
#pragma unroll
    for (int p = 0; p < REVERSE_PLANES; p++)
        if (ALL || neighbour >= 0)
            to[p] = load_two_at(at ^ p * BYTES, T());
        else
            to[p] = load_two(adj + ((size_t)(-1 - neighbour) * REVERSE_PLANES + p) * F + column);
}

/* What one slice adds to the adjoints of a row's features x [5], and to those of its edges (u, d). */
template <typename T, bool ALL>
__device__ inline void reverse_slice(const matrix_arguments &a, const uint4 (*fragments)[2][STORED<T>][32],
                                     const char *stage, const uint2 *weights, const float4 *geometry, const T *adj,
                                     int tiles, int slice, const float2 (&x)[5], float2 (&x_adj)[5],
                                     float (&edge_adj)[TILES][2][4])
{
    const int half = threadIdx.x / 32 % PAIR, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int column = slice * COLUMNS + lane_column(half, t);
    const uint32_t lane_stage = shared_address(stage) + 2 * t * sizeof(T);
    uint2 b[3][PARTS];
#pragma unroll
    for (int kind = 0; kind < 3; kind++)
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            if (SPLIT<T> || part != 1) b[kind][part] = weights[((kind * 2 + half) * PARTS + part) * 32 + lane];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        float4 r[2];
        float2 in[2][REVERSE_PLANES], along[2]; /* s_adj, v_adj (3) of the neighbours; - u . v_adj */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            r[h] = geometry[tile * 16 + 8 * h + g];
            gather_planes<T, ALL>(lane_stage, adj, a.F, __float_as_int(r[h].w), half, column, in[h]);
            along[h].x = -(r[h].x * in[h][1].x + r[h].y * in[h][2].x + r[h].z * in[h][3].x);
            along[h].y = -(r[h].x * in[h][1].y + r[h].y * in[h][2].y + r[h].z * in[h][3].y);
        }
        uint4 phi[PARTS];
        float W[3][4];
        recall<SPLIT<T>, STORED<T>>(fragments[tile][0], phi, lane);
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter_tile<SPLIT<T>>(phi, b[kind], W[kind]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float2 R = make_float2(W[1][2 * h] * x[1].x, W[1][2 * h + 1] * x[1].y);
            x_adj[0].x += W[0][2 * h] * in[h][0].x, x_adj[0].y += W[0][2 * h + 1] * in[h][0].y;
            x_adj[1].x += W[1][2 * h] * along[h].x, x_adj[1].y += W[1][2 * h + 1] * along[h].y;
#pragma unroll
            for (int c = 0; c < 3; c++) {
                x_adj[2 + c].x += W[2][2 * h] * in[h][1 + c].x, x_adj[2 + c].y += W[2][2 * h + 1] * in[h][1 + c].y;
                edge_adj[tile][h][c] -= R.x * in[h][1 + c].x;
                edge_adj[tile][h][c] -= R.y * in[h][1 + c].y;
            }
        }
        recall<SPLIT<T>, STORED<T>>(fragments[tile][1], phi, lane); /* of dphi/dd */
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter_tile<SPLIT<T>>(phi, b[kind], W[kind]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            edge_adj[tile][h][3] += W[0][2 * h] * (x[0].x * in[h][0].x);
            edge_adj[tile][h][3] += W[0][2 * h + 1] * (x[0].y * in[h][0].y);
            edge_adj[tile][h][3] += W[1][2 * h] * (x[1].x * along[h].x);
            edge_adj[tile][h][3] += W[1][2 * h + 1] * (x[1].y * along[h].y);
            edge_adj[tile][h][3] += W[2][2 * h] * (x[2].x * in[h][1].x + x[3].x * in[h][2].x + x[4].x * in[h][3].x);
            edge_adj[tile][h][3] += W[2][2 * h + 1] * (x[2].y * in[h][1].y + x[3].y * in[h][2].y + x[4].y * in[h][3].y);
        }
    }
}

/* Over the eight rows g, by halves. Lane 4g + t is left with column g % 2 of its two: of plane g / 2 in *four, and, where
 * g < 2, of plane 4 in *last. */
__device__ inline void sum_planes(const float2 (&x)[5], int g, float *four, float *last)
{
    const bool upper = g & 4, odd = g & 2, right = g & 1;
    float2 two[2], one;
#pragma unroll
    for (int p = 0; p < 2; p++) {
        two[p].x = (upper ? x[2 + p].x : x[p].x) + __shfl_xor_sync(0xffffffffu, upper ? x[p].x : x[2 + p].x, 16);
        two[p].y = (upper ? x[2 + p].y : x[p].y) + __shfl_xor_sync(0xffffffffu, upper ? x[p].y : x[2 + p].y, 16);
    }
    one.x = (odd ? two[1].x : two[0].x) + __shfl_xor_sync(0xffffffffu, odd ? two[0].x : two[1].x, 8);
    one.y = (odd ? two[1].y : two[0].y) + __shfl_xor_sync(0xffffffffu, odd ? two[0].y : two[1].y, 8);
    *four = (right ? one.y : one.x) + __shfl_xor_sync(0xffffffffu, right ? one.x : one.y, 4);
    float sum = (right ? x[4].y : x[4].x) + __shfl_xor_sync(0xffffffffu, right ? x[4].x : x[4].y, 4);
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    *last = sum + __shfl_xor_sync(0xffffffffu, sum, 16);
}

/* features_adj = sums over all passes; until the last they are in the block's part of `sums`, because features_adj stands in
 * the place of features, which every pass reads. */
template <typename T>
__device__ inline void add_feature_adjoints(const matrix_arguments &a, int row, int slice, bool again, bool more,
                                            const float2 (&x_adj)[5], T *features_adj)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int f = slice * COLUMNS + lane_column(warp % PAIR, t) + g % 2;
    float part[2];
    sum_planes(x_adj, g, &part[0], &part[1]);
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const int plane = p == 0 ? g / 2 : 4;
        if (p == 1 && g >= 2) break;
        float *sum = a.sums + ((size_t)(blockIdx.x * REVERSE_ROWS<T> + warp / PAIR) * 5 + plane) * a.F + f;
        float out = part[p] * a.scale;
        if (again) out += *sum;
        if (more)
            *sum = out;
        else
            features_adj[((size_t)row * 5 + plane) * a.F + f] = T(out);
    }
}

/* Over the four lanes t, by halves: lane t is left with component t. */
__device__ inline float sum_lanes(const float (&p)[4], int t)
{
    float two[2];
#pragma unroll
    for (int k = 0; k < 2; k++)
        two[k] = (t & 2 ? p[2 + k] : p[k]) + __shfl_xor_sync(0xffffffffu, t & 2 ? p[k] : p[2 + k], 2);
    return (t & 1 ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, t & 1 ? two[0] : two[1], 1);
}

/* Adds (u_adj, d_adj) of the pass's edges over the row's two warps: each gives the other its sums of the other's tiles by
 * `room` [PASS_EDGES][4], which both have done with. All threads of the block come here. */
__device__ inline void add_edge_adjoints(const matrix_arguments &a, const row_edges &r, int pass, float scale,
                                         const float (&part)[TILES][2][4], float (*room)[4],
                                         edge_adjoint<float> *edge_adj)
{
    const int half = threadIdx.x / 32 % PAIR, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t place[TILES];
    float own[TILES], old[TILES];
#pragma unroll
    for (int q = 0; q < TILES; q++) { /* edges 8q + g of the warp's half of the pass */
        const int e = pass + 32 * half + 8 * q + g;
        if (e < r.edges) place[q] = a.clusters.places[r.first + e] >> 16;
    }
#pragma unroll
    for (int q = 0; q < TILES; q++)
        if (pass + 32 * half + 8 * q + g < r.edges)
            old[q] = ((const float *)(edge_adj + r.first + place[q]))[t]; /* u[3], d */
    __syncthreads();
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const float sum = sum_lanes(part[q / 2][q % 2], t);
        if (q / TILES != half)
            room[8 * q + g][t] = sum;
        else
            own[q % TILES] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < TILES; q++) {
        const int e = 32 * half + 8 * q + g;
        if (pass + e >= r.edges) continue;
        const float both = half == 0 ? own[q] + room[e][t] : room[e][t] + own[q];
        ((float *)(edge_adj + r.first + place[q]))[t] = old[q] + both * scale;
    }
}

template <typename T, bool GAUSSIAN>
__global__ void __launch_bounds__(REVERSE_ROWS<T> *PAIR * 32, 1)
    message_matrix_reverse_kernel(matrix_arguments a, const T *features, const T *__restrict__ adj, T *features_adj,
                                  edge_adjoint<float> *edge_adj)
{
    extern __shared__ __align__(256) char memory[];
    reverse_shared<T> &shared = *(reverse_shared<T> *)memory;
    const int warp = threadIdx.x / 32, own = warp / PAIR, half = warp % PAIR, lane = threadIdx.x % 32, g = lane / 4,
              t = lane % 4, slices = a.F / COLUMNS;
    walk w;
    for (begin_walk<T, REVERSE_PLANES, PAIR>(a, adj, REVERSE_ROWS<T>, shared, w); w.cluster < a.n_clusters;
         next_cluster(a, REVERSE_ROWS<T>, slices, w)) {
        staged_edges &edges = shared.edges[w.list][own];
        for (int pass = 0, more = 1; more; pass += PASS_EDGES) {
            more = __syncthreads_or(w.row.edges > pass + PASS_EDGES);
            begin_pass<T, REVERSE_PLANES, PAIR>(a, pass, shared, w);
            const int tiles = tiles_of(w.row.edges - pass);
#pragma unroll
            for (int k = 0; k < TILES / PAIR; k++) {
                const int tile = half * (TILES / PAIR) + k;
                if (half * (TILES / PAIR) >= tiles) break;
                uint4 phi[PARTS], dphi[PARTS];
                edge_cutoff cutoff[2];
                load_cutoffs(a, edges, w.row.edges - pass, tile, g, cutoff);
                edge_fragments<GAUSSIAN, true>(shared.table, cutoff, t, phi, dphi);
                keep<SPLIT<T>, STORED<T>>(shared.fragments[own][tile][0], phi, lane);
                keep<SPLIT<T>, STORED<T>>(shared.fragments[own][tile][1], dphi, lane);
            }
            name_neighbours<PAIR>(edges);
            float to_edges[TILES][2][4] = {};
            for (int slice = 0; slice < slices; slice++, w.buffer ^= 1) {
                float2 x[5] = {}, x_adj[5] = {};
#pragma unroll
                for (int q = 0; q < 5; q++)
                    if (w.row.row < a.N)
                        x[q] = load_two(features + ((size_t)w.row.row * 5 + q) * a.F + slice * COLUMNS +
                                        lane_column(half, t));
                begin_slice<T, REVERSE_PLANES, PAIR>(a, adj, slice, slices, more, shared, w);
                if (w.row.row >= a.N) continue;
                const char *stage = shared.stage[w.buffer];
                const uint2 *weights = shared.weights[w.buffer];
                if (w.taken >= 0)
                    reverse_slice<T, true>(a, shared.fragments[own], stage, weights, edges.edge, adj, tiles, slice, x,
                                           x_adj, to_edges);
                else
                    reverse_slice<T, false>(a, shared.fragments[own], stage, weights, edges.edge, adj, tiles, slice, x,
                                            x_adj, to_edges);
                add_feature_adjoints(a, w.row.row, slice, pass > 0, more, x_adj, features_adj);
            }
            add_edge_adjoints(a, w.row, pass, a.scale / adjoint_scale<T>, to_edges, (float(*)[4])shared.fragments[own],
                              edge_adj);
        }
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

bool message_matrix_fits(int F, int K)
{
    return K <= MATRIX_K && F % COLUMNS == 0 && F > COLUMNS; /* a cluster's list comes during its first slice */
}

template <typename T> bool message_matrix_suits(const state<T> *s)
{
    return sizeof(T) <= sizeof(float) && s->w.L > 1 && s->w.layer[1].fragments && s->N >= MIN_ROWS;
}

template <typename T> size_t message_matrix_seats(int32_t N)
{
    const size_t forward = ((size_t)N + FORWARD_ROWS<T> - 1) / FORWARD_ROWS<T> * FORWARD_SEATS<T>;
    const size_t reverse = ((size_t)N + REVERSE_ROWS<T> - 1) / REVERSE_ROWS<T> * REVERSE_SEATS<T>;
    return forward > reverse ? forward : reverse;
}

template size_t message_matrix_seats<double>(int32_t);
template size_t message_matrix_seats<float>(int32_t);
template size_t message_matrix_seats<__half>(int32_t);

template <typename T> size_t message_matrix_sums(const state<T> *s)
{
    int device = 0, processors = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device); /* a block each */
    return s->with_reverse ? (size_t)processors * REVERSE_ROWS<T> * 5 * s->w.F : 0;
}

template size_t message_matrix_sums(const state<double> *);
template size_t message_matrix_sums(const state<float> *);
template size_t message_matrix_sums(const state<__half> *);

/* The arguments of a layer, with the clusters made anew where others are there. */
template <typename T>
static mlff_status arguments_of(state<T> *s, int l, bool reverse, matrix_arguments *a, mlff_error *error)
{
    const int rows = reverse ? REVERSE_ROWS<T> : FORWARD_ROWS<T>, seats = reverse ? REVERSE_SEATS<T> : FORWARD_SEATS<T>;
    if (s->clusters.n_rows != rows) {
        s->clusters.n_rows = rows;
        s->clusters.seats = seats;
        MLFF_TRY(clusters_make(s, s->clusters, error));
    }
    const layer_weights<float> &w = s->w.layer[l];
    *a = {s->N,
          s->w.F,
          (s->N + rows - 1) / rows,
          radial_of(s->w),
          reverse ? w.fragments_reverse : w.fragments,
          w.fragment_scale,
          s->first,
          s->count,
          s->edge_row,
          s->edges,
          s->clusters,
          s->clusters.sums};
    return MLFF_OK;
}

template <typename T> mlff_status message_matrix_forward(state<T> *s, int l, mlff_error *error)
{
    matrix_arguments a;
    MLFF_TRY(arguments_of(s, l, false, &a, error));
    const int threads = FORWARD_ROWS<T> * 32;
    const auto kernel = a.radial.gaussian ? message_matrix_kernel<T, true> : message_matrix_kernel<T, false>;
    const int blocks = blocks_for(kernel, threads, sizeof(forward_shared<T>), a.n_clusters);
    kernel<<<blocks, threads, sizeof(forward_shared<T>), s->stream>>>(a, s->layer[l].features, s->layer[l].v, s->s,
                                                                      s->v_mid);
    CUDA_TRY_LAUNCH("message through matrix units");
    return MLFF_OK;
}

template <typename T> mlff_status message_matrix_reverse(state<T> *s, int l, mlff_error *error)
{
    matrix_arguments a;
    MLFF_TRY(arguments_of(s, l, true, &a, error));
    const int threads = REVERSE_ROWS<T> * PAIR * 32;
    const auto kernel =
        a.radial.gaussian ? message_matrix_reverse_kernel<T, true> : message_matrix_reverse_kernel<T, false>;
    const int blocks = blocks_for(kernel, threads, sizeof(reverse_shared<T>), a.n_clusters);
    kernel<<<blocks, threads, sizeof(reverse_shared<T>), s->stream>>>(a, s->layer[l].features, s->adj,
                                                                      s->layer[l].features_adj,

                                                                      s->edge_adj);
    CUDA_TRY_LAUNCH("message through matrix units, reverse");
    return MLFF_OK;
}

template bool message_matrix_suits(const state<double> *);
template bool message_matrix_suits(const state<float> *);
template bool message_matrix_suits(const state<__half> *);
template mlff_status message_matrix_forward(state<float> *, int, mlff_error *);
template mlff_status message_matrix_forward(state<__half> *, int, mlff_error *);
template mlff_status message_matrix_reverse(state<float> *, int, mlff_error *);
template mlff_status message_matrix_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
