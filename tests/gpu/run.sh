#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs the GPU tests that pack.sh packed:  run.sh [tests|accuracy|layers|sanitizers]...   (default: the first three)
set -u
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
export LD_LIBRARY_PATH=$PWD/lib MLFF_LIBRARY=$PWD/lib/libmlff.so MLFF_FIXTURES=$PWD/fixtures OMP_WAIT_POLICY=passive
parts=("$@")
if [ $# -eq 0 ]; then parts=(tests accuracy layers); fi
failed=0
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader

run_tests() {
    local name log
    log=$(mktemp)
    for name in bin/test_*; do
        name=${name#bin/test_}
        if timeout 120 "bin/test_$name" cuda >"$log" 2>&1; then
            echo "test_$name: $(grep -c '^\[       OK' "$log") passed, $(grep -c '^\[  SKIPPED \] [a-z]' "$log") skipped"
        else
            echo "test_$name: exit status $?"
            failed=1
            grep -vE '^\[ RUN|^\[       OK' "$log" | head -40
        fi
    done
    rm -f "$log"
}

layers() {
    local model=$1 precision
    for precision in single mixed double; do
        echo "== $precision"
        timeout 120 bin/mlff_layers "$model" cuda "$precision" 48 || failed=1
    done
}

# Small cases: 11^3 atoms, so that clusters have several rows; the search and small structures by their tests, of the
# latter for racecheck, which is slow, only some.
sanitizer() {
    local tool=$1 what=$2
    shift 2
    timeout -k 5 100 compute-sanitizer --tool "$tool" --error-exitcode 1 "$@" >sanitizer.log 2>&1 || failed=1
    echo "== $tool, $what: $(grep '========= [A-Z]* SUMMARY' sanitizer.log || echo 'no summary, did not finish')"
    grep '^\[  FAILED  \] [a-z]' sanitizer.log
    grep -A3 '^========= \(Error\|Warning\|Uninit\|Invalid\|Race\)' sanitizer.log | head -20
}

sanitizers() {
    local model=$1 tool precision some
    for tool in memcheck racecheck initcheck; do
        for precision in single mixed; do
            sanitizer "$tool" "$precision" bin/mlff_layers "$model" cuda "$precision" 11 1 1
        done
        sanitizer "$tool" "search" bin/test_graph cuda
        some='*'
        if [ "$tool" = racecheck ]; then some='an_*'; fi
        sanitizer "$tool" "small structures" bin/test_molecules cuda "$some"
    done
}

model=$(find files -name 'layers*.safetensors' -print -quit)
for part in "${parts[@]}"; do
    case $part in
    tests) run_tests ;;
    accuracy) python3 accuracy.py files || failed=1 ;;
    layers) layers "${model:?files/layers*.safetensors: expected a model}" ;;
    sanitizers) sanitizers "${model:?files/layers*.safetensors: expected a model}" ;;
    *)
        echo "unknown part '$part', expected tests, accuracy, layers or sanitizers" >&2
        exit 2
        ;;
    esac
done
exit $failed
