/* SPDX-License-Identifier: MIT */
/*
 * Embedding and first message (docs/equations.md): v = 0 and s depends on the element alone, so nothing is gathered.
 *   A[Z][k] = sum of phi_k, B[Z][k] = sum of phi_k u over neighbours of element Z
 *   s = emb + sum A first_s,  v = sum B first_R;  reverse: A_adj = first_s . s_adj, B_adj = first_R . v_adj
 *
 * Launch   a warp on 4 rows (8 forward where F <= 64), 4 warps a block, no barrier but the warp's. Coefficients
 *          [row][Z][K+1][4] of up to `slots` elements at a time in shared memory. Forward: a lane a function, edges
 *          broadcast, sorted by element; then a lane 4 features of 4 rows: 64 multiply-adds for two loads of weights
 *          and 4 of coefficients. Reverse: a lane 8 features of two rows; then a lane an edge of the four.
 * Cost     F (K+1) 4 multiply-adds a row and element that it sees, each way; 2 (K+1) Gaussians an edge.
 * Bytes    forward: edges 20 each, s, v written; reverse: edges 20 each, their adjoints 32, adjoints of s, v read.
 * Share    2.9 and 3.9 ns an atom (single, F = 128, K = 20, 2 elements, 53 neighbours; H200, driver 580.159.04, CUDA
 *          13.0, 2026-11-21): 71 and 55 % of the issue slots, 59 and 47 % of L1, 21 and 24 % of DRAM; the
 *          multiply-adds with F alone are 0.65 ns each. In double 9.9 and 12 ns.
 * Order    coefficients: 32 edges in ascending order, then these sums in order; s, v: ascending (Z, k); adjoints of
 *          coefficients: the lane's features ascending, a fixed tree over 16 lanes; adjoints of an edge: ascending k.
 */
#include "first_message.cuh"

namespace mlff
{

/* ---------------------------------------------------------------------------------------------- forward */

/* Up to 32 edges of a row as its lanes read them, sorted by element. Each element begins at a multiple of 4, so that
 * four edges are worked on at once; weights are 0 in between. */
constexpr int STAGE = 32 + 4 * MAX_SLOTS;
template <typename R> struct edge_stage {
    quad<R> weight[STAGE]; /* fc, fc u */
    quad<R> d[STAGE / 4];
};

/* An edge and the row it leads to as a lane loads them ahead of their use; row -1: none. */
template <typename R> struct edge_ahead {
    edge<R> r;
    int32_t row;
};

template <typename R>
__device__ inline edge_ahead<R> load_ahead(const first_arguments<R> &a, int64_t first, int e, int edges)
{
    return e < edges ? edge_ahead<R>{a.edges[first + e], a.edge_row[first + e]} : edge_ahead<R>{{{0, 0, 0}, 1}, -1};
}

/* Adds the coefficients of up to 32 edges of a row, a lane an edge, to its [slots][K+1]. */
template <bool GAUSSIAN, typename R>
__device__ inline void add_coefficients(const first_arguments<R> &a, const edge<R> &r, int slot,
                                        const function<R> *functions, edge_stage<R> &stage, quad<R> *coefficient,
                                        int lane)
{
    R fc, dfc;
    cutoff_function(a.radial, r.d, &fc, &dfc);
    int n = 0, place = 0, end[MAX_SLOTS];
#pragma unroll
    for (int t = 0; t < MAX_SLOTS; t++) {
        if (t < a.slots) {
            const unsigned here = __ballot_sync(ALL, slot == t);
            if (slot == t) place = n + __popc(here & ((1u << lane) - 1));
            n = (n + __popc(here) + 3) & ~3;
        }
        end[t] = n;
    }
    __syncwarp(); /* the edges before are done with */
    for (int q = lane; q < n; q += 32) stage.weight[q] = {};
    __syncwarp();
    if (slot >= 0) {
        stage.weight[place] = {{fc, fc * r.u[0], fc * r.u[1], fc * r.u[2]}};
        stage.d[place / 4].v[place % 4] = r.d;
    }
    __syncwarp();
    for (int k = lane; k < a.functions; k += 32) {
        const function<R> f = functions[k];
        int e = 0;
#pragma unroll
        for (int t = 0; t < MAX_SLOTS; t++) {
            if (e == end[t]) continue;
            quad<R> sum = coefficient[t * a.functions + k];
            for (; e < end[t]; e += 4) {
                const quad<R> d = stage.d[e / 4];
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    R unused;
                    const R rbf = radial_value<GAUSSIAN>(f, d.v[q], k == a.radial.K, &unused);
                    const quad<R> weight = stage.weight[e + q];
#pragma unroll
                    for (int c = 0; c < 4; c++) sum.v[c] += rbf * weight.v[c];
                }
            }
            coefficient[t * a.functions + k] = sum;
        }
    }
}

