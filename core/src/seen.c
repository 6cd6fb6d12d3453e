/* SPDX-License-Identifier: MIT */
#include "seen.h"

#include <stdlib.h>
#include <string.h>

/* One array of the input and its place in the block. */
typedef struct part {
    const void *from;
    size_t bytes, offset;
} part;

enum { PARTS = 5 };

/* The arrays of an input, positions first; returns the bytes of all. */
static size_t parts_of(const mlff_input *in, part parts[PARTS])
{
    const mlff_structures *s = in->structures;
    const size_t n = (size_t)in->n_local, S = (size_t)s->n_structures;
    const part all[PARTS] = {{in->x, 3 * n * sizeof(double), 0},
                             {s->cell, s->cell ? 9 * S * sizeof(double) : 0, 0},
                             {in->species, n * sizeof(int32_t), 0},
                             {s->first_atom, (S + 1) * sizeof(int32_t), 0},
                             {s->periodic, s->periodic ? 3 * S * sizeof(int32_t) : 0, 0}};
    size_t offset = 0;
    for (int k = 0; k < PARTS; ++k) {
        parts[k] = all[k];
        parts[k].offset = offset;
        offset += all[k].bytes;
    }
    return offset;
}

int mlff_seen_is_small(const mlff_input *in)
{
    return in->n_local <= SEEN_MOST_ATOMS && in->structures->n_structures <= SEEN_MOST_ATOMS;
}

int mlff_seen_holds(const mlff_seen *seen, const mlff_input *in)
{
    const mlff_structures *s = in->structures;
    if (!seen->block || seen->n_atoms != in->n_local || seen->n_structures != s->n_structures || !s->first_atom ||
        seen->has_cell != (s->cell != NULL) || seen->has_periodic != (s->periodic != NULL))
        return 0;
    part parts[PARTS];
    parts_of(in, parts);
    for (int k = 1; k < PARTS; ++k)
        if (parts[k].bytes && memcmp(seen->block + parts[k].offset, parts[k].from, parts[k].bytes) != 0) return 0;
    const double *then = (const double *)seen->block, most = 0.25 * SEEN_SKIN * SEEN_SKIN;
    for (int32_t atom = 0; atom < in->n_local; ++atom) {
        double moved = 0.0;
        for (int c = 0; c < 3; ++c) {
            const double by = in->x[3 * atom + c] - then[3 * atom + c];
            moved += by * by;
        }
        if (!(moved < most)) return 0; /* also for a position that is no number */
    }
    return 1;
}

void mlff_seen_keep(mlff_seen *seen, const mlff_input *in)
{
    part parts[PARTS];
    const size_t bytes = parts_of(in, parts);
    if (bytes > seen->bytes || !seen->block) {
        mlff_seen_free(seen);
        seen->block = malloc(bytes);
        if (!seen->block) return;
        seen->bytes = bytes;
    }
    for (int k = 0; k < PARTS; ++k)
        if (parts[k].bytes) memcpy(seen->block + parts[k].offset, parts[k].from, parts[k].bytes);
    seen->n_atoms = in->n_local;
    seen->n_structures = in->structures->n_structures;
    seen->has_cell = in->structures->cell != NULL;
    seen->has_periodic = in->structures->periodic != NULL;
}

void mlff_seen_forget(mlff_seen *seen)
{
    seen->n_atoms = -1;
}

void mlff_seen_free(mlff_seen *seen)
{
    free(seen->block);
    *seen = (mlff_seen){.n_atoms = -1};
}
