/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_PRODUCER_CUH
#define MLFF_CUDA_MESSAGE_PRODUCER_CUH
/*
 * The warp that brings a block's data (message_matrix.cu): for each cluster the list of its seats, for each pass the edges of its
 * rows, for each slice of 16 columns what sits on the seats and the weights. The warps of the rows only wait for full
 * buffers: when they did this themselves, between two barriers of the whole block, it took 37 % of their time forward and
 * 40 % in reverse.
 */
#include "message_stage.cuh"

namespace mlff
{

/* A pass on its way: of this block's clusters blockIdx.x, + gridDim.x, ... */
struct coming_pass {
    int cluster, begin, most; /* most: edges of the cluster's longest row */
    int seats;                /* to fill */
    int list;                 /* which of the lists of seats is the cluster's */
};

/* The list of a cluster's seats; returns how many are to be filled, negative where some edges have none. */
template <typename Shared>
__device__ inline int stage_list(const matrix_arguments &a, int cluster, uint32_t row_pieces, uint32_t *seats)
{
    constexpr int QUADS = (Shared::SEATS / 4 + 31) / 32;
    const int4 *from = (const int4 *)(a.clusters.rows + (size_t)cluster * a.clusters.seats);
    const int taken = a.clusters.taken[cluster], filled = abs(taken);
    int4 rows[QUADS];
#pragma unroll
    for (int k = 0; k < QUADS; k++) {
        const int q = 32 * k + threadIdx.x % 32;
        rows[k] = 4 * q < filled ? from[q] : make_int4(-1, -1, -1, -1);
    }
#pragma unroll
    for (int k = 0; k < QUADS; k++) {
        const int q = 32 * k + threadIdx.x % 32;
        if (4 * q >= Shared::SEATS) break;
        const int row[4] = {rows[k].x, rows[k].y, rows[k].z, rows[k].w};
#pragma unroll
        for (int c = 0; c < 4; c++)
            seats[4 * q + c] = row[c] < 0 || 4 * q + c >= filled ? EMPTY_SEAT : (uint32_t)row[c] * row_pieces;
    }
    return taken;
}

/* 64 edges of each row, in the order of their sums. */
template <typename T, typename Shared>
__device__ inline void stage_edges(const matrix_arguments &a, int begin, staged_pass<Shared::ROWS> &to)
{
    constexpr int ROWS = Shared::ROWS;
    const int lane = threadIdx.x % 32;
    uint32_t place[ROWS][2];
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (to.edges[row] > begin)
                place[row][k] = a.clusters.places[to.first[row] + min(begin + 32 * k + lane, to.edges[row] - 1)];
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (to.edges[row] <= begin) continue;
            const int64_t e = to.first[row] + (place[row][k] >> 16);
            const int seat = place[row][k] & 0xffff, q = 32 * k + lane;
            copy_16_async(&to.row[row].edge[q], a.edges + e, true);
            to.row[row].neighbour[q] = seat == NO_SEAT ? -1 - a.edge_row[e] : seat_begin<T, Shared::PLANES>(seat);
        }
}

/* What follows `now`: its cluster's next pass, or another cluster's first. Fills the pass's buffer; the list of its seats
 * goes beside that of `now`, which is still in use. */
