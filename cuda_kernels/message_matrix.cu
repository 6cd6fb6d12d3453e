/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1 in single and mixed (docs/equations.md): filters through the matrix units
 * (radial_fragments.cuh), neighbours from shared memory. message.cu has the plain kernels for what does not fit here.
 *
 * Launch   a block works on a cluster of consecutive rows (clusters.cu), 16 columns at a time; a warp a row, and one that
 *          brings the data (message_producer.cuh). Fragments of the radial functions: forward in registers, 11 rows (single)
 *          or 15 (mixed); reverse in shared memory, 8 rows or 11.
 * Passes   a row's edges are taken 64 at a time.
 * Cost     per 16 edges and 16 columns 24 (forward), 48 (reverse) matrix instructions in single, half of that in mixed;
 *          10 and 8 values of the neighbours a lane and column.
 * Order    sums over edges: tiles of 16, then a fixed tree over their rows; sums over features: slices, then a lane's four
 *          columns, then the four lanes.
 */
#include "launch.cuh"
#include "message_matrix.cuh"
#include "message_mixed.cuh"
#include "message_producer.cuh"

namespace mlff
{

constexpr int FORWARD_PLANES = 5, REVERSE_PLANES = 4;          /* x_s, x_R, y (3); s_adj, v_adj (3) */
constexpr int MIN_ROWS = 1024;                                 /* fewer do not fill the machine with clusters */
template <typename T> constexpr int STORED = SPLIT<T> ? 3 : 2; /* parts of a fragment in shared memory */

/* Rows of a cluster, producers, seats: registers are given to warps by fours, 168 each to 12 and 255 to 8. */
template <typename T> struct forward_shared : message_shared<T, 10, 2, 256, FORWARD_PLANES> {
};
template <> struct forward_shared<__half> : message_shared<__half, 14, 2, 320, FORWARD_PLANES> {
};

constexpr int REVERSE_ROWS = 7;

template <typename T> struct reverse_shared : message_shared<T, REVERSE_ROWS, 1, 224, REVERSE_PLANES> {
    uint4 fragments[REVERSE_ROWS][TILES][2][STORED<T>][32]; /* of phi and dphi/dd */
};
template <> struct reverse_shared<__half> : message_shared<__half, REVERSE_ROWS, 1, 256, REVERSE_PLANES> {
    uint4 fragments[REVERSE_ROWS][TILES][2][STORED<__half>][32];
};

static_assert(sizeof(forward_shared<float>) <= 227 << 10 && sizeof(reverse_shared<float>) <= 227 << 10, "it fits");

template <typename Shared> constexpr int THREADS = (Shared::ROWS + Shared::PRODUCERS) * 32;

/* ---------------------------------------------------------------------------------------------- forward */

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

/* Where a lane's two columns of a row's sums go: vector g / 2 of (s, v). */
template <typename T> struct row_part {
    const T *v_in;
    T *v_out;
    float *s; /* NULL: the lane's vector is one of v */

    __device__ row_part(int row, int F, const T *v_from, T *v_to, float *s_all)
    {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, column = 4 * t + 2 * (g % 2);
        const size_t at = ((size_t)row * 3 + g / 2 - 1) * F + column;
        v_in = v_from + at, v_out = v_to + at;
        s = g < 2 ? s_all + (size_t)row * F + column : nullptr;
    }
    __device__ void load(int column, two_columns &old) const
    {
        if (s)
            old.load(s + column);
        else
            old.load(v_in + column);
    }
    __device__ void store(int column, const two_columns &old, float2 sum, float scale) const
    {
        const float2 from = s ? old.value(float()) : old.value(T());
        if (s)
            store_two(s + column, from.x + sum.x * scale, from.y + sum.y * scale);
        else
            store_two(v_out + column, from.x + sum.x * scale, from.y + sum.y * scale);
    }
};

template <typename T, bool GAUSSIAN>
__device__ inline void radial_fragments(const matrix_arguments &a, const radial_table &table, const staged_edges &edges,
                                        int left, int tiles, uint4 (&phi)[TILES][PARTS])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 unused[PARTS];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break;
        edge_cutoff cutoff[2];
        load_cutoffs(a, edges, left, tile, g, cutoff);
        edge_fragments<GAUSSIAN, false>(table, cutoff, t, phi[tile], unused);
    }
}

