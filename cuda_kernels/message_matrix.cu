/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1 in single and mixed (docs/equations.md): filters through the matrix units
 * (radial_fragments.cuh), neighbours from shared memory. message.cu has the plain kernels for what does not fit here.
 *
 * Launch   a block works on a cluster of consecutive rows (clusters.cu), 16 columns at a time: a warp a row, and one or
 *          two that bring the data (message_producer.cuh). Rows at most: message_single.cuh 10, message_mixed.cuh 14,
 *          in reverse message_single_reverse.cuh 7, message_mixed_reverse.cuh 11.
 * Passes   a row's edges are taken 64 at a time.
 * Cost     a tile of 16 edges and 16 columns. Single: 24 matrix instructions and 80 multiply-adds forward, 48 and 174
 *          in reverse. Mixed: 11 matrix instructions, 6 of half their size and 20 products of two halves; 27, 14 and
 *          76.
 * Share    of what L1 and shared memory can do: forward 64 % (single) and 68 % (mixed), reverse 45 % and 74 %; of what
 *          can be issued: 42 % and 53 %, 42 % and 50 % (docs/performance.md). Of what gathers and sums alone would
 *          allow (benchmarks/compare/layers.py): forward 46 % and 41 %, reverse 19 % and 22 %.
 * Order    single: sums over edges: tiles of 16, then a fixed tree over their rows; over features: slices, then a
 *          lane's four columns, then the four lanes. Mixed: the sums of the matrix units, tile by tile and slice by
 *          slice.
 */
#include "launch.cuh"
#include "message_matrix.cuh"
#include "message_mixed.cuh"
#include "message_mixed_reverse.cuh"
#include "message_producer.cuh"
#include "message_single_reverse.cuh"

namespace mlff
{

/* Rows of a cluster, producers, buffers, seats: registers are given to warps by fours, 168 each to 12 and 255 to 8. */
template <typename T> struct forward_shared : message_shared<T, 10, 2, 2, 256, FORWARD_PLANES> {
};
template <> struct forward_shared<__half> : message_shared<__half, 14, 2, 3, 320, FORWARD_PLANES> {
};

template <typename T> struct reverse_shared : message_shared<T, 7, 1, 2, 224, REVERSE_PLANES> {
    stored_fragments fragments[7][TILES][2]; /* of phi and dphi/dd */
};
template <> struct reverse_shared<__half> : message_shared<__half, 11, 1, 3, 256, REVERSE_PLANES> {
    mixed_tile tiles[11][TILES];
};

template <typename T>
constexpr bool shared_fits = sizeof(forward_shared<T>) <= 227 << 10 && sizeof(reverse_shared<T>) <= 227 << 10;
static_assert(shared_fits<float> && shared_fits<__half>, "a block has 227 KiB");

template <typename Shared> constexpr int THREADS = (Shared::ROWS + Shared::PRODUCERS) * 32;

/* ---------------------------------------------------------------------------------------------- kernels */

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
        reverse_rows<GAUSSIAN>(a, features, adj, edge_adj, shared);
}

/* -------------------------------------------------------------------------------------------- launchers */

bool message_matrix_fits(int F, int K)
{
    return K <= MATRIX_K && F % COLUMNS == 0 &&
           F > COLUMNS; /* a single slice is never tried: it has the plain kernels */
}

template <typename T> bool message_matrix_suits(const state<T> *s)
{
    return sizeof(T) <= sizeof(float) && s->w.L > 1 && s->w.layer[1].fragments && s->N > 0;
}

/* As few rows as the same number of rounds over the multiprocessors allows: the last is as full as the others. */
static int rows_of_cluster(int32_t N, int most)
{
    const int64_t blocks = multiprocessors(), rounds = (N + blocks * most - 1) / (blocks * most);
    return N > 0 ? (int)((N + blocks * rounds - 1) / (blocks * rounds)) : most;
}

static size_t clusters_of(int32_t N, int most)
{
    const int rows = rows_of_cluster(N, most);
    return ((size_t)N + rows - 1) / rows;
}

template <typename T> size_t message_matrix_seats(int32_t N)
{
    const size_t forward = clusters_of(N, forward_shared<T>::ROWS) * forward_shared<T>::SEATS,
                 reverse = clusters_of(N, reverse_shared<T>::ROWS) * reverse_shared<T>::SEATS;
    return forward > reverse ? forward : reverse;
}

