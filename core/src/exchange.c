/* SPDX-License-Identifier: MIT */
#include "exchange.h"

#include "status.h"

#include <stdlib.h>
#include <string.h>

static mlff_status reserve(int32_t **array, size_t *capacity, size_t n, mlff_error *error)
{
    if (n <= *capacity && *array) return MLFF_OK;
    free(*array);
    *capacity = n + n / 4 + 1;
    *array = malloc(*capacity * sizeof **array);
    if (*array) return MLFF_OK;
    *capacity = 0;
    return mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: %zu bytes for the plan of exchanges",
                     n * sizeof **array);
}

/* Where the row of a ghost comes from, told in rows. */
static mlff_status find_source(const mlff_graph *g, const mlff_halo *halo, int32_t atom, int32_t *source,
                               mlff_error *error)
{
    const int32_t told = halo->source[atom];
    *source = told;
    if (told >= 0 && told < halo->n_receive) return MLFF_OK;
    if (told >= 0)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "halo: found source %d of atom index %d, expected one of n_receive = %d rows", (int)told,
                         (int)atom, (int)halo->n_receive);
    const int32_t owner = -1 - told;
    if (owner >= g->n_local || g->row_of_atom[owner] < 0)
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "halo: found source %d of atom index %d, expected an owned atom that takes part", (int)told,
                         (int)atom);
    *source = -1 - g->row_of_atom[owner];
    return MLFF_OK;
}

mlff_status mlff_exchange_make(exchange *e, const mlff_graph *g, const mlff_halo *halo, mlff_error *error)
{
    e->version = 0;
    e->n_send = e->n_receive = e->n_ghosts = 0;
    const int32_t n_ghosts = g->n_rows - g->n_owned;
    if (halo->n_send < 0 || halo->n_receive < 0 || (halo->n_send > 0 && !halo->send) || (n_ghosts > 0 && !halo->source))
        return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                         "halo: found n_send %d, n_receive %d, %s, expected numbers from 0 and lists that go with them",
                         (int)halo->n_send, (int)halo->n_receive, halo->send ? "a list to send" : "no list to send");
    MLFF_TRY(reserve(&e->send_row, &e->capacity_send, (size_t)halo->n_send, error));
    MLFF_TRY(reserve(&e->ghost_source, &e->capacity_ghosts, (size_t)n_ghosts, error));
    for (int32_t k = 0; k < halo->n_send; k++) {
        const int32_t atom = halo->send[k];
        if (atom < 0 || atom >= g->n_local)
            return mlff_fail(error, MLFF_ERROR_ARGUMENT,
                             "halo: found atom index %d at send[%d], expected an owned atom, 0 to %d", (int)atom,
                             (int)k, (int)g->n_local - 1);
        e->send_row[k] = g->row_of_atom[atom];
    }
    for (int32_t k = 0; k < n_ghosts; k++)
        MLFF_TRY(find_source(g, halo, g->atom_of_row[g->n_owned + k], &e->ghost_source[k], error));
    e->n_send = halo->n_send, e->n_receive = halo->n_receive, e->n_ghosts = n_ghosts;
    e->version = g->version;
    return MLFF_OK;
}

void mlff_exchange_free(exchange *e)
{
    free(e->send_row);
    free(e->ghost_source);
    memset(e, 0, sizeof *e);
}

size_t mlff_exchange_memory(const exchange *e)
{
    return (e->capacity_send + e->capacity_ghosts) * sizeof(int32_t);
}

void mlff_exchange_pack(const exchange *e, const void *tensor, size_t row_bytes, void *sent)
{
    char *to = sent;
    for (int32_t k = 0; k < e->n_send; k++, to += row_bytes) {
        if (e->send_row[k] < 0)
            memset(to, 0, row_bytes);
        else
            memcpy(to, (const char *)tensor + (size_t)e->send_row[k] * row_bytes, row_bytes);
    }
}

void mlff_exchange_unpack(const exchange *e, void *tensor, int32_t n_owned, size_t row_bytes, const void *received)
{
    char *to = (char *)tensor + (size_t)n_owned * row_bytes;
    for (int32_t k = 0; k < e->n_ghosts; k++, to += row_bytes) {
        const int32_t source = e->ghost_source[k];
        const char *from = source >= 0 ? (const char *)received + (size_t)source * row_bytes
                                       : (const char *)tensor + (size_t)(-1 - source) * row_bytes;
        memcpy(to, from, row_bytes);
    }
}
