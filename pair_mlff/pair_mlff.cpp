/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pair_mlff.h"

#include "mlff.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "universe.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

/* With Open MPI these are variables of its library. Weak references let the plugin load beside another MPI, so that
 * plugin.cpp can refuse with a sentence instead of the dynamic linker with a symbol's name. */
#ifdef OPEN_MPI
#pragma weak ompi_mpi_op_max
#pragma weak ompi_mpi_op_min
#pragma weak ompi_mpi_int
#pragma weak ompi_mpi_int64_t
#pragma weak ompi_mpi_char
#pragma weak ompi_mpi_info_null
#endif

using namespace LAMMPS_NS;

void *make_pair_mlff(void *lmp);

static const char *const DEVICE_NAMES[] = {"auto", "cpu", "cuda"};
static const char *const PRECISION_NAMES[] = {"default", "double", "single", "mixed"};

PairMLFF::PairMLFF(LAMMPS *host) :
    Pair(host), device(MLFF_DEVICE_AUTO), precision(MLFF_PRECISION_DEFAULT), threads(0), library_searches(false),
    evaluator_is_stale(true), model(nullptr), evaluator(nullptr), cutoff(0.0), energy_unit(1.0), seen{},
    capacity_atoms(0), capacity_virial(0), species(nullptr), owner(nullptr), owner_rank(nullptr), forces(nullptr),
    atom_virial(nullptr), owners_are_known(false), halo{}, has_warned(false), close_rank(-1), reverse_virial(false)
{
    single_enable = 0;
    restartinfo = 0;
    one_coeff = 1;
    manybody_flag = 1;
    no_virial_fdotr_compute = 1;
    centroidstressflag = CENTROID_AVAIL;
}

/* For plugin.cpp, which must not know a class whose layout depends on LAMMPS's version. */
void *make_pair_mlff(void *lmp)
{
    return new PairMLFF(static_cast<LAMMPS *>(lmp));
}

PairMLFF::~PairMLFF()
{
    if (copymode) return;
    mlff_evaluator_free(evaluator);
    mlff_model_free(model);
    memory->sfree(species);
    memory->sfree(owner);
    memory->sfree(owner_rank);
    memory->sfree(forces);
    memory->sfree(atom_virial);
    if (allocated) {
        memory->destroy(setflag);
        memory->destroy(cutsq);
    }
}

/* Every rank calls this with its own status; if any failed, all stop with the sentence of the lowest rank that has
 * one of its own. */
void PairMLFF::stop_together(int status, const std::string &message)
{
    const int well = comm->nprocs + 1, failed_elsewhere = comm->nprocs;
    int mine = status == MLFF_OK ? well : status == MLFF_ERROR_ELSEWHERE ? failed_elsewhere : comm->me, lowest;
    MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, world);
    if (lowest == well) return;

    char sentence[sizeof(mlff_error)];
    std::snprintf(sentence, sizeof sentence, "%s", message.c_str());
    MPI_Bcast(sentence, sizeof sentence, MPI_CHAR, lowest == failed_elsewhere ? 0 : lowest, world);
    error->all(FLERR, std::string(sentence));
}

/* ------------------------------------------------------------------------------------------ commands */

static int index_of(const char *word, const char *const *names, int first, int n)
{
    for (int i = first; i < n; ++i)
        if (!std::strcmp(word, names[i])) return i;
    return -1;
}

void PairMLFF::settings(int narg, char **arg)
{
    bool new_library_searches = false;
    int new_device = MLFF_DEVICE_AUTO, new_precision = MLFF_PRECISION_DEFAULT, new_threads = 0;
    for (int i = 0; i < narg; i += 2) {
        const std::string keyword = arg[i];
        if (keyword != "device" && keyword != "precision" && keyword != "neigh" && keyword != "threads")
            error->all(FLERR, "pair_style mlff: unknown keyword '" + keyword +
                                  "', expected device, precision, neigh or threads");
        if (i + 1 == narg) error->all(FLERR, "pair_style mlff: keyword '" + keyword + "' has no value");
        const std::string value = arg[i + 1];
        if (keyword == "device") {
            new_device = index_of(arg[i + 1], DEVICE_NAMES, 0, 3);
            if (new_device < 0)
                error->all(FLERR, "pair_style mlff: device '" + value + "', expected cpu, cuda or auto");
        } else if (keyword == "precision") {
            new_precision = index_of(arg[i + 1], PRECISION_NAMES, 1, 4);
            if (new_precision < 0)
                error->all(FLERR, "pair_style mlff: precision '" + value + "', expected double, single or mixed");
        } else if (keyword == "neigh") {
            if (value != "host" && value != "device")
                error->all(FLERR, "pair_style mlff: neigh '" + value + "', expected host or device");
            new_library_searches = value == "device";
        } else {
            char *end;
            const long n = std::strtol(arg[i + 1], &end, 10);
            if (end == arg[i + 1] || *end || n < 1 || n > 4096)
                error->all(FLERR, "pair_style mlff: threads '" + value + "', expected a number from 1 to 4096");
            new_threads = static_cast<int>(n);
        }
    }
    device = new_device;
    precision = new_precision;
    library_searches = new_library_searches;
    threads = new_threads;
    evaluator_is_stale = true;
}

