/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_SEARCH_CUH
#define MLFF_CUDA_SEARCH_CUH
/* What the parts of the search share: neighbours.cu has the sequence, search_rows.cu rows and sorted items,
 * search_pairs.cu pairs. */
#include "neighbours.cuh"

namespace mlff
{

enum { LEFT_OUT_BIN = -1, MOST_WARPS = 8, MOST_SHARED = 160 << 10, CURVE_SPARE_BITS = 18 };

/* Above so many slots the device's memory is asked before time is spent on counting; above the others none has it. */
#define MANY_SLOTS 0x1p28
#define MOST_SLOTS 0x1p40

/* A structure: its box, its rows, its bins. */
struct searched {
    box b;
    order_grid grid;         /* bits 0: nothing tells its atoms apart */
    double sure2, possible2; /* below one a pair is taken, below the other it may be, angstrom^2 */
    int32_t first_atom, first_item, n_items, first_bin;
};

/* What atoms of a structure say about its extents, doubles as whole numbers of the same order. */
enum { LOWS = 6, HIGHS = 7 };
struct totals {
    unsigned long long slots;
    int32_t most_neighbours, most_incoming, n_ghost_rows, bad_atom, flat_structure, too_flat;
};

/* The pointers of one search. A atoms, N owned rows, M items, S structures. */
struct search_view {
    int32_t A, n_local, N, M, S, place_shift, most_bits;
    double reach;
    const double *x; /* [A][3] */
    const int32_t *species_of_atom, *owner, *first_atom;
    searched *group;                /* [S] */
    unsigned long long *low, *high; /* [S][LOWS], [S][HIGHS] */
    uint64_t *place, *place_sorted; /* [A] */
    int32_t *atom, *atom_sorted;    /* [A] beside them */
    uint32_t *bin, *bin_sorted;     /* [M] */
    int32_t *item, *item_sorted;    /* [M] beside them: rows, then ghosts */
    int32_t *bin_first;             /* [M + S + 1] */
    double *wrapped[3], *image[3];  /* [M] of sorted items; no images with an engine's atoms */
    int32_t *atom_of_item, *target; /* [M] of sorted items; target: row, or N + a ghost that may get one */
    int32_t *count, *named;         /* [N+1], [A+1] neighbours of a row, slots that name a target; with structures each
                                       neighbour names back, and there is no `named` */
    int32_t *named_row, *cursor;    /* [A+1] slots that name a row; [A] */
    int32_t *row_of_atom;           /* [A] */
    totals *total;
    void *sorting; /* room of sorts and sums */
    size_t sorting_bytes;
    device_graph g;
};

/* A neighbour while its row's slots are sorted. */
struct found {
    int32_t row, item, cells[3];
};

/* The structure of an atom: the last one that begins at it or before, and is not empty. */
__device__ inline int32_t structure_of(const search_view &a, int32_t atom)
{
    int32_t low = 0, high = a.S;
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        if (a.first_atom[middle] <= atom) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Bytes of `sorting` for n atoms. */
mlff_status sorting_bytes(int32_t n, size_t *bytes, mlff_error *error);

/* Sorts a.atom by a.place. */
mlff_status sort_by_place(const search_view &a, int32_t n, cudaStream_t stream, mlff_error *error);

/* From atoms to rows and sorted items. */
mlff_status order_atoms(const search_view &a, cudaStream_t stream, mlff_error *error);

/* Neighbours of each row, and sums of counts; on several ranks also the rows of ghosts. */
mlff_status count_slots(const search_view &a, cudaStream_t stream, mlff_error *error);

/* The slots of R rows and the slots that name a row. */
mlff_status fill_slots(const search_view &a, const totals *t, int32_t R, cudaStream_t stream, mlff_error *error);

/* Warps of a block that have `bytes` each of shared memory, 0: not even one. */
int warps_with(size_t bytes);

} // namespace mlff

#endif
