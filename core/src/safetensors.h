/* SPDX-License-Identifier: MIT */
#ifndef MLFF_SAFETENSORS_H
#define MLFF_SAFETENSORS_H
/*
 * A strict reader of safetensors bytes. It knows bytes and JSON, nothing of models.
 *
 *   bytes | what                                   | rule
 *   8     | header length n, unsigned, little-endian | 2 <= n <= 100,000,000 and n + 8 <= file size
 *   n     | JSON object, UTF-8                     | begins with '{'; spaces may follow the closing '}'; no NUL, no
 *         |                                        | duplicate key at any level
 *   rest  | tensor data, little-endian, row-major  | covered by the tensors' data_offsets without a hole, an overlap
 *         |                                        | or a byte left over
 *
 * The object maps a tensor's name to {"dtype": "F32" or "F64", "shape": [..], "data_offsets": [begin, end]}, with
 * nothing else in it; offsets count from the end of the header. "__metadata__" maps strings to strings.
 * Every failure is MLFF_ERROR_FORMAT but for a want of memory.
 */
#include "mlff.h"

enum { SAFETENSORS_MAX_DIMENSIONS = 8 };
#define SAFETENSORS_MAX_HEADER 100000000u

typedef enum safetensors_dtype { SAFETENSORS_F32, SAFETENSORS_F64 } safetensors_dtype;

typedef struct safetensors_tensor {
    const char *name;
    safetensors_dtype dtype;
    int n_dimensions;
    int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
    int64_t n_values;          /* product of shape */
    uint64_t begin, end;       /* data_offsets */
    const unsigned char *data; /* [end - begin] in the caller's bytes, not aligned */
} safetensors_tensor;

typedef struct safetensors_metadata {
    const char *key, *value;
} safetensors_metadata;

typedef struct safetensors_file {
    const char *name; /* of the file, for messages */
    size_t n_tensors;
    safetensors_tensor *tensors; /* [n_tensors] in the order of their data */
    size_t n_metadata;
    safetensors_metadata *metadata; /* [n_metadata] in the order of the header */
    void *json;                     /* owns the strings above */
} safetensors_file;

/* Says whether `start`, the first n_start bytes (16 are enough) of a file of file_size bytes, can open a safetensors
 * file; names the format of files that are something else. Allocates nothing. */
mlff_status mlff_safetensors_check_start(const void *start, size_t n_start, uint64_t file_size, const char *name,
                                         mlff_error *error);

/* Reads the header and checks all rules of the table. `bytes` and `name` must outlive *file. On failure nothing is
 * left to free; closing is allowed all the same. */
mlff_status mlff_safetensors_open(const void *bytes, size_t size, const char *name, safetensors_file *file,
                                  mlff_error *error);
void mlff_safetensors_close(safetensors_file *file);

/* Bytes of one value. */
size_t mlff_safetensors_value_size(safetensors_dtype dtype);
const char *mlff_safetensors_dtype_name(safetensors_dtype dtype);

/* Value i of a tensor, in the host's byte order. */
double mlff_safetensors_value(const safetensors_tensor *tensor, int64_t i);

/* Text from a file as a message may show it: one line of printable ASCII, shortened where it is long.
 * Use as `quote(text).text` in the arguments of a call. */
typedef struct quoted {
    char text[168];
} quoted;
quoted mlff_quote(const char *text);

/* "[64,20]" */
quoted mlff_quote_shape(const int64_t *shape, int n_dimensions);

#endif
