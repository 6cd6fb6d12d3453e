/* SPDX-License-Identifier: MIT */
#ifndef MLFF_CUDA_MOLECULE_CUH
#define MLFF_CUDA_MOLECULE_CUH
/*
 * A whole evaluation of a small structure by one cluster of blocks, in one launch (molecule.cu): what host and device
 * agree on.
 *
 * Every block owns an equal share of the feature columns of every row: messages, products and slopes are made where
 * their columns are. A dense layer sees all columns, in one of two ways:
 *   gathered    its input was put into every block's memory; a block makes its own columns of the output
 *   scattered   a block multiplies its own columns of the input and sends each output column's part to its owner, which
 *               adds the parts in the order of blocks: where the input is wider than the output (2F or 3F to F)
 * Both take one exchange: a block waits until so many bytes have arrived. Two buffers take turns. A block sends into a
 * buffer for the second time only when it has everything of the exchange between, which every block sends after it has
 * read the first: nothing is overwritten before it was read. An exchange is a barrier of the block's own threads too:
 * each arrives before it waits, which costs nothing measurable (83.3 us instead of 83.2 with 9 atoms, H200). Within a
 * quad of lanes that read what one of them then writes, the warp is synchronised.
 *
 * A cluster has eight blocks, or, where more structures than clusters of eight run at a time, six or four. Sums over
 * blocks are sums over parts of the columns in a fixed order: PARTS of 16 columns with eight blocks, of which a block
 * of four makes two apart, so that both give the same bits. Six blocks have 24 columns, which are three halves of such
 * a part: they add up their own, and the last one has but 8 columns.
 */
#include "cluster.cuh"
#include "radial.cuh"

