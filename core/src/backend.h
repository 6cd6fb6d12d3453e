/* SPDX-License-Identifier: MIT */
#ifndef MLFF_BACKEND_H
#define MLFF_BACKEND_H
/*
 * A backend is this one struct of functions. evaluate.c calls them in the order of one evaluation; a backend keeps
 * all tensors behind its state. Rows are the graph's rows; l is the interaction, 0 <= l < L.
 */
#include "exchange.h"
#include "model.h"

/* What an exchange between ranks carries. */
typedef enum halo_kind {
    HALO_FEATURES, /* what message_forward of layer l gathers: width 5F */
    HALO_ADJOINTS  /* what message_reverse gathers: width 4F */
} halo_kind;

/* Rows in the host's memory that the halo callback reads and fills. */
typedef struct halo_rows {
    const void *sent; /* [n_send][width] reals */
    void *received;   /* [n_receive][width] */
    int width;
} halo_rows;

/* What an evaluation is to give besides energies: bits. */
enum {
    WANT_REVERSE = 1, /* forces, virial */
    WANT_ATOM_ENERGY = 2,
    WANT_ATOM_VIRIAL = 4,
    WANT_COMBINATIONS = 8
};

typedef struct backend {
    const char *precision; /* "double" */
    int real_bytes;        /* of the rows that the halo callback sees */

    mlff_status (*create)(const mlff_model *model, const mlff_options *options, void **state, mlff_error *error);
    void (*free)(void *state);
    const char *(*device)(const void *state); /* "cpu (avx512)", "cuda (NVIDIA H200)"; lives as long as the state */
    /* NULL on the CPU. The PCI address of the GPU, "0000:1B:00.0", and which of the visible ones it is. */
    const char *(*gpu)(const void *state, int *device_index);

    /* Makes the graph of structures, or of an engine that leaves the search to the library, with its slots on the
     * device; reach in angstrom. NULL: the makers of graph.h do it on the host. */
    mlff_status (*search)(void *state, mlff_graph *graph, const mlff_input *input, double reach, mlff_error *error);

    /* Takes positions, makes room for every tensor of this evaluation; `wanted`: the bits above; halo: NULL on one
     * rank, else it lives as long as the graph. All that can fail for want of memory or bad positions fails here,
     * before the first exchange between ranks. The CPU also keeps the edges within the cutoff here. */
    mlff_status (*prepare)(void *state, const mlff_graph *graph, const double *x, int wanted, const exchange *halo,
                           mlff_error *error);

    /* NULL, or starts the sequence of layers: positions to the device, edges within the cutoff. With `replayed` the
     * device may record the sequence from here to collect; where it did so before, for the same graph and the same
     * `wanted`, all of it is under way when this returns, *replayed is 1 and the layers are not called. NULL: never. */
    mlff_status (*begin)(void *state, int *replayed, mlff_error *error);

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

    /* An exchange: halo_begin gives the rows to send and room for those to receive; halo_end brings what arrived to the
     * ghosts. *rows is valid also when the call fails, because an exchange happens all the same. */
    mlff_status (*halo_begin)(void *state, halo_kind kind, int l, halo_rows *rows, mlff_error *error);
    mlff_status (*halo_end)(void *state, halo_kind kind, int l, mlff_error *error);
    int (*halo_width)(const void *state); /* the larger of the two widths */

    /* After the layers, where the model has the term: adds to the energies of atoms and, with the reverse, to dE/dd of
     * the edges. close_pairs, once collect has succeeded: what was closer than the training frames. */
    mlff_status (*short_range)(void *state, mlff_error *error);
    void (*close_pairs)(const void *state, mlff_close_pairs *pairs);

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

/* GPUs that this process sees; 0 without any. */
int mlff_cuda_device_count(void);

/* What mlff_evaluator_create does once it has chosen; tests choose themselves. */
mlff_status mlff_evaluator_create_on(const backend *b, const mlff_model *model, const mlff_options *options,
                                     mlff_evaluator **evaluator, mlff_error *error);

#endif
