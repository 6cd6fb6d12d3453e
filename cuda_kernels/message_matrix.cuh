/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_MATRIX_CUH
#define MLFF_CUDA_MESSAGE_MATRIX_CUH
/* Messages in single and mixed through the matrix units; message.cu chooses between these and the plain kernels. */
#include "radial.cuh"

namespace mlff
{

/* Whether F (padded) and K suit these kernels. */
bool message_matrix_fits(int F, int K);

/* Number of uint2 of a layer's weight fragments. */
size_t message_matrix_fragments(int F);

/* filter [K+1][3][F] to fragments; returns the scale by which the kernels multiply what the fragments give. */
float message_matrix_pack(const double *filter, int F, int K, uint2 *fragments);

/* The same for message_mixed.cuh and message_mixed_reverse.cuh. */
size_t message_mixed_fragments(int F);
float message_mixed_pack(const double *filter, int F, int K, uint2 *fragments);

/* Whether this evaluation goes through the matrix units: in single and mixed, where the model has fragments. */
template <typename T> bool message_matrix_suits(const state<T> *s);

/* Seats that clusters of N rows need at most, over both directions. */
template <typename T> size_t message_matrix_seats(int32_t N);

/* Floats of room for the sums of rows of several passes. */
template <typename T> size_t message_matrix_sums(const state<T> *s);

/* Starts the list of clusters of a direction on the stream beside the others, from the edges as what was launched
 * before leaves them; nothing where these kernels do not serve or that list is at hand. It takes the place of the other
 * direction's list. A layer whose list nobody started makes it itself. */
template <typename T> mlff_status message_matrix_start_list(state<T> *s, bool reverse, mlff_error *error);

/* What is launched from here on runs when a list that was started is there. The layers do this themselves. */
template <typename T> mlff_status message_matrix_await_list(state<T> *s, mlff_error *error);

template <typename T> mlff_status message_matrix_forward(state<T> *s, int l, mlff_error *error);
template <typename T> mlff_status message_matrix_reverse(state<T> *s, int l, mlff_error *error);

} // namespace mlff

#endif
