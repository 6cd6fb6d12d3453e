#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds and runs all tests; ./tests/run.sh --help
set -euo pipefail
# shellcheck source=tools/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"

usage() {
    cat <<'EOF'
usage: ./tests/run.sh [OPTION]...

Sets up .venv and build/ where needed, builds everything, runs the tests in C (cmocka), Python and LAMMPS, names each
test that was skipped with the reason, and closes with the line `N passed, N failed, N skipped`.
The exit status is 0 when something passed and nothing failed.

  --only PARTS        some of c,python,lammps (with commas)
  --sanitize KIND     the C tests alone, built with the sanitizer `address` or `undefined`
  --lammps-source     a longer run: build the newest LAMMPS of Debian's sources with the system's MPI, in
                      build/lammps-source, and run the LAMMPS tests with that too
  --fuzz [RUNS]       a longer run: feed the model reader RUNS random files (default 100000); needs clang
  -k EXPRESSION       of the Python and LAMMPS tests only those that match, as for pytest
  -h, --help          this text

Tests on other people's checkpoints read the folder MLFF_TEST_DATA (default: ../shared/data beside the checkout) and
are skipped without it. Those that train need PyTorch, one needs tblite: .venv/bin/pip install torch tblite
EOF
}

parts=c,python,lammps
sanitize='' lammps_source='' fuzz='' select=() needs=(--tests)
while [ $# -gt 0 ]; do
    case $1 in
    --only)
        parts=${2:?--only: expected some of c,python,lammps}
        [[ $parts =~ ^(c|python|lammps)(,(c|python|lammps))*$ ]] || die "--only $parts: expected some of c,python,lammps"
        shift
        ;;
    --sanitize)
        sanitize=${2:-nothing}
        [[ $sanitize =~ ^(address|undefined)$ ]] || die "--sanitize $sanitize: expected address or undefined"
        parts=c
        shift
        ;;
    --lammps-source)
        lammps_source=yes
        needs+=(--lammps-source)
        ;;
    --fuzz)
        needs+=(--fuzz)
        fuzz=100000
        if [[ ${2:-} =~ ^[0-9]+$ ]]; then
            fuzz=$2
            shift
        fi
        ;;
    -k)
        select=(-k "${2:?-k: expected an expression}")
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown option '$1'; see ./tests/run.sh --help" ;;
    esac
    shift
done

results=$root/build/test-results
has_part() { [[ ,$parts, == *,$1,* ]]; }

# Each part leaves a JUnit file and its exit status; tests/totals.py adds them up.
run_c_tests() {
    local preset=plugin
    case $sanitize in
    address) preset=asan ;;
    undefined) preset=ubsan ;;
    esac
    say "== C tests (preset $preset)"
    if ! { cmake --preset "$preset" && cmake --build --preset "$preset"; } >"$root/build/$preset.log" 2>&1; then
        tail -n 40 "$root/build/$preset.log" >&2
        die "the build of preset $preset failed; all of its output is in build/$preset.log"
    fi
    # ctest shortens what it keeps of a test's output unless told otherwise, and the counting needs all of it.
    record c ctest --preset "$preset" --no-tests=error --test-output-size-passed 10000000 \
        --test-output-size-failed 10000000 --output-junit "$results/c.xml"
}

run_pytest() {
    local name=$1 folder=${2:-$1}
    say "== $name tests"
    record "$name" "$venv/bin/python" -m pytest -q "tests/$folder" "${select[@]}" -o junit_family=xunit2 \
        --junitxml="$results/$name.xml"
}

# The system's MPI comes before that of .venv, for the compiler and for the runs.
run_lammps_source() {
    local folder=$root/build/lammps-source
    export PATH=$system_path:$venv/bin
    run_program build-lammps tests/lammps/build-lammps.sh "$folder"
    if [ "$(cat "$results/build-lammps.status")" = 0 ]; then
        # shellcheck source=/dev/null
        source "$folder/environment.sh"
        run_pytest lammps-source lammps
    fi
}

# A program that is one test as a whole.
run_program() {
    local name=$1 status=0 problem=''
    shift
    say "== $name"
    "$@" </dev/null || status=$?
    [ "$status" = 0 ] || problem="<failure message='exit status $status'/>"
    printf '<testsuite><testcase name="%s">%s</testcase></testsuite>\n' "$name" "$problem" >"$results/$name.xml"
    printf '%s\n' "$status" >"$results/$name.status"
}

record() {
    local name=$1 status=0
    shift
    "$@" </dev/null || status=$?
    printf '%s\n' "$status" >"$results/$name.status"
}

cd "$root"
setup_environment "${needs[@]}"
rm -rf "$results"
mkdir -p "$results"
export MLFF_LAMMPS_ENV=$venv
# Threads that wait without spinning, because tests run several processes on few cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
if [ -z "${MLFF_TEST_DATA:-}" ] && [ -d "$root/../shared/data" ]; then
    MLFF_TEST_DATA=$(cd "$root/../shared/data" && pwd)
    export MLFF_TEST_DATA
fi

if has_part c; then run_c_tests; fi
if has_part python; then run_pytest python; fi
if has_part lammps; then run_pytest lammps; fi
if [ -n "$lammps_source" ]; then run_lammps_source; fi
if [ -n "$fuzz" ]; then run_program fuzz tests/fuzz/run.sh "$fuzz"; fi
"$venv/bin/python" tests/totals.py "$results"
