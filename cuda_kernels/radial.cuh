/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_RADIAL_CUH
#define MLFF_CUDA_RADIAL_CUH
/*
 * Radial functions of one distance, made anew where they are needed: phi_k = rbf_k fc, phi_K = fc, and d phi_k/dd.
 *
 * Constants that multiply a distance inside sin and cos are kept in two parts or in double: rounded to single they
 * shift all edges alike, and a relative shift of 1e-7 of the Bessel frequencies moves the virial of Au/water by 1.3e-5
 * of itself (its forces by 3e-6), where the distance's own rounding averages out.
 */
#include "state.cuh"

namespace mlff
{

/* What the radial functions need of the weights, small enough for a kernel argument. */
struct radial_parameters {
    const double *centre, *inverse_width; /* [K] */
    double inverse_cutoff;
    float inverse_high, inverse_low; /* the same in two parts */
    int K, gaussian;
};

template <typename T> radial_parameters radial_of(const weights<T> &w)
{
    const double inverse = 1 / w.cutoff;
    const float high = (float)inverse;
    return {
        w.centre, w.inverse_width, inverse, high, (float)(inverse - (double)high), w.K, w.radial == RADIAL_GAUSSIAN};
}

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

__device__ inline float times_inverse_cutoff(const radial_parameters &p, float d)
{
    return fmaf(d, p.inverse_high, d * p.inverse_low);
}

__device__ inline double times_inverse_cutoff(const radial_parameters &p, double d)
{
    return d * p.inverse_cutoff;
}

/* sin and cos of frequency times d */
__device__ inline void sine_cosine_of(double frequency, float d, float *s, float *c)
{
    const double turns = frequency * (double)d * 0.31830988618379067154; /* in units of pi */
    sincospif((float)(turns - 2 * rint(0.5 * turns)), s, c);
}

__device__ inline void sine_cosine_of(double frequency, double d, double *s, double *c)
{
    sincos(frequency * d, s, c);
}

__device__ inline float exponential(float x)
{
    return expf(x);
}

__device__ inline double exponential(double x)
{
    return exp(x);
}

/* fc and dfc/dd */
template <typename T> __device__ inline void cutoff_function(const radial_parameters &p, T d, T *fc, T *dfc)
{
    T s, c;
    sine_cosine_of_pi(times_inverse_cutoff(p, d), &s, &c);
    *fc = T(0.5) * (c + 1);
    *dfc = T(-0.5 * 3.14159265358979323846) * T(p.inverse_cutoff) * s;
}

/* phi_k and its derivative; 0 for k > K, so that tables may be padded */
template <typename T>
__device__ inline void radial_function(const radial_parameters &p, T d, T fc, T dfc, int k, T *phi, T *dphi)
{
    if (k >= p.K) {
        *phi = k == p.K ? fc : T(0);
        *dphi = k == p.K ? dfc : T(0);
        return;
    }
    T rbf, drbf;
    if (p.gaussian) {
        const T inverse = T(p.inverse_width[k]), z = (d - T(p.centre[k])) * inverse;
        rbf = exponential(T(-0.5) * z * z);
        drbf = -z * inverse * rbf;
    } else {
        const T f = T(p.centre[k]), inverse = 1 / d;
        T s, c;
        sine_cosine_of(p.centre[k], d, &s, &c);
        rbf = s * inverse;
        drbf = (f * c - rbf) * inverse;
    }
    *phi = rbf * fc;
    *dphi = drbf * fc + rbf * dfc;
}

} // namespace mlff

#endif
