/* SPDX-License-Identifier: MIT */
/*
 * Message of interactions l >= 1 in single, filters through the matrix units (docs/equations.md); message.cu has the plain
 * kernels for double and for the sizes that do not fit here (F > 128 or K > 20).
 *
 * Filter   W [16 edges x 16 features] of a warp = phi [16 x 21] times weights [21 x 16]. Numbers are split into two halves
 *          of 11 bits, a = hi + lo; the products hi hi, lo hi, hi lo of 21 functions fill 63 of 64 inputs, four steps of
 *          m16n8k16. The order of inputs and columns is free: lane 4g + t makes the five functions whose halves it holds,
 *          and its four columns are neighbours in memory (16-byte gathers).
 * Launch   a block of F/16 warps works on as many neighbouring rows (half as many in reverse) at a time: warps make the
 *          radial fragments of one row each in shared memory, then each warp streams over all of them with its 16
 *          features' weights in registers. All blocks move through the atoms together, so that what they gather is in L2:
 *          with a stretch of atoms for each block of its own half of it comes from DRAM (39 ns an atom instead of 26).
 * Cost     192 (forward), 384 (reverse) matrix instructions for 16 edges; gathers of 5F and 4F values.
 * Order    sums over edges: tiles of 16, within one a fixed tree; sums over features: the lane's four, the row's four
 *          lanes, the warps in order.
 */
#include "launch.cuh"
#include "message_matrix.cuh"
#include "mma.cuh"

#include <cuda_fp16.h>

namespace mlff
{

constexpr int MATRIX_K = 20, STEPS = 4, TILES = 4, PASS_EDGES = 16 * TILES; /* a pass: up to 64 edges of each row */

struct matrix_arguments {
    int32_t N;
    int F;
    radial_parameters radial;
    const uint2 *fragments; /* [F/16][3][2][STEPS][32] */
    float scale;            /* of W: the weights in the fragments are multiplied by 1/scale */
    const int64_t *first;
    const int32_t *count, *edge_row;
    const edge<float> *edges;
};

__device__ inline uint32_t pack(__half low, __half high)
{
    return (uint32_t)__half_as_ushort(low) | (uint32_t)__half_as_ushort(high) << 16;
}

__device__ inline void mma_half(float (&c)[4], const uint4 &a, const uint2 &b)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

/* ------------------------------------------------------------------------------------------- fragments */

/* Which function and which product input slot q (0..15) of lane t is: product 0 hi hi, 1 lo hi, 2 hi lo (values, weights). */
__host__ __device__ inline void slot_of(int t, int q, int *function, int *product)
{
    *function = q < 15 ? 5 * t + q / 3 : t < 3 ? MATRIX_K : -1;
    *product = q < 15 ? q % 3 : t;
}

/* The halves of a lane's functions for one edge, in the order of its slots; DERIVATIVE: of dphi/dd. */
template <bool DERIVATIVE>
__device__ inline void radial_halves(const radial_parameters &p, float d, int t, __half (&slots)[16])
{
    float fc, dfc;
    cutoff_function(p, d, &fc, &dfc);
#pragma unroll
    for (int q = 0; q < 6; q++) {
        float phi, dphi;
        radial_function(p, d, fc, dfc, q < 5 && 5 * t + q < p.K ? 5 * t + q : q < 5 ? MATRIX_K + 1 : p.K, &phi, &dphi);
        const float value = DERIVATIVE ? dphi : phi;
        const __half hi = __float2half_rn(value), lo = __float2half_rn(value - __half2float(hi));
        if (q < 5) {
            slots[3 * q] = hi;
            slots[3 * q + 1] = lo;
            slots[3 * q + 2] = hi;
        } else {
            slots[15] = t == 1 ? lo : t == 3 ? __float2half_rn(0.0f) : hi;
        }
    }
}

/* A warp writes the fragments of one row's edges first .. first+n-1 (n <= 64): to [TILES][STEPS][32]. */
template <bool DERIVATIVE>
__device__ inline void make_fragments(const matrix_arguments &a, int64_t first, int n, uint4 *to, float4 *geometry,
                                      int row)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int tile = 0; tile * 16 < n; tile++) {
        __half slots[2][16];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int e = tile * 16 + half * 8 + g;
            edge<float> r = {{0, 0, 0}, 1};
            int32_t j = row; /* padding gathers its own row, times 0 */
            if (e < n) {
                r = a.edges[first + e];
                j = a.edge_row[first + e];
            }
            radial_halves<DERIVATIVE>(a.radial, r.d, t, slots[half]);
            if (e >= n)
#pragma unroll
                for (int q = 0; q < 16; q++) slots[half][q] = __float2half_rn(0.0f);
            if (t == 0 && geometry) geometry[e] = make_float4(r.u[0], r.u[1], r.u[2], __int_as_float(j));
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            to[(tile * STEPS + step) * 32 + lane] = make_uint4(pack(slots[0][4 * step], slots[0][4 * step + 1]),
                                                               pack(slots[1][4 * step], slots[1][4 * step + 1]),
                                                               pack(slots[0][4 * step + 2], slots[0][4 * step + 3]),
                                                               pack(slots[1][4 * step + 2], slots[1][4 * step + 3]));
    }
}