template size_t message_matrix_seats<double>(int32_t);
template size_t message_matrix_seats<float>(int32_t);
template size_t message_matrix_seats<__half>(int32_t);

template <typename T> size_t message_matrix_sums(const state<T> *s)
{
    return s->with_reverse ? (size_t)multiprocessors() /* a block each */ * reverse_shared<T>::ROWS * 5 * s->w.F : 0;
}

template size_t message_matrix_sums(const state<double> *);
template size_t message_matrix_sums(const state<float> *);
template size_t message_matrix_sums(const state<__half> *);

/* The list that a direction works with, in the place that both share. */
template <typename T> static cluster_list list_of(const state<T> *s, bool reverse)
{
    const int forward_rows = rows_of_cluster(s->N, forward_shared<T>::ROWS),
              reverse_rows = rows_of_cluster(s->N, reverse_shared<T>::ROWS);
    cluster_list list = s->clusters;
    list.n_rows = reverse ? reverse_rows : forward_rows;
    list.seats = reverse ? reverse_shared<T>::SEATS : forward_shared<T>::SEATS;
    if (forward_rows == reverse_rows) /* few: the same clusters serve both ways */
        list.seats =
            forward_shared<T>::SEATS < reverse_shared<T>::SEATS ? forward_shared<T>::SEATS : reverse_shared<T>::SEATS;
    return list;
}

template <typename T> static bool is_at_hand(const state<T> *s, const cluster_list &list)
{
    return s->clusters.n_rows == list.n_rows && s->clusters.seats == list.seats;
}

template <typename T> mlff_status message_matrix_start_list(state<T> *s, bool reverse, mlff_error *error)
{
    if constexpr (sizeof(T) <= sizeof(float)) {
        if (!message_matrix_suits(s) || is_at_hand(s, list_of(s, reverse))) return MLFF_OK;
        CUDA_TRY(cudaEventRecord(s->forked, s->stream));
        CUDA_TRY(cudaStreamWaitEvent(s->beside, s->forked, 0));
        s->clusters = list_of(s, reverse);
        MLFF_TRY(clusters_make(s, s->clusters, s->beside, error));
        CUDA_TRY(cudaEventRecord(s->joined, s->beside));
        s->is_forked = 1;
    }
    return MLFF_OK;
}

template <typename T> mlff_status message_matrix_await_list(state<T> *s, mlff_error *error)
{
    if (s->is_forked) CUDA_TRY(cudaStreamWaitEvent(s->stream, s->joined, 0));
    s->is_forked = 0;
    return MLFF_OK;
}

/* The arguments of a layer, with its list of clusters there before the layer runs. */
template <typename T>
static mlff_status arguments_of(state<T> *s, int l, bool reverse, matrix_arguments *a, mlff_error *error)
{
    MLFF_TRY(message_matrix_await_list(s, error));
    if (!is_at_hand(s, list_of(s, reverse))) {
        s->clusters = list_of(s, reverse);
        MLFF_TRY(clusters_make(s, s->clusters, s->stream, error));
    }
    const int rows = s->clusters.n_rows;
    const layer_weights<float> &w = s->w.layer[l];
    *a = {s->N,
          s->w.F,
          (s->N + rows - 1) / rows,
          radial_of(s->w),
          sizeof(T) == sizeof(float) ? w.fragments : w.mixed_fragments,
          sizeof(T) == sizeof(float) ? w.fragment_scale : w.mixed_scale,
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
template mlff_status message_matrix_start_list(state<double> *, bool, mlff_error *);
template mlff_status message_matrix_start_list(state<float> *, bool, mlff_error *);
template mlff_status message_matrix_start_list(state<__half> *, bool, mlff_error *);
template mlff_status message_matrix_await_list(state<double> *, mlff_error *);
template mlff_status message_matrix_await_list(state<float> *, mlff_error *);
template mlff_status message_matrix_await_list(state<__half> *, mlff_error *);
template mlff_status message_matrix_forward(state<float> *, int, mlff_error *);
template mlff_status message_matrix_forward(state<__half> *, int, mlff_error *);
template mlff_status message_matrix_reverse(state<float> *, int, mlff_error *);
template mlff_status message_matrix_reverse(state<__half> *, int, mlff_error *);

} // namespace mlff
