#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Silicon with mlff beside LAMMPS's own pair styles sw and tersoff: a table and pictures.

Started by `./examples/run.sh compare-silicon`. Everything is run by LAMMPS from the inputs of this folder; measure.py
says what their numbers mean, report.py what they are held against.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import measure
import numpy as np
import report

POTENTIALS = ("mlff", "sw", "tersoff", "tersoff-c")


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    constants: int  # points of energy against volume
    frames: int | None  # DFT test frames; None: all
    melt_steps: int  # of each of the three stages before the liquid is watched
    melt_cells: int  # cubic cells along an edge
    speed_cells: int
    speed_steps: dict[str, int]


FULL = Sizes(17, None, 400, 3, 4, {"mlff": 30, "sw": 1500, "tersoff": 1000, "tersoff-c": 1000})
QUICK = Sizes(9, 2, 10, 2, 2, {"mlff": 5, "sw": 50, "tersoff": 50, "tersoff-c": 50})


def arguments_of(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lammps", required=True, type=Path, help="LAMMPS's binary")
    parser.add_argument("--mpiexec", default=shutil.which("mpiexec"), help="starts MPI ranks")
    parser.add_argument("--plugin", required=True, help="mlffplugin.so")
    parser.add_argument("--model", required=True, help="a model file that knows Si")
    parser.add_argument("--output", required=True, type=Path, help="folder for everything that is written")
    parser.add_argument("--data", help="the mlearn Si set as extended XYZ; without it there are no force errors")
    parser.add_argument("--precision", choices=("double", "single"), default="single", help="of mlff's dynamics")
    parser.add_argument("--cores", type=int, default=1, help="of this machine to use; at least 1")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it runs")
    arguments = parser.parse_args(argv)
    for name in ("lammps", "plugin", "model", "data"):
        path = getattr(arguments, name)
        if path is not None and not Path(path).is_file():
            parser.error(f"--{name} '{path}': no such file")
    if not arguments.mpiexec:
        parser.error("--mpiexec: not given, and there is no mpiexec on the PATH")
    if arguments.cores < 1:
        parser.error(f"--cores {arguments.cores}: expected 1 or more")
    return arguments


def measure_one(engine: measure.Engine, potential: str, sizes: Sizes, frames: list) -> tuple[dict, list[np.ndarray]]:
    """All numbers of one potential, and its forces on the frames."""
    # around where all of the potentials have their minimum
    found = measure.energy_volume(engine, potential, np.linspace(5.25, 5.65, sizes.constants))
    found |= measure.elastic(engine, potential, found["lattice_constant"])
    found["phonon"] = measure.phonon(engine, potential, found["lattice_constant"])
    forces = []
    if frames:
        forces = measure.frame_forces(engine, potential, frames)
        found["forces"] = measure.force_errors(frames, forces)
    found["melt"] = measure.melt(engine, potential, sizes.melt_steps, sizes.melt_cells)
    steps = sizes.speed_steps[potential]
    found["speed"] = {str(cores): measure.speed(engine, potential, steps, sizes.speed_cells, cores)
                      for cores in dict.fromkeys((1, engine.cores))}
    return found, forces


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(argv)
    sizes = QUICK if arguments.quick else FULL
    output = arguments.output.resolve()
    engine = measure.Engine(arguments.lammps.resolve(), arguments.mpiexec, str(Path(arguments.plugin).resolve()),
                            str(Path(arguments.model).resolve()), arguments.precision, arguments.cores, output / "runs")
    output.mkdir(parents=True, exist_ok=True)
    frames = measure.held_out_frames(arguments.data, sizes.frames) if arguments.data else []
    if not frames:
        print("forces       skipped: the mlearn Si set is not here; name it with --data FILE.extxyz")
    results, forces = {}, {}
    for potential in POTENTIALS:
        started = time.monotonic()
        results[potential], forces[potential] = measure_one(engine, potential, sizes, frames)
        print(f"{potential:12} {time.monotonic() - started:.0f} s", flush=True)
    everything = {"potentials": list(POTENTIALS), "results": results, "dft": report.DFT, "quick": arguments.quick,
                  "precision": arguments.precision, "test_frames": len(frames)}
    (output / "results.json").write_text(json.dumps(everything) + "\n")
    (output / "table.md").write_text(report.markdown(everything))
    report.draw_crystal(everything, output / "crystal.png")
    report.draw_melt(everything, output / "melt.png")
    if frames:
        report.draw_forces(everything, frames, forces, output / "forces.png")
    print("\n" + report.markdown(everything))
    print(f"table        {output / 'table.md'}\nnumbers      {output / 'results.json'}")
    print("pictures     " + " ".join(sorted(str(path) for path in output.glob("*.png"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
