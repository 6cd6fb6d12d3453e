#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The frames of DeePMD-kit's water example as extended XYZ, for mlff-train.

    git clone --depth 1 https://github.com/deepmodeling/deepmd-kit
    python prepare.py deepmd-kit/examples/water/data water.extxyz

Reads folders of DeePMD's format, in the order of their names: type.raw (element numbers), type_map.raw (their symbols;
O H without it) and set.*/{box,coord,energy,force}.npy: boxes [frames, 9] and coordinates [frames, 3 n] in angstrom,
energies [frames] in eV, forces [frames, 3 n] in eV/angstrom. `src` in each frame's info says where it is from.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

DEFAULT_TYPES = ("O", "H")


def symbols_of(system: Path) -> list[str]:
    """The element of each atom of a system."""
    types = np.loadtxt(system / "type.raw", dtype=int, ndmin=1).ravel()
    names = system / "type_map.raw"
    symbols = names.read_text().split() if names.is_file() else list(DEFAULT_TYPES)
    if types.min() < 0 or types.max() >= len(symbols):
        sys.exit(f"prepare: {system / 'type.raw'}: type {types.max()}, expected 0 to {len(symbols) - 1}")
    return [symbols[k] for k in types]


def frames_of(system: Path) -> list[Atoms]:
    """All frames of a system, set by set."""
    symbols, frames = symbols_of(system), []
    n = len(symbols)
    for folder in sorted(system.glob("set.*")):
        box, coord, energy, force = (np.load(folder / f"{name}.npy").astype(float)
                                     for name in ("box", "coord", "energy", "force"))
        expected = {"box": (len(box), 9), "coord": (len(box), 3 * n), "energy": (len(box),), "force": (len(box), 3 * n)}
        energy = energy.reshape(-1)
        for name, values in (("box", box), ("coord", coord), ("energy", energy), ("force", force)):
            if values.shape != expected[name]:
                sys.exit(f"prepare: {folder / name}.npy: shape {values.shape}, expected {expected[name]}")
        for k in range(len(box)):
            atoms = Atoms(symbols, positions=coord[k].reshape(n, 3), cell=box[k].reshape(3, 3), pbc=True)
            atoms.calc = SinglePointCalculator(atoms, energy=energy[k], forces=force[k].reshape(n, 3))
            atoms.info["src"] = f"{system.name}/{folder.name}/{k}"
            frames.append(atoms)
    return frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds the systems (data_0, data_1, ...)")
    parser.add_argument("output", type=Path, help="extended XYZ to write; it must not be there yet")
    args = parser.parse_args()
    systems = sorted(path.parent for path in args.data.glob("*/type.raw"))
    if not systems:
        sys.exit(f"prepare: {args.data}: no folder with a type.raw, expected DeePMD's systems")
    if args.output.exists():
        sys.exit(f"prepare: {args.output}: is there already")
    frames = [atoms for system in systems for atoms in frames_of(system)]
    if not frames:
        sys.exit(f"prepare: {args.data}: {len(systems)} systems without a set.* folder, expected frames")
    write(args.output, frames, format="extxyz")
    print(f"{args.output}: {len(frames)} frames of {', '.join(system.name for system in systems)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
