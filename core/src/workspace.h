/* SPDX-License-Identifier: MIT */
#ifndef MLFF_WORKSPACE_H
#define MLFF_WORKSPACE_H
/*
 * One arena holds all tensors of an evaluator. A table describes them, a row a tensor; the same rows give the size and
 * the places, 256-byte aligned. The arena only grows, by a quarter at least, so that a steady run allocates nothing.
 */
#include "status.h"

typedef struct tensor_row {
    void *pointer;    /* address of the pointer variable that is placed */
    size_t count;     /* elements; 0: the pointer becomes NULL */
    size_t size;      /* bytes of an element */
    const char *name; /* for people */
} tensor_row;

typedef struct arena {
    void *memory;
    size_t bytes;
} arena;

/* Places every tensor of the table. The content is undefined after growth. */
mlff_status mlff_arena_place(arena *a, const tensor_row *rows, int n_rows, mlff_error *error);
void mlff_arena_free(arena *a);

#endif
