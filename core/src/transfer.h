/* SPDX-License-Identifier: MIT */
#ifndef MLFF_TRANSFER_H
#define MLFF_TRANSFER_H
/* Copies between a caller's arrays and those that a GPU reads and writes (pinned memory), large ones by threads. */
#include <stddef.h>

/* Copies n values and returns 1 if all are finite. */
int mlff_copy_finite(double *to, const double *from, size_t n, int threads);

void mlff_copy(double *to, const double *from, size_t n, int threads);

#endif
