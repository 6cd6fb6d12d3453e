/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PairMLFF: what travels between ranks.
 *
 * After LAMMPS has made its ghosts, each ghost learns who its atom is (rank and index there) through LAMMPS's own
 * forward communication: any grid, any communication style, through any number of ranks in between. From then on rows
 * of the library's tensors go straight from the rank that owns an atom to those that have a ghost of it, once for each
 * rank, however many images it has there; images of a rank's own atoms do not travel. Forces of ghosts go back through
 * LAMMPS's reverse communication.
 */
#include "pair_mlff.h"

#include "mlff.h"

#include "atom.h"
#include "comm.h"

#include <algorithm>

#ifdef OPEN_MPI /* weak for the reason given in pair_mlff.cpp */
#pragma weak ompi_mpi_op_max
#pragma weak ompi_mpi_int
#pragma weak ompi_mpi_char
#endif

using namespace LAMMPS_NS;

static int forward_of_pair(void *pair, const void *sent, void *received, int width, int real_bytes)
{
    return static_cast<PairMLFF *>(pair)->halo_forward(sent, received, width, real_bytes);
}

static int agree_of_pair(void *pair, int status)
{
    return static_cast<PairMLFF *>(pair)->halo_agree(status);
}

/* ------------------------------------------------------------------------------------------ who is who */

/* Fills owner and owner_rank. No atom map is needed. */
void PairMLFF::find_owners(int nlocal, int nall)
{
    for (int i = 0; i < nall; ++i) {
        owner[i] = i < nlocal ? i : -1;
        owner_rank[i] = comm->me;
    }
    comm->forward_comm(this);
}

int PairMLFF::pack_forward_comm(int n, int *list_of_atoms, double *buf, int, int *)
{
    for (int i = 0; i < n; ++i) {
        buf[2 * i] = owner[list_of_atoms[i]];
        buf[2 * i + 1] = owner_rank[list_of_atoms[i]];
    }
    return 2 * n;
}

void PairMLFF::unpack_forward_comm(int n, int first, double *buf)
{
    for (int i = 0; i < n; ++i) {
        owner[first + i] = static_cast<int32_t>(buf[2 * i]);
        owner_rank[first + i] = static_cast<int32_t>(buf[2 * i + 1]);
    }
}

/* ------------------------------------------------------------------------------------------ the plan */

/* Other ranks' atoms that this one has ghosts of, by rank and index, and where in that order each ghost's atom is.
 * Returns those indices; counts [ranks] how many of each rank. */
std::vector<int32_t> PairMLFF::list_foreign_atoms(int nlocal, int nall, std::vector<int> &counts)
{
    std::vector<int32_t> ghosts, wanted;
    for (int i = nlocal; i < nall; ++i) {
        if (owner_rank[i] == comm->me)
            halo.source[i] = -1 - owner[i];
        else
            ghosts.push_back(i);
    }
    std::sort(ghosts.begin(), ghosts.end(), [this](int32_t a, int32_t b) {
        return owner_rank[a] != owner_rank[b] ? owner_rank[a] < owner_rank[b] : owner[a] < owner[b];
    });
    int32_t last = -1;
    for (const int32_t i : ghosts) {
        if (last < 0 || owner_rank[i] != owner_rank[last] || owner[i] != owner[last]) {
            wanted.push_back(owner[i]);
            ++counts[owner_rank[i]];
        }
        last = i;
        halo.source[i] = static_cast<int32_t>(wanted.size()) - 1;
    }
    return wanted;
}

/* Ranks with something to send or to receive, each with its part of the rows. */
static std::vector<mlff_partner> partners_of(const std::vector<int> &send, const std::vector<int> &receive)
{
    std::vector<mlff_partner> partners;
    int first_sent = 0, first_received = 0;
    for (size_t rank = 0; rank < send.size(); ++rank) {
        if (send[rank] || receive[rank])
            partners.push_back({static_cast<int>(rank), first_sent, send[rank], first_received, receive[rank]});
        first_sent += send[rank];
        first_received += receive[rank];
    }
    return partners;
}