void PairMLFF::coeff(int narg, char **arg)
{
    const std::string usage = "expected 'pair_coeff * * MODEL El1 El2 ...' with one element for each atom type";
    if (narg < 3) error->all(FLERR, "pair_coeff of pair style mlff: no model file, " + usage);
    if (std::strcmp(arg[0], "*") || std::strcmp(arg[1], "*"))
        error->all(FLERR,
                   std::string("pair_coeff of pair style mlff: atom types '") + arg[0] + " " + arg[1] + "', " + usage);
    if (narg != 3 + atom->ntypes)
        error->all(FLERR, "pair_coeff of pair style mlff: " + std::to_string(narg - 3) + " elements for " +
                              std::to_string(atom->ntypes) + " atom types, " + usage);

    const std::string units = update->unit_style;
    if (units != "metal" && units != "real")
        error->all(FLERR, "pair style mlff: units " + units + ", expected metal or real");

    /* What was there before stays until the new model and its elements are known to be right on all ranks. */
    mlff_model *loaded = load_model(arg[2]);
    std::vector<int> mapped;
    try {
        mapped = map_elements(loaded, narg, arg);
    } catch (...) {
        mlff_model_free(loaded);
        throw;
    }
    mlff_evaluator_free(evaluator);
    mlff_model_free(model);
    evaluator = nullptr;
    evaluator_is_stale = true;
    has_warned = false;
    model = loaded;
    cutoff = mlff_model_get_info(model)->cutoff;
    energy_unit = units == "real" ? MLFF_EV_IN_KCAL_PER_MOL : 1.0;
    species_of_type = mapped;
    set_flags();
}

/* Only rank 0 looks for the file, as given or in LAMMPS_POTENTIALS, and reads it. */
std::string PairMLFF::read_model_bytes(const std::string &path, int &status, std::string &message)
{
    std::string bytes, found = utils::get_potential_file_path(path);
    if (found.empty()) found = path;
    status = MLFF_ERROR_FILE;
    errno = 0;
    FILE *file = std::fopen(found.c_str(), "rb");
    if (!file) {
        message = "model file " + path + ": cannot be opened (" + std::strerror(errno) +
                  "), here or in a folder of LAMMPS_POTENTIALS";
        return bytes;
    }
    try {
        std::vector<char> piece(1 << 20);
        for (size_t n; (n = std::fread(piece.data(), 1, piece.size(), file)) > 0;) bytes.append(piece.data(), n);
        if (std::ferror(file))
            message = "model file " + found + ": cannot be read (" + std::strerror(errno) + ")";
        else
            status = MLFF_OK;
    } catch (const std::bad_alloc &) {
        status = MLFF_ERROR_MEMORY;
        message = "model file " + found + ": out of memory after " + std::to_string(bytes.size()) + " bytes";
    }
    std::fclose(file);
    return bytes;
}

/* The model, once all ranks have it. */
mlff_model *PairMLFF::load_model(const char *path)
{
    int status = MLFF_OK;
    std::string bytes, message;
    if (comm->me == 0) bytes = read_model_bytes(path, status, message);
    stop_together(status, message);

    int64_t size = static_cast<int64_t>(bytes.size());
    MPI_Bcast(&size, 1, MPI_INT64_T, 0, world);
    try {
        bytes.resize(static_cast<size_t>(size));
    } catch (const std::bad_alloc &) {
        status = MLFF_ERROR_MEMORY;
        message = std::string("model file ") + path + ": out of memory for " + std::to_string(size) + " bytes";
    }
    stop_together(status, message);
    const int64_t piece = 1 << 30; /* MPI counts in int */
    for (int64_t begin = 0; begin < size; begin += piece)
        MPI_Bcast(&bytes[begin], static_cast<int>(std::min(piece, size - begin)), MPI_CHAR, 0, world);

    mlff_model *loaded = nullptr;
    mlff_error problem{};
    status = mlff_model_load_memory(bytes.data(), bytes.size(), path, &loaded, &problem);
    try {
        stop_together(status, problem.message);
    } catch (...) {
        mlff_model_free(loaded);
        throw;
    }
    return loaded;
}