namespace mlff
{
namespace molecule
{

constexpr int PARTS = 8; /* of sums over columns; the most blocks that every device with clusters takes in one */
constexpr int THREADS = 512, WARPS = THREADS / 32;
constexpr int SLICES = 8,
              GROUPS = WARPS / SLICES; /* warps on the inputs and on the output columns of a gathered layer */
constexpr int MOST_ROWS = 32, MOST_FEATURES = 128, MOST_READOUT = 256, MOST_PART = MOST_FEATURES / PARTS; /* columns */
constexpr int OWN_OF_SIX = 24;   /* of 128 columns with six blocks: five have 24, the last 8 */
constexpr int CHUNK_WIDE = 16;   /* rows of a gathered layer of three parts whose sums are in memory at a time */
constexpr int MOST_SLOTS = 4;    /* elements whose coefficients of the first message are in memory at a time */
constexpr int MOST_INPUTS = 256; /* of a gathered layer: 4 steps of 8 in each slice */

/* A row of n values in shared memory so that lanes (g, 2t), g < 4, fall on different banks. */
__host__ __device__ inline int stride_of(int n)
{
    const int eights = (n + 7) / 8 * 8;
    return eights % 16 ? eights : eights + 8;
}

/* Of all slices' parts of a row, [SLICES][stride]: lanes (g, 2t) on different banks again. */
__host__ __device__ inline int parts_stride(int stride)
{
    return SLICES * stride + 8;
}

/* The same of other layers: whole triples of vectors. */
__host__ __device__ constexpr int chunk_of(int blocks)
{
    return blocks == 4 ? 15 : 30;
}

/* Parts of the columns that a block adds up apart. */
__host__ __device__ constexpr int parts_of_block(int blocks)
{
    return (PARTS + blocks - 1) / blocks;
}

constexpr int MOST_CANDIDATES = 4096; /* of a structure */
constexpr int TILE_EDGES = 8;         /* of a row: what a warp works on in a message */
constexpr int MOST_KINDS = 5;         /* of a message's sums over edges: 4, and 5 in reverse */
constexpr int FILTER_FLOATS = 128;    /* of a group of the filter's columns, 8 functions: 4 of a lane */

/* Tiles of rows that have E edges in all: a row's last one is not full. */
__host__ __device__ inline int most_tiles(int n, int E)
{
    return n + E / TILE_EDGES;
}

constexpr int ROW_VALUES = 12; /* of a row: virial (9), force (3) */
constexpr int NO_ROW = 0x7f7f7f7f;

/* Biases of a layer, in units of own columns. */
enum { BIAS_CONTEXT0 = 0, BIAS_CONTEXT1 = 1, BIAS_MIX = 4, BIAS_DENSE0 = 6, BIAS_DENSE1 = 7, BIASES = 10 };

/* Sizes that follow from the model alone. */
struct widths {
    int F, K, H, L, n_elements;
    int blocks;             /* of a cluster */
    int own, own_readout;   /* columns of a block */
    int functions, paired;  /* K + 1, and that rounded up to an even number */
    int slots;              /* elements at a time */
    int table, coefficient; /* strides of radial functions and of coefficients */
    int short_range;        /* the model has such a term */
};

/* Where things lie in a block's shared memory, in floats; doubles first. For the most rows and slots of a call. */
struct layout {
    int rows, slots;                  /* n and E below */
    int shared_layers, shared_tables; /* what of the two is in shared memory; the rest is in global memory */
    int row_sums;                     /* double [n][ROW_VALUES] */
    int energy;                       /* double [parts of a block][n] of its readout columns */
    int energy_terms;                 /* double [n][own_readout / 2] */
    int position;                     /* double [n][3] */
    int edges;                        /* float4 [E] u, d (the distance that the network sees) */
    int distance;                     /* [E], of a model with a short-range term: the other distance of the two */
    int edge_adj;                     /* float4 [parts of a block][E] */
    int edge_rows;                    /* int [E] neighbour's row | own << 8 | neighbour's slot << 16; -1: no edge */
    int row_first, row_count,         /* [n + 1], [n] */
        row_element, row_slot;        /* int [n] */
    int row_tiles, edge_tiles;        /* int [n + 1] a row's first tile; [tiles] as tile_of unpacks it */
    int n_elements, slot_element;     /* int [1]; int [n] elements of the structure, ascending */
    int exchange[2], exchange_size;   /* see above */
    int part;                         /* [chunk][parts_stride] of a gathered layer; [tiles][kinds][own] of a message */
    int operand;                      /* input of a scattered layer, own columns */
    int s, v, adj;                    /* [n][own], [n][3][own]; in their place later [n][stride_of(4 own)] */
    int biases;                       /* [L][BIASES][own], then bias and weights of the readout [2][own_readout] */
    int filter;                       /* [steps of 8][3][groups][hi, lo or one number][32 lanes][4]; of six blocks then
                                       * [steps of 8][2][hi, lo][32 lanes][4] of the last 8 columns (state.cuh) */
    int tables, layers;               /* phi and dphi [2][E][table]; what layers keep */
    int layer_size;                   /* floats that a layer keeps */
    int arrivals;                     /* uint64_t [2] barriers of the exchange buffers */
    int bad;                          /* int [2] as bad_row in state.cuh */
    int close;                        /* int [2] close pairs, the first row of one */
    int floats;                       /* of all */
};

/* What a layer keeps for its reverse: own columns. */
struct layer_memory {
    float *features; /* [n][stride_of(5 own)] x_s, x_R, y */
    float *x_v;      /* [n][own], as are: */
    float *context_slope, *dense_slope, *y_sv, *y_v;
    float *v;  /* [n][3][own] */
    float *VU; /* [n][3][2][own] */
};

/* Matrices are [n_in][n_out], or in pairs (weights.cu) where a block's columns are known to the compiler. */
struct layer_pointers {
    const float *filter, *filter_stacked;
    const float *context0, *context0_bias, *context0_T, *context1, *context1_bias, *context1_T;
    const float *mix, *mix_bias, *mix_T;
    const float *dense0, *dense0_bias, *dense0_T, *dense1, *dense1_bias, *dense1_T;
};

struct arguments {
    widths w;
    layout at;
    radial_parameters radial;
    double cutoff, scale, readout1_bias;
    float epsilon;
    const double *atom_shift;
    const short_range_pair *short_range; /* or NULL */
    const float *embedding, *first_s, *first_R, *first_s_fours, *first_R_fours, *readout0, *readout0_bias, *readout0_T,
        *readout1;
    layer_pointers layer[MLFF_MAX_INTERACTIONS];

    const chunk *structures;
    const int64_t *first;
    const int32_t *neighbour_row, *neighbour_atom, *atom_of_row, *species;
    const double *shift; /* or NULL */
    const double *x;     /* may be in the host's memory; not read where positions are here (arguments_here) */
    int positions_here, structures_here;
    int rows_in_all;
    int is_alone; /* one structure, whose rows and candidates are all that the layout is for */
    int by_row;   /* neighbours are at their rows' positions, which are read once */
    int with_reverse;
    float *scratch; /* [structures][scratch_size] */
    size_t scratch_size;