template <typename T, typename Shared>
__device__ inline coming_pass stage_pass(const matrix_arguments &a, coming_pass now, ring at, Shared &shared)
{
    constexpr int ROWS = Shared::ROWS;
    const int lane = threadIdx.x % 32;
    staged_pass<ROWS> &to = shared.pass[at.buffer];
    coming_pass next = now;
    next.begin += PASS_EDGES;
    const bool other = now.most <= next.begin;
    if (other) next = {now.cluster + (int)gridDim.x, 0, 0, 0, now.list ^ 1};
    const bool ends = next.cluster >= a.n_clusters;
    barrier_wait(&shared.pass_empty[at.buffer], at.parity ^ 1);
    if (lane < ROWS) {
        const int row = next.cluster * ROWS + lane;
        const bool valid = !ends && row < a.N;
        to.edges[lane] = valid ? a.count[row] : 0;
        to.first[lane] = valid ? a.first[row] : 0;
    }
    if (other && !ends) {
        const int taken =
            stage_list<Shared>(a, next.cluster, Shared::PLANES * a.F * sizeof(T) / 16, shared.seats[next.list]);
        next.seats = abs(taken);
        if (lane == 0) to.all_seated = taken >= 0;
    } else if (lane == 0)
        to.all_seated = shared.pass[at.buffer ^ 1].all_seated;
    __syncwarp();
    if (other)
        for (int row = 0; row < ROWS; row++) next.most = max(next.most, to.edges[row]);
    if (lane == 0)
        to.cluster = ends ? -1 : next.cluster, to.begin = next.begin, to.more = next.most > next.begin + PASS_EDGES;
    stage_edges<T, Shared>(a, next.begin, to);
    barrier_arrive_with_copies(&shared.pass_full[at.buffer]);
    barrier_arrive(&shared.pass_full[at.buffer]);
    return next;
}

/* A slice's columns of what sits on the seats; from [rows][PLANES][F], at the slice's first column. */
template <typename T, int PLANES>
__device__ inline void stage_neighbours(char *stage, const T *from, int F, const uint32_t *seats, int n)
{
    constexpr int PIECES = COLUMNS * sizeof(T) / 16,
                  TOGETHER = 32 / PIECES; /* lanes of a seat's plane; seats at a time */
    const int piece = threadIdx.x % PIECES;
    const uint4 *source[PLANES];
#pragma unroll
    for (int plane = 0; plane < PLANES; plane++) source[plane] = (const uint4 *)(from + (size_t)plane * F) + piece;
    stage += piece * 16;
#pragma unroll 4
    for (int seat = threadIdx.x % 32 / PIECES; seat < n; seat += TOGETHER) {
        const uint32_t row = seats[seat];
        if (row == EMPTY_SEAT) continue;
        const int begin = seat_begin<T, PLANES>(seat);
#pragma unroll
        for (int plane = 0; plane < PLANES; plane++)
            copy_16_async(stage + inside_seat<PLANES>(begin, plane * COLUMNS * (int)sizeof(T)), source[plane] + row,
                          true);
    }
}

__device__ inline void stage_weights(uint2 *weights, const uint2 *fragments, int slice)
{
    const uint2 *from = fragments + (size_t)slice * SLICE_FRAGMENTS;
#pragma unroll
    for (int q = 2 * (threadIdx.x % 32); q < SLICE_FRAGMENTS; q += 64) copy_16_async(weights + q, from + q, true);
}

/* from [rows][PLANES][F] */
template <typename T, typename Shared>
__device__ inline void produce(const matrix_arguments &a, const T *from, Shared &shared)
{
    /* a pass's buffer is free by the time its neighbour's first slices have been worked on */
    const int slices = a.F / COLUMNS, ahead = min(2, slices - 1);
    ring slice_ring, pass_ring;
    coming_pass now = {(int)blockIdx.x - (int)gridDim.x, 0, 0, 0, 1}, next;
    now = stage_pass<T>(a, now, pass_ring, shared);
    pass_ring.advance();
    while (now.cluster < a.n_clusters) {
        for (int slice = 0; slice < slices; slice++, slice_ring.advance()) {
            const int b = slice_ring.buffer;
            barrier_wait(&shared.stage_empty[b], slice_ring.parity ^ 1);
            stage_neighbours<T, Shared::PLANES>(shared.stage[b], from + slice * COLUMNS, a.F, shared.seats[now.list],
                                                now.seats);
            stage_weights(shared.weights[b], a.fragments, slice);
            barrier_arrive_with_copies(&shared.stage_full[b]);
            if (slice == ahead) {
                next = stage_pass<T>(a, now, pass_ring, shared);
                pass_ring.advance();
            }
        }
        now = next;
    }
}

} // namespace mlff

#endif
