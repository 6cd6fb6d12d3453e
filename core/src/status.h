/* SPDX-License-Identifier: MIT */
#ifndef MLFF_STATUS_H
#define MLFF_STATUS_H
/* How failures travel: `return mlff_fail(error, MLFF_ERROR_..., "what: found ..., expected ...")`. */
#include "mlff.h"

/* Writes the sentence into error (if not NULL) and returns status. */
mlff_status mlff_fail(mlff_error *error, mlff_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* return early from a function that passes failures on */
#define MLFF_TRY(call)                                                                                                 \
    do {                                                                                                               \
        mlff_status status_ = (call);                                                                                  \
        if (status_ != MLFF_OK) return status_;                                                                        \
    } while (0)

#endif
