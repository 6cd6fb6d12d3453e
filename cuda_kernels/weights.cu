/* SPDX-License-Identifier: MIT */
/* The packed weights rounded to T and sent to the device in one piece. */
#include "message_matrix.cuh"
#include "packed_weights.h"

#include <new>
#include <vector>

namespace mlff
{

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

    void add_fragments(uint2 **pointer, float *scale, const double *filter, int F, int K)
    {
        bytes.resize((bytes.size() + 255) / 256 * 256);
        places.push_back({(void **)pointer, bytes.size()});
        const size_t begin = bytes.size();
        bytes.resize(begin + message_matrix_fragments(F) * sizeof(uint2));
        *scale = message_matrix_pack(filter, F, K, (uint2 *)(bytes.data() + begin));
    }

    template <typename T> void add(matrix<T> *m, const packed_matrix &p)
    {
        m->n_in = p.n_in;
        m->n_out = p.n_out;
        m->b = nullptr;
        add(&m->M, p.M, (size_t)p.n_in * p.n_out);
        if (p.b) add(&m->b, p.b, (size_t)p.n_out);
    }
};

template <typename T> static void collect(weights<T> *w, const packed_weights &p, const mlff_model *model, sender *to)
{
    const size_t functions = (size_t)p.K + 1, F = (size_t)p.F, Z = (size_t)w->n_elements;
    std::vector<double> inverse(p.K, 0.0);
    if (model->radial == RADIAL_GAUSSIAN)
        for (int k = 0; k < p.K; k++) inverse[k] = 1 / model->width[k];
    to->add(&w->centre, model->radial == RADIAL_GAUSSIAN ? model->offset : model->frequency, (size_t)p.K);
    to->add(&w->inverse_width, inverse.data(), (size_t)p.K);
    to->add(&w->atom_shift, model->atom_shift, Z);
    to->add(&w->embedding, p.embedding, Z * F);
    to->add(&w->first_s, p.first_s, Z * functions * F);
    to->add(&w->first_R, p.first_R, Z * functions * F);
    for (int l = 0; l < p.L; l++) {
        layer_weights<T> &y = w->layer[l];
        to->add(&y.filter, p.filter[l], functions * 3 * F);
        if (sizeof(T) == sizeof(float) && message_matrix_fits(p.F, p.K))
            to->add_fragments(&y.fragments, &y.fragment_scale, p.filter[l], p.F, p.K);
        matrix<T> *all[PACKED_MATRICES] = {&y.context0, &y.context0_T, &y.context1, &y.context1_T, &y.mix,
                                           &y.mix_T,    &y.dense0,     &y.dense0_T, &y.dense1,     &y.dense1_T};
        for (int q = 0; q < PACKED_MATRICES; q++) to->add(all[q], p.matrix[l][q]);
    }
    to->add(&w->readout0, p.readout0);
    to->add(&w->readout0_T, p.readout0_T);
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
