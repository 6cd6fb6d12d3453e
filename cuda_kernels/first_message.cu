/* SPDX-License-Identifier: MIT */
/*
 * Embedding and first message (docs/equations.md): v = 0 and s depends on the element alone, so nothing is gathered.
 *   A[Z][k] = sum of phi_k, B[Z][k] = sum of phi_k u over neighbours of element Z
 *   s = emb + sum A first_s,  v = sum B first_R;  reverse: A_adj = first_s . s_adj, B_adj = first_R . v_adj
 *
 * Launch   a block of 128 threads a row; coefficients [Z][K+1][4] of up to 4 elements at a time in shared memory.
 * Cost     8 F (K+1) multiply-adds a row and element that it sees.
 * Order    coefficients: ascending edge; s, v: ascending (Z, k); adjoints of coefficients: a fixed tree over features.
 */
#include "radial.cuh"

namespace mlff
{

constexpr int THREADS = 128;
constexpr int CHUNK = 32;   /* edges whose radial functions are in shared memory at a time */
constexpr int ELEMENTS = 4; /* elements whose coefficients are made in one pass over the edges */

template <typename T> struct first_arguments {
    int32_t N;
    int F, n_elements;
    radial_parameters radial;
    const T *embedding, *first_s, *first_R;
    const int64_t *first;
    const int32_t *count, *edge_row, *species;
    const edge<T> *edges;
};

template <typename T> first_arguments<T> arguments_of(const state<T> *s)
{
    return {s->N,         s->w.F,   s->w.n_elements, radial_of(s->w), s->w.embedding, s->w.first_s,
            s->w.first_R, s->first, s->count,        s->edge_row,     s->species,     s->edges};
}

/* ---------------------------------------------------------------------------------------------- kernels */

/* Coefficients [ELEMENTS][K+1][4] of elements z0, z0 + 1, ...; returns whether the row sees any of them. */
template <typename T>
__device__ inline bool make_coefficients(const first_arguments<T> &a, int64_t first, int edges, int z0, T *phi,
                                         edge<T> *geometry, int32_t *element, T *coefficient)
{
    const int functions = a.radial.K + 1, thread = threadIdx.x;
    int seen = 0;
    for (int q = thread; q < ELEMENTS * functions * 4; q += THREADS) coefficient[q] = 0;
    for (int base = 0; base < edges; base += CHUNK) {
        const int n = min(CHUNK, edges - base);
        __syncthreads();
        if (thread < n) {
            geometry[thread] = a.edges[first + base + thread];
            element[thread] = a.species[a.edge_row[first + base + thread]] - z0;
            seen |= element[thread] >= 0 && element[thread] < ELEMENTS;
        }
        __syncthreads();
        for (int q = thread; q < n * functions; q += THREADS) {
            T fc, dfc, unused;
            cutoff_function(a.radial, geometry[q / functions].d, &fc, &dfc);
            radial_function(a.radial, geometry[q / functions].d, fc, dfc, q % functions, &phi[q], &unused);
        }
        __syncthreads();
        for (int q = thread; q < functions * 4; q += THREADS) { /* a thread a function and component, all elements */
            T total[ELEMENTS] = {};
            for (int e = 0; e < n; e++) {
                const T value = phi[e * functions + q / 4] * (q % 4 ? geometry[e].u[q % 4 - 1] : T(1));
#pragma unroll
                for (int z = 0; z < ELEMENTS; z++) total[z] += element[e] == z ? value : T(0);
            }
#pragma unroll
            for (int z = 0; z < ELEMENTS; z++) coefficient[z * functions * 4 + q] += total[z];
        }
    }
    return __syncthreads_or(seen);
}

template <typename T> __global__ void __launch_bounds__(THREADS) first_message_kernel(first_arguments<T> a, T *s, T *v)
{
    extern __shared__ __align__(16) char shared[];
    const int functions = a.radial.K + 1, F = a.F, thread = threadIdx.x;
    T *phi = (T *)shared;                     /* [CHUNK][K+1] */
    T *coefficient = phi + CHUNK * functions; /* [ELEMENTS][K+1][4] */
    __shared__ edge<T> geometry[CHUNK];
    __shared__ int32_t element[CHUNK];
    const int row = blockIdx.x;
    T sum[2], vector[2][3]; /* features thread and thread + 128: F is at most 256 */
    for (int q = 0; q < 2; q++) {
        const int f = thread + q * THREADS;
        sum[q] = f < F ? a.embedding[(size_t)a.species[row] * F + f] : T(0);
        vector[q][0] = vector[q][1] = vector[q][2] = 0;
    }
    for (int z0 = 0; z0 < a.n_elements; z0 += ELEMENTS) {
        if (!make_coefficients(a, a.first[row], a.count[row], z0, phi, geometry, element, coefficient)) continue;
        const int last = min(ELEMENTS, a.n_elements - z0) * functions;
        for (int q = 0; q < 2; q++) {
            const int f = thread + q * THREADS;
            if (f >= F) continue;
            const size_t weights = (size_t)z0 * functions * F + f;
#pragma unroll 4
            for (int k = 0; k < last; k++) { /* (Z, k) as one index */
                const T R = a.first_R[weights + (size_t)k * F];
                sum[q] += coefficient[4 * k] * a.first_s[weights + (size_t)k * F];
                for (int c = 0; c < 3; c++) vector[q][c] += coefficient[4 * k + 1 + c] * R;
            }
        }
        __syncthreads();
    }
    for (int q = 0; q < 2; q++) {
        const int f = thread + q * THREADS;
        if (f >= F) continue;
        s[(size_t)row * F + f] = sum[q];
        for (int c = 0; c < 3; c++) v[((size_t)row * 3 + c) * F + f] = vector[q][c];
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    first_message_reverse_kernel(first_arguments<T> a, const T *__restrict__ adj, edge_adjoint<T> *edge_adj)
{
    extern __shared__ __align__(16) char shared[];
    const int functions = a.radial.K + 1, F = a.F, thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    T *coefficient_adj = (T *)shared;             /* [K+1][4] of one element */
    T *row_adj = coefficient_adj + functions * 4; /* [4][F] */
    const int row = blockIdx.x;
    const int64_t first = a.first[row];
    const int edges = a.count[row];
    for (int q = thread; q < 4 * F; q += THREADS) row_adj[q] = adj[(size_t)row * 4 * F + q];
    for (int z = 0; z < a.n_elements; z++) {
        int seen = 0;
        for (int e = thread; e < edges; e += THREADS) seen |= a.species[a.edge_row[first + e]] == z;
        if (!__syncthreads_or(seen)) continue;
        for (int k = warp; k < functions; k += THREADS / 32) { /* a warp a function: four dot products over features */
            const size_t weights = ((size_t)z * functions + k) * F;
            T sums[4] = {0, 0, 0, 0};
            for (int f = lane; f < F; f += 32) {
                const T R = a.first_R[weights + f];
                sums[0] += a.first_s[weights + f] * row_adj[f];
                for (int c = 1; c < 4; c++) sums[c] += R * row_adj[c * F + f];
            }
            for (int c = 0; c < 4; c++) {
                for (int half = 16; half > 0; half /= 2) sums[c] += __shfl_xor_sync(0xffffffffu, sums[c], half);
                if (lane == 0) coefficient_adj[4 * k + c] = sums[c];
            }
        }
        __syncthreads();
        for (int e = thread; e < edges; e += THREADS) {
            if (a.species[a.edge_row[first + e]] != z) continue;
            const edge<T> r = a.edges[first + e];
            T fc, dfc, d_adj = 0, u_adj[3] = {0, 0, 0};
            cutoff_function(a.radial, r.d, &fc, &dfc);
            for (int k = 0; k < functions; k++) {
                T phi, dphi;
                radial_function(a.radial, r.d, fc, dfc, k, &phi, &dphi);
                const T *c = coefficient_adj + 4 * k;
                d_adj += dphi * (c[0] + c[1] * r.u[0] + c[2] * r.u[1] + c[3] * r.u[2]);
                for (int q = 0; q < 3; q++) u_adj[q] += phi * c[1 + q];
            }
            edge_adjoint<T> out = edge_adj[first + e];
            out.d += d_adj;
            for (int q = 0; q < 3; q++) out.u[q] += u_adj[q];
            edge_adj[first + e] = out;
        }
        __syncthreads();
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

template <typename T> mlff_status first_message_forward(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const size_t shared = ((size_t)CHUNK + 4 * ELEMENTS) * (s->w.K + 1) * sizeof(T);
    first_message_kernel<<<s->N, THREADS, shared, s->stream>>>(arguments_of(s), s->s, s->v_mid);
    CUDA_TRY_LAUNCH("first message");
    return MLFF_OK;
}

template <typename T> mlff_status first_message_reverse(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const size_t shared = ((size_t)(s->w.K + 1) * 4 + 4 * s->w.F) * sizeof(T);
    first_message_reverse_kernel<<<s->N, THREADS, shared, s->stream>>>(arguments_of(s), s->adj, s->edge_adj);
    CUDA_TRY_LAUNCH("first message, reverse");
    return MLFF_OK;
}

template mlff_status first_message_forward(state<float> *, mlff_error *);
template mlff_status first_message_forward(state<double> *, mlff_error *);
template mlff_status first_message_reverse(state<float> *, mlff_error *);
template mlff_status first_message_reverse(state<double> *, mlff_error *);

} // namespace mlff
