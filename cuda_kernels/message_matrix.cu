/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1 in single and mixed (docs/equations.md): filters through the matrix units
 * (radial_fragments.cuh), neighbours from shared memory. message.cu has the plain kernels for what does not fit here.
 *
 * Launch   a block works on a cluster of consecutive rows (clusters.cu), 16 columns at a time: what its rows gather of these
 *          columns is copied to shared memory once, while the block still works on the 16 columns before. Forward: a warp a row
 *          with its fragments in registers, 12 (single) or 16 (mixed). Reverse: 8 or 12, the fragments in shared memory.
 * Passes   a row's edges are taken 64 at a time.
 * Cost     per 16 edges and 16 columns 24 (forward), 48 (reverse) matrix instructions in single, half of that in mixed;
 *          40 and 32 16-byte loads a lane from shared memory.
 * Order    sums over edges: tiles of 16, within one a fixed tree; sums over features: slices, then a lane's four columns,
 *          then the four lanes.
 */
#include "launch.cuh"
#include "message_matrix.cuh"
#include "message_stage.cuh"

#include <string.h>

namespace mlff
{

/* Rows of a cluster, a warp each, and seats: as many as registers and shared memory hold. */
template <typename T> constexpr int FORWARD_ROWS = 12;
template <typename T> constexpr int FORWARD_SEATS = 272;
template <typename T> constexpr int REVERSE_ROWS = 8;
template <typename T> constexpr int REVERSE_SEATS = 200;
template <> constexpr int FORWARD_ROWS<__half> = 16;
template <> constexpr int FORWARD_SEATS<__half> = 320;
template <> constexpr int REVERSE_ROWS<__half> = 12;
template <> constexpr int REVERSE_SEATS<__half> = 288;

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

/* One slice of a row: sum [4][4] of s and v of the lane's columns, over its rows g of every tile. */
template <typename T, bool ALL>
__device__ inline void forward_slice(const matrix_arguments &a, const char *stage, const uint2 *weights,
                                     const T *features, const float4 *geometry, const uint4 (&phi)[TILES][PARTS],
                                     int tiles, int column, float (&sum)[4][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
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
                gather<T, FORWARD_PLANES, ALL>(stage, features, a.F, __float_as_int(r.w), p, column, t, x[p]);
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
    for (begin_walk<T, FORWARD_PLANES>(a, features, FORWARD_ROWS<T>, shared, w); w.cluster < a.n_clusters;
         next_cluster(a, FORWARD_ROWS<T>, slices, w)) {
        staged_edges &edges = shared.edges[w.list][warp];
        for (int pass = 0, more = 1; more; pass += PASS_EDGES) {
            more = __syncthreads_or(w.row.edges > pass + PASS_EDGES);
            begin_pass<T, FORWARD_PLANES>(a, pass, shared, w);
            const int tiles = tiles_of(w.row.edges - pass);
            uint4 phi[TILES][PARTS], unused[PARTS];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                if (tile % 2 == 0 && tile >= tiles) break;
                edge_cutoff cutoff[2];
                load_cutoffs(a, edges, w.row.edges - pass, tile, g, cutoff);
                edge_fragments<GAUSSIAN, false>(shared.table, cutoff, t, phi[tile], unused);
            }
            name_neighbours(edges);
            for (int slice = 0; slice < slices; slice++, w.buffer ^= 1) {
                const row_part to = part_of(w.row.row, a.F, slice, g, t);
                float2 old = make_float2(0, 0);
                if (w.row.row < a.N)
                    old = to.vector == 0 ? load_two(s + to.at) : load_two((pass > 0 ? v_out : v_in) + to.at);
                begin_slice<T, FORWARD_PLANES>(a, features, slice, slices, more, shared, w);
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

template <typename T> struct reverse_shared {
    alignas(256) char stage[2][REVERSE_SEATS<T> * REVERSE_PLANES * COLUMNS * sizeof(T)];
    uint4 fragments[REVERSE_ROWS<T>][TILES][2][STORED<T>][32]; /* of phi and dphi/dd */
    uint2 weights[2][SLICE_FRAGMENTS];
    int32_t rows[2][REVERSE_SEATS<T>];
    staged_edges edges[2][REVERSE_ROWS<T>];
    radial_table table;
};

/* A lane's fragments of one tile to shared memory and back; mixed has no low halves. */
template <bool SPLIT_, int STORED> __device__ inline void keep(uint4 (*to)[32], const uint4 (&a)[PARTS], int lane)
{
    to[0][lane] = a[0];
    to[1][lane] = a[2];
    if (SPLIT_) to[STORED - 1][lane] = a[1];
}

template <bool SPLIT_, int STORED> __device__ inline void recall(const uint4 (*from)[32], uint4 (&a)[PARTS], int lane)
{
    a[0] = from[0][lane];
    a[2] = from[1][lane];
    if (SPLIT_) a[1] = from[STORED - 1][lane];
}

/* What one slice adds to the adjoints of a row's features x [5], and to those of its edges (u, d). */
template <typename T, bool ALL>
__device__ inline void reverse_slice(const matrix_arguments &a, const reverse_shared<T> &shared, const char *stage,
                                     const uint2 *weights, const float4 *geometry, const T *adj, int tiles, int slice,
                                     const float (&x)[5][4], float (&x_adj)[5][4], float (&edge_adj)[TILES][2][4])
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, column = slice * COLUMNS;
    uint2 b[3][2][PARTS]; /* mixed has no registers for all of them at once */
#pragma unroll
    for (int kind = 0; kind < (SPLIT<T> ? 3 : 0); kind++) load_weights<SPLIT<T>>(weights, kind, lane, b[kind]);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break; /* in pairs: fewer branches */
        uint4 phi[PARTS], dphi[PARTS];
        recall<SPLIT<T>, STORED<T>>(shared.fragments[warp][tile][0], phi, lane);
        recall<SPLIT<T>, STORED<T>>(shared.fragments[warp][tile][1], dphi, lane);
        float4 r[2];
        float in[2][4][4]; /* s_adj, v_adj (3) of the neighbours */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            r[h] = geometry[tile * 16 + 8 * h + g];
#pragma unroll
            for (int p = 0; p < 4; p++)
                gather<T, REVERSE_PLANES, ALL>(stage, adj, a.F, __float_as_int(r[h].w), p, column, t, in[h][p]);
        }
        float W[2][4], dW[2][4];
        if (!SPLIT<T>) load_weights<false>(weights, 0, lane, b[0]);
        filter<SPLIT<T>>(phi, b[0], W);
        filter<SPLIT<T>>(dphi, b[0], dW);
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                x_adj[0][q] += W[q / 2][at] * in[h][0][q];
                edge_adj[tile][h][3] += dW[q / 2][at] * (x[0][q] * in[h][0][q]);
            }
        if (!SPLIT<T>) load_weights<false>(weights, 1, lane, b[1]);
        filter<SPLIT<T>>(phi, b[1], W);
        filter<SPLIT<T>>(dphi, b[1], dW);
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                const float along = -(r[h].x * in[h][1][q] + r[h].y * in[h][2][q] + r[h].z * in[h][3][q]);
                const float R = W[q / 2][at] * x[1][q];
                x_adj[1][q] += W[q / 2][at] * along;
                edge_adj[tile][h][3] += dW[q / 2][at] * (x[1][q] * along);
#pragma unroll
                for (int c = 0; c < 3; c++) edge_adj[tile][h][c] -= R * in[h][1 + c][q];
            }
        if (!SPLIT<T>) load_weights<false>(weights, 2, lane, b[2]);
        filter<SPLIT<T>>(phi, b[2], W);
        filter<SPLIT<T>>(dphi, b[2], dW);
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                const float inner = x[2][q] * in[h][1][q] + x[3][q] * in[h][2][q] + x[4][q] * in[h][3][q];
                edge_adj[tile][h][3] += dW[q / 2][at] * inner;
#pragma unroll
                for (int c = 0; c < 3; c++) x_adj[2 + c][q] += W[q / 2][at] * in[h][1 + c][q];
            }
    }
}

