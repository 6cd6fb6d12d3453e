/* SPDX-License-Identifier: MIT */
#ifndef MLFF_ON_DEVICE_H
#define MLFF_ON_DEVICE_H
/* Before a function that a GPU's kernels call too. */
#ifdef __CUDACC__
#define MLFF_ON_DEVICE __host__ __device__
#else
#define MLFF_ON_DEVICE
#endif
#endif