__device__ inline void load_weights(const matrix_arguments &a, int warp, int lane, uint2 (&b)[3][2][STEPS])
{
#pragma unroll
    for (int kind = 0; kind < 3; kind++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int step = 0; step < STEPS; step++)
                b[kind][half][step] = a.fragments[(((warp * 3 + kind) * 2 + half) * STEPS + step) * 32 + lane];
}

/* c[half][..]: rows g, g + 8 and the lane's four columns; W(row, q) is c[q / 2][2 * row + q % 2] */
__device__ inline void filter(const uint4 (&values)[STEPS], const uint2 (&b)[2][STEPS], float (&c)[2][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int q = 0; q < 4; q++) c[half][q] = 0;
#pragma unroll
        for (int step = 0; step < STEPS; step++) mma_half(c[half], values[step], b[half][step]);
    }
}

__device__ inline void load_four(const float *from, float (&to)[4])
{
    const float4 v = *(const float4 *)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

/* over the eight lanes g of the same columns */
__device__ inline float sum_over_rows(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 4);
    x += __shfl_xor_sync(0xffffffffu, x, 8);
    return x + __shfl_xor_sync(0xffffffffu, x, 16);
}

/* ---------------------------------------------------------------------------------------------- forward */

/* Shared: fragments [rows][TILES][STEPS][32], geometry [rows][64] (u, neighbour) of as many rows as warps. */
__global__ void __launch_bounds__(256, 2) message_matrix_kernel(matrix_arguments a, const float *__restrict__ features,
                                                                const float *__restrict__ v_in, float *s, float *v_out)
{
    extern __shared__ __align__(16) uint4 shared[];
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 *fragments = shared;
    float4 *geometry = (float4 *)(shared + (size_t)warps * TILES * STEPS * 32);
    const int F = a.F, column = warp * 16 + 4 * t;
    uint2 b[3][2][STEPS];
    load_weights(a, warp, lane, b);
    for (int base = blockIdx.x * warps; base < a.N; base += gridDim.x * warps) {
        const int rows = min(warps, a.N - base);
        for (int pass = 0;; pass += PASS_EDGES) {
            const int mine = warp < rows ? min(PASS_EDGES, a.count[base + warp] - pass) : 0;
            if (!__syncthreads_or(mine > 0 || (pass == 0 && warp == 0))) break; /* also: the last pass is done with */
            if (mine > 0)
                make_fragments<false>(a, a.first[base + warp] + pass, mine, fragments + warp * TILES * STEPS * 32,
                                      geometry + warp * PASS_EDGES, base + warp);
            __syncthreads();
            for (int r = 0; r < rows; r++) {
                const int row = base + r, n = min(PASS_EDGES, a.count[row] - pass);
                if (n <= 0 && pass > 0) continue;
                float sum[4] = {0, 0, 0, 0}, v[3][4] = {};
                for (int tile = 0; tile * 16 < n; tile++) {
                    float4 r4[2];
                    float x[2][5][4];
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        r4[h] = geometry[r * PASS_EDGES + tile * 16 + 8 * h + g];
                        const float *from = features + (size_t)__float_as_int(r4[h].w) * 5 * F + column;
#pragma unroll
                        for (int q = 0; q < 5; q++) load_four(from + q * F, x[h][q]);
                    }
                    uint4 values[STEPS];
#pragma unroll
                    for (int step = 0; step < STEPS; step++)
                        values[step] = fragments[((r * TILES + tile) * STEPS + step) * 32 + lane];
                    float c[2][4];
                    filter(values, b[0], c);
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int q = 0; q < 4; q++) sum[q] += c[q / 2][2 * h + q % 2] * x[h][0][q];
                    filter(values, b[1], c);
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int q = 0; q < 4; q++) {
                            const float R = c[q / 2][2 * h + q % 2] * x[h][1][q];
                            v[0][q] += R * r4[h].x;
                            v[1][q] += R * r4[h].y;
                            v[2][q] += R * r4[h].z;
                        }
                    filter(values, b[2], c);
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int q = 0; q < 4; q++) {
                            const float W = c[q / 2][2 * h + q % 2];
#pragma unroll
                            for (int k = 0; k < 3; k++) v[k][q] += W * x[h][2 + k][q];
                        }
                }
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    sum[q] = sum_over_rows(sum[q]) * a.scale;
#pragma unroll
                    for (int k = 0; k < 3; k++) v[k][q] = sum_over_rows(v[k][q]) * a.scale;
                }
                if (g < 4) { /* lanes g = 0: s; g = 1, 2, 3: v_x, v_y, v_z */
                    float *to = g == 0 ? s + (size_t)row * F + column : v_out + ((size_t)row * 3 + g - 1) * F + column;
                    const float *from = g == 0 || pass > 0 ? to : v_in + ((size_t)row * 3 + g - 1) * F + column;
                    float old[4];
                    load_four(from, old);
#pragma unroll
                    for (int q = 0; q < 4; q++)
                        old[q] += g == 0 ? sum[q] : g == 1 ? v[0][q] : g == 2 ? v[1][q] : v[2][q];
                    *(float4 *)to = make_float4(old[0], old[1], old[2], old[3]);
                }
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------- reverse */

