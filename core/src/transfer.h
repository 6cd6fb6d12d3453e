/* SPDX-License-Identifier: MIT */
#ifndef MLFF_TRANSFER_H
#define MLFF_TRANSFER_H
/* Copies between a caller's arrays and those that a GPU reads and writes (pinned memory), large ones by threads. */
#include <stddef.h>

/* Told that the values begin .. end - 1 stand in their place, while others are still copied: each value once, in
 * order, by the thread that called. */
typedef void (*mlff_copied)(void *context, size_t begin, size_t end);

/* Copies n values and returns 1 if all are finite. copied may be NULL. */
int mlff_copy_finite(double *to, const double *from, size_t n, int threads, mlff_copied copied, void *context);

void mlff_copy(double *to, const double *from, size_t n, int threads);

#endif
