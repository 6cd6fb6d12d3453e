/* SPDX-License-Identifier: MIT */
#ifndef MLFF_H
#define MLFF_H
/*
 * mlff: energies, analytical forces and virial of equivariant message-passing force fields (PaiNN).
 *
 *   mlff_model      weights and hyperparameters, read from a model file; immutable, may be shared by threads
 *   mlff_evaluator  one device, one precision, one arena of memory; used by one thread at a time
 *   mlff_evaluate   positions, species and neighbours in; energy, forces and virial out
 *
 * Units everywhere: eV, angstrom, eV/angstrom. A model file in kcal/mol is converted when it is read
 * (1 eV = 23.06054783061903 kcal/mol, SI 2019).
 *
 * Errors: every function that can fail returns an mlff_status and, when it is not MLFF_OK, writes one
 * sentence into *error (which may be NULL) that names what failed, what was found and what was expected.
 * The library never prints, never exits and keeps no global state.
 *
 * Ownership: the caller owns every input and output array. A model must outlive the evaluators made
 * from it. Every free function accepts NULL.
 *
 * Shapes are written beside the pointers: N = n_local, A = n_all, S = structures.
 */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MLFF_API __attribute__((visibility("default")))
#else
#define MLFF_API
#endif

#define MLFF_VERSION "0.1.0"
#define MLFF_EV_IN_KCAL_PER_MOL 23.06054783061903

typedef enum mlff_status {
    MLFF_OK = 0,
    MLFF_ERROR_ARGUMENT,    /* an argument or input array that cannot be right */
    MLFF_ERROR_FILE,        /* a file that is missing or cannot be read */
    MLFF_ERROR_FORMAT,      /* bytes that are not a valid model file */
    MLFF_ERROR_UNSUPPORTED, /* valid, but this build or version does not do it */
    MLFF_ERROR_MEMORY,      /* out of memory; the message names the bytes */
    MLFF_ERROR_NUMERICS,    /* non-finite position or result, atoms at the same place */
    MLFF_ERROR_DEVICE,      /* the GPU is missing or failed */
    MLFF_ERROR_HALO,        /* the halo callback failed */
    MLFF_ERROR_ELSEWHERE    /* this rank is well; another rank reported a failure */
} mlff_status;

typedef struct mlff_error {
    char message[1024];
} mlff_error;

/* Name of a status ("out of memory"), for messages about messages. Never NULL. */
MLFF_API const char *mlff_status_name(mlff_status status);

/* ------------------------------------------------------------------------------------------ model */

typedef struct mlff_model mlff_model;

/* Reads a model file (docs/model-file.md). *model is NULL on failure. */
MLFF_API mlff_status mlff_model_load(const char *path, mlff_model **model, mlff_error *error);

/* The same from bytes in memory, which may be freed afterwards; `name` stands for the file in messages. */
MLFF_API mlff_status mlff_model_load_memory(const void *bytes, size_t size, const char *name, mlff_model **model,
                                            mlff_error *error);

MLFF_API void mlff_model_free(mlff_model *model);

typedef struct mlff_model_info {
    const char *name;         /* path or name it was loaded from */
    const char *architecture; /* "painn" */
    int features;             /* F */
    int interactions;         /* L */
    const char *radial;       /* "gaussian" or "bessel" */
    int radial_functions;     /* K */
    double cutoff;            /* angstrom */
    double epsilon;           /* in n = sqrt(|V|^2 + epsilon) */
    int vector_bias;          /* 1: the vector mixing has a bias, the model is not exactly equivariant */
    int n_elements;
    const char *const *elements; /* [n_elements] chemical symbols; the species of an atom is an index here */
    int64_t n_parameters;
    const char *energy_unit; /* of the file: "eV" or "kcal/mol" */
} mlff_model_info;

/* Valid as long as the model. */
MLFF_API const mlff_model_info *mlff_model_get_info(const mlff_model *model);