/* features_adj = sums over all passes; until the last they are in the block's part of `sums`, because features_adj stands in
 * the place of features, which every pass reads. Four planes by the tree of sum_over_rows, the fifth by the same tree. */
template <typename T>
__device__ inline void add_feature_adjoints(const matrix_arguments &a, int row, int column, bool again, bool more,
                                            const float (&x_adj)[5][4], T *features_adj)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const float four[4][4] = {{x_adj[0][0], x_adj[0][1], x_adj[0][2], x_adj[0][3]},
                              {x_adj[1][0], x_adj[1][1], x_adj[1][2], x_adj[1][3]},
                              {x_adj[2][0], x_adj[2][1], x_adj[2][2], x_adj[2][3]},
                              {x_adj[3][0], x_adj[3][1], x_adj[3][2], x_adj[3][3]}};
    const float last[4][4] = {{x_adj[4][0], x_adj[4][1], x_adj[4][2], x_adj[4][3]}};
    const float2 parts[2] = {sum_over_rows(four, g), sum_over_rows(last, g)};
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const int plane = p == 0 ? g / 2 : 4, f = column + 4 * t + 2 * (g % 2);
        if (p == 1 && g / 2 != 0) break;
        float *sum = a.sums + ((size_t)(blockIdx.x * REVERSE_ROWS<T> + warp) * 5 + plane) * a.F + f;
        float2 out = make_float2(parts[p].x * a.scale, parts[p].y * a.scale);
        if (again) out.x += sum[0], out.y += sum[1];
        if (more)
            store_two(sum, out.x, out.y);
        else
            store_two(features_adj + ((size_t)row * 5 + plane) * a.F + f, out.x, out.y);
    }
}