/* Coefficients [rows][slots][K+1] of rows base .. base + rows - 1. The next edges are on their way meanwhile. */
template <bool GAUSSIAN, typename R>
__device__ inline void make_coefficients(const first_arguments<R> &a, int64_t base, int rows, int z0, unsigned pass,
                                         const function<R> *functions, edge_stage<R> &stage, quad<R> *coefficient,
                                         int lane)
{
    const int stride = a.slots * a.functions;
    const bool has_row = lane < rows && base + lane < a.N;
    const int64_t first_of_lane = has_row ? a.first[base + lane] : 0;
    const int edges_of_lane = has_row ? a.count[base + lane] : 0;
    for (int q = lane; q < rows * stride; q += 32) coefficient[q] = {};
    for (int q = lane; q < STAGE; q += 32) stage.d[q / 4].v[q % 4] = 1; /* a distance wherever there is no edge */
    edge_ahead<R> next = load_ahead(a, __shfl_sync(ALL, first_of_lane, 0), lane, __shfl_sync(ALL, edges_of_lane, 0));
    int r = 0, from = 0, slot = next.row < 0 ? -1 : slot_of(a.species[next.row] - z0, pass);
    while (r < rows) {
        const edge<R> now = next.r;
        quad<R> *to = coefficient + r * stride;
        from += 32;
        if (from >= __shfl_sync(ALL, edges_of_lane, r)) r++, from = 0;
        const int64_t first = __shfl_sync(ALL, first_of_lane, r & 31);
        const int edges = __shfl_sync(ALL, edges_of_lane, r & 31);
        next = load_ahead(a, first, from + lane, r < rows ? edges : 0);
        add_coefficients<GAUSSIAN>(a, now, slot, functions, stage, to, lane);
        slot = next.row < 0 ? -1 : slot_of(a.species[next.row] - z0, pass);
    }
}

/* sum[r][0] += A first_s, sum[r][1..3] += B first_R of ROWS rows and four features from f on */
template <typename R>
__device__ inline void add_products(const first_arguments<R> &a, int z0, unsigned pass, const quad<R> *coefficient,
                                    int f, quad<R> (&sum)[ROWS][4])
{
    const int stride = a.slots * a.functions;
    for (; pass; pass &= pass - 1, coefficient += a.functions) {
        const size_t weights = (size_t)(z0 + __ffs(pass) - 1) * a.functions * a.F + f;
        const R *first_s = a.first_s + weights, *first_R = a.first_R + weights;
        const quad<R> *c[ROWS]; /* they move: addresses made from k and the row were a third of the instructions */
#pragma unroll
        for (int r = 0; r < ROWS; r++) c[r] = coefficient + r * stride;
#pragma unroll 3
        for (int k = a.functions; k > 0; k--) {
            const quad<R> w_s = load_four(first_s), w_R = load_four(first_R);
            first_s += a.F, first_R += a.F;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const quad<R> x = *c[r]++;
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    sum[r][0].v[q] += x.v[0] * w_s.v[q];
                    sum[r][1].v[q] += x.v[1] * w_R.v[q];
                    sum[r][2].v[q] += x.v[2] * w_R.v[q];
                    sum[r][3].v[q] += x.v[3] * w_R.v[q];
                }
            }
        }
    }
}

