/* SPDX-License-Identifier: MIT */
#ifndef MLFF_GPU_FAULTS_H
#define MLFF_GPU_FAULTS_H
/* Kernels that fail, for test_gpu_faults.c. */
#include "mlff.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The backend's own check of a launch, on a launch of more threads than a block may have. */
mlff_status launch_with_too_many_threads(mlff_error *error);

/* Ends in a trap; nothing here asks how it went. */
void launch_a_kernel_that_fails(void);

#ifdef __cplusplus
}
#endif
#endif
