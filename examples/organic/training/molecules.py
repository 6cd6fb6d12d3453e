#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Geometries of small molecules of H, C, N and O: made from SMILES, relaxed, displaced and heated with GFN2-xTB.

    python molecules.py geometries.extxyz --held-out transfer.extxyz --processes 2
    mlff-label geometries.extxyz --calculator tblite --largest-force 30 -o organic.extxyz

RDKit embeds the conformers, GFN2-xTB (tblite) relaxes them and drives Langevin dynamics in ASE. Each frame's info has
`name` (of the molecule), `how` ("displaced 0.04 A", "heated 1000 K"), `trajectory` (number within the molecule; the
displaced frames of one width about one conformer count as one) and `split` (train, validation, test: whole
trajectories). The held-out molecules go to a file of their own, with `split` held-out. Frames have no labels:
mlff-label gives them.

Each molecule is kept in OUT.parts/ as it is done; the same command goes on from there after an interruption. What a
molecule's frames are depends on --seed, its name and the numbers asked for alone, not on which others there are.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

CONFORMERS = 6  # at most; those of rigid molecules are alike and fewer are kept
TEMPERATURES = (100.0, 300.0, 500.0, 700.0, 1000.0)  # K
WIDTHS = (0.02, 0.04, 0.06)  # angstrom, of each Cartesian coordinate
TIME_STEP, FRICTION = 1.0, 0.02  # fs, 1/fs
TEST_PART, VALIDATION_PART = 0.1, 0.05  # of a molecule's trajectories, one at least of each


@dataclasses.dataclass(frozen=True)
class Molecule:
    name: str
    smiles: str
    share: int = 1  # how many times the usual number of trajectories: more for what bends in many ways
    held_out: bool = False