/* Shared: functions [K+1]; for each warp a stage and coefficients [GROUPS * ROWS][slots][K+1]. GROUPS of lanes work on
 * different rows. */
template <typename T, bool GAUSSIAN, int GROUPS>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS<T, 64>)
    first_message_kernel(first_arguments<real<T>> a, real<T> *s, T *v)
{
    typedef real<T> R;
    extern __shared__ __align__(32) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, F = a.F;
    auto *stage = (edge_stage<R> *)shared + warp;
    quad<R> *coefficient =
        (quad<R> *)((edge_stage<R> *)shared + WARPS) + (size_t)warp * GROUPS * ROWS * a.slots * a.functions;
    auto *functions = (function<R> *)((quad<R> *)((edge_stage<R> *)shared + WARPS) +
                                      (size_t)WARPS * GROUPS * ROWS * a.slots * a.functions);
    fill_functions(a.radial, functions);
    const int64_t base = ((int64_t)blockIdx.x * WARPS + warp) * GROUPS * ROWS;
    constexpr int LANES = 32 / GROUPS;
    const int group = lane / LANES;
    if (base >= a.N) return;
    for (int turn = 0; turn < F; turn += 4 * LANES) {
        const int f = turn + 4 * (lane % LANES), from = f < F ? f : 0;
        quad<R> sum[ROWS][4] = {};
        for (int z0 = 0; z0 < a.n_elements; z0 += 32) {
            unsigned left = elements_seen(a, base, GROUPS * ROWS, z0, lane);
            while (left) {
                const unsigned pass = next_elements(left, a.slots);
                __syncwarp();                            /* the coefficients before are done with */
                if (turn == 0 || a.n_elements > a.slots) /* else they are still there */
                    make_coefficients<GAUSSIAN>(a, base, GROUPS * ROWS, z0, pass, functions, *stage, coefficient, lane);
                __syncwarp();
                add_products(a, z0, pass, coefficient + group * ROWS * a.slots * a.functions, from, sum);
            }
        }
        if (f >= F) continue;
        for (int r = 0; r < ROWS; r++) {
            const int64_t row = base + group * ROWS + r;
            if (row >= a.N) break;
            const quad<R> embedding = load_four(a.embedding + (size_t)a.species[row] * F + f);
#pragma unroll
            for (int q = 0; q < 4; q++) sum[r][0].v[q] += embedding.v[q];
            store_four(s + row * F + f, sum[r][0]);
            for (int c = 0; c < 3; c++) store_four(v + (row * 3 + c) * F + f, sum[r][1 + c]);
        }
    }
}

/* ---------------------------------------------------------------------------------------------- reverse */

/* One exchange of sum_over_lanes: lanes with the bit HALF keep the upper HALF values. */
template <int HALF, typename R> __device__ inline void exchange_halves(R (&value)[8], int g)
{
    const bool upper = g & HALF;
#pragma unroll
    for (int q = 0; q < HALF; q++) {
        const R keep = upper ? value[q + HALF] : value[q], send = upper ? value[q] : value[q + HALF];
        value[q] = keep + __shfl_xor_sync(ALL, send, HALF);
    }
}

/* Sums 8 values over 16 lanes in 8 exchanges; lanes g and g + 8 of them return the sum of value g. */
template <typename R> __device__ inline R sum_over_lanes(R (&value)[8], int g)
{
    exchange_halves<4>(value, g);
    exchange_halves<2>(value, g);
    exchange_halves<1>(value, g);
    return value[0] + __shfl_xor_sync(ALL, value[0], 8);
}

/* Adjoints of the coefficients [slots][K+1] of two rows, from features f0 .. f0 + 64 QUADS - 1; lane g of 16. EXACT:
 * none of these features is beyond the last. */