/* A row's warp in single. */
template <bool GAUSSIAN>
__device__ inline void forward_rows(const matrix_arguments &a, const float *__restrict__ features,
                                    const float *__restrict__ v_in, float *s, float *v_out,
                                    forward_shared<float> &shared)
{
    const int warp = threadIdx.x / 32, slices = a.F / COLUMNS;
    ring slice_ring, pass_ring;
    for (;; pass_ring.advance()) {
        staged_pass<forward_shared<float>::ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        staged_edges &edges = pass.row[warp];
        const int row = pass.cluster * forward_shared<float>::ROWS + warp, begin = pass.begin,
                  left = pass.edges[warp] - begin, tiles = tiles_of(left);
        const bool all_seated = pass.all_seated, writes = row < a.N && (begin == 0 || tiles > 0);
        uint4 phi[TILES][PARTS];
        radial_fragments<float, GAUSSIAN>(a, shared.table, edges, left, tiles, phi);
        name_neighbours(edges);
        const row_part<float> to(row, a.F, begin > 0 ? v_out : v_in, v_out, s);
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            two_columns old;
            if (writes) to.load(column, old);
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
            float sum[4][4] = {};
            const char *stage = shared.stage[slice_ring.buffer];
            const uint2 *weights = shared.weights[slice_ring.buffer];
            if (all_seated)
                forward_slice<float, true>(a, stage, weights, features, edges.edge, phi, tiles, column, sum);
            else
                forward_slice<float, false>(a, stage, weights, features, edges.edge, phi, tiles, column, sum);
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            const float2 part = sum_over_rows(sum, threadIdx.x % 32 / 4);
            if (writes) to.store(column, old, part, a.scale);
        }
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

/* A row's warp in mixed. */
template <bool GAUSSIAN>
__device__ inline void forward_rows(const matrix_arguments &a, const __half *__restrict__ features,
                                    const __half *__restrict__ v_in, float *s, __half *v_out,
                                    forward_shared<__half> &shared)
{
    constexpr int ROWS = forward_shared<__half>::ROWS;
    const int warp = threadIdx.x / 32, slices = a.F / COLUMNS;
    ring slice_ring, pass_ring;
    for (;; pass_ring.advance()) {
        const staged_pass<ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        const staged_edges &edges = pass.row[warp];
        const int row = pass.cluster * ROWS + warp, begin = pass.begin, left = pass.edges[warp] - begin,
                  tiles = tiles_of(left);
        const bool all_seated = pass.all_seated;
        uint4 phi[TILES][PARTS];
        mixed_edges own;
        radial_fragments<__half, GAUSSIAN>(a, shared.table, edges, left, tiles, phi);
        own.load(edges, tiles);
        const mixed_part to(row, a.F, begin > 0 ? v_out : v_in, v_out, s, row < a.N && (begin == 0 || tiles > 0));
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            two_columns old[2];
            to.load(column, old);
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
            float sum[2][4] = {};
            const char *stage = shared.stage[slice_ring.buffer];
            const uint2 *weights = shared.weights[slice_ring.buffer];
            if (all_seated)
                mixed_slice<true>(a, stage, weights, features, edges, own, phi, tiles, column, sum);
            else
                mixed_slice<false>(a, stage, weights, features, edges, own, phi, tiles, column, sum);
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            to.store(column, old, sum, a.scale);
        }
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

template <typename T, bool GAUSSIAN>
__global__ void __launch_bounds__(THREADS<forward_shared<T>>, 1)
    message_matrix_kernel(matrix_arguments a, const T *__restrict__ features, const T *__restrict__ v_in, float *s,
                          T *v_out)
{
    extern __shared__ __align__(256) char memory[];
    forward_shared<T> &shared = *(forward_shared<T> *)memory;
    prepare_block(a, shared);
    if (threadIdx.x / 32 >= forward_shared<T>::ROWS)
        produce<T>(a, features, shared);
    else
        forward_rows<GAUSSIAN>(a, features, v_in, s, v_out, shared);
}

/* ---------------------------------------------------------------------------------------------- reverse */

/* A number that stays in registers, or is spilled, instead of being made anew from its parts at every use. */
__device__ inline size_t kept(size_t x)
{
    asm volatile("" : "+l"(x));
    return x;
}

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

/* The lane's four columns of the four planes of an edge's neighbour; stage: at the lane's columns of the first plane. The
 * stage begins at a multiple of a seat's bytes, so the turn of a seat works on the address too. */
template <typename T, bool ALL>
__device__ inline void gather_planes(uint32_t stage, const T *adj, int F, int neighbour, int column,
                                     float (&to)[REVERSE_PLANES][4])
{
    constexpr int BYTES = COLUMNS * sizeof(T);
    const uint32_t at = stage + neighbour;
#pragma unroll
    for (int p = 0; p < REVERSE_PLANES; p++)
        if (ALL || neighbour >= 0)
            load_four_at(at ^ p * BYTES, T(), to[p]);
        else
            load_four(adj + ((size_t)(-1 - neighbour) * REVERSE_PLANES + p) * F + column, to[p]);
}

/* What one slice adds to the adjoints of a row's features x [5], and to those of its edges (u, d). */
template <typename T, bool ALL>
__device__ inline void reverse_slice(const matrix_arguments &a, const uint4 (*fragments)[2][STORED<T>][32],
                                     const char *stage, const uint2 *weights, const float4 *geometry, const T *adj,
                                     int tiles, int column, const float (&x)[5][4], float (&x_adj)[5][4],
                                     float (&edge_adj)[TILES][2][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t lane_stage = shared_address(stage) + 4 * t * sizeof(T);
    uint2 b[3][2][PARTS];
#pragma unroll
    for (int kind = 0; kind < 3; kind++) load_weights<SPLIT<T>>(weights, kind, lane, b[kind]);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile % 2 == 0 && tile >= tiles) break;   /* in pairs: fewer branches */
        float in[2][REVERSE_PLANES][4], along[2][4]; /* s_adj, v_adj (3) of the neighbours; - u . v_adj */
        uint4 phi[PARTS];
        float W[3][2][4];
        recall<SPLIT<T>, STORED<T>>(fragments[tile][0], phi, lane);
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter<SPLIT<T>>(phi, b[kind], W[kind]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float4 r = geometry[tile * 16 + 8 * h + g];
            gather_planes<T, ALL>(lane_stage, adj, a.F, __float_as_int(r.w), column + 4 * t, in[h]);
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                const float W_s = W[0][q / 2][at], W_R = W[1][q / 2][at], W_v = W[2][q / 2][at], R = W_R * x[1][q];
                along[h][q] = -(r.x * in[h][1][q] + r.y * in[h][2][q] + r.z * in[h][3][q]);
                x_adj[0][q] += W_s * in[h][0][q];
                x_adj[1][q] += W_R * along[h][q];
#pragma unroll
                for (int c = 0; c < 3; c++) {
                    x_adj[2 + c][q] += W_v * in[h][1 + c][q];
                    edge_adj[tile][h][c] -= R * in[h][1 + c][q];
                }
            }
        }
        recall<SPLIT<T>, STORED<T>>(fragments[tile][1], phi, lane); /* of dphi/dd */
#pragma unroll
        for (int kind = 0; kind < 3; kind++) filter<SPLIT<T>>(phi, b[kind], W[kind]);
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int at = 2 * h + q % 2;
                const float v = x[2][q] * in[h][1][q] + x[3][q] * in[h][2][q] + x[4][q] * in[h][3][q];
                edge_adj[tile][h][3] += W[0][q / 2][at] * (x[0][q] * in[h][0][q]);
                edge_adj[tile][h][3] += W[1][q / 2][at] * (x[1][q] * along[h][q]);
                edge_adj[tile][h][3] += W[2][q / 2][at] * v;
            }
    }
}