    /* results, in the host's memory; NULL where they are not asked for */
    int *marks;                                        /* [structures][2] */
    close_record *close;                               /* [structures], with a short-range term */
    double *sums, *forces, *atom_energy, *atom_virial; /* as in state.cuh */
};

/* Blocks of FILTER_FLOATS for 8 functions of the filter. */
__host__ __device__ constexpr int filter_blocks(int blocks, int numbers)
{
    return numbers * (PARTS % blocks == 0 ? 3 * parts_of_block(blocks) : 3 + 2);
}

/* A block's columns of a layer: places for them, and how many there are, which is less in the last blocks of six. */
struct share {
    int own, columns;
};

/* What else a launch brings along, since reading it from the host's memory, and what says where it is from the
 * device's, would take a microsecond each: of one structure for clusters of eight blocks, else of as many as run at a
 * time. */
template <int BLOCKS> struct arguments_here : arguments {
    static constexpr int ATOMS = BLOCKS == 8 ? MOST_ROWS : 176, STRUCTURES = BLOCKS == 8 ? 1 : 32;
    double position[3 * ATOMS];     /* by atom */
    int row_end[STRUCTURES];        /* ends of the structures' rows */
    int first_slot[STRUCTURES + 1]; /* of their candidates, and the end */
};

/* A block at work. NUMBER: of blocks of a cluster. OWN: its columns where they are known to the compiler, which then
 * are of 128, else 0. SHARED: all tables and layers are in shared memory. */
template <int NUMBER, int OWN, bool SHARED> struct block {
    static constexpr int BLOCKS = NUMBER, EACH = parts_of_block(BLOCKS), ALL_PARTS = BLOCKS * EACH;
    static constexpr bool KNOWN = OWN > 0;
    static constexpr bool EVEN = PARTS % BLOCKS == 0; /* all blocks have as many columns, whole parts of them */
    /* Weights of the layer behind a message are loaded in front of it, or, where there are no registers to keep them
     * in, when its tiles are done: what the compiler spills it waits for (16 molecules 103 -> 99.5 us, one 75 -> 76,
     * H200). */
    static constexpr bool LOADS_EARLY = BLOCKS == 8 && KNOWN;
    static constexpr int IN_UNITS = EVEN ? 2 : OWN / 8; /* steps of 8 own inputs that the matrix units add up */
    static constexpr int FIRST_PARTS = EVEN ? EACH : 1; /* of the first message in reverse */
    /* 8 columns of a warp's tiles for so many parts of a gathered layer, and steps of 8 inputs of a scattered one */
    __host__ __device__ static constexpr int tiles(int parts)
    {
        return EVEN ? EACH * parts : (parts * OWN / 8 + GROUPS - 1) / GROUPS;
    }
    __host__ __device__ static constexpr int steps(int parts)
    {
        return EVEN ? 2 * EACH * parts : parts * OWN / 8;
    }
    static constexpr bool all_shared = SHARED;
    static constexpr int FILTER_NUMBERS = SHARED ? 2 : 1; /* there is room for filters in two numbers */
    static constexpr int FILTER_BLOCKS = filter_blocks(BLOCKS, FILTER_NUMBERS);
    static constexpr int FILTER_GROUPS = EVEN ? EACH : 1; /* of 16 columns, where OWN is known */
    const arguments_here<BLOCKS> &a;
    float *memory;                    /* shared */
    float *scratch;                   /* of this structure */
    int rank, first_column, n, begin; /* own columns from first_column on; the structure's rows from begin on */
    int64_t first_slot;
    int n_slots, n_elements; /* candidates, elements of the structure */
    int exchanges;           /* so far: buffers take turns */

    __device__ int own() const
    {
        return OWN ? OWN : a.w.own;
    }
    __device__ int F() const
    {
        return OWN ? MOST_FEATURES : own() * BLOCKS;
    }
    __device__ share features() const
    {
        return {own(), EVEN ? own() : min(own(), F() - first_column)};
    }
    __device__ share readout() const
    {
        return {a.w.own_readout, EVEN || (rank + 1) * a.w.own_readout <= a.w.H ? a.w.own_readout : 0};
    }
    /* values that a block receives for so many rows of a scattered layer */
    __device__ int scattered_count(int rows) const
    {
        return BLOCKS * rows * features().columns;
    }
    __device__ float *exchange_now() const
    {
        return memory + a.at.exchange[exchanges % 2];
    }
    __device__ float *exchange_before() const
    {
        return memory + a.at.exchange[1 - exchanges % 2];
    }
    __device__ uint64_t *arrivals_now() const
    {
        return (uint64_t *)(memory + a.at.arrivals) + exchanges % 2;
    }
    __device__ float *floats(int place) const
    {
        return memory + place;
    }
    __device__ float4 *quads(int place) const
    {
        return (float4 *)(memory + place);
    }
    __device__ double *doubles(int place) const
    {
        return (double *)(memory + place);
    }
    __device__ int *ints(int place) const
    {
        return (int *)(memory + place);
    }
};

__host__ __device__ inline int neighbour_of(int edge_rows)
{
    return edge_rows & 255;
}

__host__ __device__ inline int centre_of(int edge_rows)
{
    return edge_rows >> 8 & 255;
}

/* The element's number within the structure, of the neighbour. */
__host__ __device__ inline int slot_of(int edge_rows)
{
    return edge_rows >> 16;
}

/* floats of global memory that a block's kept layers need */
__host__ __device__ inline size_t scratch_of_block(const layout &at, int L)
{
    return (size_t)(L - at.shared_layers) * at.layer_size;
}

template <typename B> __device__ inline layer_memory layer_of(const B &b, int l)
{
    const layout &at = b.a.at;
    const int own = b.own(), n = at.rows, each = n * own;
    float *p = b.memory + at.layers + l * at.layer_size;
    if (!B::all_shared && l >= at.shared_layers)
        p = b.scratch + (at.shared_tables ? 0 : 2 * (size_t)at.slots * b.a.w.table) +
            (size_t)b.rank * scratch_of_block(at, b.a.w.L) + (size_t)(l - at.shared_layers) * at.layer_size;
    layer_memory m;
    m.features = p, p += n * stride_of(5 * own);
    m.x_v = p, p += each;
    m.context_slope = p, p += each;
    m.dense_slope = p, p += each;
    m.y_sv = p, p += each;
    m.y_v = p, p += each;
    m.v = p, p += 3 * each;
    m.VU = p;
    return m;
}

template <typename B> __device__ inline float *tables_of(const B &b)
{
    return B::all_shared || b.a.at.shared_tables ? b.memory + b.a.at.tables : b.scratch;
}

__device__ inline float2 two(const float *p)
{
    return *(const float2 *)p;
}

__device__ inline void put_two(float *p, float2 value)
{
    *(float2 *)p = value;
}

__device__ inline float2 operator+(float2 x, float2 y)
{
    return make_float2(x.x + y.x, x.y + y.y);
}

__device__ inline float2 operator*(float2 x, float2 y)
{
    return make_float2(x.x * y.x, x.y * y.y);
}

__device__ inline float2 operator*(float x, float2 y)
{
    return make_float2(x * y.x, x * y.y);
}

constexpr unsigned ALL_LANES = 0xffffffffu;

/* The sum over the four lanes of a quad, in all of them. */
__device__ inline float2 over_quad(float2 value)
{
#pragma unroll
    for (int other = 1; other < 4; other *= 2)
        value =
            value + make_float2(__shfl_xor_sync(ALL_LANES, value.x, other), __shfl_xor_sync(ALL_LANES, value.y, other));
    return value;
}

/* The value that lane q of the quad has. */
__device__ inline float2 of_lane(float2 value, int q)
{
    const int lane = threadIdx.x % 32 / 4 * 4 + q;
    return make_float2(__shfl_sync(ALL_LANES, value.x, lane), __shfl_sync(ALL_LANES, value.y, lane));
}

/* A quad's value, which all its lanes have, to the same place of every block's exchange buffer: lane q to some. */
template <typename B> __device__ inline void send_by_quad(const B &b, float *place, float2 value, int q)
{
#pragma unroll
    for (int rank = 0; rank < B::BLOCKS; rank += 4)
        if (B::BLOCKS % 4 == 0 || rank + q < B::BLOCKS) send(place, rank + q, value, b.arrivals_now());
}

/* To every block, at the same place of the exchange buffer. */
template <typename B> __device__ inline void send_to_all(const B &b, float *place, float2 value)
{
#pragma unroll
    for (int rank = 0; rank < B::BLOCKS; rank++) send(place, rank, value, b.arrivals_now());
}

/* body(row, f) for each row from `begin` on and each even own column, a thread a pair of columns. */
template <typename Body> __device__ inline void for_pairs(int begin, int rows, share of, Body body)
{
    const int half = of.own / 2;
#pragma unroll 1 /* the code is read once: its size is time */
    for (int q = threadIdx.x; q < rows * half; q += THREADS) {
        const int row = q / half, f = 2 * (q - row * half);
        if (f < of.columns) body(begin + row, f);
    }
}

/* body(row, f, q, valid) for each row from `begin` on and each even own column, four lanes q a pair of columns; whole
 * warps, so that lanes may exchange values: what is not valid repeats the last pair, and must not be written. */
template <typename Body> __device__ inline void for_quads(int begin, int rows, share of, Body body)
{
    const int half = of.own / 2, all = rows * half;
#pragma unroll 1
    for (int first = threadIdx.x & ~31; first < 4 * all; first += THREADS) {
        const int place = (first + (int)(threadIdx.x % 32)) / 4, pair = min(place, all - 1), row = pair / half;
        const int f = 2 * (pair - row * half);
        body(begin + row, f, (int)(threadIdx.x % 4), place < all && f < of.columns);
    }
}

/* Waits until all of an exchange is there, values [count] in all, and all threads of the block are here; then the
 * buffers change places. */
template <typename B> __device__ inline void exchange(B &b, int count)
{
    if (threadIdx.x == 0)
        expect_arrivals(b.arrivals_now(), count * (int)sizeof(float));
    else
        arrive(b.arrivals_now());
    wait_for_arrivals(b.arrivals_now(), b.exchanges / 2 % 2);
    b.exchanges++;
}

} // namespace molecule
} // namespace mlff

#endif
