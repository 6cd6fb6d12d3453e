/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1, forward and reverse (docs/equations.md): gathers both, nothing is scattered. The
 * plain kernels: any size, double and single; single of the common sizes goes through message_matrix.cu.
 *   forward  s_i += sum_j W_s x_s(j),  v_i += sum_j W_R x_R(j) u + W_v y(j),  W = sum_k filter[k] phi_k
 *   reverse  row j gathers s_adj(i), v_adj(i): adjoints of its own features, of d and of u
 *
 * Launch   a block a row at a time, a thread a feature (F rounded up to 32, at most 256); the thread's filter weights
 *          stay in registers over all rows of the block. Radial functions of up to 64 edges at a time in shared memory,
 *          four in a load: one by one their loads take longer than the multiply-adds.
 * Cost     3 F (K+1) multiply-adds an edge forward, twice that in reverse; gathers of 5F and 4F values.
 * Share    double, F = 128, 110,592 atoms: 63 ns an atom, 23 % of what the gathers allow; in reverse 194, 13 % of what
 *          the filters do (H200, driver 580.159.04, CUDA 13.0, 2026-11-22).
 * Order    s_i, v_i and the features' adjoints: edges ascending, one thread; sums over features (d_adj, u_adj): a tree.
 */
#include "launch.cuh"
#include "message_matrix.cuh"

#include <type_traits>

namespace mlff
{

constexpr int CHUNK = 64,
              GROUP = 8; /* edges with radial functions in shared memory; edges whose sums are made together */

/* functions rounded up, so that a row of a table begins at a multiple of 16 bytes */
__host__ __device__ constexpr int table_width(int functions)
{
    return (functions + 3) / 4 * 4;
}

template <typename T> struct message_arguments {
    int32_t N;
    int F;
    radial_parameters radial;
    const T *filter;
    const int64_t *first;
    const int32_t *count, *edge_row;
    const edge<T> *edges;
};

template <typename S> message_arguments<real<S>> arguments_of(const state<S> *s, int l)
{
    return {s->N, s->w.F, radial_of(s->w), s->w.layer[l].filter, s->first, s->count, s->edge_row, s->edges};
}

/* ---------------------------------------------------------------------------------------------- kernels */

/* The thread's filter weights, zeros beyond function K. */
template <typename T, int FUNCTIONS>
__device__ inline void load_filter(const message_arguments<T> &a, int f, T (&w)[3][FUNCTIONS])
{
#pragma unroll
    for (int k = 0; k < FUNCTIONS; k++)
#pragma unroll
        for (int part = 0; part < 3; part++)
            w[part][k] = k <= a.radial.K && f < a.F ? a.filter[((size_t)k * 3 + part) * a.F + f] : T(0);
}

/* Blocks take ROWS neighbouring rows at a time: what one row gathers the next finds in L1, and since all blocks move
 * through the atoms together, all of it is in L2. */
constexpr int ROWS = 8;

__device__ inline int64_t row_of_turn(int turn)
{
    return ((int64_t)(turn / ROWS) * gridDim.x + blockIdx.x) * ROWS + turn % ROWS;
}

/* What a block knows of up to CHUNK edges of its row. */
template <typename T, int FUNCTIONS> struct edge_table {
    alignas(32) T phi[CHUNK][table_width(FUNCTIONS)];
    edge<T> geometry[CHUNK];
    int32_t neighbour[CHUNK];
    T cut[CHUNK][2];
};

/* dphi [CHUNK][table_width], or NULL */
template <typename T, int FUNCTIONS>
__device__ inline void fill_table(const message_arguments<T> &a, edge_table<T, FUNCTIONS> &table,
                                  T (*dphi)[table_width(FUNCTIONS)], int64_t first, int n)
{
    __syncthreads(); /* the last chunk is done with */
    for (int q = threadIdx.x; q < n; q += blockDim.x) {
        table.geometry[q] = a.edges[first + q];
        table.neighbour[q] = a.edge_row[first + q];
        cutoff_function(a.radial, table.geometry[q].d, &table.cut[q][0], &table.cut[q][1]);
    }
    __syncthreads();
    for (int q = threadIdx.x; q < n * FUNCTIONS; q += blockDim.x) {
        const int e = q / FUNCTIONS, k = q % FUNCTIONS;
        T slope;
        radial_function(a.radial, table.geometry[e].d, table.cut[e][0], table.cut[e][1], k, &table.phi[e][k], &slope);
        if (dphi) dphi[e][k] = slope;
    }
    __syncthreads();
}

template <typename S, int FUNCTIONS>
__global__ void __launch_bounds__(256)
    message_forward_kernel(message_arguments<real<S>> a, const S *__restrict__ features, const S *__restrict__ v_in,
                           real<S> *s, S *v_out)
{
    typedef real<S> T;
    __shared__ edge_table<T, FUNCTIONS> table;
    const int f = threadIdx.x, F = a.F, at = sliced(5, f);
    T w[3][FUNCTIONS];
    load_filter(a, f, w);
    int turn = 0;
    for (int64_t row = row_of_turn(0); row < a.N; row = row_of_turn(++turn)) {
        const int64_t first = a.first[row];
        const int edges = a.count[row];
        T sum = 0, v[3] = {0, 0, 0};
        for (int base = 0; base < edges; base += CHUNK) {
            const int n = min(CHUNK, edges - base);
            fill_table<T, FUNCTIONS>(a, table, nullptr, first + base, n);
            if (f >= F) continue;
#pragma unroll 2
            for (int e = 0; e < n; e++) {
                const S *x = features + (size_t)table.neighbour[e] * 5 * F + at;
                const T x_s = x[0], x_R = x[SLICE], y0 = x[2 * SLICE], y1 = x[3 * SLICE], y2 = x[4 * SLICE];
                T W_s = 0, W_R = 0, W_v = 0;
#pragma unroll
                for (int k = 0; k < FUNCTIONS; k++) {
                    const T p = table.phi[e][k];
                    W_s += p * w[0][k];
                    W_R += p * w[1][k];
                    W_v += p * w[2][k];
                }
                const edge<T> r = table.geometry[e];
                const T R = W_R * x_R;
                sum += W_s * x_s;
                v[0] += R * r.u[0] + W_v * y0;
                v[1] += R * r.u[1] + W_v * y1;
                v[2] += R * r.u[2] + W_v * y2;
            }
        }
        if (f < F) {
            s[(size_t)row * F + f] += sum;
            for (int q = 0; q < 3; q++) {
                const size_t place = ((size_t)row * 3 + q) * F + f;
                v_out[place] = S(T(v_in[place]) + v[q]);
            }
        }
    }
}

/* Sums 32 values over the 32 lanes with 31 exchanges; lane q returns the sum of value q. */
template <typename T> __device__ inline T transposed_sum(T (&value)[32], int lane)
{
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
        const bool upper = lane & half;
#pragma unroll
        for (int q = 0; q < half; q++) {
            const T keep = upper ? value[q + half] : value[q], send = upper ? value[q] : value[q + half];
            value[q] = keep + __shfl_xor_sync(0xffffffffu, send, half);
        }
    }
    return value[0];
}

