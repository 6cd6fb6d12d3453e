/* SPDX-License-Identifier: MIT */
/*
 * The packed weights rounded to T and sent to the device in one piece. For the fused layers also as fragments of the
 * matrix units, hi and lo halves of M times a power of two (fragments.cuh): column group, 16 inputs, hi or lo, lane.
 */
#include "fragments.cuh"
#include "message_matrix.cuh"
#include "packed_weights.h"

#include <math.h>
#include <new>
#include <string.h>
#include <vector>

namespace mlff
{

/* Part 0 or 1 of two weights of a column. */
static uint32_t fragment_bits(const packed_matrix &m, double up, int part, int input, int column)
{
    uint32_t bits = 0;
    for (int q = 0; q < 2; q++) {
        const double w = m.M[(size_t)(input + q) * m.n_out + column] * up;
        const double rounded = (double)__half2float(__double2half(w));
        const __half value = __double2half(part == 0 ? rounded : w - rounded);
        uint16_t one;
        memcpy(&one, &value, sizeof one);
        bits |= (uint32_t)one << 16 * q;
    }
    return bits;
}

/* M to fragments [n_out/16][n_in/16][2][32]; scale [n_out]: by what the kernels multiply a column's sums. A column's
 * largest weight is brought to 2^14 .. 2^15. */
static void pack_fragments(const packed_matrix &m, uint4 *to, double *scale)
{
    std::vector<double> up(m.n_out, 1.0);
    for (int c = 0; c < m.n_out; c++) {
        double largest = 0;
        for (int k = 0; k < m.n_in; k++) largest = fmax(largest, fabs(m.M[(size_t)k * m.n_out + c]));
        int exponent = 0;
        frexp(largest, &exponent);
        if (largest > 0) up[c] = ldexp(1.0, 15 - exponent);
        scale[c] = 1 / up[c];
    }
    for (int group = 0; group < m.n_out / GROUP; group++)
        for (int step = 0; step < m.n_in / GROUP; step++)
            for (int part = 0; part < 2; part++)
                for (int lane = 0; lane < 32; lane++) {
                    const int g = lane / 4, input = step * GROUP + lane % 4 * 4;
                    const int c = group * GROUP + g / 2 * 4 + g % 2; /* of the first 8 columns; the other 8: c + 2 */
                    *to++ =
                        make_uint4(fragment_bits(m, up[c], part, input, c), fragment_bits(m, up[c], part, input + 2, c),
                                   fragment_bits(m, up[c + 2], part, input, c + 2),
                                   fragment_bits(m, up[c + 2], part, input + 2, c + 2));
                }
}

/* M as state.cuh has `pairs`. */
static std::vector<double> pairs_of(const packed_matrix &m)
{
    std::vector<double> pairs;
    for (int eight = 0; eight < m.n_out / 8; eight++)
        for (int step = 0; step < m.n_in / 8; step++)
            for (int lane = 0; lane < 32; lane++)
                for (int q = 0; q < 2; q++)
                    pairs.push_back(m.M[(size_t)(8 * step + lane % 4 * 2 + q) * m.n_out + 8 * eight + lane / 4]);
    return pairs;
}

/* A filter [K+1][3][F] in eights of columns, [F/8][steps][blocks][lanes][4]: lane 4g + t has functions 2t, 2t, 2t + 1
 * and 2t + 1 of the step's 8, of part(block, q) and column(lane, q) of the eight; zeros beyond function K and part 2.
 */
template <typename Part, typename Column>
static std::vector<double> eights_of(const double *filter, int F, int K, int blocks, int lanes, Part part,
                                     Column column)
{
    std::vector<double> eights;
    for (int eight = 0; eight < F / 8; eight++)
        for (int step = 0; step < (K + 8) / 8; step++)
            for (int block = 0; block < blocks; block++)
                for (int lane = 0; lane < lanes; lane++)
                    for (int q = 0; q < 4; q++) {
                        const int k = 8 * step + lane % 4 * 2 + q / 2, of = part(block, q);
                        const size_t at = ((size_t)k * 3 + of) * F + 8 * eight + column(lane, q);
                        eights.push_back(k <= K && of < 3 ? filter[at] : 0);
                    }
    return eights;
}

/* As state.cuh has `filter_pairs`. */
static std::vector<double> filter_pairs_of(const double *filter, int F, int K)
{
    return eights_of(
        filter, F, K, 3, 16, [](int block, int) { return block; },
        [](int lane, int q) { return lane / 4 * 2 + q % 2; });
}

/* As `filter_stacked`, in one number. */
static std::vector<double> filter_stacked_of(const double *filter, int F, int K)
{
    return eights_of(
        filter, F, K, 2, 32, [](int block, int q) { return 2 * block + q % 2; },
        [](int lane, int) { return lane / 4; });
}

/* `pairs` in two TF32 numbers (molecule_dense.cuh, split_number): blocks of so many, hi before lo. */
static std::vector<double> halves_of(const std::vector<double> &pairs, size_t block)
{
    std::vector<double> halves(2 * pairs.size());
    for (size_t at = 0; at < pairs.size(); at++) {
        const float w = (float)pairs[at];
        uint32_t bits;
        memcpy(&bits, &w, sizeof bits);
        bits = (bits + 0x1000u) & 0xffffe000u;
        float hi;
        memcpy(&hi, &bits, sizeof hi);
        const size_t to = at / block * 2 * block + at % block;
        halves[to] = (double)hi;
        halves[to + block] = (double)(w - hi);
    }
    return halves;
}

/* Rows [rows][F] as [F/4][rows][4]. */
static std::vector<double> fours_of(const double *M, size_t rows, size_t F)
{
    std::vector<double> fours;
    for (size_t four = 0; four < F / 4; four++)
        for (size_t row = 0; row < rows; row++)
            fours.insert(fours.end(), M + row * F + 4 * four, M + row * F + 4 * four + 4);
    return fours;
}

/* Collects arrays for one transfer; pointers become device pointers when it is known where the piece lies. */
struct sender {
    std::vector<char> bytes;
    struct later {
        void **pointer;
        size_t offset;
    };
    std::vector<later> places;