/* [ntypes+1] the species of each atom type. */
std::vector<int> PairMLFF::map_elements(const mlff_model *loaded, int narg, char **arg)
{
    const mlff_model_info *info = mlff_model_get_info(loaded);
    const bool hybrid = force->pair != this;
    std::string known;
    for (int e = 0; e < info->n_elements; ++e) known += std::string(" ") + info->elements[e];

    std::vector<int> of_type(atom->ntypes + 1, -1);
    for (int i = 3; i < narg; ++i) {
        if (!std::strcmp(arg[i], "NULL")) {
            if (!hybrid)
                error->all(FLERR, "pair_coeff of pair style mlff: NULL for atom type " + std::to_string(i - 2) +
                                      ", expected an element (NULL is for pair_style hybrid)");
            continue;
        }
        of_type[i - 2] = index_of(arg[i], info->elements, 0, info->n_elements);
        if (of_type[i - 2] < 0)
            error->all(FLERR, std::string("model ") + info->name + ": element '" + arg[i] + "' of atom type " +
                                  std::to_string(i - 2) + " is unknown, expected one of:" + known);
    }
    return of_type;
}

/* Tells LAMMPS which pairs of types are ours. */
void PairMLFF::set_flags()
{
    const int ntypes = atom->ntypes;
    if (allocated) {
        memory->destroy(setflag);
        memory->destroy(cutsq);
    }
    memory->create(setflag, ntypes + 1, ntypes + 1, "pair:setflag");
    memory->create(cutsq, ntypes + 1, ntypes + 1, "pair:cutsq");
    allocated = 1;
    for (int i = 1; i <= ntypes; ++i)
        for (int j = 1; j <= ntypes; ++j) {
            setflag[i][j] = i <= j && species_of_type[i] >= 0 && species_of_type[j] >= 0;
            cutsq[i][j] = 0.0;
        }
}

/* ------------------------------------------------------------------------------------------ before a run */

/* The ranks of this world that share this rank's memory, and so its GPUs. */
static MPI_Comm ranks_of_node(MPI_Comm world)
{
    MPI_Comm node;
#ifdef MPI_STUBS /* LAMMPS's own, for one rank, which lack the other function */
    MPI_Comm_dup(world, &node);
#else
    MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
#endif
    return node;
}

/* Ranks take the GPUs of their node in turn; partitions, which know nothing of each other, one after the other. */
int PairMLFF::choose_gpu(MPI_Comm node) const
{
    const int n_gpus = device == MLFF_DEVICE_CPU ? 0 : mlff_gpu_count();
    int me, n;
    MPI_Comm_rank(node, &me);
    MPI_Comm_size(node, &n);
    return n_gpus > 0 ? static_cast<int>((static_cast<bigint>(universe->iworld) * n + me) % n_gpus) : -1;
}

/* "cuda (NVIDIA H200) 0 of 2, shared by 4 ranks": which GPU this rank has and how many ranks of its node have the same
 * one. Told by address: each rank may see GPUs of its own under the same number. */
std::string PairMLFF::describe_gpu(MPI_Comm node) const
{
    const mlff_evaluator_info *e = evaluator ? mlff_evaluator_get_info(evaluator) : nullptr;
    char mine[32] = "";
    std::snprintf(mine, sizeof mine, "%s", e ? e->gpu : "");
    int n;
    MPI_Comm_size(node, &n);
    std::vector<char> all(static_cast<size_t>(n) * sizeof mine);
    MPI_Allgather(mine, sizeof mine, MPI_CHAR, all.data(), sizeof mine, MPI_CHAR, node);
    if (!*mine) return e ? e->device : "";
    int sharing = 0;
    for (int rank = 0; rank < n; ++rank) sharing += !std::strcmp(mine, &all[rank * sizeof mine]);
    return std::string(e->device) + " " + std::to_string(e->device_index) + " of " + std::to_string(mlff_gpu_count()) +
           (sharing > 1 ? ", shared by " + std::to_string(sharing) + " ranks" : "");
}

/* Rows of one precision travel between ranks; `device auto` may have found a GPU on some nodes only. */
void PairMLFF::check_ranks_agree()
{
    const mlff_evaluator_info *e = mlff_evaluator_get_info(evaluator);
    const bool on_gpu = *e->gpu != '\0';
    int kinds[2] = {on_gpu, !on_gpu}, found[2];
    MPI_Allreduce(kinds, found, 2, MPI_INT, MPI_MAX, world);
    if (found[0] && found[1] && device == MLFF_DEVICE_AUTO)
        error->all(FLERR, "pair style mlff: device auto found a GPU on some ranks and none on others, expected one on "
                          "all or on none; set 'device cpu', or run where every rank sees a GPU");
}

