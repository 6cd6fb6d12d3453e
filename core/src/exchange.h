/* SPDX-License-Identifier: MIT */
#ifndef MLFF_EXCHANGE_H
#define MLFF_EXCHANGE_H
/*
 * What travels between ranks, in rows of a graph: made from an engine's halo (mlff.h) once a list life. A row that
 * several ghosts are images of arrives once and is copied to each of them; ghosts of this rank's own atoms are copied
 * from those.
 */
#include "graph.h"

typedef struct exchange {
    int32_t n_send, n_receive, n_ghosts;
    int32_t *send_row;     /* [n_send] owned row, or -1: zeros (the atom takes no part here) */
    int32_t *ghost_source; /* [n_ghosts] of row n_owned + k: place among the received rows, or -1 - an owned row */
    uint64_t version;      /* of the graph that it is for */
    size_t capacity_send, capacity_ghosts;
} exchange;

/* Checks the halo's lists; an exchange begins as zeros and may be made again. */
mlff_status mlff_exchange_make(exchange *e, const mlff_graph *graph, const mlff_halo *halo, mlff_error *error);
void mlff_exchange_free(exchange *e);
size_t mlff_exchange_memory(const exchange *e);

/* Where tensors are in the host's memory: rows of `tensor` to the rows that are sent, and ghosts' rows from those that
 * arrived. */
void mlff_exchange_pack(const exchange *e, const void *tensor, size_t row_bytes, void *sent);
void mlff_exchange_unpack(const exchange *e, void *tensor, int32_t n_owned, size_t row_bytes, const void *received);

#endif