/* Shared, for half as many rows as warps: fragments of phi and of dphi [rows][2][TILES][STEPS][32], geometry [rows][64],
 * sums of each warp over its features [rows][warps][64] (u_adj, d_adj). */
__global__ void __launch_bounds__(256, 1)
    message_matrix_reverse_kernel(matrix_arguments a, const float *__restrict__ features, const float *__restrict__ adj,
                                  float *features_adj, edge_adjoint<float> *edge_adj)
{
    extern __shared__ __align__(16) uint4 shared[];
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int stage_rows = warps / 2, F = a.F, column = warp * 16 + 4 * t;
    uint4 *fragments = shared;
    float4 *geometry = (float4 *)(shared + (size_t)stage_rows * 2 * TILES * STEPS * 32);
    float4 *parts = geometry + stage_rows * PASS_EDGES;
    uint2 b[3][2][STEPS];
    load_weights(a, warp, lane, b);
    for (int base = blockIdx.x * stage_rows; base < a.N; base += gridDim.x * stage_rows) {
        const int rows = min(stage_rows, a.N - base), own_row = warp / 2;
        for (int pass = 0;; pass += PASS_EDGES) {
            const int mine = own_row < rows ? min(PASS_EDGES, a.count[base + own_row] - pass) : 0;
            if (!__syncthreads_or(mine > 0 || (pass == 0 && warp == 0))) break;
            if (mine > 0) {
                const int64_t from = a.first[base + own_row] + pass;
                uint4 *to = fragments + (size_t)warp * TILES * STEPS * 32;
                if (warp % 2 == 0)
                    make_fragments<false>(a, from, mine, to, geometry + own_row * PASS_EDGES, base + own_row);
                else
                    make_fragments<true>(a, from, mine, to, nullptr, base + own_row);
            }
            __syncthreads();
            for (int r = 0; r < rows; r++) {
                const int row = base + r, n = min(PASS_EDGES, a.count[row] - pass);
                if (n <= 0 && pass > 0) continue;
                float x[5][4], x_adj[5][4] = {}; /* x_s, x_R, y (3) of the lane's columns */
#pragma unroll
                for (int q = 0; q < 5; q++) load_four(features + ((size_t)row * 5 + q) * F + column, x[q]);
                for (int tile = 0; tile * 16 < n; tile++) {
                    float4 r4[2];
                    float in[2][4][4]; /* s_adj, v_adj (3) of the neighbours */
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        r4[h] = geometry[r * PASS_EDGES + tile * 16 + 8 * h + g];
                        const float *from = adj + (size_t)__float_as_int(r4[h].w) * 4 * F + column;
#pragma unroll
                        for (int q = 0; q < 4; q++) load_four(from + q * F, in[h][q]);
                    }
                    uint4 values[STEPS], slopes[STEPS];
#pragma unroll
                    for (int step = 0; step < STEPS; step++) {
                        values[step] = fragments[((r * 2 * TILES + tile) * STEPS + step) * 32 + lane];
                        slopes[step] = fragments[(((r * 2 + 1) * TILES + tile) * STEPS + step) * 32 + lane];
                    }
                    float d_adj[2] = {0, 0}, u_adj[2][3] = {}, c[2][4], dc[2][4];
                    filter(values, b[0], c);
                    filter(slopes, b[0], dc);
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int q = 0; q < 4; q++) {
                            x_adj[0][q] += c[q / 2][2 * h + q % 2] * in[h][0][q];
                            d_adj[h] += dc[q / 2][2 * h + q % 2] * x[0][q] * in[h][0][q];
                        }
                    filter(values, b[1], c);
                    filter(slopes, b[1], dc);
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int q = 0; q < 4; q++) {
                            const float along =
                                -(r4[h].x * in[h][1][q] + r4[h].y * in[h][2][q] + r4[h].z * in[h][3][q]);
                            const float W = c[q / 2][2 * h + q % 2], R = W * x[1][q];
                            x_adj[1][q] += W * along;
                            d_adj[h] += dc[q / 2][2 * h + q % 2] * x[1][q] * along;
#pragma unroll
                            for (int k = 0; k < 3; k++) u_adj[h][k] -= R * in[h][1 + k][q];
                        }
                    filter(values, b[2], c);
                    filter(slopes, b[2], dc);
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int q = 0; q < 4; q++) {
                            float inner = 0;
#pragma unroll
                            for (int k = 0; k < 3; k++) {
                                x_adj[2 + k][q] += c[q / 2][2 * h + q % 2] * in[h][1 + k][q];
                                inner += x[2 + k][q] * in[h][1 + k][q];
                            }
                            d_adj[h] += dc[q / 2][2 * h + q % 2] * inner;
                        }
#pragma unroll
                    for (int h = 0; h < 2; h++) { /* over the four lanes of an edge */
                        float out[4] = {u_adj[h][0], u_adj[h][1], u_adj[h][2], d_adj[h]};
#pragma unroll
                        for (int q = 0; q < 4; q++) {
                            out[q] += __shfl_xor_sync(0xffffffffu, out[q], 1);
                            out[q] += __shfl_xor_sync(0xffffffffu, out[q], 2);
                        }
                        if (t == 0)
                            parts[(r * warps + warp) * PASS_EDGES + tile * 16 + 8 * h + g] =
                                make_float4(out[0], out[1], out[2], out[3]);
                    }
                }
