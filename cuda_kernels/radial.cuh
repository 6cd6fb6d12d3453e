/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_RADIAL_CUH
#define MLFF_CUDA_RADIAL_CUH
/* Radial functions of one distance, made anew where they are needed: phi_k = rbf_k fc, phi_K = fc, and d phi_k/dd. */
#include "state.cuh"

namespace mlff
{

/* What the radial functions need of the weights, small enough for a kernel argument. */
struct radial_parameters {
    const double *centre, *inverse_width; /* [K] */
    double cutoff;
    int K, gaussian;
};

template <typename T> radial_parameters radial_of(const weights<T> &w)
{
    return {w.centre, w.inverse_width, w.cutoff, w.K, w.radial == RADIAL_GAUSSIAN};
}

__device__ inline void sine_cosine(float x, float *s, float *c)
{
    sincosf(x, s, c);
}

__device__ inline void sine_cosine(double x, double *s, double *c)
{
    sincos(x, s, c);
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
    const T pi = T(3.14159265358979323846), inverse = T(1 / p.cutoff);
    T s, c;
    sine_cosine(pi * d * inverse, &s, &c);
    *fc = T(0.5) * (c + 1);
    *dfc = T(-0.5) * pi * inverse * s;
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
        sine_cosine(f * d, &s, &c);
        rbf = s * inverse;
        drbf = (f * c - rbf) * inverse;
    }
    *phi = rbf * fc;
    *dphi = drbf * fc + rbf * dfc;
}

} // namespace mlff

#endif
