#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A table of a model's errors for each molecule, or each temperature, as Markdown.

    python errors.py organic.safetensors organic.extxyz --split test
    python errors.py organic.safetensors organic.extxyz --split test --by how
    python errors.py organic.safetensors transfer_labelled.extxyz

The frames are labelled ones of molecules.py. Through the C library, in double precision on a CPU. Forces: errors of
their components, meV/angstrom, and the root mean square of the components themselves, eV/angstrom; energies: meV/atom,
and after the mean error of each molecule's frames in that row is taken off (a constant in its energy moves nothing).
"""
from __future__ import annotations

import argparse
import sys

import numpy as np

from mlff import Evaluator, MlffError, Model, frames
from mlff.cli import run_safely


class Group:
    """Errors of the frames that a row of the table tells of."""

    def __init__(self) -> None:
        self.forces: list[np.ndarray] = []  # errors of components, meV/angstrom
        self.components: list[np.ndarray] = []  # eV/angstrom
        self.energy: dict[str, list[float]] = {}  # by molecule, meV/atom

    def add(self, name: str, frame, result) -> None:
        self.forces.append(1e3 * (result.forces - frame.forces).ravel())
        self.components.append(frame.forces.ravel())
        self.energy.setdefault(name, []).append(1e3 * (result.energy - frame.energy) / len(frame.symbols))

    def row(self, title: str) -> str:
        f, x = np.concatenate(self.forces), np.concatenate(self.components)
        e = np.concatenate([np.array(some) for some in self.energy.values()])
        shifted = np.concatenate([np.array(some) - np.mean(some) for some in self.energy.values()])
        return (f"| {title} | {len(e)} | {np.sqrt((x * x).mean()):.2f} | {np.abs(f).mean():.1f}, "
                f"{np.sqrt((f * f).mean()):.1f} | {np.abs(e).mean():.2f} | {np.abs(shifted).mean():.2f} |")


def table(model: str, path: str, split: str | None, by: str) -> list[str]:
    """The lines of the table; MlffError where no frame of that split has labels."""
    chosen, keys = [], []
    loaded = Model(model)
    for frame, atoms in zip(frames.read(path, loaded), frames.read_atoms(path)):
        if split is not None and atoms.info.get("split") != split:
            continue
        if frame.energy is None or frame.forces is None:
            raise MlffError(f"{path}: frame {frame.number} has no labels, expected energy and forces (mlff-label)")
        if "name" not in atoms.info or by not in atoms.info:
            raise MlffError(f"{path}: frame {frame.number} has no '{by}' in its info, expected frames of molecules.py")
        chosen.append(frame)
        keys.append((str(atoms.info["name"]), str(atoms.info[by])))
    if not chosen:
        raise MlffError(f"{path}: no frame has split '{split}'")
    groups: dict[str, Group] = {}
    everything = Group()
    evaluator = Evaluator(loaded, device="cpu", precision="double")
    for (name, key), (frame, result) in zip(keys, frames.evaluate(chosen, evaluator)):
        for group in (groups.setdefault(key, Group()), everything):
            group.add(name, frame, result)
    head = [f"| {'molecule' if by == 'name' else 'frames'} | frames | RMS force (eV/A) | force MAE, RMSE (meV/A) | "
            "energy MAE (meV/atom) | less each molecule's mean |", "|---|---|---|---|---|---|"]
    titles = list(groups)
    if by == "how":  # "heated 300 K" before "heated 1000 K"
        titles.sort(key=lambda title: (title.split()[0], float(title.split()[1])))
    return head + [groups[title].row(title) for title in titles] + [everything.row("**all**")]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model file")
    parser.add_argument("frames", help="labelled frames of molecules.py")
    parser.add_argument("--split", default=None, help="train, validation or test; all frames if not given")
    parser.add_argument("--by", choices=("name", "how"), default="name", help="what a row is")
    args = parser.parse_args(arguments)

    def run() -> int:
        print("\n".join(table(args.model, args.frames, args.split, args.by)))
        return 0

    return run_safely("errors", run, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
