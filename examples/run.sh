#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Sets up what is needed and runs an example; ./examples/run.sh --help
set -euo pipefail
# shellcheck source=tools/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/environment.sh"

examples=$root/examples
# An example is an input of its own name, or, where LAMMPS runs many times, a run.py that starts it.
is_example() { [ -f "$examples/$1/in.$1" ] || [ -f "$examples/$1/run.py" ]; }

list_examples() {
    local input names=''
    for input in "$examples"/*/; do
        input=$(basename "$input")
        is_example "$input" && names="$names $input"
    done
    say "${names# }"
}

usage() {
    cat <<EOF
usage: ./examples/run.sh EXAMPLE [OPTION]...      EXAMPLE: $(list_examples)

Sets up .venv in the checkout where needed (LAMMPS, MPI, mlff), runs the example in LAMMPS through \`plugin load\`,
and ends with a short report and a picture. Everything it writes goes to build/examples/EXAMPLE/.

  --steps N        steps of the last part of the run (default: the example's own)
  --replicate N    silicon: 512 N^3 atoms; water: 192 N^3; organic: N^3 molecules (default 1)
  --ranks N        MPI ranks (default 1)
  --threads N      OpenMP threads of each rank (default: cores / ranks)
  --precision P    double, single or, on a GPU, mixed (default: the example's own)
  --neigh WHERE    neighbours found by LAMMPS on the host, or by the library on the device: host or device (default host)
  --model FILE     another model file for the same input
  --data FILE      compare-silicon: the mlearn Si set, whose test frames the forces are held against
  --quick          compare-silicon: a few steps of everything
  --set-up-only    stop before the run
  -h, --help       this text
EOF
}

whole_number() {
    [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || die "$1 '$2': expected a whole number above 0"
}

example='' steps='' replicate='' ranks='' threads='' precision='' neigh='' model='' data='' quick='' set_up_only=''
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --steps | --replicate | --ranks | --threads)
        whole_number "$1" "${2:-}"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
    --precision)
        precision=${2:-}
        [[ $precision =~ ^(double|single|mixed)$ ]] || die "--precision '$precision': expected double, single or mixed"
        shift
        ;;
    --neigh)
        neigh=${2:-}
        [[ $neigh =~ ^(host|device)$ ]] || die "--neigh '$neigh': expected host or device"
        shift
        ;;
    --model)
        [ -f "${2:-}" ] || die "--model '${2:-}': no such file"
        model=$(realpath -- "$2")
        shift
        ;;
    --data)
        [ -f "${2:-}" ] || die "--data '${2:-}': no such file"
        data=$(realpath -- "$2")
        shift
        ;;
    --quick) quick=yes ;;
    --set-up-only) set_up_only=yes ;;
    -*) die "unknown option '$1'; see ./examples/run.sh --help" ;;
    *)
        [ -z "$example" ] || die "two examples named, '$example' and '$1'; expected one"
        example=$1
        ;;
    esac
    shift
done
if [ -z "$example" ]; then
    usage >&2
    exit 2
fi
is_example "$example" || die "no example '$example'; there are: $(list_examples)"
own_runner=$examples/$example/run.py
if [ -f "$own_runner" ]; then
    [ "$precision" != mixed ] || die "--precision mixed is not for $example; it takes double and single"
    [ -z "$steps$replicate$ranks$threads$neigh" ] ||
        die "$example runs LAMMPS many times and sets steps, replicate, ranks, threads and neigh itself"
    model=${model:-$examples/${example#compare-}/${example#compare-}.safetensors}
else
    [ -z "$data$quick" ] || die "--data and --quick are not for $example; see ./examples/run.sh --help"
    model=${model:-$examples/$example/$example.safetensors}
fi
[ -f "$model" ] || die "the model file $model is missing from this checkout"
cores=$(nproc)
ranks=${ranks:-1}
threads=${threads:-$((cores > ranks ? cores / ranks : 1))}

# shellcheck disable=SC2119
setup_environment
[ -z "$set_up_only" ] || exit 0

output=$root/build/examples/$example
mkdir -p "$output"
# LAMMPS's own binary, not the environment's `lmp`, which would have loaded the plugin before the input says so.
lammps=("$venv"/lib/python3*/site-packages/lammps/lmp)
if [ -f "$own_runner" ]; then
    options=(--lammps "${lammps[0]}" --mpiexec "$venv/bin/mpiexec" --plugin "$(mlff plugin)" --model "$model"
        --output "$output" --cores "$cores")
    [ -z "$precision" ] || options+=(--precision "$precision")
    [ -z "$data" ] || options+=(--data "$data")
    [ -z "$quick" ] || options+=(--quick)
    exec "$venv/bin/python" "$own_runner" "${options[@]}"
fi
variables=(-var model "$model" -var plugin "$(mlff plugin)" -var folder "$examples/$example")
[ -z "$replicate" ] || variables+=(-var replicate "$replicate")
[ -z "$steps" ] || variables+=(-var steps "$steps")
[ -z "$precision" ] || variables+=(-var precision "$precision")
[ -z "$neigh" ] || variables+=(-var neigh "$neigh")
run=(mpiexec -n "$ranks" "${lammps[0]}" -in "$examples/$example/in.$example" -log "$output/log.lammps" "${variables[@]}")

cd "$output"
# Threads that wait without spinning: three times faster where other work shares the cores.
export OMP_NUM_THREADS=$threads OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export LD_LIBRARY_PATH=$venv/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
say "running  OMP_NUM_THREADS=$threads LD_LIBRARY_PATH=$LD_LIBRARY_PATH ${run[*]}"
say ""
status=0
"${run[@]}" </dev/null 2>&1 | tee "$output/screen.txt" || status=$?
if [ "$status" != 0 ]; then
    die "LAMMPS stopped with exit status $status; the reason stands above, and in $output/log.lammps."
fi
say ""
"$venv/bin/python" "$examples/$example/report.py" "$output/log.lammps" "$output/$example.png"
say "picture      $output/$example.png"
say "log          $output/log.lammps"
