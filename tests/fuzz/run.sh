#!/bin/sh
# SPDX-License-Identifier: MIT
# Fuzzes the model reader: tests/fuzz/run.sh [RUNS [SEED]]    (1,000,000 and 1 by default; one core)
#
# Needs clang with libFuzzer (Debian: clang-14) and jansson. CLANG names another compiler. Builds and keeps its corpus
# in build/fuzz (MLFF_FUZZ_DIR names another folder). Ends with the lines of the reader that the corpus reaches, where
# llvm-cov and llvm-profdata of the same version are there. Exit status: 0 without a finding; a finding is left in
# that folder as crash-*, leak-* or timeout-*.
set -eu
runs=${1:-1000000}
seed=${2:-1}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${MLFF_FUZZ_DIR:-$root/build/fuzz}

clang=${CLANG:-}
for name in clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
    [ -n "$clang" ] || clang=$(command -v "$name" || true)
done
if [ -z "$clang" ]; then
    echo "run.sh: no clang found; on Debian 12: apt install clang-14 libjansson-dev" >&2
    exit 2
fi

src=$root/core/src
reader="$src/safetensors.c $src/model_metadata.c $src/model_file.c $src/model.c"
flags="-std=gnu11 -g -O1 -I$root/core/include -I$src"
mkdir -p "$folder/corpus" "$folder/seeds"
cd "$folder"
"$clang" $flags "$here/make_seeds.c" -ljansson -o make_seeds
./make_seeds seeds
"$clang" $flags -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    "$here/fuzz_model.c" $reader "$src/status.c" -ljansson -lm -o fuzz_model
# a short memory of freed blocks is enough for such small inputs, and faster
ASAN_OPTIONS=malloc_context_size=4:quarantine_size_mb=8${ASAN_OPTIONS:+:$ASAN_OPTIONS} \
./fuzz_model -runs="$runs" -seed="$seed" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -dict="$here/model.dict" \
    -print_final_stats=1 corpus seeds 2>fuzz.log || { tail -n 60 fuzz.log >&2; exit 1; }
grep -E 'DONE|^stat::|^Done' fuzz.log

suffix=$(basename "$clang" | sed 's/^clang//')
if command -v "llvm-cov$suffix" >/dev/null && command -v "llvm-profdata$suffix" >/dev/null; then
    "$clang" $flags -fsanitize=fuzzer -fprofile-instr-generate -fcoverage-mapping \
        "$here/fuzz_model.c" $reader "$src/status.c" -ljansson -lm -o cover_model
    LLVM_PROFILE_FILE=cover.raw ./cover_model -runs=0 corpus seeds 2>/dev/null
    "llvm-profdata$suffix" merge cover.raw -o cover.data
    "llvm-cov$suffix" report ./cover_model -instr-profile=cover.data $reader
fi