/* A slice of a row's feature adjoints, in the place of the features: a lane has two columns of plane g / 2, and one of plane 4
 * where g is even. Until a row's last pass the sums are in the block's part of `sums`, because every pass reads the
 * features. features, sums: [5][F] of the row, from the slice's first column. */
template <typename T>
__device__ inline void add_feature_adjoints(int F, float scale, bool again, bool more, const float (&x_adj)[5][4],
                                            T *features, float *sums)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int at = g / 2 * F + 4 * t + 2 * (g % 2), last_at = 4 * F + 4 * t + g / 2;
    const float(&four)[4][4] = *(const float(*)[4][4])x_adj;
    float2 sum = sum_over_rows(four, g);
    float last = sum_vector_over_rows(x_adj[4], g);
    sum.x *= scale, sum.y *= scale, last *= scale;
    if (again || more) {
        if (again) sum.x += sums[at], sum.y += sums[at + 1], last += sums[last_at];
        if (more) {
            store_two(sums + at, sum.x, sum.y);
            if (g % 2 == 0) sums[last_at] = last;
            return;
        }
    }
    store_two(features + at, sum.x, sum.y);
    if (g % 2 == 0) features[last_at] = T(last);
}

/* Adds the adjoints (u, d) of a pass's edges: the lane has component t of edges 8q + g. part: over the lane's columns. */
__device__ inline void add_edge_adjoints(edge_adjoint<float> *edge_adj, const staged_edges &edges, int left,
                                         float scale, const float (&part)[TILES][2][4])
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float old[2 * TILES];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++)
        if (8 * q + g < left) old[q] = ((float *)(edge_adj + edges.place[8 * q + g]))[t];