/* Each rank tells the others which of their atoms it wants. */
void PairMLFF::plan_halo(int nlocal, int nall)
{
    const int n_ranks = comm->nprocs;
    std::vector<int> receive(n_ranks, 0), send(n_ranks, 0);
    halo.source.assign(nall, 0);
    const std::vector<int32_t> wanted = list_foreign_atoms(nlocal, nall, receive);
    MPI_Alltoall(receive.data(), 1, MPI_INT, send.data(), 1, MPI_INT, world);
    halo.partners = partners_of(send, receive);
    int n_send = 0;
    for (const int n : send) n_send += n;
    halo.send.assign(n_send, 0);
    halo.n_receive = static_cast<int32_t>(wanted.size());

    std::vector<MPI_Request> requests;
    for (const mlff_partner &p : halo.partners) { /* lists go the way against that of rows */
        requests.resize(requests.size() + 2);
        MPI_Irecv(halo.send.data() + p.first_sent, p.n_sent, MPI_INT, p.rank, TAG, world, &requests.end()[-2]);
        MPI_Isend(wanted.data() + p.first_received, p.n_received, MPI_INT, p.rank, TAG, world, &requests.end()[-1]);
    }
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
}

mlff_halo PairMLFF::halo_of_library()
{
    mlff_halo h{};
    h.context = this;
    h.n_send = static_cast<int32_t>(halo.send.size());
    h.send = halo.send.data();
    h.n_receive = halo.n_receive;
    h.source = halo.source.data();
    h.forward = forward_of_pair;
    h.agree = agree_of_pair;
    return h;
}

/* ------------------------------------------------------------------------------------------ exchanges */

int PairMLFF::halo_agree(int status)
{
    /* the same message tells who has a close pair, so that warning once costs no exchange of its own */
    const int mine[2] = {status, has_close_pair_to_tell() ? comm->nprocs - comm->me : 0};
    int largest[2];
    MPI_Allreduce(mine, largest, 2, MPI_INT, MPI_MAX, world);
    close_rank = largest[1] > 0 ? comm->nprocs - largest[1] : -1;
    return largest[0];
}

/* Straight out of the library's memory and into it. A row is a datatype, so that counts stay below 2^31. */
int PairMLFF::halo_forward(const void *sent, void *received, int width, int real_bytes)
{
    const size_t row_bytes = static_cast<size_t>(width) * real_bytes;
    MPI_Datatype row;
    MPI_Type_contiguous(width * real_bytes, MPI_CHAR, &row);
    MPI_Type_commit(&row);
    std::vector<MPI_Request> &requests = halo.requests;
    requests.resize(2 * halo.partners.size());
    MPI_Request *request = requests.data();
    for (const mlff_partner &p : halo.partners)
        MPI_Irecv(static_cast<char *>(received) + p.first_received * row_bytes, p.n_received, row, p.rank, TAG, world,
                  request++);
    for (const mlff_partner &p : halo.partners)
        MPI_Isend(static_cast<const char *>(sent) + p.first_sent * row_bytes, p.n_sent, row, p.rank, TAG, world,
                  request++);
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
    MPI_Type_free(&row);
    return 0;
}

int PairMLFF::pack_reverse_comm(int n, int first, double *buf)
{
    int m = 0;
    for (int i = first; i < first + n; ++i) {
        for (int k = 0; k < 3; ++k) buf[m++] = forces[3 * static_cast<bigint>(i) + k];
        if (!reverse_virial) continue;
        for (int k = 0; k < 9; ++k) buf[m++] = atom_virial[9 * static_cast<bigint>(i) + k];
    }
    return m;
}

void PairMLFF::unpack_reverse_comm(int n, int *list_of_atoms, double *buf)
{
    int m = 0;
    for (int i = 0; i < n; ++i) {
        const bigint a = list_of_atoms[i];
        for (int k = 0; k < 3; ++k) forces[3 * a + k] += buf[m++];
        if (!reverse_virial) continue;
        for (int k = 0; k < 9; ++k) atom_virial[9 * a + k] += buf[m++];
    }
}
