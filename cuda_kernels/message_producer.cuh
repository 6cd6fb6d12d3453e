/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MESSAGE_PRODUCER_CUH
#define MLFF_CUDA_MESSAGE_PRODUCER_CUH
/*
 * The warps that bring a block's data (message_matrix.cu): for each cluster the list of its seats, for each pass the
 * edges of its rows, for each slice of 16 columns what sits on the seats and the weights. The warps of the rows only
 * wait for full buffers: when they did this themselves, between two barriers of the whole block, it took 37 % of their
 * time forward and 40 % in reverse.
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

/* Seats whose slice is brought by a copy of each lane for each plane; where in the list a seat stands, so that a lane
 * reads those of four such groups at once. */
template <typename T> constexpr int TOGETHER = 32 * 16 / (COLUMNS * sizeof(T));

template <typename T> __device__ inline int place_in_list(int seat)
{
    constexpr int GROUP = 4 * TOGETHER<T>;
    return seat / GROUP * GROUP + seat % TOGETHER<T> * 4 + seat / TOGETHER<T> % 4;
}

/* The list of a cluster's seats: where the row on a seat begins, in pieces of 16 bytes. Seats that stay empty get the
 * first row: copying it costs less than asking. Returns how many to fill, negative where some edges have none. */
template <typename T, typename Shared>
__device__ inline int stage_list(const matrix_arguments &a, int cluster, uint32_t *seats)
{
    constexpr int QUADS = (Shared::SEATS / 4 + 31) / 32;
    static_assert(Shared::SEATS % (4 * TOGETHER<T>) == 0, "the list is in whole groups");
    const uint32_t row_pieces = Shared::PLANES * a.F * sizeof(T) / 16;
    const int4 *from = (const int4 *)(a.clusters.rows + (size_t)cluster * a.clusters.seats);
    const int taken = a.clusters.taken[cluster], filled = abs(taken);
    int4 rows[QUADS];
#pragma unroll
    for (int k = 0; k < QUADS; k++) {
        const int q = 32 * k + threadIdx.x % 32;
        rows[k] = 4 * q < filled ? from[q] : make_int4(0, 0, 0, 0);
    }
#pragma unroll
    for (int k = 0; k < QUADS; k++) {
        const int q = 32 * k + threadIdx.x % 32, row[4] = {rows[k].x, rows[k].y, rows[k].z, rows[k].w};
        if (4 * q >= Shared::SEATS) break;
#pragma unroll
        for (int c = 0; c < 4; c++) seats[place_in_list<T>(4 * q + c)] = (uint32_t)max(row[c], 0) * row_pieces;
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
            to.row[row].place[q] = (uint16_t)(place[row][k] >> 16);
            to.row[row].neighbour[q] = seat == NO_SEAT ? -1 - a.edge_row[e] : seat_begin<T, Shared::PLANES>(seat);
        }
}

/* What follows `now`: its cluster's next pass, or another cluster's first. Fills the pass's buffer; the list of its
 * seats goes beside that of `now`, which is still in use. */
template <typename T, typename Shared>
__device__ inline coming_pass stage_pass(const matrix_arguments &a, coming_pass now, ring<2> at, Shared &shared)
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
        const int row = next.cluster * a.clusters.n_rows + lane;
        const bool valid = !ends && lane < a.clusters.n_rows && row < a.N;
        to.edges[lane] = valid ? a.count[row] : 0;
        to.first[lane] = valid ? a.first[row] : 0;
    }
    if (other && !ends) {
        const int taken = stage_list<T, Shared>(a, next.cluster, shared.seats[next.list]);
        next.seats = abs(taken);
        if (lane == 0) to.all_seated = taken >= 0;
    } else if (lane == 0)
        to.all_seated = shared.pass[at.buffer ^ 1].all_seated;
    __syncwarp();
    if (other)
        for (int row = 0; row < ROWS; row++) next.most = max(next.most, to.edges[row]);
    if (lane == 0) {
        to.cluster = ends ? -1 : next.cluster, to.begin = next.begin, to.more = next.most > next.begin + PASS_EDGES;
        to.seats = next.seats, to.list = next.list;
    }
    stage_edges<T, Shared>(a, next.begin, to);
    barrier_arrive_with_copies(&shared.pass_full[at.buffer]);
    barrier_arrive(&shared.pass_full[at.buffer]);
    return next;
}