void PairMLFF::make_evaluator()
{
    MPI_Comm node = ranks_of_node(world);
    const mlff_options options = {static_cast<mlff_device>(device), static_cast<mlff_precision>(precision),
                                  threads ? threads : comm->nthreads, choose_gpu(node)};
    mlff_evaluator_free(evaluator);
    evaluator = nullptr;
    mlff_error problem{};
    const int status = mlff_evaluator_create(model, &options, &evaluator, &problem);
    const std::string runs_on = describe_gpu(node); /* also by a rank that has none: the others wait for it */
    MPI_Comm_free(&node);
    stop_together(status, problem.message);
    check_ranks_agree();
    evaluator_is_stale = false;
    owners_are_known = false;
    seen = {};

    if (comm->me) return;
    const mlff_model_info *m = mlff_model_get_info(model);
    const mlff_evaluator_info *e = mlff_evaluator_get_info(evaluator);
    std::string symbols;
    for (size_t type = 1; type < species_of_type.size(); ++type)
        symbols += std::string(" ") + (species_of_type[type] < 0 ? "NULL" : m->elements[species_of_type[type]]);
    char numbers[512];
    std::snprintf(numbers, sizeof numbers,
                  "%lld parameters, cutoff %g A; %s, %s precision, %d thread%s, %.3g kB an atom and %.3g B a neighbour",
                  static_cast<long long>(m->n_parameters), m->cutoff, runs_on.c_str(), e->precision, e->threads,
                  e->threads == 1 ? "" : "s", 1e-3 * e->bytes_per_atom, e->bytes_per_neighbour);
    utils::logmesg(lmp, std::string("mlff: model ") + m->name + " (" + m->architecture + ", " +
                            std::to_string(m->features) + " features, " + std::to_string(m->interactions) +
                            " interactions), elements" + symbols + ", " + numbers + "\n");
}

/* What LAMMPS leaves out of a list, the library's own search would find. */
void PairMLFF::check_search_is_allowed()
{
    if (force->pair != this)
        error->all(FLERR,
                   "pair style mlff: neigh device under pair_style hybrid, expected neigh host: the library does "
                   "not know the pairs that hybrid gives to other styles");
    if (neighbor->nex_type + neighbor->nex_group + neighbor->nex_mol + neighbor->includegroup)
        error->all(FLERR,
                   "pair style mlff: neigh device with neigh_modify exclude or include, expected neigh host: the "
                   "library does not know the pairs that they leave out");
}

void PairMLFF::init_style()
{
    if (evaluator_is_stale) make_evaluator();

    comm_forward = 2;                        /* owner and its rank */
    comm_reverse = comm_reverse_off = 3 + 9; /* force, virial; both names: also with newton off */
    if (force->pair != this) {
        /* LAMMPS takes the sizes of its buffers from hybrid, which asked for ours before we knew them. */
        force->pair->comm_forward = std::max(force->pair->comm_forward, comm_forward);
        force->pair->comm_reverse = std::max(force->pair->comm_reverse, comm_reverse);
        force->pair->comm_reverse_off = std::max(force->pair->comm_reverse_off, comm_reverse_off);
    }
    if (library_searches) {
        check_search_is_allowed();
        return;
    }
    const int hidden = neighbor->nex_type + neighbor->nex_group + neighbor->nex_mol + neighbor->includegroup;
    if (comm->me == 0 && hidden)
        error->warning(FLERR, std::string("pair style mlff does not see the pairs that neigh_modify exclude or include "
                                          "leaves out; energies of their atoms change"));
    neighbor->add_request(this, NeighConst::REQ_FULL);
}

double PairMLFF::init_one(int, int)
{
    return cutoff;
}

/* ------------------------------------------------------------------------------------------ for other classes */

void *PairMLFF::extract(const char *name, int &dim)
{
    dim = 0;
    return !std::strcmp(name, "cutoff") ? &cutoff : nullptr;
}

double PairMLFF::memory_usage()
{
    double bytes = Pair::memory_usage();
    if (evaluator) bytes += static_cast<double>(mlff_evaluator_get_memory(evaluator));
    bytes += static_cast<double>(capacity_atoms) * (3 * sizeof(int32_t) + 3 * sizeof(double));
    bytes += static_cast<double>(capacity_virial) * 9 * sizeof(double);
    bytes += static_cast<double>(halo.send.capacity() + halo.source.capacity()) * sizeof(int32_t);
    return bytes;
}
