#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the LAMMPS of Debian's sources, and the plugin for it: ./tests/lammps/build-lammps.sh --help
set -euo pipefail

usage() {
    cat <<'EOF'
usage: tests/lammps/build-lammps.sh FOLDER [VERSION]

Downloads the source package `lammps` of Debian sid (VERSION: as apt knows it, default the newest), builds lmp with the
packages that the tests use and this system's MPI, then the plugin for it, all in FOLDER (3 GB, 10 minutes on two
cores; what is there already is kept). Needs apt of a Debian with a deb822 sources file, cmake, ninja, a C++ compiler
and an MPI such as libopenmpi-dev. Nothing of the system is changed: apt keeps its lists in FOLDER.

Ends by writing FOLDER/environment.sh, which tells the tests about it:

    source FOLDER/environment.sh && python -m pytest tests/lammps

  JOBS     compilers at once (default: all cores)
  MPICXX   the MPI's compiler (default mpicxx)
  MPIEXEC  the command that starts ranks (default: mpiexec, with what Open MPI wants in a container)
EOF
}

[ $# -ge 1 ] || { usage >&2; exit 2; }
case $1 in
-h | --help) usage; exit 0 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
version=${2:-}
jobs=${JOBS:-$(nproc)}
mpicxx=${MPICXX:-mpicxx}

die() {
    printf 'build-lammps.sh: %s\n' "$*" >&2
    exit 1
}
for tool in apt-get cmake ninja "$mpicxx"; do
    command -v "$tool" >/dev/null || die "$tool is not installed"
done

# apt with source packages of sid, from the archive and with the keys that this machine uses already.
fetch_source() {
    local sources uri keys
    sources=$(grep -ls '^URIs:.*debian' /etc/apt/sources.list.d/*.sources | head -n 1)
    [ -n "$sources" ] || die "no *.sources file in /etc/apt/sources.list.d; expected one of Debian, to take its archive from"
    uri=$(awk '$1 == "URIs:" { print $2; exit }' "$sources")
    keys=$(awk '$1 == "Signed-By:" { print $2; exit }' "$sources")
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial"
    printf 'Types: deb-src\nURIs: %s\nSuites: sid\nComponents: main\nSigned-By: %s\n' "$uri" "$keys" >"$folder/apt/sid.sources"
    local options=(-o Dir::Etc::sourcelist="$folder/apt/sid.sources" -o Dir::Etc::sourceparts=-
        -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    # apt verifies the tarball by the signed index; the small files beside it may be gone from the archive by now, which
    # apt reports as an error, and are not needed.
    (cd "$folder" && apt-get "${options[@]}" source --download-only --only-source "lammps${version:+=$version}") || true
    tarball=$(find "$folder" -maxdepth 1 -name 'lammps_*.orig.tar.*' | sort | tail -n 1)
    [ -n "$tarball" ] || die "apt downloaded no lammps_*.orig.tar.*; is there a network, and a version '${version:-(newest)}'?"
}

if [ ! -f "$folder/source/src/version.h" ]; then
    tarball=$(find "$folder" -maxdepth 1 -name 'lammps_*.orig.tar.*' | sort | tail -n 1)
    [ -n "$tarball" ] || fetch_source
    rm -rf "$folder/source.new"
    mkdir "$folder/source.new"
    tar -xf "$tarball" -C "$folder/source.new"
    # some tarballs have a folder at the top, some have none
    if [ -d "$folder/source.new/src" ]; then
        mv "$folder/source.new" "$folder/source"
    else
        mv "$folder"/source.new/* "$folder/source"
        rmdir "$folder/source.new"
    fi
fi

if [ ! -x "$folder/build/lmp" ]; then
    options=(-DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 -DBUILD_MPI=on -DBUILD_OMP=on "-DMPI_CXX_COMPILER=$mpicxx")
    for package in PLUGIN MANYBODY MOLECULE MC EXTRA-FIX EXTRA-COMPUTE; do
        options+=("-DPKG_$package=on")
    done
    cmake -S "$folder/source/cmake" -B "$folder/build" -G Ninja "${options[@]}"
    ninja -C "$folder/build" -j "$jobs" lmp
fi

cmake -S "$root" -B "$folder/plugin" -G Ninja -DMLFF_BUILD_PAIR=ON "-DMLFF_LAMMPS_SOURCE=$folder/source" \
    "-DMLFF_LAMMPS_BINARY=$folder/build/lmp" "-DMPI_CXX_COMPILER=$mpicxx"
ninja -C "$folder/plugin" -j "$jobs" mlffplugin

mpiexec=${MPIEXEC:-mpiexec}
if [ -z "${MPIEXEC:-}" ] && mpiexec --version 2>&1 | grep -q 'Open \?MPI\|OpenRTE'; then
    mpiexec='mpiexec --oversubscribe'
    [ "$(id -u)" != 0 ] || mpiexec="$mpiexec --allow-run-as-root"
fi
{
    printf 'export MLFF_LAMMPS_BINARY=%q MLFF_LAMMPS_SOURCE=%q\n' "$folder/build/lmp" "$folder/source"
    printf 'export MLFF_PLUGIN=%q\n' "$folder/plugin/pair_mlff/mlffplugin.so"
    printf 'export MLFF_MPIEXEC=%q MLFF_MPICXX=%q\n' "$mpiexec" "$mpicxx"
} >"$folder/environment.sh"
printf 'build-lammps.sh: %s, and the plugin for it; source %s for the tests\n' \
    "$("$folder/build/lmp" -h | grep -o 'Simulator - .*')" "$folder/environment.sh"