#pragma unroll
    for (int q = 0; q < 2 * TILES; q++) {
        const float sum = sum_over_lanes(part[q / 2][q % 2], t);
        if (8 * q + g < left) ((float *)(edge_adj + edges.place[8 * q + g]))[t] = old[q] + sum * scale;
    }
}

/* A row's warp. */
template <typename T, bool GAUSSIAN>
__device__ inline void reverse_rows(const matrix_arguments &a, T *features, const T *__restrict__ adj,
                                    edge_adjoint<float> *edge_adj, reverse_shared<T> &shared)
{
    constexpr int ROWS = reverse_shared<T>::ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = a.F / COLUMNS;
    uint4(*fragments)[2][STORED<T>][32] = shared.fragments[warp];
    float *sums = a.sums + ((size_t)blockIdx.x * ROWS + warp) * 5 * a.F;
    ring slice_ring, pass_ring;
    for (;; pass_ring.advance()) {
        staged_pass<ROWS> &pass = shared.pass[pass_ring.buffer];
        barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
        if (pass.cluster < 0) break;
        staged_edges &edges = pass.row[warp];
        const int row = pass.cluster * ROWS + warp, begin = pass.begin, left = pass.edges[warp] - begin,
                  tiles = tiles_of(left);
        const bool all_seated = pass.all_seated, more = pass.more;
        const int64_t first = pass.first[warp];
#pragma unroll 1
        for (int tile = 0; tile < tiles + tiles % 2; tile++) {
            uint4 phi[PARTS], dphi[PARTS];
            edge_cutoff cutoff[2];
            load_cutoffs(a, edges, left, tile, g, cutoff);
            edge_fragments<GAUSSIAN, true>(shared.table, cutoff, t, phi, dphi);
            keep<SPLIT<T>, STORED<T>>(fragments[tile][0], phi, lane);
            keep<SPLIT<T>, STORED<T>>(fragments[tile][1], dphi, lane);
        }
        name_neighbours(edges);
        const size_t own = kept((size_t)row * 5 * a.F);
        float to_edges[TILES][2][4] = {};
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int column = slice * COLUMNS;
            four_columns raw[5];
            float x[5][4], x_adj[5][4] = {};
            if (row < a.N)
#pragma unroll
                for (int p = 0; p < 5; p++) raw[p].load(features + own + p * a.F + column + 4 * t);
            barrier_wait(&shared.stage_full[slice_ring.buffer], slice_ring.parity);
#pragma unroll
            for (int p = 0; p < 5; p++) raw[p].value(T(), x[p]);
            const char *stage = shared.stage[slice_ring.buffer];
            const uint2 *weights = shared.weights[slice_ring.buffer];
            if (all_seated)
                reverse_slice<T, true>(a, fragments, stage, weights, edges.edge, adj, tiles, column, x, x_adj,
                                       to_edges);
            else
                reverse_slice<T, false>(a, fragments, stage, weights, edges.edge, adj, tiles, column, x, x_adj,
                                        to_edges);
            barrier_arrive(&shared.stage_empty[slice_ring.buffer]);
            if (row < a.N)
                add_feature_adjoints(a.F, a.scale, begin > 0, more, x_adj, features + own + column, sums + column);
        }
        add_edge_adjoints(edge_adj + first, edges, left, a.scale / adjoint_scale<T>, to_edges);
        barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
    }
}

