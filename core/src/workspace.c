/* SPDX-License-Identifier: MIT */
#include "workspace.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256 };

/* bytes of a tensor rounded up to the alignment, or 0 with *overflow set */
static size_t placed_bytes(const tensor_row *row, int *overflow)
{
    if (row->size && row->count > (SIZE_MAX / 2 - ALIGNMENT) / row->size) {
        *overflow = 1;
        return 0;
    }
    return (row->count * row->size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

mlff_status mlff_arena_place(arena *a, const tensor_row *rows, int n_rows, mlff_error *error)
{
    int overflow = 0;
    size_t total = 0;
    for (int r = 0; r < n_rows; r++) {
        size_t bytes = placed_bytes(&rows[r], &overflow);
        if (overflow || total > SIZE_MAX / 2 - bytes)
            return mlff_fail(error, MLFF_ERROR_MEMORY,
                             "tensor %s: %zu elements of %zu bytes are more than can be addressed", rows[r].name,
                             rows[r].count, rows[r].size);
        total += bytes;
    }
    if (total > a->bytes) {
        size_t wanted = total + total / 4;
        free(a->memory);
        *a = (arena){0};
        a->memory = aligned_alloc(ALIGNMENT, wanted / ALIGNMENT * ALIGNMENT + ALIGNMENT);
        if (!a->memory)
            return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes asked for the evaluator's tensors",
                             wanted);
        a->bytes = wanted;
        memset(a->memory, 0, total); /* touched once; padding that kernels read holds finite numbers */
    }
    char *next = a->memory;
    for (int r = 0; r < n_rows; r++) {
        void *place = rows[r].count ? next : NULL;
        memcpy(rows[r].pointer, &place, sizeof place);
        next += placed_bytes(&rows[r], &overflow);
    }
    return MLFF_OK;
}

void mlff_arena_free(arena *a)
{
    free(a->memory);
    *a = (arena){0};
}
