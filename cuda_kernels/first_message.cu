/* SPDX-License-Identifier: MIT */
/*
 * Embedding and first message (docs/equations.md): v = 0 and s depends on the element alone, so nothing is gathered.
 *   A[Z][k] = sum of phi_k, B[Z][k] = sum of phi_k u over neighbours of element Z
 *   s = emb + sum A first_s,  v = sum B first_R;  reverse: A_adj = first_s . s_adj, B_adj = first_R . v_adj
 *
 * Launch   a warp on 4 rows (8 forward where F <= 64), 4 warps a block, no barrier but the warp's. Coefficients [row][Z][K+1][4]
 *          of up to `slots` elements at a time in shared memory. Forward: a lane a function, edges broadcast, sorted by
 *          element; then a lane 4 features of 4 rows: 64 multiply-adds for two loads of weights and 4 of coefficients.
 *          Reverse: a lane a row's F/8 features; then a lane an edge.
 * Cost     F (K+1) 4 multiply-adds a row and element that it sees, each way; 2 (K+1) Gaussians an edge.
 * Bytes    edges 20 an edge, twice; s, v written, their adjoints read.
 * Order    coefficients: 32 edges in ascending order, then these sums in order; s, v: ascending (Z, k); adjoints of
 *          coefficients: the lane's features ascending, a fixed tree over 8 lanes; adjoints of an edge: ascending k.
 */
#include "radial.cuh"