/* A slice of what sits on the first n seats, and on those that fill their group; from: [rows][F/16][PLANES][16], at the
 * slice of the first row. A seat's slice lies together in memory, so a copy of all lanes brings whole lines; of planes
 * of F columns it brought 16 pieces, each written for itself: 16 % of what shared memory can do (H200, mixed, reverse).
 * The rows come four groups at a time: a load before each copy left the rows' warps waiting a quarter of their time. */
template <typename T, int PLANES>
__device__ inline void stage_neighbours(char *stage, const T *from, const uint32_t *seats, int n)
{
    constexpr int PIECES = PLANES * COLUMNS * sizeof(T) / 16, GROUP = 4 * TOGETHER<T>;
    const uint4 *source[PLANES];
    const uint32_t *list[PLANES];
    char *to[PLANES];
#pragma unroll
    for (int q = 0; q < PLANES; q++) {
        const int own = 32 * q + threadIdx.x % 32, seat = own / PIECES, piece = own % PIECES;
        source[q] = (const uint4 *)from + piece;
        list[q] = seats + 4 * seat;
        to[q] = stage + inside_seat<PLANES>(seat_begin<T, PLANES>(seat), piece * 16);
    }
    for (int base = 0; base < n; base += GROUP) {
        uint32_t rows[PLANES][4];
#pragma unroll
        for (int q = 0; q < PLANES; q++) {
            const uint4 four = *(const uint4 *)(list[q] + base);
            rows[q][0] = four.x, rows[q][1] = four.y, rows[q][2] = four.z, rows[q][3] = four.w;
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (base + k * TOGETHER<T> >= n) break;
#pragma unroll
            for (int q = 0; q < PLANES; q++)
                copy_16_async(to[q] + (base + k * TOGETHER<T>)*PIECES * 16, source[q] + rows[q][k], true);
        }
    }
}

/* from: of the slice */
template <int COUNT> __device__ inline void stage_weights(uint2 *weights, const uint2 *from)
{
#pragma unroll
    for (int q = 2 * (threadIdx.x % 32); q < COUNT; q += 64) copy_16_async(weights + q, from + q, true);
}

/* A producer's warp. The first prepares the passes; two take the slices in turn. from [rows][F/16][PLANES][16] */
template <typename T, typename Shared>
__device__ inline void produce(const matrix_arguments &a, const T *from, Shared &shared)
{
    /* a pass's buffer is free by the time its neighbour's first slices have been worked on */
    const int own = threadIdx.x / 32 - Shared::ROWS, slices = a.F / COLUMNS, ahead = min(2, slices - 1);
    int turn = 0;
    ring<Shared::BUFFERS> slice_ring;
    ring<2> pass_ring;
    coming_pass now = {(int)blockIdx.x - (int)gridDim.x, 0, 0, 0, 1}, next = now;
    if (own == 0) {
        now = stage_pass<T>(a, now, pass_ring, shared);
        pass_ring.advance();
    }
    for (;;) {
        if (own > 0) {
            barrier_wait(&shared.pass_full[pass_ring.buffer], pass_ring.parity);
            const staged_pass<Shared::ROWS> &pass = shared.pass[pass_ring.buffer];
            now = {pass.cluster < 0 ? a.n_clusters : pass.cluster, 0, 0, pass.seats, pass.list};
        }
        if (now.cluster >= a.n_clusters) break;
        for (int slice = 0; slice < slices; slice++, turn ^= 1, slice_ring.advance()) {
            const int b = slice_ring.buffer;
            if (Shared::PRODUCERS == 1 || turn == own) {
                barrier_wait(&shared.stage_empty[b], slice_ring.parity ^ 1);
                stage_neighbours<T, Shared::PLANES>(shared.stage[b], from + slice * Shared::PLANES * COLUMNS,
                                                    shared.seats[now.list], now.seats);
                stage_weights<Shared::WEIGHTS>(shared.weights[b], a.fragments + (size_t)slice * SLICE_WEIGHTS<T>);
                barrier_arrive_with_copies(&shared.stage_full[b]);
            }
            if (own == 0 && slice == ahead) {
                next = stage_pass<T>(a, now, pass_ring, shared);
                pass_ring.advance();
            }
        }
        if (own == 0) {
            now = next;
        } else {
            barrier_arrive(&shared.pass_empty[pass_ring.buffer]);
            pass_ring.advance();
        }
    }
}

} // namespace mlff

#endif