# Each functional group that the larger ones have is here in small molecules too, where it moves freely. Without H2, N2
# and peroxides on purpose: with their short bonds in training, nothing would keep H, N or O atoms that are not bonded
# from approaching as far, in places where the network has seen nothing.
MOLECULES = (
    Molecule("benzene", "c1ccccc1", 2), Molecule("ethanol", "CCO", 2),
    Molecule("aspirin", "CC(=O)Oc1ccccc1C(=O)O", 2), Molecule("alanine dipeptide", "CC(=O)NC(C)C(=O)NC", 3),
    Molecule("water", "O"), Molecule("methane", "C"), Molecule("ammonia", "N"), Molecule("carbon dioxide", "O=C=O"),
    Molecule("ethane", "CC"), Molecule("propane", "CCC"), Molecule("butane", "CCCC"), Molecule("ethene", "C=C"),
    Molecule("ethyne", "C#C"), Molecule("methanol", "CO"), Molecule("dimethyl ether", "COC"),
    Molecule("formaldehyde", "C=O"), Molecule("acetone", "CC(C)=O"), Molecule("malonaldehyde", "O=CC=CO"),
    Molecule("acetic acid", "CC(=O)O"), Molecule("methyl acetate", "CC(=O)OC"), Molecule("methylamine", "CN"),
    Molecule("acetonitrile", "CC#N"), Molecule("formamide", "NC=O"), Molecule("acetamide", "CC(N)=O"),
    Molecule("N-methylacetamide", "CC(=O)NC"), Molecule("urea", "NC(N)=O"), Molecule("glycine", "NCC(=O)O"),
    Molecule("alanine", "CC(N)C(=O)O"), Molecule("phenol", "Oc1ccccc1"), Molecule("aniline", "Nc1ccccc1"),
    Molecule("benzoic acid", "OC(=O)c1ccccc1"), Molecule("pyridine", "c1ccncc1"), Molecule("pyrrole", "c1cc[nH]c1"),
    Molecule("imidazole", "c1c[nH]cn1"), Molecule("furan", "c1ccoc1"), Molecule("uracil", "O=c1cc[nH]c(=O)[nH]1"),
    Molecule("naphthalene", "c1ccc2ccccc2c1"), Molecule("paracetamol", "CC(=O)Nc1ccc(O)cc1"),
    Molecule("toluene", "Cc1ccccc1", held_out=True), Molecule("salicylic acid", "OC(=O)c1ccccc1O", held_out=True),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much of each molecule."""

    seed: int = 0
    trajectories: int = 14  # of heated ones, times the molecule's share; TEMPERATURES in turn
    frames: int = 12  # of each
    every: int = 20  # steps between two of them
    settle: int = 60  # steps before the first interval
    displaced: int = 16  # frames of each width, times the share; half of them make a trajectory


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A block of frames that belong together: all of them are in one part of the split."""

    number: int  # within its molecule
    kind: str  # displaced or heated
    value: float  # width in angstrom, or temperature in K
    frames: int
    split: str  # train, validation or test; held-out of a molecule that is

    def how(self) -> str:
        return f"{self.kind} {self.value:g} {'A' if self.kind == 'displaced' else 'K'}"


def generator(seed: int, name: str, number: int) -> np.random.Generator:
    """Random numbers of one trajectory of one molecule, whatever else is computed; number -1 draws the split."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), number + 1])


def plan(molecule: Molecule, settings: Settings) -> list[Trajectory]:
    """The trajectories of a molecule with their parts of the split, drawn by the seed."""
    kinds = [("displaced", width, max(1, settings.displaced // 2)) for width in WIDTHS
             for _ in range(2 * molecule.share if settings.displaced else 0)]
    kinds += [("heated", TEMPERATURES[k % len(TEMPERATURES)], settings.frames)
              for k in range(settings.trajectories * molecule.share)]
    order = generator(settings.seed, molecule.name, -1).permutation(len(kinds))
    n_test, n_validation = (max(1, round(part * len(kinds))) for part in (TEST_PART, VALIDATION_PART))
    splits = ["held-out" if molecule.held_out else "train"] * len(kinds)
    for rank, k in enumerate(order[:0 if molecule.held_out else n_test + n_validation]):
        splits[k] = "test" if rank < n_test else "validation"
    return [Trajectory(k, *kind, split) for k, (kind, split) in enumerate(zip(kinds, splits))]


# ------------------------------------------------------------------------------------------- structures

def conformers(molecule: Molecule, seed: int, at_most: int = CONFORMERS) -> tuple[list, np.ndarray]:
    """(structures as ase.Atoms, angstrom, without a cell; bonded [n, n], True where the SMILES has a bond).

    RDKit's ETKDG, hydrogens added; conformers within 0.3 angstrom (root mean square, heavy atoms) of another are left
    out. Raises ValueError where RDKit reads no molecule, or finds no coordinates.
    """
    from ase import Atoms
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    mol = Chem.MolFromSmiles(molecule.smiles)
    if mol is None:
        raise ValueError(f"{molecule.name}: '{molecule.smiles}' is no SMILES that RDKit reads")
    mol = Chem.AddHs(mol)
    options = rdDistGeom.ETKDGv3()
    options.randomSeed, options.pruneRmsThresh = seed + 1, 0.3  # 0 would be a seed of RDKit's own
    found = list(rdDistGeom.EmbedMultipleConfs(mol, at_most, options))
    if not found:
        raise ValueError(f"{molecule.name}: RDKit finds no coordinates for '{molecule.smiles}'")
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    structures = [Atoms(symbols, positions=mol.GetConformer(k).GetPositions()) for k in found]
    return structures, Chem.GetAdjacencyMatrix(mol).astype(bool)


def is_whole(atoms, bonded: np.ndarray) -> bool:
    """Whether the structure has the bonds `bonded` [n, n] and no others.

    A bond counts as broken beyond 1.5 times the sum of the covalent radii (C-H 1.6 angstrom, C-C 2.3), two other atoms
    as bonded below 1.15 times that sum (C-H 1.2, C-C 1.7, O-H 1.1): between these, what a bond was stays one.
    """
    from ase.data import covalent_radii

    radii = covalent_radii[atoms.numbers]
    ratio = atoms.get_all_distances() / (radii[:, None] + radii)
    np.fill_diagonal(ratio, np.inf)
    return bool((ratio[bonded] < 1.5).all() and (ratio[~bonded] > 1.15).all())


def calculator(accuracy: float = 1.0):
    """GFN2-xTB without charge and unpaired electrons; accuracy as tblite has it, larger is faster and rougher."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", charge=0, multiplicity=1, accuracy=accuracy, verbosity=0)


