/* SPDX-License-Identifier: MIT */
#ifndef MLFF_BACKEND_H
#define MLFF_BACKEND_H
/*
 * A backend is this one struct of functions. evaluate.c calls them in the order of one evaluation; a backend keeps
 * all tensors behind its state. Rows are the graph's rows; l is the interaction, 0 <= l < L.
 */
#include "graph.h"
#include "model.h"

/* What an exchange between ranks carries. */
typedef enum halo_kind {
    HALO_FEATURES, /* what message_forward of layer l gathers: width 5F */
    HALO_ADJOINTS  /* what message_reverse gathers: width 4F */
} halo_kind;

/* Rows in the host's memory that the halo callback fills: [n_rows][width] reals. */
typedef struct halo_rows {
    void *rows;
    int width;
} halo_rows;

typedef struct backend {
    const char *precision; /* "double" */
    int real_bytes;        /* of the rows that the halo callback sees */

    mlff_status (*create)(const mlff_model *model, int threads, void **state, mlff_error *error);
    void (*free)(void *state);
    const char *(*device)(const void *state); /* "cpu (avx512)", "cuda (NVIDIA H200)"; lives as long as the state */

    /* Makes the graph of structures, or of an engine that leaves the search to the library, with its slots on the device;
     * reach in angstrom. NULL: the makers of graph.h do it on the host. */
    mlff_status (*search)(void *state, mlff_graph *graph, const mlff_input *input, double reach, mlff_error *error);

    /* Takes positions, keeps the edges within the cutoff, makes room for every tensor of this evaluation. All that can
     * fail for want of memory or bad numbers fails here, before the first exchange between ranks. */
    mlff_status (*prepare)(void *state, const mlff_graph *graph, const double *x, int with_reverse, int with_halo,
                           mlff_error *error);

    mlff_status (*first_message_forward)(void *state, mlff_error *error);
    mlff_status (*context_forward)(void *state, int l, mlff_error *error);
    mlff_status (*message_forward)(void *state, int l, mlff_error *error);
    mlff_status (*update_forward)(void *state, int l, mlff_error *error);
    mlff_status (*readout_forward)(void *state, mlff_error *error);

    mlff_status (*readout_reverse)(void *state, mlff_error *error);
    mlff_status (*update_reverse)(void *state, int l, mlff_error *error);
    mlff_status (*message_reverse)(void *state, int l, mlff_error *error);
    mlff_status (*context_reverse)(void *state, int l, mlff_error *error);
    mlff_status (*first_message_reverse)(void *state, mlff_error *error);

    /* An exchange: halo_begin gives the rows, with the owned ones up to date; halo_end takes the ghosts that arrived.
     * *rows is valid also when the call fails, because an exchange happens all the same. */
    mlff_status (*halo_begin)(void *state, halo_kind kind, int l, halo_rows *rows, mlff_error *error);
    mlff_status (*halo_end)(void *state, halo_kind kind, int l, mlff_error *error);
    int (*halo_width)(const void *state); /* the larger of the two widths */

    /* Edge derivatives to forces and virials; writes what output asks for. Atoms left out get zeros. */
    mlff_status (*collect)(void *state, mlff_output *output, mlff_error *error);

    size_t (*memory)(const void *state); /* bytes held now */
    void (*memory_estimate)(const void *state, double *bytes_per_atom, double *bytes_per_neighbour);
} backend;

/* The CPU backend for a precision and the best instruction set of this machine; NULL: precision not available. */
const backend *mlff_cpu_backend(mlff_precision precision);

/* The CUDA backend for a precision; NULL: this build, or this precision, has none. */
const backend *mlff_cuda_backend(mlff_precision precision);

/* 1: this build has a CUDA backend and the machine a GPU for it; 0 with the reason otherwise. */
int mlff_cuda_is_usable(mlff_error *error);

/* What mlff_evaluator_create does once it has chosen; tests choose themselves. */
mlff_status mlff_evaluator_create_on(const backend *b, const mlff_model *model, int threads, mlff_evaluator **evaluator,
                                     mlff_error *error);

#endif