#pragma unroll
                for (int q = 0; q < 5; q++)
#pragma unroll
                    for (int k = 0; k < 4; k++) x_adj[q][k] = sum_over_rows(x_adj[q][k]) * a.scale;
                if (g < 5) {
                    float4 *to = (float4 *)(features_adj + ((size_t)row * 5 + g) * F + column);
                    float4 out = pass > 0 ? *to : make_float4(0, 0, 0, 0);
#pragma unroll
                    for (int q = 0; q < 5; q++)
                        if (g == q) {
                            out.x += x_adj[q][0], out.y += x_adj[q][1];
                            out.z += x_adj[q][2], out.w += x_adj[q][3];
                        }
                    *to = out;
                }
            }
            __syncthreads();
            for (int q = threadIdx.x; q < rows * PASS_EDGES; q += blockDim.x) {
                const int r = q / PASS_EDGES, e = q % PASS_EDGES;
                if (e >= a.count[base + r] - pass) continue;
                float4 total = make_float4(0, 0, 0, 0);
                for (int p = 0; p < warps; p++) {
                    const float4 part = parts[(r * warps + p) * PASS_EDGES + e];
                    total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
                }
                edge_adjoint<float> *to = edge_adj + a.first[base + r] + pass + e;
                edge_adjoint<float> out = *to;
                out.u[0] += total.x * a.scale, out.u[1] += total.y * a.scale, out.u[2] += total.z * a.scale;
                out.d += total.w * a.scale;
                *to = out;
            }
        }
    }
}