def relaxed(atoms):
    """A copy of `atoms` in its minimum: forces below 0.01 eV/angstrom, or where 500 steps of BFGS led."""
    from ase.optimize import BFGS

    atoms = atoms.copy()
    atoms.calc = calculator()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    atoms.calc = None
    return atoms


def displaced(atoms, width: float, n: int, rng: np.random.Generator) -> list:
    """n copies of `atoms`, each coordinate moved by Gaussian noise of this width, angstrom."""
    out = []
    for _ in range(n):
        copy = atoms.copy()
        copy.positions += rng.normal(0.0, width, copy.positions.shape)
        out.append(copy)
    return out


def heated(atoms, temperature: float, n: int, settings: Settings, rng: np.random.Generator, bonded) -> list:
    """Up to n frames of Langevin dynamics at this temperature (K) that begins with `atoms`, a minimum.

    It ends early where the molecule breaks: what comes after is another molecule.
    """
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation

    atoms = atoms.copy()
    atoms.calc = calculator(accuracy=10.0)  # for sampling; the labels come later
    # twice the temperature, as half of it goes into the springs
    MaxwellBoltzmannDistribution(atoms, temperature_K=2.0 * temperature, rng=rng)
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = Langevin(atoms, TIME_STEP * units.fs, temperature_K=temperature, friction=FRICTION / units.fs,
                        fixcm=False, rng=rng)
    out = []
    for k in range(n):
        try:
            dynamics.run(settings.every + (settings.settle if k == 0 else 0))
        except RuntimeError:  # no self-consistent charges: far from any molecule
            break
        if not is_whole(atoms, bonded):
            break
        copy = atoms.copy()
        copy.calc = None
        copy.arrays.pop("momenta", None)
        copy.positions -= copy.positions.mean(axis=0)
        out.append(copy)
    return out


def sample(molecule: Molecule, settings: Settings) -> list:
    """The frames of a molecule, trajectory by trajectory; those of broken molecules are left out.

    Raises ValueError where no conformer stays whole when it is relaxed.
    """
    structures, bonded = conformers(molecule, settings.seed)
    minima = [m for m in map(relaxed, structures) if is_whole(m, bonded)]
    if not minima:
        raise ValueError(f"{molecule.name}: breaks when relaxed with GFN2-xTB, expected '{molecule.smiles}'")
    frames = []
    for t in plan(molecule, settings):
        rng = generator(settings.seed, molecule.name, t.number)
        start = minima[rng.integers(len(minima))]
        if t.kind == "displaced":
            found = [a for a in displaced(start, t.value, t.frames, rng) if is_whole(a, bonded)]
        else:
            found = heated(start, t.value, t.frames, settings, rng, bonded)
        for atoms in found:
            atoms.info = {"name": molecule.name, "how": t.how(), "trajectory": t.number, "split": t.split}
        frames += found
    return frames


# ------------------------------------------------------------------------------------------- command

def part_of(folder: Path, molecule: Molecule) -> Path:
    return folder / f"{molecule.name.replace(' ', '-')}.extxyz"


def make_part(task: tuple[Molecule, Settings, Path]) -> str:
    """Samples a molecule and writes its file, whole or not at all; its name."""
    from ase.io import write

    molecule, settings, folder = task
    target = part_of(folder, molecule)
    unfinished = target.with_suffix(".unfinished")
    write(unfinished, sample(molecule, settings), format="extxyz")
    os.replace(unfinished, target)
    return molecule.name


def open_parts(folder: Path, settings: Settings) -> None:
    """The folder of the finished molecules; ends the program where other settings filled it."""
    versions = {name: importlib.metadata.version(name) for name in ("ase", "rdkit", "tblite")}
    told = json.dumps({**dataclasses.asdict(settings), **versions}, indent=1) + "\n"
    folder.mkdir(exist_ok=True)
    kept = folder / "settings.json"
    if kept.exists() and kept.read_text() != told:
        sys.exit(f"molecules: {kept}: begun with other numbers or versions of packages, expected\n{told}remove the "
                 "folder to begin again")
    kept.write_text(told)


