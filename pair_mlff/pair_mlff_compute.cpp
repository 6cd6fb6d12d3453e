/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PairMLFF: one evaluation. Commands and set-up are in pair_mlff.cpp, communication in pair_mlff_halo.cpp. */
#include "pair_mlff.h"

#include "mlff.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

using namespace LAMMPS_NS;

/* ------------------------------------------------------------------------------------------ one evaluation */

/* Pairs of bonded atoms are missing from the list, or are meant to be weaker, unless their factors are 1. Checked
 * here and not before the run: pair_modify special sets the factors for this style inside hybrid's compute. */
void PairMLFF::check_special_bonds()
{
    if (atom->molecular == Atom::ATOMIC || atom->nbonds == 0) return;
    const double *factor = force->special_lj;
    if (factor[1] == 1.0 && factor[2] == 1.0 && factor[3] == 1.0) return;
    char factors[96];
    std::snprintf(factors, sizeof factors, "%g %g %g", factor[1], factor[2], factor[3]);
    error->all(FLERR,
               std::string("pair style mlff: special_bonds lj factors are ") + factors +
                   " and there are bonds, expected 1 1 1: the model needs every neighbour. Set "
                   "'special_bonds lj/coul 1 1 1', or 'pair_modify pair mlff special lj/coul 1 1 1' under hybrid");
}

/* LAMMPS's allocator stops the run with a message where memory is short. Contents are not kept. */
template <typename T> static void renew(Memory *memory, T *&array, bigint n, const char *name)
{
    memory->sfree(array);
    array = static_cast<T *>(memory->smalloc(n * static_cast<bigint>(sizeof(T)), name));
}

void PairMLFF::grow_arrays(bool with_virial)
{
    const bigint n = std::max(atom->nmax, 1); /* grows in steps, so this is seldom */
    if (n > capacity_atoms) {
        renew(memory, species, n, "mlff:species");
        renew(memory, owner, n, "mlff:owner");
        renew(memory, owner_rank, n, "mlff:owner_rank");
        renew(memory, forces, 3 * n, "mlff:forces");
        std::fill(species, species + n, -1);
        capacity_atoms = n;
    }
    if (with_virial && n > capacity_virial) {
        renew(memory, atom_virial, 9 * n, "mlff:atom_virial");
        capacity_virial = n;
    }
}

/* Whether the library must read list and species again. Neighbor counts its builds from 0 in each run, so `ago`
 * is asked too; a type may change between builds (fix atom/swap). Fills species. */
bool PairMLFF::list_is_new(int nlocal, int nall)
{
    const void *const from = library_searches ? nullptr : list;
    const void *const ilist = from ? list->ilist : nullptr, *const firstneigh = from ? list->firstneigh : nullptr;
    bool changed = neighbor->ago == 0 || seen.builds != neighbor->ncalls || seen.list != from || seen.ilist != ilist ||
                   seen.firstneigh != firstneigh || seen.nlocal != nlocal || seen.nall != nall;
    for (int i = 0; i < nall; ++i) {
        const int32_t now = species_of_type[atom->type[i]];
        changed = changed || species[i] != now;
        species[i] = now;
    }
    seen = {from, ilist, firstneigh, nlocal, nall, neighbor->ncalls};
    return changed;
}

/* The library counts atoms as this rank stores them; users know them by LAMMPS's atom IDs. */
std::string PairMLFF::with_atom_id(const char *message) const
{
    std::string sentence = message;
    const char *found = std::strstr(message, "atom index ");
    if (!found || !atom->tag_enable) return sentence;
    const long i = std::strtol(found + std::strlen("atom index "), nullptr, 10);
    if (i < 0 || i >= atom->nlocal + atom->nghost) return sentence;
    return sentence + " (LAMMPS atom ID " + std::to_string(atom->tag[i]) + ")";
}

bool PairMLFF::has_close_pair_to_tell() const
{
    return !has_warned && mlff_evaluator_get_close_pairs(evaluator)->count > 0;
}

/* Called by all ranks: the one that has the pair writes the sentence, rank 0 says it, on the screen and in the log. */
void PairMLFF::warn_of_close_pair()
{
    char text[512] = "";
    if (comm->me == close_rank) {
        const mlff_close_pairs *close = mlff_evaluator_get_close_pairs(evaluator);
        const char *const *symbols = mlff_model_get_info(model)->elements;
        char who[64] = "two atoms";
        if (atom->tag_enable)
            std::snprintf(who, sizeof who, "atoms %lld and %lld", static_cast<long long>(atom->tag[close->atom]),
                          static_cast<long long>(atom->tag[close->neighbour]));
        std::snprintf(text, sizeof text,
                      "pair style mlff: %s (%s-%s) are %.3f A apart at step %lld, closer than in any training frame "
                      "(%.3f A): the model's short-range repulsion keeps them apart, other results are extrapolated. "
                      "This is said once",
                      who, symbols[species[close->atom]], symbols[species[close->neighbour]], close->distance,
                      static_cast<long long>(update->ntimestep), close->trained);
    }
    if (comm->nprocs > 1) MPI_Bcast(text, sizeof text, MPI_CHAR, close_rank, world);
    if (comm->me == 0) error->warning(FLERR, std::string(text));
    has_warned = true;
}

