/* SPDX-License-Identifier: MIT */
/* Stands in for the CUDA backend in a build without CUDA. */
#include "backend.h"
#include "status.h"

const backend *mlff_cuda_backend(mlff_precision precision)
{
    (void)precision;
    return NULL;
}

int mlff_cuda_device_count(void)
{
    return 0;
}

int mlff_cuda_is_usable(mlff_error *error)
{
    mlff_fail(error, MLFF_ERROR_DEVICE, "this build has no CUDA backend");
    return 0;
}