/* A string of the file's metadata, or NULL; valid as long as the model. */
MLFF_API const char *mlff_model_get_metadata(const mlff_model *model, const char *key);

/* -------------------------------------------------------------------------------------- evaluator */

typedef struct mlff_evaluator mlff_evaluator;

typedef enum mlff_device { MLFF_DEVICE_AUTO = 0, MLFF_DEVICE_CPU, MLFF_DEVICE_CUDA } mlff_device;
typedef enum mlff_precision {
    MLFF_PRECISION_DEFAULT = 0, /* double on the CPU, single on the GPU */
    MLFF_PRECISION_DOUBLE,
    MLFF_PRECISION_SINGLE,
    MLFF_PRECISION_MIXED /* half-precision storage, single sums; only on GPUs */
} mlff_precision;

typedef struct mlff_options {
    mlff_device device;
    mlff_precision precision;
    int threads;      /* of the CPU: backend, search, copies to and from a GPU; 0: as many as OpenMP would take */
    int device_index; /* of the GPUs that the process sees, from 0; -1: the calling thread's current one */
} mlff_options;

/* GPUs that this process sees (CUDA_VISIBLE_DEVICES) and that device_index counts; 0 where there is none, no driver,
 * or no CUDA in this build. */
MLFF_API int mlff_gpu_count(void);

typedef struct mlff_evaluator_info {
    const char *device;    /* "cpu (avx512)" */
    const char *precision; /* "double", "single" or "mixed" */
    int threads;
    int real_bytes;             /* 8, 4 or 2: of the rows given to the halo callback */
    int halo_width;             /* most reals in a row that one halo call carries */
    double bytes_per_atom;      /* arena, without neighbours */
    double bytes_per_neighbour; /* arena, for each neighbour: within the cutoff (CPU), in the list (GPU) */
    int device_index;           /* of the GPU, -1 on the CPU */
    const char *gpu;            /* PCI address of the GPU, "0000:1B:00.0"; "" on the CPU */
} mlff_evaluator_info;

/* options NULL: device auto, the current GPU, default precision, all threads. On a GPU this and mlff_evaluate leave
 * that GPU the calling thread's current one. */
MLFF_API mlff_status mlff_evaluator_create(const mlff_model *model, const mlff_options *options,
                                           mlff_evaluator **evaluator, mlff_error *error);
MLFF_API void mlff_evaluator_free(mlff_evaluator *evaluator);
MLFF_API const mlff_evaluator_info *mlff_evaluator_get_info(const mlff_evaluator *evaluator);
/* Bytes that the evaluator holds now: weights, tensors, neighbours. */
MLFF_API size_t mlff_evaluator_get_memory(const mlff_evaluator *evaluator);

/* ------------------------------------------------------------------------------------ one evaluation */

/* Neighbours as an MD engine has them: a full list with skin for owned atoms. It is read again only when
 * `rebuilt` is not 0 (always on an evaluator's first call); between rebuilds n_local, n_all, species and
 * owner must stay the same, only positions move.
 *
 * An engine may leave the search to the library, which does it on its device: firstneigh NULL and `reach` the cutoff
 * plus the skin. Then every owned atom is listed, its neighbours are all others of the A atoms within reach when
 * `rebuilt` is not 0, and n_listed, ilist, numneigh and index_mask are not read. */
typedef struct mlff_neighbour_list {
    int rebuilt;
    int32_t n_listed;           /* rows of the list; owned atoms without one get no energy and no force */
    const int32_t *ilist;       /* [n_listed] owned atoms */
    const int32_t *numneigh;    /* [A], read at ilist[.] */
    int32_t *const *firstneigh; /* [A], read at ilist[.]: neighbours of that atom, in [0, A) after masking */
    int32_t index_mask;         /* bits of a neighbour that are its index (LAMMPS: NEIGHMASK) */
    const int32_t *owner;       /* [A] the owned atom that a ghost is an image of, itself for owned atoms;
                                      NULL when ghosts belong to other ranks: then `halo` is needed */
    double reach;               /* angstrom, read where firstneigh is NULL; 0: there is a list */
} mlff_neighbour_list;