namespace mlff
{

constexpr int WARPS = 4, ROWS = 4; /* ROWS: those whose sums a lane holds in registers */
constexpr int MAX_SLOTS = 4;       /* elements whose coefficients are in shared memory at a time */
constexpr unsigned ALL = 0xffffffffu;

/* Blocks that a multiprocessor shall hold: 128 registers a thread in single where a lane has 16 features (4 QUADS), fewer for
 * fewer. */
template <typename T, int QUADS> constexpr int BLOCKS = sizeof(T) < sizeof(double) ? 8 - QUADS : 2;

template <typename R> struct alignas(4 * sizeof(R)) quad {
    R v[4];
};

template <typename R> struct first_arguments {
    int32_t N;
    int F, functions, slots, n_elements;
    radial_parameters radial;
    const R *embedding, *first_s, *first_R;
    const int64_t *first;
    const int32_t *count, *edge_row, *species;
    const edge<R> *edges;
};

/* ------------------------------------------------------------------------------------------ four values */

template <typename R> __device__ inline quad<R> load_four(const R *from)
{
    return *(const quad<R> *)from;
}

__device__ inline quad<float> load_four(const __half *from)
{
    const uint2 bits = *(const uint2 *)from;
    const float2 low = __half22float2(*(const __half2 *)&bits.x), high = __half22float2(*(const __half2 *)&bits.y);
    return {{low.x, low.y, high.x, high.y}};
}

template <typename R> __device__ inline void store_four(R *to, const quad<R> &x)
{
    *(quad<R> *)to = x;
}

__device__ inline void store_four(__half *to, const quad<float> &x)
{
    const __half2 low = __floats2half2_rn(x.v[0], x.v[1]), high = __floats2half2_rn(x.v[2], x.v[3]);
    *(uint2 *)to = make_uint2(*(const unsigned *)&low, *(const unsigned *)&high);
}

/* ------------------------------------------------------------------------------------- radial functions */

/* Here exp(-z^2/2) is 2^-(z c)^2 with c = sqrt(log2(e)/2): one instruction in single. */
__device__ inline float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline double power_of_two(double x)
{
    return exp2(x);
}

/* sin and cos of pi x: their arguments need no reduction by pi, whose slow path for huge ones costs registers. */
__device__ inline void sine_cosine_of_pi(float x, float *s, float *c)
{
    sincospif(x, s, c);
}

__device__ inline void sine_cosine_of_pi(double x, double *s, double *c)
{
    sincospi(x, s, c);
}

/* fc and dfc/dd */
template <typename R> __device__ inline void cutoff_of(R d, double cutoff, R *fc, R *dfc)
{
    const R inverse = R(1 / cutoff);
    R s, c;
    sine_cosine_of_pi(d * inverse, &s, &c);
    *fc = R(0.5) * (c + 1);
    *dfc = R(-0.5 * 3.14159265358979323846) * inverse * s;
}

/* Function k as a lane needs it. Gaussian: x = centre, y = c/width, where function K, the bias, is 1 = 2^0. Bessel: frequency/pi
 * = x + y. */
template <typename R> struct function {
    R x, y;
};

template <typename R> __device__ inline void fill_functions(const radial_parameters &p, function<R> *functions)
{
    const double c = 0.84932180028801904, pi = 3.14159265358979323846;
    for (int k = threadIdx.x; k <= p.K; k += blockDim.x) {
        const double centre = k < p.K ? p.centre[k] : 0, x = p.gaussian ? centre : centre / pi;
        functions[k] = {R(x), k == p.K ? R(0) : p.gaussian ? R(c * p.inverse_width[k]) : R(x - (double)R(x))};
    }
    __syncthreads();
}

/* rbf_k and, where `slope` is wanted, -drbf_k/dd / (2 ln 2) for Gaussians, drbf_k/dd for the others */
template <bool GAUSSIAN, typename R> __device__ inline R radial_value(const function<R> &f, R d, bool is_bias, R *slope)
{
    if (GAUSSIAN) {
        const R z = (d - f.x) * f.y, rbf = power_of_two(-z * z);
        *slope = z * f.y * rbf;
        return rbf;
    }
    const R pi = R(3.14159265358979323846), x = f.x * d, lost = pi * (fma(f.x, d, -x) + f.y * d);
    R s, c; /* what rounding took from the argument, up to 2^-19 of a period, by the first derivative */
    sine_cosine_of_pi(x, &s, &c);
    const R sine = s + lost * c, cosine = c - lost * s, rbf = is_bias ? R(1) : sine / d;
    *slope = is_bias ? R(0) : (pi * f.x * cosine - rbf) / d;
    return rbf;
}

/* ---------------------------------------------------------------------------------------------- elements */

/* Which of the elements z0 .. z0 + 31 the edges of rows base .. base + rows - 1 lead to; all of a model with few. */
template <typename R>
__device__ inline unsigned elements_seen(const first_arguments<R> &a, int64_t base, int rows, int z0, int lane)
{
    if (a.n_elements <= a.slots) return (1u << a.n_elements) - 1;
    unsigned seen = 0;
    for (int r = 0; r < rows && base + r < a.N; r++) {
        const int64_t first = a.first[base + r];
        for (int e = lane; e < a.count[base + r]; e += 32) {
            const int z = a.species[a.edge_row[first + e]] - z0;
            if (z >= 0 && z < 32) seen |= 1u << z;
        }
    }
    return __reduce_or_sync(ALL, seen);
}

/* The lowest `slots` of the elements left; takes them away. */
__device__ inline unsigned next_elements(unsigned &left, int slots)
{
    unsigned taken = 0;
    for (int q = 0; q < slots; q++) taken |= (left & ~taken) & -(left & ~taken);
    left &= ~taken;
    return taken;
}

/* Place of element z among those of a pass, -1 if it is not one of them. */
__device__ inline int slot_of(int z, unsigned pass)
{
    return z >= 0 && z < 32 && (pass >> z & 1) ? __popc(pass & ((1u << z) - 1)) : -1;
}

/* ---------------------------------------------------------------------------------------------- forward */

/* Up to 32 edges of a row as its lanes read them, sorted by element. Each element begins at a multiple of 4, so that four edges
 * are worked on at once; weights are 0 in between. */
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
    cutoff_of(r.d, a.radial.cutoff, &fc, &dfc);
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

/* Coefficients [rows][slots][K+1] of rows base .. base + rows - 1. The next edges are on their way while a lane works: one row
 * after another waiting for its own took half of the time. */
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
        const quad<R> *c[ROWS]; /* pointers that move: an address from k and the row took a third of the time */
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
__global__ void __launch_bounds__(WARPS * 32, BLOCKS<T, 4>)
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

/* One exchange of transposed_sum: lanes with the bit HALF keep the upper HALF values. */
template <int HALF, typename R> __device__ inline void exchange_halves(R (&value)[8], int g)
{
    const bool upper = g & HALF;
#pragma unroll
    for (int q = 0; q < HALF; q++) {
        const R keep = upper ? value[q + HALF] : value[q], send = upper ? value[q] : value[q + HALF];
        value[q] = keep + __shfl_xor_sync(ALL, send, HALF);
    }
}

/* Sums 8 values over 8 lanes in 7 exchanges; lane g of them returns the sum of value g. */
template <typename R> __device__ inline R transposed_sum(R (&value)[8], int g)
{
    exchange_halves<4>(value, g);
    exchange_halves<2>(value, g);
    exchange_halves<1>(value, g);
    return value[0];
}

/* Adjoints of coefficients from features f0 .. f0 + 32 QUADS - 1 of the lane's row; two functions at a time. EXACT: none of
 * these features is beyond the last. */
template <typename T, int QUADS, bool EXACT>
__device__ inline void add_coefficient_adjoints(const first_arguments<real<T>> &a, int64_t row, int f0, const T *adj,
                                                int z0, unsigned pass, quad<real<T>> *coefficient, int g)
{
    typedef real<T> R;
    const int F = a.F;
    quad<R> x[4][QUADS];
    int from[QUADS];
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const int f = f0 + 32 * j + 4 * g;
        from[j] = EXACT || f < F ? 32 * j : -f0 - 4 * g; /* beyond: the first, times 0 */
#pragma unroll
        for (int c = 0; c < 4; c++)
            x[c][j] = row < a.N && (EXACT || f < F) ? load_four(adj + (row * 4 + c) * F + f) : quad<R>{};
    }
    for (int t = 0; pass; t++, pass &= pass - 1) {
        const size_t weights = (size_t)(z0 + __ffs(pass) - 1) * a.functions * F + f0 + 4 * g;
        const R *first_s = a.first_s + weights, *first_R = a.first_R + weights;
        for (int k = 0; k < a.functions; k += 2) {
            R sums[8] = {};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int function = min(k + half, a.functions - 1) * F;
#pragma unroll
                for (int j = 0; j < QUADS; j++) {
                    const quad<R> w_s = load_four(first_s + function + from[j]),
                                  w_R = load_four(first_R + function + from[j]);
#pragma unroll
                    for (int q = 0; q < 4; q++) {
                        sums[4 * half] += w_s.v[q] * x[0][j].v[q];
#pragma unroll
                        for (int c = 1; c < 4; c++) sums[4 * half + c] += w_R.v[q] * x[c][j].v[q];
                    }
                }
            }
            const R sum = transposed_sum(sums, g) * (1 / adjoint_scale<T>);
            if (k + g / 4 >= a.functions) continue;
            R *to = &coefficient[t * a.functions + k + g / 4].v[g % 4];
            *to = f0 ? *to + sum : sum;
        }
    }
}