/* Adds (u_adj, d_adj) of the pass's edges, summed over the four lanes t: lane t keeps component t. */
__device__ inline void add_edge_adjoints(const matrix_arguments &a, const row_edges &r, int pass, float scale,
                                         const float (&part)[TILES][2][4], edge_adjoint<float> *edge_adj)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t place[2 * TILES];
    float old[2 * TILES];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        if (pass + 8 * q + g < r.edges) place[q] = a.clusters.places[r.first + pass + 8 * q + g] >> 16;
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        if (pass + 8 * q + g < r.edges) old[q] = ((const float *)(edge_adj + r.first + place[q]))[t]; /* u[3], d */
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const float(&p)[4] = part[q / 2][q % 2];
        float two[2], one;
#pragma unroll
        for (int k = 0; k < 2; k++)
            two[k] = (t & 2 ? p[2 + k] : p[k]) + __shfl_xor_sync(0xffffffffu, t & 2 ? p[k] : p[2 + k], 2);
        one = (t & 1 ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, t & 1 ? two[0] : two[1], 1);
        if (pass + 8 * q + g < r.edges) ((float *)(edge_adj + r.first + place[q]))[t] = old[q] + one * scale;
    }
}

template <typename T, bool GAUSSIAN>
__global__ void __launch_bounds__(REVERSE_ROWS<T> * 32, 1)
    message_matrix_reverse_kernel(matrix_arguments a, const T *features, const T *__restrict__ adj, T *features_adj,
                                  edge_adjoint<float> *edge_adj)
{
    extern __shared__ __align__(256) char memory[];
    reverse_shared<T> &shared = *(reverse_shared<T> *)memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = a.F / COLUMNS;
    walk w;
    for (begin_walk<T, REVERSE_PLANES>(a, adj, REVERSE_ROWS<T>, shared, w); w.cluster < a.n_clusters;
         next_cluster(a, REVERSE_ROWS<T>, slices, w)) {
        staged_edges &edges = shared.edges[w.list][warp];
        for (int pass = 0, more = 1; more; pass += PASS_EDGES) {
            more = __syncthreads_or(w.row.edges > pass + PASS_EDGES);
            begin_pass<T, REVERSE_PLANES>(a, pass, shared, w);
            const int tiles = tiles_of(w.row.edges - pass);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                if (tile % 2 == 0 && tile >= tiles) break;
                uint4 phi[PARTS], dphi[PARTS];
                edge_cutoff cutoff[2];
                load_cutoffs(a, edges, w.row.edges - pass, tile, g, cutoff);
                edge_fragments<GAUSSIAN, true>(shared.table, cutoff, t, phi, dphi);
                keep<SPLIT<T>, STORED<T>>(shared.fragments[warp][tile][0], phi, lane);
                keep<SPLIT<T>, STORED<T>>(shared.fragments[warp][tile][1], dphi, lane);
            }
            name_neighbours(edges);
            float to_edges[TILES][2][4] = {};
            for (int slice = 0; slice < slices; slice++, w.buffer ^= 1) {
                float x[5][4] = {}, x_adj[5][4] = {};
#pragma unroll
                for (int q = 0; q < 5; q++)
                    if (w.row.row < a.N)
                        load_four(features + ((size_t)w.row.row * 5 + q) * a.F + slice * COLUMNS + 4 * t, x[q]);
                begin_slice<T, REVERSE_PLANES>(a, adj, slice, slices, more, shared, w);
                if (w.row.row >= a.N) continue;
                const char *stage = shared.stage[w.buffer];
                const uint2 *weights = shared.weights[w.buffer];
                if (w.taken >= 0)
                    reverse_slice<T, true>(a, shared, stage, weights, edges.edge, adj, tiles, slice, x, x_adj,
                                           to_edges);
                else
                    reverse_slice<T, false>(a, shared, stage, weights, edges.edge, adj, tiles, slice, x, x_adj,
                                            to_edges);
                add_feature_adjoints(a, w.row.row, slice * COLUMNS, pass > 0, more, x_adj, features_adj);
            }
            add_edge_adjoints(a, w.row, pass, a.scale / adjoint_scale<T>, to_edges, edge_adj);
        }
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

bool message_matrix_fits(int F, int K)
{
    return K <= MATRIX_K && F % COLUMNS == 0 && F > COLUMNS; /* a cluster's list comes during its first slice */
}

size_t message_matrix_fragments(int F)
{
    return (size_t)F / COLUMNS * 3 * 2 * PARTS * 32;
}

float message_matrix_pack(const double *filter, int F, int K, uint2 *fragments)
{
    double largest = 0;
    for (size_t q = 0; q < (size_t)(K + 1) * 3 * F; q++) largest = fmax(largest, fabs(filter[q]));
    int exponent = 0;
    frexp(largest, &exponent);
    const double up = largest > 0 ? ldexp(1.0, 11 - exponent) : 1; /* the largest weight comes near 2^10 */
    for (size_t q = 0; q < message_matrix_fragments(F); q++) {
        const int lane = q % 32, part = q / 32 % PARTS, half = q / 32 / PARTS % 2, kind = q / 32 / PARTS / 2 % 3;
        const int slice = (int)(q / 32 / PARTS / 2 / 3), n = lane / 4, t = lane % 4;
        const int f = slice * COLUMNS + 4 * (n / 2) + 2 * half + n % 2; /* column n of the tile is the lanes' column */
        uint16_t bits[4];
        for (int input = 0; input < 4; input++) {
            int function;
            bool low;
            weight_of(part, t, input, &function, &low);
            const int k = function == MATRIX_K ? K : function < K ? function : -1;
            const float w = k < 0 ? 0 : (float)(filter[((size_t)k * 3 + kind) * F + f] * up);
            const __half hi = __float2half_rn(w), value = low ? __float2half_rn(w - __half2float(hi)) : hi;
            memcpy(&bits[input], &value, sizeof bits[input]);
        }
        fragments[q] = make_uint2(bits[0] | (uint32_t)bits[1] << 16, bits[2] | (uint32_t)bits[3] << 16);
    }
    return (float)(1 / up);
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
static mlff_status arguments_of(state<T> *s, int l, int rows, int seats, matrix_arguments *a, mlff_error *error)
{
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
          w.fragments,
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
    MLFF_TRY(arguments_of(s, l, FORWARD_ROWS<T>, FORWARD_SEATS<T>, &a, error));
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
    MLFF_TRY(arguments_of(s, l, REVERSE_ROWS<T>, REVERSE_SEATS<T>, &a, error));
    const int threads = REVERSE_ROWS<T> * 32;
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
