#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""CPU speed beside PyTorch: the same weights, the same structure, the same outputs, the same cores, one run.

    python benchmarks/cpu_against_pytorch.py [MODEL] [--atoms 512 ...] [--threads 1 ...] [--rounds 5] [--json FILE]

Unit: atom-steps/s, energy + forces + virial. What is timed, in turn, round by round, medians of the rounds:

  mlff double, single   mlff_evaluate, its search for neighbours included (it is part of the call)
  torch eager           PaiNN of mlff-train, float32, autograd, neighbour list given
  torch compiled        the same through torch.compile, compiled before the timing

MODEL is a model file in eV; without one, random weights of 128 features, 3 interactions, 20 radial functions, 5 A.
Needs torch (pip install '.[train]').
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="model file in eV (default: random weights)")
    parser.add_argument("--atoms", type=int, nargs="+", default=[512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    return parser.parse_args()


def random_model(folder: str) -> str:
    """Writes a model of the benchmark's size with random weights; returns its path."""
    import torch
    from mlff.train_model import Hyperparameters, PaiNN, to_model_file

    torch.manual_seed(1)
    model = PaiNN(Hyperparameters(), ["H", "O"], 1.0, np.zeros(2))
    path = Path(folder) / "random.safetensors"
    to_model_file(model, model.state_dict(), "random weights", "MIT", {}).write(path)
    return str(path)


def torch_step(path: str, structure, compiled: bool):
    """A function that makes one step in PyTorch and returns (energy eV, forces [n][3])."""
    import torch
    from ase import Atoms
    from ase.neighborlist import neighbor_list
    from mlff.model_file import ModelFile
    from mlff.train_model import energy_forces_virial, from_model_file

    model = from_model_file(ModelFile.read(path)).float().eval()
    model.requires_grad_(False)
    atoms = Atoms("H" * len(structure.positions), positions=structure.positions, cell=structure.cell, pbc=True)
    i, j, r = neighbor_list("ijD", atoms, model.h.cutoff)
    batch = {
        "species": torch.tensor(structure.species, dtype=torch.long),
        "r": torch.tensor(r, dtype=torch.float32),
        "i": torch.tensor(i),
        "j": torch.tensor(j),
        "atom_frame": torch.zeros(len(atoms), dtype=torch.long),
    }
    network = torch.compile(model) if compiled else model

    def step():
        energy, forces, _ = energy_forces_virial(network, batch, 1, training=False)
        return float(energy[0]), forces.numpy()

    return step, len(i) / len(atoms)


def mlff_step(model, structure, precision: str, threads: int):
    from mlff import _library

    evaluator = _library.Evaluator(model, "cpu", precision, threads)

    def step():
        result = evaluator.evaluate_one(structure)
        return result.energy, result.forces

    return step


def measure(steps: dict, n: int, rounds: int) -> dict:
    """Medians in atom-steps/s; the candidates take turns so that a drift of the machine's speed hits all alike."""
    times = {name: [] for name in steps}
    for name, step in steps.items():
        step()
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            repeats, begin = 0, time.perf_counter()
            while repeats < 1 or time.perf_counter() - begin < 0.3:
                step()
                repeats += 1
            times[name].append((time.perf_counter() - begin) / repeats)
    return {name: n / statistics.median(t) for name, t in times.items()}


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> int:
    options = arguments()
    import torch
    from mlff import _library
    from mlff.structures import random_crystal

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or random_model(folder)
        model = _library.Model(path)
        print(f"{cpu_name()}, {os.cpu_count()} processors, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
        for threads in options.threads:
            torch.set_num_threads(threads)
            for n in options.atoms:
                structure = random_crystal(n, len(model.elements), model.cutoff, np.random.default_rng(1))
                steps = {p: mlff_step(model, structure, p, threads) for p in ("double", "single")}
                steps = {f"mlff {name}": step for name, step in steps.items()}
                steps["torch eager"], neighbours = torch_step(path, structure, False)
                if not options.no_compile:
                    steps["torch compiled"], _ = torch_step(path, structure, True)
                reference = steps["mlff double"]()[1]
                for name, step in steps.items():
                    error = np.sqrt(np.mean((step()[1] - reference) ** 2)) / np.sqrt(np.mean(reference**2))
                    if not error < 1e-4:
                        print(f"{name}: forces differ by {error:.1e} (relative RMS), expected below 1e-4", file=sys.stderr)
                        return 1
                speed = measure(steps, n, options.rounds)
                rows.append({"threads": threads, "atoms": n, "neighbours": neighbours, "atom_steps_per_s": speed})
                print(f"{threads} thread(s), {n} atoms, {neighbours:.1f} neighbours an atom")
                for name, value in speed.items():
                    print(f"  {name:16s} {value:10.0f} atom-steps/s   {value / speed['torch eager']:6.2f} x torch eager")
    if options.json:
        head = {"cpu": cpu_name(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
                "model": options.model or "random weights, 128 features, 3 interactions, 20 radial functions, 5 A"}
        Path(options.json).write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