    template <typename To> void add(To **pointer, const double *values, size_t count)
    {
        bytes.resize((bytes.size() + 255) / 256 * 256);
        places.push_back({(void **)pointer, bytes.size()});
        const size_t begin = bytes.size();
        bytes.resize(begin + count * sizeof(To));
        To *to = (To *)(bytes.data() + begin);
        for (size_t q = 0; q < count; q++) to[q] = (To)values[q];
    }

    void add_fragments(uint2 **pointer, float *scale, const double *filter, int F, int K, bool mixed)
    {
        bytes.resize((bytes.size() + 255) / 256 * 256);
        places.push_back({(void **)pointer, bytes.size()});
        const size_t begin = bytes.size();
        bytes.resize(begin + (mixed ? message_mixed_fragments(F) : message_matrix_fragments(F)) * sizeof(uint2));
        uint2 *fragments = (uint2 *)(bytes.data() + begin);
        *scale = mixed ? message_mixed_pack(filter, F, K, fragments) : message_matrix_pack(filter, F, K, fragments);
    }

    template <typename T> void add(matrix<T> *m, const packed_matrix &p, bool fused, bool paired)
    {
        const size_t count = (size_t)p.n_in * p.n_out;
        *m = {};
        m->n_in = p.n_in, m->n_out = p.n_out;
        add(&m->M, p.M, count);
        if (paired) add(&m->pairs, pairs_of(p).data(), count);
        if (p.b) add(&m->b, p.b, (size_t)p.n_out);
        if (!fused) return;
        bytes.resize((bytes.size() + 255) / 256 * 256);
        places.push_back({(void **)&m->fragments, bytes.size()});
        const size_t begin = bytes.size();
        bytes.resize(begin + count / 4 * sizeof(uint4));
        std::vector<double> scale(p.n_out);
        pack_fragments(p, (uint4 *)(bytes.data() + begin), scale.data());
        add(&m->fragment_scale, scale.data(), scale.size());
    }
};

template <typename T> static void collect(weights<T> *w, const packed_weights &p, const mlff_model *model, sender *to)
{
    const size_t functions = (size_t)p.K + 1, F = (size_t)p.F, Z = (size_t)w->n_elements;
    const bool fused = fragments_fit<T>(*w), paired = pairs_fit(*w);
    std::vector<double> inverse(p.K, 0.0);
    if (model->radial == RADIAL_GAUSSIAN)
        for (int k = 0; k < p.K; k++) inverse[k] = 1 / model->width[k];
    to->add(&w->centre, model->radial == RADIAL_GAUSSIAN ? model->offset : model->frequency, (size_t)p.K);
    to->add(&w->inverse_width, inverse.data(), (size_t)p.K);
    to->add(&w->atom_shift, model->atom_shift, Z);
    if (model->short_range) {
        static_assert(sizeof(short_range_pair) == 4 * sizeof(double), "it is sent as numbers");
        to->add((double **)&w->short_range, (const double *)model->short_range, 4 * Z * Z);
    }
    to->add(&w->embedding, p.embedding, Z * F);
    to->add(&w->first_s, p.first_s, Z * functions * F);
    to->add(&w->first_R, p.first_R, Z * functions * F);
    if (paired) {
        to->add(&w->first_s_fours, fours_of(p.first_s, Z * functions, F).data(), Z * functions * F);
        to->add(&w->first_R_fours, fours_of(p.first_R, Z * functions, F).data(), Z * functions * F);
    }
    for (int l = 0; l < p.L; l++) {
        layer_weights<T> &y = w->layer[l];
        to->add(&y.filter, p.filter[l], functions * 3 * F);
        if (paired) {
            const std::vector<double> pairs = filter_pairs_of(p.filter[l], p.F, p.K);
            to->add(&y.filter_pairs, pairs.data(), pairs.size());
            to->add(&y.filter_halves, halves_of(pairs, 64).data(), 2 * pairs.size());
            const std::vector<double> stacked = halves_of(filter_stacked_of(p.filter[l], p.F, p.K), 128);
            to->add(&y.filter_stacked, stacked.data(), stacked.size());
        }
        if (sizeof(T) == sizeof(float) && message_matrix_fits(p.F, p.K)) {
            to->add_fragments(&y.fragments, &y.fragment_scale, p.filter[l], p.F, p.K, false);
            to->add_fragments(&y.mixed_fragments, &y.mixed_scale, p.filter[l], p.F, p.K, true);
        }
        matrix<T> *all[PACKED_MATRICES] = {&y.context0, &y.context0_T, &y.context1, &y.context1_T, &y.mix,
                                           &y.mix_T,    &y.dense0,     &y.dense0_T, &y.dense1,     &y.dense1_T};
        for (int q = 0; q < PACKED_MATRICES; q++) to->add(all[q], p.matrix[l][q], fused, paired);
    }
    to->add(&w->readout0, p.readout0, fused, paired);
    to->add(&w->readout0_T, p.readout0_T, fused, paired);
    to->add(&w->readout1, p.readout1, (size_t)p.H);
}

template <typename T> static mlff_status send(weights<T> *w, const sender &from, mlff_error *error)
{
    w->storage_bytes = from.bytes.size();
    CUDA_TRY(cudaMalloc(&w->storage, w->storage_bytes));
    CUDA_TRY(cudaMemcpy(w->storage, from.bytes.data(), w->storage_bytes, cudaMemcpyHostToDevice));
    for (const auto &place : from.places) *place.pointer = (char *)w->storage + place.offset;
    return MLFF_OK;
}

template <typename T> mlff_status weights_create(weights<T> *w, const mlff_model *model, mlff_error *error)
{
    packed_weights p;
    MLFF_TRY(mlff_packed_weights_create(&p, model, error));
    *w = {};
    w->F = p.F, w->K = p.K, w->L = p.L, w->H = p.H;
    w->n_elements = model->info.n_elements;
    w->radial = model->radial;
    w->cutoff = model->info.cutoff;
    w->scale = model->scale;
    w->readout1_bias = p.readout1_bias;
    w->epsilon = (T)model->info.epsilon;
    mlff_status status;
    try {
        sender to;
        collect(w, p, model, &to);
        status = send(w, to, error);
    } catch (const std::bad_alloc &) {
        status = mlff_fail(error, MLFF_ERROR_MEMORY, "out of memory: host copy of the weights");
    }
    mlff_packed_weights_free(&p);
    return status;
}

template <typename T> void weights_free(weights<T> *w)
{
    cudaFree(w->storage);
    w->storage = nullptr;
}

template mlff_status weights_create(weights<float> *, const mlff_model *, mlff_error *);
template mlff_status weights_create(weights<double> *, const mlff_model *, mlff_error *);
template void weights_free(weights<float> *);
template void weights_free(weights<double> *);

} // namespace mlff