template <typename T, int QUADS, bool EXACT>
__device__ inline void add_coefficient_adjoints(const first_arguments<real<T>> &a, int64_t row, int f0, const T *adj,
                                                int z0, unsigned pass, quad<real<T>> *coefficient, int g)
{
    typedef real<T> R;
    const int F = a.F, stride = a.slots * a.functions;
    quad<R> x[2][4][QUADS]; /* s_adj, v_adj of each row */
    int from[QUADS];
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const int f = f0 + 64 * j + 4 * g;
        from[j] = EXACT || f < F ? 64 * j : -f0 - 4 * g; /* beyond: the first, times 0 */
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                x[r][c][j] = row + r < a.N && (EXACT || f < F)
                                 ? load_four(adj + (row + r) * 4 * F + sliced(4, f) + c * SLICE)
                                 : quad<R>{};
    }
    for (; pass; pass &= pass - 1, coefficient += a.functions) {
        const size_t weights = (size_t)(z0 + __ffs(pass) - 1) * a.functions * F + f0 + 4 * g;
        const R *first_s = a.first_s + weights, *first_R = a.first_R + weights;
        R *to = coefficient[g % 8 / 4 * stride].v + g % 4;
#pragma unroll 2
        for (int k = a.functions; k > 0; k--, first_s += F, first_R += F, to += 4) {
            R sums[8] = {}; /* [row][A_adj, B_adj] */
#pragma unroll
            for (int j = 0; j < QUADS; j++) {
                const quad<R> w_s = load_four(first_s + from[j]), w_R = load_four(first_R + from[j]);
#pragma unroll
                for (int q = 0; q < 4; q++)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        sums[4 * r] += w_s.v[q] * x[r][0][j].v[q];
#pragma unroll
                        for (int c = 1; c < 4; c++) sums[4 * r + c] += w_R.v[q] * x[r][c][j].v[q];
                    }
            }
            const R sum = sum_over_lanes(sums, g) * (1 / adjoint_scale<T>);
            if (g < 8) *to = f0 ? *to + sum : sum;
        }
    }
}

/* Adds to the adjoints of an edge; coefficient [K+1] of its row and element. */
template <bool GAUSSIAN, typename R>
__device__ inline void add_edge_adjoint(const radial_parameters &p, const edge<R> &r, const function<R> *functions,
                                        const quad<R> *coefficient, edge_adjoint<R> &out)
{
    R fc, dfc, sum = 0, slopes = 0, u_adj[3] = {0, 0, 0};
    cutoff_function(p, r.d, &fc, &dfc);
#pragma unroll 3
    for (int k = 0; k <= p.K; k++) {
        R slope;
        const R rbf = radial_value<GAUSSIAN>(functions[k], r.d, k == p.K, &slope);
        const quad<R> c = coefficient[k];
        const R total = c.v[0] + c.v[1] * r.u[0] + c.v[2] * r.u[1] + c.v[3] * r.u[2];
        sum += rbf * total;
        slopes += slope * total;
#pragma unroll
        for (int q = 0; q < 3; q++) u_adj[q] += rbf * c.v[1 + q];
    }
    const R unit = GAUSSIAN ? R(-1.3862943611198906) : R(1); /* -2 ln 2, see radial_value */
    out.d += dfc * sum + fc * unit * slopes;
#pragma unroll
    for (int q = 0; q < 3; q++) out.u[q] += fc * u_adj[q];
}

/* Edge q of rows base, base + 1, ... of which lanes 0 .. ROWS - 1 know the first edge and how many edges stand before
 * it. */
template <typename R>
__device__ inline edge_ahead<R> load_ahead_of_rows(const first_arguments<R> &a, int64_t first_of_lane,
                                                   const int (&begin)[ROWS + 1], int q, int *r, int64_t *place)
{
    *r = 0;
#pragma unroll
    for (int row = 1; row < ROWS; row++) *r += q >= begin[row];
    int before = 0;
#pragma unroll
    for (int row = 1; row < ROWS; row++) before = q >= begin[row] ? begin[row] : before;
    *place = __shfl_sync(ALL, first_of_lane, *r) + q - before;
    return load_ahead(a, *place, 0, q < begin[ROWS]);
}