/* -------------------------------------------------------------------------------------------- launchers */

bool message_matrix_fits(int F, int K)
{
    return K <= MATRIX_K && F <= 128 && F % 32 == 0; /* warps in pairs */
}

size_t message_matrix_fragments(int F)
{
    return (size_t)F / 16 * 3 * 2 * STEPS * 32;
}

/* filter [K+1][3][F] in double to fragments; returns the scale, a power of two that brings the largest weight near 2^10 */
float message_matrix_pack(const double *filter, int F, int K, uint2 *fragments)
{
    double largest = 0;
    for (size_t q = 0; q < (size_t)(K + 1) * 3 * F; q++) largest = fmax(largest, fabs(filter[q]));
    int exponent = 0;
    frexp(largest, &exponent);
    const double up = largest > 0 ? ldexp(1.0, 11 - exponent) : 1;
    for (int group = 0; group < F / 16; group++)
        for (int kind = 0; kind < 3; kind++)
            for (int half = 0; half < 2; half++)
                for (int step = 0; step < STEPS; step++)
                    for (int lane = 0; lane < 32; lane++) {
                        const int n = lane / 4, t = lane % 4, f = group * 16 + 4 * (n / 2) + 2 * half + n % 2;
                        uint16_t bits[4];
                        for (int q = 0; q < 4; q++) {
                            int function, product;
                            slot_of(t, 4 * step + q, &function, &product);
                            const int k = function == MATRIX_K ? K : function < K ? function : -1;
                            const float w = k < 0 ? 0 : (float)(filter[((size_t)k * 3 + kind) * F + f] * up);
                            const __half hi = __float2half_rn(w), lo = __float2half_rn(w - __half2float(hi));
                            const __half value = k < 0 ? __float2half_rn(0.0f) : product == 2 ? lo : hi;
                            memcpy(&bits[q], &value, sizeof bits[q]);
                        }
                        fragments[(((group * 3 + kind) * 2 + half) * STEPS + step) * 32 + lane] =
                            make_uint2(bits[0] | (uint32_t)bits[1] << 16, bits[2] | (uint32_t)bits[3] << 16);
                    }
    return (float)(1 / up);
}

static matrix_arguments arguments_of(const state<float> *s, int l)
{
    const layer_weights<float> &w = s->w.layer[l];
    return {s->N, s->w.F, radial_of(s->w), w.fragments, w.fragment_scale, s->first, s->count, s->edge_row, s->edges};
}

mlff_status message_matrix_forward(state<float> *s, int l, mlff_error *error)
{
    const int warps = s->w.F / 16;
    const size_t shared = (size_t)warps * (TILES * STEPS * 32 + PASS_EDGES) * 16;
    const int blocks = blocks_for(message_matrix_kernel, warps * 32, shared, s->N);
    message_matrix_kernel<<<blocks, warps * 32, shared, s->stream>>>(arguments_of(s, l), s->layer[l].features,
                                                                     s->layer[l].v, s->s, s->v_mid);
    CUDA_TRY_LAUNCH("message through matrix units");
    return MLFF_OK;
}

mlff_status message_matrix_reverse(state<float> *s, int l, mlff_error *error)
{
    const int warps = s->w.F / 16, rows = warps / 2;
    const size_t shared = (size_t)rows * (2 * TILES * STEPS * 32 + PASS_EDGES + warps * PASS_EDGES) * 16;
    const int blocks = blocks_for(message_matrix_reverse_kernel, warps * 32, shared, s->N);
    message_matrix_reverse_kernel<<<blocks, warps * 32, shared, s->stream>>>(arguments_of(s, l), s->layer[l].features,
                                                                             s->adj, s->layer[l].features_adj, s->edge_adj);
    CUDA_TRY_LAUNCH("message through matrix units, reverse");
    return MLFF_OK;
}

} // namespace mlff
