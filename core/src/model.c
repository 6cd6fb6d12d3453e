/* SPDX-License-Identifier: MIT */
/* Life of a model: loaded from a path or from memory, asked, freed. */
#include "model.h"

#include "model_file.h"
#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file's name as messages show it: one line, and short enough to leave room for the sentence. */
typedef struct display_name {
    char text[256];
} display_name;

static display_name shorten(const char *name)
{
    display_name out = {""};
    size_t n = strlen(name), n_dots = 0;
    if (n >= sizeof out.text) {
        n_dots = 3;
        name += n - (sizeof out.text - 1 - n_dots);
        while (((unsigned char)*name & 0xc0) == 0x80) name++; /* not from within a UTF-8 character */
        n = strlen(name);
    }
    memcpy(out.text, "...", n_dots);
    for (size_t k = 0; k < n; k++) {
        unsigned char c = (unsigned char)name[k];
        out.text[n_dots + k] = c < ' ' || c == 0x7f ? '?' : name[k];
    }
    return out;
}

static mlff_status out_of_memory(const char *shown, size_t bytes, mlff_error *error)
{
    return mlff_fail(error, MLFF_ERROR_MEMORY, "%s: cannot allocate %zu bytes for the model", shown, bytes);
}

/* ---------------------------------------------------------------------------------------- from memory */

static char *copy_string(const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = malloc(n);
    if (copy) memcpy(copy, text, n);
    return copy;
}

static mlff_status copy_strings(const safetensors_file *file, const char *name, struct mlff_model *model,
                                mlff_error *error)
{
    model->name = copy_string(name);
    if (!model->name) return out_of_memory(file->name, strlen(name) + 1, error);
    model->info.name = model->name;

    model->metadata = calloc(2 * file->n_metadata, sizeof *model->metadata);
    if (!model->metadata) return out_of_memory(file->name, 2 * file->n_metadata * sizeof *model->metadata, error);
    model->n_metadata = (int)file->n_metadata; /* a header of 100 MB has fewer than 2^31 */
    for (size_t k = 0; k < 2 * file->n_metadata; k++) {
        const char *text = k % 2 ? file->metadata[k / 2].value : file->metadata[k / 2].key;
        model->metadata[k] = copy_string(text);
        if (!model->metadata[k]) return out_of_memory(file->name, strlen(text) + 1, error);
    }
    return MLFF_OK;
}

static mlff_status fill(const void *bytes, size_t size, const char *name, const char *shown, struct mlff_model *model,
                        mlff_error *error)
{
    if (size > MLFF_MAX_FILE_SIZE) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: %zu bytes, expected at most %" PRIu64, shown, size,
                         MLFF_MAX_FILE_SIZE);
    }
    safetensors_file file;
    MLFF_TRY(mlff_safetensors_open(bytes, size, shown, &file, error));
    mlff_status status = mlff_model_from_safetensors(&file, model, error);
    if (status == MLFF_OK) status = copy_strings(&file, name, model, error);
    mlff_safetensors_close(&file);
    return status;
}

mlff_status mlff_model_load_memory(const void *bytes, size_t size, const char *name, mlff_model **model,
                                   mlff_error *error)
{
    if (!name) name = "model in memory";
    display_name shown = shorten(name);
    if (!model) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "%s: model is NULL, expected where to put it", shown.text);
    }
    *model = NULL;
    if (!bytes && size > 0) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "%s: bytes is NULL, expected %zu bytes", shown.text, size);
    }
    struct mlff_model *made = calloc(1, sizeof *made);
    if (!made) return out_of_memory(shown.text, sizeof *made, error);
    mlff_status status = fill(bytes, size, name, shown.text, made, error);
    if (status != MLFF_OK) {
        mlff_model_free(made);
        return status;
    }
    *model = made;
    return MLFF_OK;
}

/* ----------------------------------------------------------------------------------------- from a path */

/* Reads n bytes. Returns how many there were, or -1 with errno. */
static ssize_t read_fully(int fd, unsigned char *bytes, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t now = read(fd, bytes + done, n - done);
        if (now < 0 && errno == EINTR) continue;
        if (now < 0) return -1;
        if (now == 0) break;
        done += (size_t)now;
    }
    return (ssize_t)done;
}