void PairMLFF::compute(int eflag, int vflag)
{
    ev_init(eflag, vflag);
    check_special_bonds();

    const int nlocal = atom->nlocal, nall = nlocal + atom->nghost;
    const bool one_rank = comm->nprocs == 1, with_atom_virial = vflag_atom || cvflag_atom;
    grow_arrays(with_atom_virial);
    bool rebuilt = list_is_new(nlocal, nall);
    /* The same on all ranks, because they find owners together: ghosts change where LAMMPS builds lists. */
    if (neighbor->ago == 0 || !owners_are_known || (rebuilt && one_rank)) {
        find_owners(nlocal, nall);
        if (!one_rank) plan_halo(nlocal, nall);
        owners_are_known = rebuilt = true;
    }

    mlff_neighbour_list neighbours{};
    neighbours.rebuilt = rebuilt;
    if (library_searches) {
        neighbours.reach = cutoff + neighbor->skin;
    } else {
        neighbours.n_listed = list->inum;
        neighbours.ilist = list->ilist;
        neighbours.numneigh = list->numneigh;
        neighbours.firstneigh = list->firstneigh;
        neighbours.index_mask = NEIGHMASK;
    }
    neighbours.owner = one_rank ? owner : nullptr;
    const mlff_halo exchange = halo_of_library();

    mlff_input in{};
    in.n_local = nlocal;
    in.n_all = nall;
    in.x = nall ? atom->x[0] : nullptr;
    in.species = species;
    in.neighbours = &neighbours;
    in.halo = one_rank ? nullptr : &exchange;

    double energy = 0.0, virial9[9] = {};
    mlff_output out{};
    out.energy = eflag_global ? &energy : nullptr;
    out.atom_energy = eflag_atom ? eatom : nullptr;
    out.forces = forces;
    out.virial = vflag_global ? virial9 : nullptr;
    out.atom_virial = with_atom_virial ? atom_virial : nullptr;

    mlff_error problem{};
    const int status = mlff_evaluate(evaluator, &in, &out, &problem);
    if (status != MLFF_OK) { /* then on all ranks: the library asked halo_agree last */
        seen = {};
        owners_are_known = false;
        stop_together(status, with_atom_id(problem.message));
    }

    if (one_rank) close_rank = has_close_pair_to_tell() ? 0 : -1;
    if (close_rank >= 0) warn_of_close_pair();
    if (!one_rank) {
        reverse_virial = with_atom_virial;
        comm->reverse_comm(this);
    }
    add_results(energy, virial9);
}

/* From eV to LAMMPS's unit and into its arrays, owned atoms only: eatom was filled by the library itself. */
void PairMLFF::add_results(double energy, const double v[9])
{
    const int nlocal = atom->nlocal;
    const double unit = energy_unit;
    for (int i = 0; i < nlocal; ++i)
        for (int k = 0; k < 3; ++k) atom->f[i][k] += unit * forces[3 * i + k];

    if (eflag_global) eng_vdwl += unit * energy;
    if (eflag_atom)
        for (int i = 0; i < nlocal; ++i) eatom[i] *= unit;

    /* LAMMPS: xx yy zz xy xz yz, with centroid stress also yx zx zy; a virial is sum of r (x) f in both */
    static const int LAMMPS_ORDER[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7}, TRANSPOSED[6] = {0, 4, 8, 3, 6, 7};
    if (vflag_global)
        for (int k = 0; k < 6; ++k) virial[k] += unit * 0.5 * (v[LAMMPS_ORDER[k]] + v[TRANSPOSED[k]]);
    if (vflag_atom)
        for (int i = 0; i < nlocal; ++i) {
            const double *w = &atom_virial[9 * static_cast<bigint>(i)];
            for (int k = 0; k < 6; ++k) vatom[i][k] += unit * 0.5 * (w[LAMMPS_ORDER[k]] + w[TRANSPOSED[k]]);
        }
    if (cvflag_atom)
        for (int i = 0; i < nlocal; ++i)
            for (int k = 0; k < 9; ++k)
                cvatom[i][k] += unit * atom_virial[9 * static_cast<bigint>(i) + LAMMPS_ORDER[k]];
}
