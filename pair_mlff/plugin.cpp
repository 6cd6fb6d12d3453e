/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What LAMMPS calls when it loads mlffplugin.so. LAMMPS loads a plugin that was built for another version of it and
 * misbehaves later, so we compare first, through the C interface of the running LAMMPS only: a class of another
 * version may be laid out in another way. If they differ, the style is not registered and a warning says why.
 */
#include "mlff.h"

#include "lmptype.h"

#include <mpi.h>

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>

#if !defined(MLFF_LAMMPS_VERSION_NUMBER) || !defined(MLFF_LAMMPS_VERSION)
#error "cmake gives the version of the LAMMPS that this is built for"
#endif

using namespace LAMMPS_NS;

/* The interface of LAMMPS to plugins: part of its documentation, while its header is missing from its wheel. */
extern "C" {
typedef struct {
    const char *version;
    const char *style;
    const char *name;
    const char *info;
    const char *author;
    union {
        void *(*v1)(void *lmp);
        void *(*v2)(void *lmp, int narg, char **arg);
    } creator;
    void *handle;
} mlff_lammpsplugin;

__attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc);
}

void *make_pair_mlff(void *lmp); /* pair_mlff.cpp */

typedef void (*register_function)(mlff_lammpsplugin *, void *lmp);

template <typename F> static F host_function(const char *name)
{
    return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}

/* Open MPI, LAMMPS's own stubs, or one of the family that shares MPICH's binary interface. */
static const char *mpi_family(const char *library)
{
    if (!std::strncmp(library, "Open MPI", 8)) return "Open MPI";
    if (std::strstr(library, "STUBS")) return "no MPI";
    return "MPICH";
}

static const char *mpi_family_built_for()
{
#if defined(OPEN_MPI)
    return "Open MPI";
#elif defined(MPICH_VERSION) || defined(MPICH_NAME)
    return "MPICH";
#else
    return "no MPI";
#endif
}

static std::string mpi_family_running()
{
    char library[8192] = "";
    int length = 0;
    const auto get_library = host_function<int (*)(char *, int *)>("MPI_Get_library_version");
    if (!get_library) return "no MPI";
    get_library(library, &length);
    return mpi_family(library);
}

/* What differs between the running LAMMPS and the one built for; empty if nothing does. */
static std::string find_mismatch(void *lmp)
{
    const auto version = host_function<int (*)(void *)>("lammps_version");
    const auto setting = host_function<int (*)(void *, const char *)>("lammps_extract_setting");
    if (!version || !setting) return "this LAMMPS does not offer its C library interface, so its version is unknown";
    if (version(lmp) != MLFF_LAMMPS_VERSION_NUMBER)
        return "this LAMMPS is version " + std::to_string(version(lmp)) + ", expected " +
               std::to_string(MLFF_LAMMPS_VERSION_NUMBER);

    const struct {
        const char *name;
        int built_for;
    } sizes[] = {{"bigint", sizeof(bigint)}, {"tagint", sizeof(tagint)}, {"imageint", sizeof(imageint)}};
    for (const auto &size : sizes)
        if (setting(lmp, size.name) != size.built_for)
            return std::string("the ") + size.name + " of this LAMMPS has " + std::to_string(setting(lmp, size.name)) +
                   " bytes, expected " + std::to_string(size.built_for);

    if (mpi_family_running() != mpi_family_built_for())
        return "this LAMMPS runs with " + mpi_family_running() + ", expected " + mpi_family_built_for();
    return "";
}

/* On the screen and in the log, once. A warning and no error: LAMMPS also loads every plugin of LAMMPS_PLUGIN_PATH,
 * and runs that do not use this one must go on. The others stop at their pair_style. */
static void warn(void *lmp, const std::string &sentence)
{
    const auto setting = host_function<int (*)(void *, const char *)>("lammps_extract_setting");
    const auto lammps_error = host_function<void (*)(void *, int, const char *)>("lammps_error");
    const int type_warning = 0;
    if (!setting || !lammps_error)
        std::fprintf(stderr, "WARNING: %s\n", sentence.c_str());
    else if (setting(lmp, "world_rank") == 0)
        lammps_error(lmp, type_warning, sentence.c_str());
}

void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
    const std::string mismatch = find_mismatch(lmp);
    if (!mismatch.empty()) {
        const std::string sentence =
            "pair style mlff is not available: its plugin was built for LAMMPS " MLFF_LAMMPS_VERSION ", and " +
            mismatch + ". Build the plugin for this LAMMPS";
        warn(lmp, sentence);
        return;
    }

    mlff_lammpsplugin plugin{};
    plugin.version = MLFF_LAMMPS_VERSION;
    plugin.style = "pair";
    plugin.name = "mlff";
    plugin.info = "pair style mlff " MLFF_VERSION " (PaiNN force fields)";
    plugin.author = "the mlff developers";
    plugin.creator.v1 = make_pair_mlff;
    plugin.handle = handle;
    reinterpret_cast<register_function>(regfunc)(&plugin, lmp);
}