/* Neighbours as a plain program has them: none. The library builds them, for one structure or a batch. */
typedef struct mlff_structures {
    int32_t n_structures;
    const int32_t *first_atom; /* [S+1] atoms of structure k: first_atom[k] .. first_atom[k+1]-1; last is N */
    const double *cell;        /* [S][3][3] rows are lattice vectors, angstrom; NULL: no periodic structure */
    const int32_t *periodic;   /* [S][3] 0 or 1 for each lattice vector; NULL: none */
} mlff_structures;

/* How ghosts get their owners' values between layers, when ghosts belong to other ranks.
 * Both functions are collective: every rank calls them in the same order, also a rank without atoms. */
typedef struct mlff_halo {
    void *context;
    /* Which rows travel, in the order of `sent` and `received` below; read when the neighbour list was rebuilt. */
    int32_t n_send;
    const int32_t *send; /* [n_send] owned atoms; one that goes to several ranks is named for each */
    int32_t n_receive;
    const int32_t *source; /* [A] of a ghost: its owner's place among the received rows (images of one atom share it),
                                 or -1 - a: the image of this rank's own atom a. Owned atoms: not read */
    /* Sends and receives one row for each place. Rows are [n_send or n_receive][width] numbers of real_bytes bytes,
     * without gaps; no one but the library reads them. Returns 0, or non-zero on failure. */
    int (*forward)(void *context, const void *sent, void *received, int width, int real_bytes);
    /* Returns the largest of all ranks' `status`. Called before the first exchange and after the last, so that
     * all ranks stop together. */
    int (*agree)(void *context, int status);
} mlff_halo;

typedef struct mlff_input {
    int32_t n_local;        /* N, owned atoms */
    int32_t n_all;          /* A, owned and ghost atoms; equal to N with `structures` */
    const double *x;        /* [A][3] positions, angstrom */
    const int32_t *species; /* [A] index into the model's elements; -1: the atom is left out (not seen at all) */
    const mlff_neighbour_list *neighbours; /* exactly one of these two ... */
    const mlff_structures *structures;     /* ... is given */
    const mlff_halo *halo;                 /* NULL on one rank */
} mlff_input;

/* What is wanted: a NULL pointer is not computed (without forces and virials there is no reverse pass).
 * All arrays are overwritten, not added to. */
typedef struct mlff_output {
    double *energy;      /* [S] or [1], eV; of the owned atoms */
    double *atom_energy; /* [N] eV */
    double *forces;      /* [A][3] eV/angstrom; with a halo ghost rows carry parts that belong to their owners,
                            else they are 0 */
    double *virial;      /* [S][9] or [1][9], eV: -dE/dstrain, row-major, sum of r (x) f; of this rank's edges */
    double *atom_virial; /* [A][9] eV: half of each edge's virial to each end; ghost rows as for forces */
} mlff_output;

/* Computes what output asks for. On failure the outputs are undefined. */
MLFF_API mlff_status mlff_evaluate(mlff_evaluator *evaluator, const mlff_input *input, mlff_output *output,
                                   mlff_error *error);

/* Atoms that are closer than the training frames ever had their elements, of the last evaluation. Only a model with a
 * short-range term (docs/model-file.md) knows these distances: without one count is 0. Each pair counts for each of its
 * ends that is an owned atom with a row. */
typedef struct mlff_close_pairs {
    int64_t count;
    int32_t atom, neighbour; /* the first: indices of the caller's atoms; -1 without any. An image of an owned atom is
                                that atom */
    double distance;         /* of the first, angstrom */
    double trained;          /* shortest trained distance of its elements, angstrom */
} mlff_close_pairs;

/* Valid as long as the evaluator; changes with every mlff_evaluate. */
MLFF_API const mlff_close_pairs *mlff_evaluator_get_close_pairs(const mlff_evaluator *evaluator);

#ifdef __cplusplus
}
#endif
#endif
