/* SPDX-License-Identifier: MIT */
#ifndef MLFF_MODEL_FILE_H
#define MLFF_MODEL_FILE_H
/*
 * From safetensors to struct mlff_model, by the tables of docs/model-file.md. Nothing is allocated before
 * metadata and tensors agree.
 */
#include "model.h"
#include "safetensors.h"

enum { MLFF_MAX_ELEMENTS = 118 };

/* A model of the largest sizes that the format allows, with its header, is smaller than this. */
#define MLFF_MAX_FILE_SIZE ((uint64_t)1 << 31)

/* Fills model's hyperparameters; atom_shift: [MLFF_MAX_ELEMENTS] eV, the first info.n_elements of them are set.
 * model->elements is allocated, model_free releases it. (model_metadata.c) */
mlff_status mlff_model_read_metadata(const safetensors_file *file, struct mlff_model *model, double *atom_shift,
                                     mlff_error *error);

/* Fills a zeroed model from the file: hyperparameters, then weights. On failure mlff_model_free releases what is
 * there. (model_file.c) */
mlff_status mlff_model_from_safetensors(const safetensors_file *file, struct mlff_model *model, mlff_error *error);

#endif