/* Reads bytes [from, size) of a file of `size` bytes. */
static mlff_status read_part(int fd, const char *shown, unsigned char *bytes, size_t from, size_t to, mlff_error *error)
{
    ssize_t n = read_fully(fd, bytes + from, to - from);
    if (n < 0) return mlff_fail(error, MLFF_ERROR_FILE, "%s: cannot read the model file: %s", shown, strerror(errno));
    if ((size_t)n != to - from) {
        return mlff_fail(error, MLFF_ERROR_FILE, "%s: read %zu bytes, expected %zu (was the file cut meanwhile?)",
                         shown, from + (size_t)n, to);
    }
    return MLFF_OK;
}

/* Reads an open file whole, once its first bytes look like a model file; *bytes is the caller's to free, also on
 * failure. */
static mlff_status read_open_file(int fd, const char *shown, unsigned char **bytes, size_t *size, mlff_error *error)
{
    struct stat about;
    if (fstat(fd, &about)) {
        return mlff_fail(error, MLFF_ERROR_FILE, "%s: cannot read the model file: %s", shown, strerror(errno));
    }
    if (!S_ISREG(about.st_mode)) {
        return mlff_fail(error, MLFF_ERROR_FILE, "%s: found %s, expected a model file", shown,
                         S_ISDIR(about.st_mode) ? "a directory" : "a pipe or a device");
    }
    uint64_t file_size = (uint64_t)about.st_size;
    unsigned char start[16] = {0};
    size_t n_start = file_size < sizeof start ? (size_t)file_size : sizeof start;
    MLFF_TRY(read_part(fd, shown, start, 0, n_start, error));
    MLFF_TRY(mlff_safetensors_check_start(start, n_start, file_size, shown, error));
    if (file_size > MLFF_MAX_FILE_SIZE) {
        return mlff_fail(error, MLFF_ERROR_FORMAT, "%s: file size %" PRIu64 " bytes, expected at most %" PRIu64, shown,
                         file_size, MLFF_MAX_FILE_SIZE);
    }
    *size = (size_t)file_size;
    *bytes = malloc(*size);
    if (!*bytes) return out_of_memory(shown, *size, error);
    memcpy(*bytes, start, n_start);
    return read_part(fd, shown, *bytes, n_start, *size, error);
}

mlff_status mlff_model_load(const char *path, mlff_model **model, mlff_error *error)
{
    if (model) *model = NULL;
    if (!path || !model) {
        return mlff_fail(error, MLFF_ERROR_ARGUMENT, "mlff_model_load: %s is NULL, expected %s",
                         path ? "model" : "path", path ? "where to put the model" : "the name of a model file");
    }
    display_name shown = shorten(path);
    /* O_NONBLOCK: opening a pipe that nobody writes to must not wait */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return mlff_fail(error, MLFF_ERROR_FILE, "%s: cannot open the model file: %s", shown.text, strerror(errno));
    }
    unsigned char *bytes = NULL;
    size_t size = 0;
    mlff_status status = read_open_file(fd, shown.text, &bytes, &size, error);
    close(fd);
    if (status == MLFF_OK) status = mlff_model_load_memory(bytes, size, path, model, error);
    free(bytes);
    return status;
}

/* ---------------------------------------------------------------------------------------------- the rest */

void mlff_model_free(mlff_model *model)
{
    if (!model) return;
    for (size_t k = 0; model->metadata && k < 2 * (size_t)model->n_metadata; k++) free(model->metadata[k]);
    free(model->metadata);
    free(model->elements);
    free(model->short_range);
    free(model->name);
    free(model->storage);
    free(model);
}

const mlff_model_info *mlff_model_get_info(const mlff_model *model)
{
    return model ? &model->info : NULL;
}

const char *mlff_model_get_metadata(const mlff_model *model, const char *key)
{
    if (!model || !key) return NULL;
    for (int k = 0; k < model->n_metadata; k++) {
        if (!strcmp(model->metadata[2 * k], key)) return model->metadata[2 * k + 1];
    }
    return NULL;
}
