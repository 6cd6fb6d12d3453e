/* SPDX-License-Identifier: MIT */
/* Chooses the variant of the CPU backend: the precision asked for, the best instruction set that this machine has. */
#include "../backend.h"

extern const backend mlff_cpu_backend_double_base, mlff_cpu_backend_single_base;
#if MLFF_X86_VARIANTS
extern const backend mlff_cpu_backend_double_avx2, mlff_cpu_backend_single_avx2;
extern const backend mlff_cpu_backend_double_avx512, mlff_cpu_backend_single_avx512;

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
#endif

const backend *mlff_cpu_backend(mlff_precision precision)
{
    if (precision != MLFF_PRECISION_DOUBLE && precision != MLFF_PRECISION_SINGLE) return NULL;
    const int single = precision == MLFF_PRECISION_SINGLE;
#if MLFF_X86_VARIANTS
    if (has_avx512()) return single ? &mlff_cpu_backend_single_avx512 : &mlff_cpu_backend_double_avx512;
    if (has_avx2()) return single ? &mlff_cpu_backend_single_avx2 : &mlff_cpu_backend_double_avx2;
#endif
    return single ? &mlff_cpu_backend_single_base : &mlff_cpu_backend_double_base;
}
