/* SPDX-License-Identifier: MIT */
/*
 * Positions go up in parts, each as soon as it stands in pinned memory, while the host copies the rest and then
 * launches a recording, of which they are no part.
 */
#include "positions.cuh"

#include <math.h>

namespace mlff
{

/* A position that is not a number is found before the first exchange, so that all ranks can stop together. */
static mlff_status explain_positions(const mlff_graph *g, const double *x, mlff_error *error)
{
    for (int32_t row = 0; row < g->n_rows; row++) {
        const double *at = x + 3 * (size_t)g->atom_of_row[row];
        if (!isfinite(at[0]) || !isfinite(at[1]) || !isfinite(at[2]))
            return mlff_fail(error, MLFF_ERROR_NUMERICS,
                             "atom index %d: position (%g, %g, %g), expected finite numbers", (int)g->atom_of_row[row],
                             at[0], at[1], at[2]);
    }
    return MLFF_OK; /* it was an atom that is left out */
}

struct sending {
    double *to;         /* device */
    const double *from; /* pinned */
    cudaStream_t stream;
    cudaError_t code; /* the first failure */
};

static void send_part(void *context, size_t begin, size_t end)
{
    sending *p = (sending *)context;
    if (p->code == cudaSuccess)
        p->code = cudaMemcpyAsync(p->to + begin, p->from + begin, (end - begin) * sizeof *p->to, cudaMemcpyHostToDevice,
                                  p->stream);
}

template <typename T> mlff_status positions_send(state<T> *s, const double *x, mlff_error *error)
{
    const bool by_one_launch = s->molecules.suits && !s->halo; /* which reads them where they are pinned */
    sending to = {s->x, (const double *)s->host, s->stream, cudaSuccess};
    s->is_under_way = s->are_positions_sent = !by_one_launch;
    const int finite =
        mlff_copy_finite((double *)s->host, x, (size_t)s->n_all * 3, s->threads, by_one_launch ? NULL : send_part, &to);
    if (to.code != cudaSuccess) return cuda_failure(to.code, "cudaMemcpyAsync of positions", error);
    return finite ? MLFF_OK : explain_positions(s->graph, x, error);
}

template <typename T> mlff_status positions_send_all(state<T> *s, mlff_error *error)
{
    if (s->n_all > 0)
        CUDA_TRY(
            cudaMemcpyAsync(s->x, s->host, (size_t)s->n_all * 3 * sizeof(double), cudaMemcpyHostToDevice, s->stream));
    s->are_positions_sent = 1;
    return MLFF_OK;
}

template mlff_status positions_send(state<double> *, const double *, mlff_error *);
template mlff_status positions_send(state<float> *, const double *, mlff_error *);
template mlff_status positions_send(state<__half> *, const double *, mlff_error *);
template mlff_status positions_send_all(state<double> *, mlff_error *);
template mlff_status positions_send_all(state<float> *, mlff_error *);
template mlff_status positions_send_all(state<__half> *, mlff_error *);

} // namespace mlff