/* A lane an edge of the warp's rows, one row after another, whose element is one of the pass; the next edges are on
 * their way meanwhile. */
template <bool GAUSSIAN, typename R>
__device__ inline void add_edge_adjoints(const first_arguments<R> &a, int64_t base, int z0, unsigned pass,
                                         const function<R> *functions, const quad<R> *coefficient,
                                         edge_adjoint<R> *edge_adj, int lane)
{
    const bool has_row = lane < ROWS && base + lane < a.N;
    const int64_t first_of_lane = has_row ? a.first[base + lane] : 0;
    const int edges_of_lane = has_row ? a.count[base + lane] : 0;
    int begin[ROWS + 1] = {0}, r;
#pragma unroll
    for (int row = 0; row < ROWS; row++) begin[row + 1] = begin[row] + __shfl_sync(ALL, edges_of_lane, row);
    int64_t place;
    edge_ahead<R> next = load_ahead_of_rows(a, first_of_lane, begin, lane, &r, &place);
    int slot = next.row < 0 ? -1 : slot_of(a.species[next.row] - z0, pass);
    for (int q = lane; q - lane < begin[ROWS]; q += 32) {
        const edge<R> now = next.r;
        edge_adjoint<R> *to = edge_adj + place;
        const quad<R> *c = coefficient + (r * a.slots + slot) * a.functions;
        next = load_ahead_of_rows(a, first_of_lane, begin, q + 32, &r, &place);
        if (slot >= 0) {
            edge_adjoint<R> out = *to;
            add_edge_adjoint<GAUSSIAN>(a.radial, now, functions, c, out);
            *to = out;
        }
        slot = next.row < 0 ? -1 : slot_of(a.species[next.row] - z0, pass);
    }
}

/* Shared: functions [K+1]; for each warp coefficients [ROWS][slots][K+1]. Two rows have 16 lanes, a lane 4 QUADS
 * features of both: with one row and 8 lanes there are twice as many loads of weights, and 4.4 ns instead of 3.9. */