def join(output: Path, folder: Path, chosen: list[Molecule], settings: Settings) -> None:
    """Writes the frames of the molecules to one file and says how many there are and how many were left out."""
    planned = sum(t.frames for m in chosen for t in plan(m, settings))
    unfinished = output.with_name(output.name + ".unfinished")
    with open(unfinished, "wb") as file:
        for molecule in chosen:
            with open(part_of(folder, molecule), "rb") as part:
                shutil.copyfileobj(part, file)
    from ase.io import iread

    n = Counter(atoms.info["split"] for atoms in iread(unfinished, ":", format="extxyz"))
    os.replace(unfinished, output)
    parts = ", ".join(f"{n[part]} {part}" for part in ("train", "validation", "test", "held-out") if n[part])
    print(f"{output}: {n.total()} frames of {len(chosen)} molecules ({parts}); {planned - n.total()} left out, whose "
          "molecule broke")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output", type=Path, help="extended XYZ to write; it must not be there yet")
    parser.add_argument("--held-out", type=Path, metavar="FILE", default=None,
                        help="file for the molecules that only test transfer; without it they are left out")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=None, choices=[m.name for m in MOLECULES],
                        help="these molecules; all if not given")
    for field, text in (("seed", "of everything random"),
                        ("trajectories", "heated trajectories of a molecule, times its share"),
                        ("frames", "kept of each"), ("every", "steps of 1 fs between two of them"),
                        ("settle", "steps before the first interval"),
                        ("displaced", "displaced frames of each width, times the share")):
        parser.add_argument(f"--{field}", type=int, default=getattr(Settings, field), metavar="N", help=text)
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="molecules at once, one thread each")
    args = parser.parse_args(arguments)
    for field, least in (("seed", 0), ("trajectories", 0), ("frames", 1), ("every", 1), ("settle", 0),
                         ("displaced", 0), ("processes", 1)):
        if getattr(args, field) < least:
            parser.error(f"--{field} is {getattr(args, field)}, expected {least} or more")
    if args.trajectories < 3 and not args.displaced:
        parser.error(f"{args.trajectories} trajectories of a molecule, expected 3 or more (or --displaced): train, "
                     "validation and test have at least one each")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if missing := [name for name in ("ase", "rdkit", "tblite", "tqdm") if importlib.util.find_spec(name) is None]:
        sys.exit(f"molecules: {', '.join(missing)} not installed, expected ase, rdkit, tblite and tqdm "
                 "(pip install '.[train,label]' rdkit)")
    os.environ["OMP_NUM_THREADS"] = "1"  # of tblite, here and in the workers: molecules are too small for more
    from tqdm import tqdm

    outputs = {False: args.output, True: args.held_out}
    for output in outputs.values():
        if output is not None and output.exists():
            sys.exit(f"molecules: {output}: is there already")
    settings = Settings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)})
    chosen = [m for m in MOLECULES if (args.only is None or m.name in args.only) and outputs[m.held_out] is not None]
    if not chosen:
        sys.exit("molecules: no molecule is left, expected at least one (held-out ones need --held-out)")
    folder = args.output.with_name(args.output.name + ".parts")
    open_parts(folder, settings)
    todo = [(m, settings, folder) for m in chosen if not part_of(folder, m).exists()]
    todo.sort(key=lambda task: -task[0].share * len(task[0].smiles) ** 2)  # what takes longest first
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    try:
        with context.Pool(args.processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool, \
                tqdm(total=len(chosen), initial=len(chosen) - len(todo), unit="molecule", file=sys.stderr,
                     disable=None) as bar:
            for name in pool.imap_unordered(make_part, todo):
                bar.set_postfix_str(name)
                bar.update()
    except (ValueError, RuntimeError) as error:  # RuntimeError: of GFN2-xTB, as ASE gives it
        sys.exit(f"molecules: {error}")
    except KeyboardInterrupt:
        print("molecules: interrupted; the same command goes on with the molecules that are left", file=sys.stderr)
        return 130
    for held_out, output in outputs.items():
        if some := [m for m in chosen if m.held_out == held_out]:
            join(output, folder, some, settings)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