template <typename S, int FUNCTIONS>
__global__ void __launch_bounds__(256)
    message_reverse_kernel(message_arguments<real<S>> a, const S *features, const S *__restrict__ adj, S *features_adj,
                           edge_adjoint<real<S>> *edge_adj)
{
    typedef real<S> T;
    extern __shared__ __align__(16) char shared[];
    auto &table = *(edge_table<T, FUNCTIONS> *)shared;
    auto dphi = (T(*)[table_width(FUNCTIONS)])(shared + sizeof table); /* [CHUNK][...] */
    auto part_of_warp = (T(*)[CHUNK * 4])(dphi + CHUNK);               /* [warps][edge][d_adj, u_adj] */
    const int f = threadIdx.x, lane = f % 32, warp = f / 32, F = a.F, own_at = sliced(5, f), at = sliced(4, f);
    T w[3][FUNCTIONS];
    load_filter(a, f, w);
    int turn = 0;
    for (int64_t row = row_of_turn(0); row < a.N; row = row_of_turn(++turn)) {
        const int64_t first = a.first[row];
        const int edges = a.count[row];
        const S *own = features + (size_t)row * 5 * F + own_at;
        T x[5], x_adj[5] = {0, 0, 0, 0, 0}; /* x_s, x_R, y (3) */
        for (int q = 0; q < 5; q++) x[q] = f < F ? T(own[q * SLICE]) : T(0);
        for (int base = 0; base < edges; base += CHUNK) {
            const int n = min(CHUNK, edges - base);
            fill_table<T, FUNCTIONS>(a, table, dphi, first + base, n);
            for (int group = 0; group < n; group += GROUP) {
                T sums[32]; /* [edge][d_adj, u_adj] over this thread's feature */
#pragma unroll
                for (int q = 0; q < GROUP; q++) {
                    sums[4 * q] = sums[4 * q + 1] = sums[4 * q + 2] = sums[4 * q + 3] = 0;
                    const int e = group + q;
                    if (e >= n || f >= F) continue;
                    const S *g = adj + (size_t)table.neighbour[e] * 4 * F + at;
                    const T s_adj = g[0], v0 = g[SLICE], v1 = g[2 * SLICE], v2 = g[3 * SLICE];
                    T W_s = 0, W_R = 0, W_v = 0, dW_s = 0, dW_R = 0, dW_v = 0;
#pragma unroll
                    for (int k = 0; k < FUNCTIONS; k++) {
                        const T p = table.phi[e][k], dp = dphi[e][k];
                        W_s += p * w[0][k];
                        W_R += p * w[1][k];
                        W_v += p * w[2][k];
                        dW_s += dp * w[0][k];
                        dW_R += dp * w[1][k];
                        dW_v += dp * w[2][k];
                    }
                    const edge<T> r = table.geometry[e];
                    const T along = -(r.u[0] * v0 + r.u[1] * v1 + r.u[2] * v2), R = W_R * x[1];
                    x_adj[0] += W_s * s_adj;
                    x_adj[1] += W_R * along;
                    x_adj[2] += W_v * v0;
                    x_adj[3] += W_v * v1;
                    x_adj[4] += W_v * v2;
                    sums[4 * q] =
                        dW_s * x[0] * s_adj + dW_R * x[1] * along + dW_v * (x[2] * v0 + x[3] * v1 + x[4] * v2);
                    sums[4 * q + 1] = -R * v0;
                    sums[4 * q + 2] = -R * v1;
                    sums[4 * q + 3] = -R * v2;
                }
                part_of_warp[warp][4 * group + lane] = transposed_sum(sums, lane);
            }
            __syncthreads();
            for (int q = f; q < 4 * n; q += blockDim.x) {
                T total = 0;
                for (int p = 0; p < (int)blockDim.x / 32; p++) total += part_of_warp[p][q];
                total *= 1 / adjoint_scale<S>;
                edge_adjoint<T> *out = edge_adj + first + base + q / 4;
                if (q % 4 == 0)
                    out->d += total;
                else
                    out->u[q % 4 - 1] += total;
            }
        }
        if (f < F)
            for (int q = 0; q < 5; q++) features_adj[(size_t)row * 5 * F + own_at + q * SLICE] = S(x_adj[q]);
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

/* Calls launch with the smallest number of functions that the kernels are compiled for and that holds K + 1. */
template <typename Launch> void with_functions(int K, Launch launch)
{
    if (K < 9)
        launch(std::integral_constant<int, 9>());
    else if (K < 17)
        launch(std::integral_constant<int, 17>());
    else if (K < 21)
        launch(std::integral_constant<int, 21>());
    else if (K < 33)
        launch(std::integral_constant<int, 33>());
    else
        launch(std::integral_constant<int, MAX_FUNCTIONS>());
}

template <typename S> mlff_status message_forward(state<S> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(S) <= sizeof(float))
        if (message_matrix_suits(s)) return message_matrix_forward(s, l, error);
    const int threads = (s->w.F + 31) / 32 * 32;
    with_functions(s->w.K, [&](auto functions) {
        const auto kernel = message_forward_kernel<S, functions()>;
        kernel<<<blocks_for(kernel, threads, 0, s->N), threads, 0, s->stream>>>(
            arguments_of(s, l), s->layer[l].features, s->layer[l].v, s->s, s->v_mid);
    });
    CUDA_TRY_LAUNCH("message");
    return MLFF_OK;
}

template <typename S> mlff_status message_reverse(state<S> *s, int l, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    if constexpr (sizeof(S) <= sizeof(float))
        if (message_matrix_suits(s)) return message_matrix_reverse(s, l, error);
    const int threads = (s->w.F + 31) / 32 * 32;
    with_functions(s->w.K, [&](auto functions) {
        const auto kernel = message_reverse_kernel<S, functions()>;
        const size_t shared = sizeof(edge_table<real<S>, functions()>) +
                              ((size_t)CHUNK * table_width(functions()) + threads / 32 * CHUNK * 4) * sizeof(real<S>);
        kernel<<<blocks_for(kernel, threads, shared, s->N), threads, shared, s->stream>>>(
            arguments_of(s, l), s->layer[l].features, s->adj, s->layer[l].features_adj, s->edge_adj);
    });
    CUDA_TRY_LAUNCH("message, reverse");
    return MLFF_OK;
}

template mlff_status message_forward(state<float> *, int, mlff_error *);
template mlff_status message_forward(state<double> *, int, mlff_error *);
template mlff_status message_forward(state<__half> *, int, mlff_error *);
template mlff_status message_reverse(state<float> *, int, mlff_error *);
template mlff_status message_reverse(state<double> *, int, mlff_error *);
template mlff_status message_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
