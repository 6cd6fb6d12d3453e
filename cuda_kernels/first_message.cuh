/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_FIRST_MESSAGE_CUH
#define MLFF_CUDA_FIRST_MESSAGE_CUH
/* What both directions of the first message use: four values in one load, radial functions, the elements that a warp
 * sees. */
#include "radial.cuh"

namespace mlff
{

constexpr int WARPS = 4, ROWS = 4; /* ROWS: those whose sums a lane holds in registers */
constexpr int MAX_SLOTS = 4;       /* elements whose coefficients are in shared memory at a time */
constexpr unsigned ALL = 0xffffffffu;

/* Blocks that a multiprocessor shall hold: 128 registers a thread in single where a lane works on 64 values, fewer for
 * 32. */
template <typename T, int VALUES> constexpr int BLOCKS = sizeof(T) == sizeof(double) ? 2 : VALUES > 32 ? 4 : 6;

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

/* Function k as a lane needs it. Gaussian: exp(-z^2/2) is 2^-(z c)^2 with c = sqrt(log2(e)/2), one instruction in
 * single; x = centre, y = c/width, where function K, the bias, is 1 = 2^0. Bessel: frequency/pi = x + y. */
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

} // namespace mlff

#endif