template <typename T, bool GAUSSIAN>
__global__ void __launch_bounds__(THREADS<reverse_shared<T>>, 1)
    message_matrix_reverse_kernel(matrix_arguments a, T *features, const T *__restrict__ adj,
                                  edge_adjoint<float> *edge_adj)
{
    extern __shared__ __align__(256) char memory[];
    reverse_shared<T> &shared = *(reverse_shared<T> *)memory;
    prepare_block(a, shared);
    if (threadIdx.x / 32 >= reverse_shared<T>::ROWS)
        produce<T>(a, adj, shared);
    else
        reverse_rows<T, GAUSSIAN>(a, features, adj, edge_adj, shared);
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
    const size_t forward =
        ((size_t)N + forward_shared<T>::ROWS - 1) / forward_shared<T>::ROWS * forward_shared<T>::SEATS;
    const size_t reverse =
        ((size_t)N + reverse_shared<T>::ROWS - 1) / reverse_shared<T>::ROWS * reverse_shared<T>::SEATS;
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
    return s->with_reverse ? (size_t)processors * reverse_shared<T>::ROWS * 5 * s->w.F : 0;
}

template size_t message_matrix_sums(const state<double> *);
template size_t message_matrix_sums(const state<float> *);
template size_t message_matrix_sums(const state<__half> *);

/* The arguments of a layer, with the clusters made anew where others are there. */
template <typename T>
static mlff_status arguments_of(state<T> *s, int l, bool reverse, matrix_arguments *a, mlff_error *error)
{
    const int rows = reverse ? reverse_shared<T>::ROWS : forward_shared<T>::ROWS,
              seats = reverse ? reverse_shared<T>::SEATS : forward_shared<T>::SEATS;
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
          reverse || sizeof(T) == sizeof(float) ? w.fragments : w.fragments_transposed,
          reverse || sizeof(T) == sizeof(float) ? w.fragment_scale : w.transposed_scale,
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
    const int threads = THREADS<forward_shared<T>>;
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
    const int threads = THREADS<reverse_shared<T>>;
    const auto kernel =
        a.radial.gaussian ? message_matrix_reverse_kernel<T, true> : message_matrix_reverse_kernel<T, false>;
    const int blocks = blocks_for(kernel, threads, sizeof(reverse_shared<T>), a.n_clusters);
    kernel<<<blocks, threads, sizeof(reverse_shared<T>), s->stream>>>(a, s->layer[l].features, s->adj, s->edge_adj);
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
