/* SPDX-License-Identifier: MIT */
#include "gpu_faults.h"

#include "state.cuh"

__global__ void idle_kernel()
{
}

__global__ void trap_kernel()
{
    __trap();
}

mlff_status launch_with_too_many_threads(mlff_error *error)
{
    idle_kernel<<<1, 4096>>>();
    CUDA_TRY_LAUNCH("too many threads");
    return MLFF_OK;
}

void launch_a_kernel_that_fails(void)
{
    trap_kernel<<<1, 1>>>();
}
