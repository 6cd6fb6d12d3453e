/* SPDX-License-Identifier: MIT */
/* Recorded evaluations: see recording.cuh. */
#include "recording.cuh"

#include <string.h>

namespace mlff
{

recording recording_of(uint64_t version, const void *arena, const void *graph_arena, const void *virial_arena,
                       const void *host)
{
    recording now = {};
    now.version = version;
    now.memory[0] = arena, now.memory[1] = graph_arena, now.memory[2] = virial_arena, now.memory[3] = host;
    return now;
}

int recording_fits(const recording *r, const recording *now)
{
    return r->version == now->version && memcmp(r->memory, now->memory, sizeof r->memory) == 0;
}

void recording_announce(recording *r, const recording *now)
{
    r->is_recorded = 0;
    r->version = now->version;
    memcpy(r->memory, now->memory, sizeof r->memory);
}

mlff_status recording_begin(cudaStream_t stream, mlff_error *error)
{
    /* of this thread only: other evaluators of the process go on allocating */
    CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    return MLFF_OK;
}

mlff_status recording_replay(const recording *r, cudaStream_t stream, mlff_error *error)
{
    CUDA_TRY(cudaGraphLaunch(r->launches, stream));
    return MLFF_OK;
}

/* An executable graph of another list is brought up to date where the sequence kept its shape: cheaper than a new
 * one. */
static cudaError_t make_executable(recording *r, cudaGraph_t graph)
{
    if (r->launches) {
        cudaGraphExecUpdateResultInfo info;
        if (cudaGraphExecUpdate(r->launches, graph, &info) == cudaSuccess) return cudaSuccess;
        cudaGetLastError(); /* another shape: no fault */
        const cudaError_t code = cudaGraphExecDestroy(r->launches);
        r->launches = NULL;
        if (code != cudaSuccess) return code;
    }
    /* each launch with the priority of the stream that it was recorded on */
    return cudaGraphInstantiate(&r->launches, graph, cudaGraphInstantiateFlagUseNodePriority);
}

mlff_status recording_end(recording *r, cudaStream_t stream, mlff_error *error)
{
    cudaGraph_t graph = NULL;
    CUDA_TRY(cudaStreamEndCapture(stream, &graph));
    const cudaError_t made = make_executable(r, graph), destroyed = cudaGraphDestroy(graph);
    if (made != cudaSuccess) return cuda_failure(made, "making an executable graph", error);
    CUDA_TRY(destroyed);
    r->is_recorded = 1;
    return recording_replay(r, stream, error);
}

void recording_abandon(cudaStream_t stream, cudaStream_t beside, cudaEvent_t event)
{
    cudaGraph_t graph = NULL;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(beside, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive) {
        cudaEventRecord(event, beside); /* a capture ends where all that it drew in has joined */
        cudaStreamWaitEvent(stream, event, 0);
    }
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError(); /* the layer's own failure was reported */
}

void recording_free(recording *r)
{
    if (r->launches) cudaGraphExecDestroy(r->launches);
    *r = {};
}

} // namespace mlff