template <typename T, bool GAUSSIAN, int QUADS, bool EXACT>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS<T, 32 * QUADS>)
    first_message_reverse_kernel(first_arguments<real<T>> a, const T *__restrict__ adj, edge_adjoint<real<T>> *edge_adj)
{
    typedef real<T> R;
    extern __shared__ __align__(32) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, stride = a.slots * a.functions;
    quad<R> *coefficient = (quad<R> *)shared + (size_t)warp * ROWS * stride;
    auto *functions = (function<R> *)((quad<R> *)shared + (size_t)WARPS * ROWS * stride);
    fill_functions(a.radial, functions);
    const int64_t base = ((int64_t)blockIdx.x * WARPS + warp) * ROWS;
    if (base >= a.N) return;
    for (int z0 = 0; z0 < a.n_elements; z0 += 32) {
        unsigned left = elements_seen(a, base, ROWS, z0, lane);
        while (left) {
            const unsigned pass = next_elements(left, a.slots);
            __syncwarp(); /* the coefficients before are done with */
            for (int f0 = 0; f0 < a.F; f0 += 64 * QUADS)
                add_coefficient_adjoints<T, QUADS, EXACT>(a, base + lane / 16 * 2, f0, adj, z0, pass,
                                                          coefficient + lane / 16 * 2 * stride, lane % 16);
            __syncwarp();
            add_edge_adjoints<GAUSSIAN>(a, base, z0, pass, functions, coefficient, edge_adj, lane);
        }
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

/* Elements at a time: as many as the model has, at most 4, fewer where shared memory (bytes an element in a block)
 * asks it. */
template <typename T> static first_arguments<real<T>> arguments_of(const state<T> *s, size_t bytes_of_slot)
{
    int slots = s->w.n_elements < MAX_SLOTS ? s->w.n_elements : MAX_SLOTS;
    while (slots > 1 && slots * bytes_of_slot > 100 << 10) slots--;
    return {s->N,         s->w.F,       s->w.K + 1, slots,    s->w.n_elements, radial_of(s->w), s->w.embedding,
            s->w.first_s, s->w.first_R, s->first,   s->count, s->edge_row,     s->species,      s->edges};
}

template <typename Kernel> static cudaError_t allow_shared(Kernel kernel, size_t bytes)
{
    return bytes <= 48 << 10 ? cudaSuccess
                             : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

template <typename T, bool GAUSSIAN, int GROUPS> static cudaError_t launch_forward(state<T> *s)
{
    typedef real<T> R;
    const size_t functions = s->w.K + 1, slot = WARPS * GROUPS * ROWS * functions * sizeof(quad<R>);
    const first_arguments<R> a = arguments_of(s, slot);
    const size_t shared = a.slots * slot + WARPS * sizeof(edge_stage<R>) + functions * sizeof(function<R>);
    const auto kernel = first_message_kernel<T, GAUSSIAN, GROUPS>;
    const cudaError_t code = allow_shared(kernel, shared);
    if (code != cudaSuccess) return code;
    const int rows = WARPS * GROUPS * ROWS;
    kernel<<<(unsigned)(((int64_t)s->N + rows - 1) / rows), WARPS * 32, shared, s->stream>>>(a, s->s, s->v_mid);
    return cudaSuccess;
}

template <typename T, bool GAUSSIAN, int QUADS, bool EXACT> static cudaError_t launch_reverse(state<T> *s)
{
    typedef real<T> R;
    const size_t functions = s->w.K + 1, slot = WARPS * ROWS * functions * sizeof(quad<R>);
    const first_arguments<R> a = arguments_of(s, slot);
    const size_t shared = a.slots * slot + functions * sizeof(function<R>);
    const auto kernel = first_message_reverse_kernel<T, GAUSSIAN, QUADS, EXACT>;
    const cudaError_t code = allow_shared(kernel, shared);
    if (code != cudaSuccess) return code;
    const int rows = WARPS * ROWS;
    kernel<<<(unsigned)(((int64_t)s->N + rows - 1) / rows), WARPS * 32, shared, s->stream>>>(a, s->adj, s->edge_adj);
    return cudaSuccess;
}

template <typename T> mlff_status first_message_forward(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const bool gaussian = s->w.radial == RADIAL_GAUSSIAN, narrow = s->w.F <= 64;
    const cudaError_t code = gaussian && narrow ? launch_forward<T, true, 2>(s)
                             : gaussian         ? launch_forward<T, true, 1>(s)
                             : narrow           ? launch_forward<T, false, 2>(s)
                                                : launch_forward<T, false, 1>(s);
    CUDA_TRY(code);
    CUDA_TRY_LAUNCH("first message");
    return MLFF_OK;
}

template <typename T> mlff_status first_message_reverse(state<T> *s, mlff_error *error)
{
    if (s->N == 0) return MLFF_OK;
    const bool gaussian = s->w.radial == RADIAL_GAUSSIAN;
    const int F = s->w.F;
    const cudaError_t code = !gaussian      ? launch_reverse<T, false, 2, false>(s)
                             : F == 64      ? launch_reverse<T, true, 1, true>(s)
                             : F % 128 == 0 ? launch_reverse<T, true, 2, true>(s)
                                            : launch_reverse<T, true, 2, false>(s);
    CUDA_TRY(code);
    CUDA_TRY_LAUNCH("first message, reverse");
    return MLFF_OK;
}

template mlff_status first_message_forward(state<float> *, mlff_error *);
template mlff_status first_message_forward(state<double> *, mlff_error *);
template mlff_status first_message_forward(state<__half> *, mlff_error *);
template mlff_status first_message_reverse(state<float> *, mlff_error *);
template mlff_status first_message_reverse(state<double> *, mlff_error *);
template mlff_status first_message_reverse(state<__half> *, mlff_error *);

} // namespace mlff
