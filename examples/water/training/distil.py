#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""More frames for a student: structures from dynamics, labelled by the mean of several models.

    python distil.py split water.extxyz -o split.extxyz --test-last 40
    mlff-train split.extxyz --split-key split --seed 0 -o water_seed0.safetensors ...       (and other seeds)
    python distil.py sample water.extxyz water_seed0.safetensors -o sampled.extxyz --test-last 40
    PYTHONPATH=. mlff-label sampled.extxyz --calculator distil:committee \\
        'models=["water_seed0.safetensors","water_seed1.safetensors"]' -o labelled.extxyz
    python distil.py join water.extxyz labelled.extxyz -o distilled.extxyz --test-last 40
    mlff-train distilled.extxyz --split-key split ...

The mean of models that were trained with different seeds is closer to the truth than each of them. Test frames are
neither starts of the dynamics nor labelled; validation frames keep the labels of the data.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read, write
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from mlff import Calculator
from tqdm import tqdm


def committee(models: list[str], **options):
    """A calculator of ASE: the mean of model files; options are those of mlff.Calculator."""
    from ase.calculators.mixing import AverageCalculator

    return AverageCalculator([Calculator(model, **options) for model in models])


def snapshots(start: Atoms, calculator, kelvin: float, args, rng) -> list[Atoms]:
    """Structures without labels along NVT dynamics, every args.every steps."""
    atoms, out = start.copy(), []
    atoms.info = {"split": "train", "start": start.info["number"], "kelvin": round(kelvin, 1)}
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    Stationary(atoms)
    dynamics = Bussi(atoms, args.timestep * units.fs, temperature_K=kelvin, taut=50.0 * units.fs, rng=rng)
    for _ in range(args.steps // args.every):
        dynamics.run(args.every)
        if atoms.get_kinetic_energy() > 3.0 * 1.5 * units.kB * kelvin * len(atoms):
            break  # it went somewhere that the model does not know
        snapshot = atoms.copy()
        snapshot.calc = None
        snapshot.set_momenta(None)
        out.append(snapshot)
    return out


def training_frames(path: str, test_last: int) -> tuple[list[Atoms], list[Atoms]]:
    """(frames to learn from, test frames), each with its number in the file in info."""
    frames = read(path, index=":")
    for number, atoms in enumerate(frames):
        atoms.info["number"] = number
    if not 0 <= test_last < len(frames):
        sys.exit(f"distil: --test-last {test_last}, expected fewer than the {len(frames)} frames of {path}")
    return frames[:len(frames) - test_last], frames[len(frames) - test_last:]


def validation_numbers(n: int, args) -> set[int]:
    """Numbers of the frames that only choose the weights, drawn by the seed."""
    return set(np.random.default_rng(args.seed).permutation(n)[:round(args.validation * n)].tolist())


def write_split(args) -> None:
    """The data with `split` in each frame's info: train, validation or test, the same for all models."""
    frames, test = training_frames(args.frames, args.test_last)
    chosen = validation_numbers(len(frames), args)
    for atoms in frames:
        atoms.info["split"] = "validation" if atoms.info["number"] in chosen else "train"
    for atoms in test:
        atoms.info["split"] = "test"
    write(args.output, frames + test, format="extxyz")
    print(f"{args.output}: {len(frames) - len(chosen)} training, {len(chosen)} validation, {len(test)} test")


def sample(args) -> None:
    frames, _ = training_frames(args.frames, args.test_last)
    chosen = validation_numbers(len(frames), args)
    starts = [a for a in frames if a.info["number"] not in chosen][::args.stride]
    rng, total = np.random.default_rng(args.seed), 0
    calculator = Calculator(args.model, device=args.device, precision="single")
    for start in tqdm(starts, unit="start", disable=None):
        new = snapshots(start, calculator, float(rng.uniform(*args.kelvin)), args, rng)
        if new:
            write(args.output, new, format="extxyz", append=True)
        total += len(new)
    print(f"{args.output}: {total} structures from {len(starts)} starts")


def join(args) -> None:
    frames, test = training_frames(args.frames, args.test_last)
    chosen = validation_numbers(len(frames), args)
    validation = [a for a in frames if a.info["number"] in chosen]
    known = [a for a in frames if a.info["number"] not in chosen]
    labelled = read(args.labelled, index=":")
    unfit = {a.info.get("start") for a in labelled} - {a.info["number"] for a in known}
    if unfit:
        sys.exit(f"distil: {args.labelled}: starts {sorted(map(str, unfit))[:3]} are no training frames, expected the "
                 "same --test-last, --validation and --seed as when sampling")
    for part, name in ((known, "train"), (validation, "validation"), (test, "test")):
        for atoms in part:
            atoms.info["split"] = name
    write(args.output, known * args.repeat + labelled + validation + test, format="extxyz")
    print(f"{args.output}: {len(known)} frames of the data {args.repeat} times, {len(labelled)} of the committee, "
          f"{len(validation)} validation, {len(test)} test")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, last in (("split", write_split, None), ("sample", sample, "model"), ("join", join, "labelled")):
        p = commands.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        p.add_argument("frames", help="the data")
        if last:
            p.add_argument(last, help="model file that moves the atoms" if run is sample else "what mlff-label wrote")
        p.add_argument("-o", "--output", type=Path, required=True, help="extended XYZ, which must not be there yet")
        p.add_argument("--test-last", type=int, default=0, help="test frames at the end of the data")
        p.add_argument("--validation", type=float, default=0.05, help="part of the other frames")
        p.add_argument("--seed", type=int, default=0)
        p.set_defaults(run=run)
        if run is sample:
            p.add_argument("--kelvin", type=float, nargs=2, default=(300.0, 400.0), help="between these, at random")
            p.add_argument("--steps", type=int, default=150)
            p.add_argument("--every", type=int, default=50)
            p.add_argument("--timestep", type=float, default=0.5, help="fs")
            p.add_argument("--stride", type=int, default=1, help="begin at each n-th training frame")
            p.add_argument("--device", default="auto")
        elif run is join:
            p.add_argument("--repeat", type=int, default=2, help="copies of the data's own training frames")
    args = parser.parse_args()
    if args.output.exists():
        sys.exit(f"distil: {args.output}: is there already")
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
