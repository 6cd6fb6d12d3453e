#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Packs what the GPU tests need for a machine that has a GPU and nothing to build with.
#   tests/gpu/pack.sh BUILD_FOLDER OUT.tar.xz [FILE]...     FILEs (models, references) go along, side by side
# There: tar xJf OUT.tar.xz && mlff-gpu/run.sh
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '3,5s/^# *//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$1 out=$2
shift 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
to=$folder/mlff-gpu
mkdir -p "$to"/{bin,lib,files,mlff}

tests=$(find "$build/tests/unit" -maxdepth 1 -name 'test_*' -type f -executable 2>/dev/null || true)
if [ -z "$tests" ] || [ ! -f "$build/core/libmlff.so" ]; then
    echo "$build: expected a build with -DMLFF_BUILD_TESTS=ON and a CUDA compiler" >&2
    exit 1
fi
# those that run on a device that they are told
grep -l RUN_ON_DEVICE "$root"/tests/unit/test_*.c | while read -r source; do
    cp "$build/tests/unit/$(basename "$source" .c)" "$to/bin/"
done
cp "$build/benchmarks/mlff_layers" "$to/bin/"
cp -L "$build/core/libmlff.so" "$to/lib/"
plugin=$(find "$build" -name mlffplugin.so -print -quit)
if [ -n "$plugin" ]; then cp "$plugin" "$to/lib/"; fi
strip "$to"/bin/* "$to"/lib/*
# libraries that a bare machine may lack
ldd "$to/bin/test_evaluate" | awk '/cmocka|jansson/ {print $3}' | while read -r library; do
    cp -L "$library" "$to/lib/"
done
cp -r "$root/tests/fixtures" "$to/fixtures"
cp "$root"/weights_tools/mlff/*.py "$to/mlff/"
cp "$root/tests/gpu/run.sh" "$root/tests/gpu/accuracy.py" "$to/"
for file in "$@"; do cp "$file" "$to/files/"; done
# one window over all programs: they share most of their code
tar -C "$folder" -cf - mlff-gpu | xz -T1 --lzma2=preset=6,dict=256MiB >"$out"
echo "$out: $(stat -c %s "$out") bytes"
