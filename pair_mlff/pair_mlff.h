/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LMP_PAIR_MLFF_H
#define LMP_PAIR_MLFF_H
/*
 * pair_style mlff: translates between LAMMPS and the library (core/include/mlff.h) and computes nothing itself.
 *
 *   pair_style mlff [device cpu|cuda|auto] [precision double|single|mixed] [neigh host|device] [threads N]
 *   pair_coeff * * MODEL El1 El2 ...
 *
 * N owned atoms, A owned and ghost atoms of this rank. On one rank every ghost is the image of an owned atom, and
 * the library gets that owner. On several ranks the library gets a halo: between its layers it asks for the ghosts'
 * rows, which travel as pair_mlff_halo.cpp describes; forces and per-atom virials of ghosts go back through reverse
 * communication of this class, whatever `newton` is. Only owned atoms of LAMMPS's arrays are touched.
 */
#include "pair.h"

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct mlff_model;
struct mlff_evaluator;
struct mlff_halo;

/* A rank that rows go to and come from: parts of the rows that are sent and received. */
struct mlff_partner {
    int rank, first_sent, n_sent, first_received, n_received;
};

namespace LAMMPS_NS
{

class PairMLFF : public Pair
{
 public:
    PairMLFF(class LAMMPS *);
    ~PairMLFF() override;
    PairMLFF(const PairMLFF &) = delete;
    PairMLFF &operator=(const PairMLFF &) = delete;

    void settings(int narg, char **arg) override;
    void coeff(int narg, char **arg) override;
    void init_style() override;
    double init_one(int i, int j) override;
    void compute(int eflag, int vflag) override;

    int pack_forward_comm(int n, int *list, double *buf, int pbc_flag, int *pbc) override;
    void unpack_forward_comm(int n, int first, double *buf) override;
    int pack_reverse_comm(int n, int first, double *buf) override;
    void unpack_reverse_comm(int n, int *list, double *buf) override;

    void *extract(const char *name, int &dim) override;
    double memory_usage() override;

    /* Called by the library through plain functions. */
    int halo_forward(const void *sent, void *received, int width, int real_bytes);
    int halo_agree(int status);

 protected:
    int device, precision, threads; /* of pair_style; threads 0: as many as LAMMPS has */
    bool library_searches;          /* neigh device: LAMMPS makes no list for this style */
    bool evaluator_is_stale;        /* settings or model changed since it was made */

    mlff_model *model;
    mlff_evaluator *evaluator;
    double cutoff;                    /* angstrom */
    double energy_unit;               /* LAMMPS's unit of energy in 1 eV */
    std::vector<int> species_of_type; /* [ntypes+1] index into the model's elements, -1: NULL */

    /* what the library was told at the last rebuild, to notice when it must be told again */
    struct {
        const void *list, *ilist, *firstneigh;
        int nlocal, nall;
        int64_t builds;
    } seen;

    int64_t capacity_atoms, capacity_virial; /* rows that the arrays below have room for */
    int32_t *species;                        /* [A] */
    int32_t *owner, *owner_rank;             /* [A] the atom that an atom is an image of: its index on its rank */
    double *forces;                          /* [A][3] eV/angstrom */
    double *atom_virial;                     /* [A][9] eV */

    bool owners_are_known; /* owner, owner_rank and halo are those of LAMMPS's ghosts; the same on all ranks */
    static constexpr int TAG = 7361;
    struct {
        std::vector<int32_t> send, source; /* as in mlff_halo */
        int32_t n_receive;
        std::vector<mlff_partner> partners;
        std::vector<MPI_Request> requests; /* room */
    } halo;
    bool has_warned; /* of a pair of atoms that is closer than the model's training frames ever were */
    int close_rank;  /* in the evaluation under way: first rank with such a pair to warn of, or -1; the same on all */
    bool reverse_virial; /* of the reverse communication under way: 12 numbers an atom, else 3 */

    void stop_together(int status, const std::string &message);
    std::string read_model_bytes(const std::string &path, int &status, std::string &message);
    mlff_model *load_model(const char *path);
    std::vector<int> map_elements(const mlff_model *loaded, int narg, char **arg);
    void set_flags();
    void make_evaluator();
    int choose_gpu(MPI_Comm node) const;
    std::string describe_gpu(MPI_Comm node) const;
    void check_ranks_agree();
    void check_search_is_allowed();
    void check_special_bonds();
    void grow_arrays(bool with_virial);
    bool list_is_new(int nlocal, int nall);
    void find_owners(int nlocal, int nall);
    std::vector<int32_t> list_foreign_atoms(int nlocal, int nall, std::vector<int> &counts);
    void plan_halo(int nlocal, int nall);
    mlff_halo halo_of_library();
    bool has_close_pair_to_tell() const;
    void warn_of_close_pair();
    std::string with_atom_id(const char *message) const;
    void add_results(double energy, const double v[9]);
};

} // namespace LAMMPS_NS

#endif