/* Adds to the adjoints of an edge; coefficient [K+1] of its row and element. */
template <bool GAUSSIAN, typename R>
__device__ inline void add_edge_adjoint(const radial_parameters &p, const edge<R> &r, const function<R> *functions,
                                        const quad<R> *coefficient, edge_adjoint<R> &out)
{
    R fc, dfc, sum = 0, slopes = 0, u_adj[3] = {0, 0, 0};
    cutoff_of(r.d, p.cutoff, &fc, &dfc);
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

/* Edge q of rows base, base + 1, ... of which lanes 0 .. ROWS - 1 know the first edge and how many edges stand before it. */
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

/* A lane an edge of the warp's rows, one row after another, whose element is one of the pass; the next edges are on their way
 * meanwhile. */
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

/* Shared: functions [K+1]; for each warp coefficients [ROWS][slots][K+1]. A row has 8 lanes, a lane 4 QUADS features. */
template <typename T, bool GAUSSIAN, int QUADS, bool EXACT>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS<T, QUADS>)
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
            for (int f0 = 0; f0 < a.F; f0 += 32 * QUADS)
                add_coefficient_adjoints<T, QUADS, EXACT>(a, base + lane / 8, f0, adj, z0, pass,
                                                          coefficient + lane / 8 * stride, lane % 8);
            __syncwarp();
            add_edge_adjoints<GAUSSIAN>(a, base, z0, pass, functions, coefficient, edge_adj, lane);
        }
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

/* Elements at a time: as many as the model has, at most 4, fewer where shared memory (bytes an element in a block) asks it. */
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
    const cudaError_t code = !gaussian      ? launch_reverse<T, false, 4, false>(s)
                             : F == 64      ? launch_reverse<T, true, 2, true>(s)
                             : F == 96      ? launch_reverse<T, true, 3, true>(s)
                             : F % 128 == 0 ? launch_reverse<T, true, 4, true>(s)
                                            : launch_reverse<T, true, 4, false>(s);
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
