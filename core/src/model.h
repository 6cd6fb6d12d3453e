/* SPDX-License-Identifier: MIT */
#ifndef MLFF_MODEL_H
#define MLFF_MODEL_H
/*
 * A model in memory: hyperparameters and weights, in double, in the canonical form of docs/model-file.md.
 * F features, K radial functions, L interactions, H readout features.
 */
#include "mlff.h"
#include "short_range.h"

enum { MLFF_MAX_INTERACTIONS = 16 };

typedef enum radial_kind { RADIAL_GAUSSIAN, RADIAL_BESSEL } radial_kind;

/* A dense layer y = W x + b. */
typedef struct dense_weights {
    int n_in, n_out;
    const double *W; /* [n_out][n_in] */
    const double *b; /* [n_out], or NULL: no bias */
} dense_weights;

typedef struct message_weights {
    dense_weights filter;   /* K -> 3F (s, R, v) */
    dense_weights context0; /* F -> F */
    dense_weights context1; /* F -> 3F (s, R, v) */
} message_weights;

typedef struct update_weights {
    dense_weights V, U;   /* F -> F, bias only with vector_bias */
    dense_weights dense0; /* 2F (s, n) -> F */
    dense_weights dense1; /* F -> 3F (s, v, sv) */
} update_weights;

struct mlff_model {
    mlff_model_info info; /* what the public header shows; its strings belong to the model */

    radial_kind radial;
    const double *offset, *width; /* [K] angstrom, gaussian */
    const double *frequency;      /* [K] 1/angstrom, bessel */

    const double *embedding; /* [n_elements][F] */
    message_weights message[MLFF_MAX_INTERACTIONS];
    update_weights update[MLFF_MAX_INTERACTIONS];
    int readout_features;   /* H */
    dense_weights readout0; /* F -> H */
    dense_weights readout1; /* H -> 1 */

    /* e_i = scale * network_i + atom_shift[species_i], in eV whatever the file's unit is */
    double scale;
    const double *atom_shift; /* [n_elements] shift + element energy, eV */

    short_range_pair *short_range; /* [n_elements][n_elements], symmetric; NULL: a model without the term */

    double *storage;       /* all weights above point into it */
    char *name;            /* info.name */
    const char **elements; /* info.elements; the symbols themselves are constants */
    char **metadata;       /* [2 * n_metadata] key, value, key, value ... */
    int n_metadata;
};

#endif
