/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_RECORDING_CUH
#define MLFF_CUDA_RECORDING_CUH
/*
 * One evaluation as one CUDA graph. Between two rebuilds of the neighbour list every launch has the same arguments:
 * positions are brought to the device before, results go to pinned memory at a fixed address. The first evaluation of a
 * list runs launch by launch, the second is captured on its way, the others are one call. The same kernels run in the
 * same order, so the bits are the same.
 *
 * A recording belongs to one set of outputs and fits while the list and all memory are those it was made with; after a
 * rebuild its executable graph is updated in place where the shape of the sequence allows it.
 */
#include "state.cuh"

namespace mlff
{

/* What a recording made now would be of. */
recording recording_of(uint64_t version, const void *arena, const void *graph_arena, const void *virial_arena,
                       const void *host);

/* 1: nothing of what r was made (or announced) with has changed. */
int recording_fits(const recording *r, const recording *now);

/* Announces a sequence: when the next one fits too, it is worth recording. */
void recording_announce(recording *r, const recording *now);

/* From here on launches on the stream are recorded and do not run; recording_end makes them one executable graph and
 * runs it. */
mlff_status recording_begin(cudaStream_t stream, mlff_error *error);
mlff_status recording_end(recording *r, cudaStream_t stream, mlff_error *error);
mlff_status recording_replay(const recording *r, cudaStream_t stream, mlff_error *error);

/* After a layer failed in the middle of a recording: the stream runs launches again, as does the one beside it, which
 * may have been drawn into the recording; event: any that belongs to them. */
void recording_abandon(cudaStream_t stream, cudaStream_t beside, cudaEvent_t event);

void recording_free(recording *r);

} // namespace mlff

#endif
