/* SPDX-License-Identifier: MIT */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>

mlff_status mlff_fail(mlff_error *error, mlff_status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

const char *mlff_status_name(mlff_status status)
{
    switch (status) {
    case MLFF_OK: return "ok";
    case MLFF_ERROR_ARGUMENT: return "wrong argument";
    case MLFF_ERROR_FILE: return "file cannot be read";
    case MLFF_ERROR_FORMAT: return "not a valid model file";
    case MLFF_ERROR_UNSUPPORTED: return "not supported";
    case MLFF_ERROR_MEMORY: return "out of memory";
    case MLFF_ERROR_NUMERICS: return "numerical failure";
    case MLFF_ERROR_DEVICE: return "device failure";
    case MLFF_ERROR_HALO: return "halo exchange failed";
    case MLFF_ERROR_ELSEWHERE: return "another rank failed";
    }
    return "unknown status";
}
