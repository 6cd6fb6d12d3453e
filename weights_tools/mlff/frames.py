# SPDX-License-Identifier: MIT
"""Frames of structures: reading with ASE, writing extended XYZ with every digit, errors against references."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Iterable, Iterator, TextIO

import numpy as np

from ._library import Evaluator, Model, Result, Structure
from .errors import LibraryError, MlffError, require

require("ase", "reading and writing structures", "ase")
import ase  # noqa: E402
import ase.io  # noqa: E402

EV_PER_CUBIC_ANGSTROM_IN_GPA = 160.2176634

_ATOMS_IN_A_BATCH = 2048
_FRAMES_IN_A_BATCH = 256
_DECOMPRESSORS = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}


@dataclass
class Frame:
    """One structure of a file with what the file says about it; missing references are None."""

    number: int  # from 0
    symbols: list[str]
    structure: Structure
    energy: float | None  # eV
    forces: np.ndarray | None  # [n][3] eV/angstrom
    virial: np.ndarray | None  # [3][3] eV, -dE/dstrain
    volume: float | None  # cubic angstrom, of a cell that is periodic in all directions


def read(path: str, model: Model) -> Iterator[Frame]:
    """The frames of a file that ASE can read, .xz, .gz and .bz2 too."""
    for number, atoms in enumerate(read_atoms(path)):
        yield _frame(number, atoms, model, path)


@contextmanager
def _seekable(path: str) -> Iterator[str | TextIO]:
    """The path of a plain file, or the decompressed text of a compressed one as an open file.

    ASE's reader of extended XYZ goes back in the file for each frame; in a compressed one each time everything before is
    decompressed anew (400 frames of 192 atoms took 100 s instead of 0.4 s).
    """
    decompress = _DECOMPRESSORS.get(os.path.splitext(path)[1])
    if decompress is None:
        yield path
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8") as plain:
        with decompress(path, "rt", encoding="utf-8") as compressed:
            shutil.copyfileobj(compressed, plain, 1 << 20)
        plain.seek(0)
        yield plain


def read_atoms(path: str) -> Iterator[ase.Atoms]:
    """ASE's atoms of the frames of a file, .xz, .gz and .bz2 too; MlffError says where it cannot be read."""
    if not os.path.exists(path):
        raise MlffError(f"{path}: no such file")
    bare = path
    for suffix in _DECOMPRESSORS:
        bare = bare.removesuffix(suffix)
    number = -1
    try:
        if bare.endswith((".xyz", ".extxyz")):
            with _seekable(path) as file:
                for number, atoms in enumerate(ase.io.iread(file, index=":", format="extxyz")):
                    yield atoms
        else:
            for number, atoms in enumerate(ase.io.iread(path, index=":")):
                yield atoms
    except Exception as error:  # ASE's readers raise whatever their parsing trips over
        where = f"after frame {number}" if number >= 0 else "in the first frame"
        raise MlffError(f"{path}: cannot be read {where}: {type(error).__name__}: {error}; expected extended XYZ, or "
                        "another format of ASE's that the name's ending tells") from None
    if number < 0:
        raise MlffError(f"{path}: no frames in it; expected extended XYZ or another format that ASE reads")


def _frame(number: int, atoms, model: Model, path: str) -> Frame:
    symbols = atoms.get_chemical_symbols()
    try:
        structure = structure_of(atoms, model)
    except MlffError as error:
        raise MlffError(f"{path}: frame {number}: {error}") from None
    volume = abs(float(np.linalg.det(atoms.cell.array))) if np.all(atoms.pbc) else None
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy = results.get("energy", results.get("free_energy"))
    return Frame(
        number,
        symbols,
        structure,
        None if energy is None else float(energy),
        results.get("forces"),
        reference_virial(atoms, results, volume, f"{path}: frame {number}"),
        volume,
    )


def structure_of(atoms, model: Model) -> Structure:
    """ASE's atoms as the library takes them; MlffError names an unknown element or a cell that cannot be periodic."""
    species = model.species(atoms.get_chemical_symbols())
    cell = np.array(atoms.cell)
    has_cell = bool(np.any(atoms.pbc))
    if has_cell and any(np.linalg.norm(cell[k]) == 0 for k in range(3) if atoms.pbc[k]):
        raise MlffError("periodic along a lattice vector of length 0")
    return Structure(atoms.positions, species, cell if has_cell else None, tuple(bool(p) for p in atoms.pbc))


def reference_virial(atoms, results: dict, volume: float | None, where: str) -> np.ndarray | None:
    """From `virial` (eV, -dE/dstrain) or else `stress` (ASE's sign: dE/dstrain by volume)."""
    if "virial" in atoms.info:
        return _tensor(atoms.info["virial"], f"{where}: virial")
    stress = results.get("stress", atoms.info.get("stress"))
    if stress is None or not volume:
        return None
    return -volume * _tensor(stress, f"{where}: stress")


def _tensor(values, where: str) -> np.ndarray:
    """[3][3] from nine numbers or from Voigt's six."""
    try:
        values = np.asarray(values, float).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.size == 9:
        return values.reshape(3, 3)
    if values.size == 6:
        return values[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    raise MlffError(f"{where}: {values.size} numbers, expected 9, or 6 in Voigt's order")


def evaluate(frames: Iterable[Frame], evaluator: Evaluator) -> Iterator[tuple[Frame, Result]]:
    """Results of frames, many small ones in one call of the library."""
    batch: list[Frame] = []
    n_atoms = 0
    for frame in frames:
        n = len(frame.symbols)
        if batch and (n_atoms + n > _ATOMS_IN_A_BATCH or len(batch) == _FRAMES_IN_A_BATCH):
            yield from _evaluate_batch(batch, evaluator)
            batch, n_atoms = [], 0
        batch.append(frame)
        n_atoms += n
    yield from _evaluate_batch(batch, evaluator)


def _evaluate_batch(batch: list[Frame], evaluator: Evaluator) -> Iterator[tuple[Frame, Result]]:
    try:
        yield from zip(batch, evaluator.evaluate([frame.structure for frame in batch]))
    except LibraryError as error:
        # the library speaks of structures of a batch; the user knows frames of a file
        for frame in batch if len(batch) > 1 else ():
            try:
                evaluator.evaluate_one(frame.structure)
            except LibraryError as single:
                raise LibraryError(f"frame {frame.number}: {single}", single.status) from None
        raise LibraryError(f"frame {batch[0].number}: {error}", error.status) from None


def write(file: TextIO, frame: Frame, result: Result) -> None:
    """Appends a frame in extended XYZ: 17 significant digits, so that every double survives.

    Matrices stand column by column, as extended XYZ has them and ASE reads them.
    """
    structure = frame.structure
    comment = []
    if structure.cell is not None:
        comment.append(f'Lattice="{_numbers(structure.cell)}"')
    comment.append("Properties=species:S:1:pos:R:3:forces:R:3:energies:R:1")
    comment.append(f"energy={result.energy:.17g}")
    comment.append(f'virial="{_numbers(result.virial.T)}"')
    periodic = structure.periodic if structure.cell is not None else (False, False, False)
    comment.append('pbc="' + " ".join("T" if p else "F" for p in periodic) + '"')
    lines = [str(len(frame.symbols)), " ".join(comment)]
    rows = np.column_stack([structure.positions, result.forces, result.atom_energies])
    lines += [f"{symbol} {_numbers(row)}" for symbol, row in zip(frame.symbols, rows)]
    file.write("\n".join(lines) + "\n")


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(values).reshape(-1))


@dataclass
class Deviation:
    """Sums over the deviations of one quantity."""

    name: str
    unit: str
    count: int = 0
    sum: float = 0.0
    absolute: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, deviations) -> None:
        deviations = np.asarray(deviations, float).reshape(-1)
        if deviations.size:
            self.count += deviations.size
            self.sum += float(deviations.sum())
            self.absolute += float(np.abs(deviations).sum())
            self.squares += float((deviations**2).sum())
            self.largest = max(self.largest, float(np.abs(deviations).max()))

    def as_dict(self) -> dict:
        n = max(self.count, 1)
        return {
            "unit": self.unit,
            "count": self.count,
            "mae": self.absolute / n,
            "rmse": (self.squares / n) ** 0.5,
            "mean": self.sum / n,
            "largest": self.largest,
        }


@dataclass
class Errors:
    """Deviations (model minus reference) of energies, force components, virials and stresses."""

    energy: Deviation = field(default_factory=lambda: Deviation("energy", "meV/atom"))
    forces: Deviation = field(default_factory=lambda: Deviation("forces", "meV/angstrom"))
    virial: Deviation = field(default_factory=lambda: Deviation("virial", "meV/atom"))
    stress: Deviation = field(default_factory=lambda: Deviation("stress", "GPa"))

    def add(self, frame: Frame, result: Result) -> None:
        n = len(frame.symbols)
        if frame.energy is not None and n:
            self.energy.add(1e3 * (result.energy - frame.energy) / n)
        if frame.forces is not None:
            self.forces.add(1e3 * (result.forces - frame.forces))
        if frame.virial is not None and n:
            difference = result.virial - frame.virial
            self.virial.add(1e3 * difference / n)
            if frame.volume:
                self.stress.add(-difference / frame.volume * EV_PER_CUBIC_ANGSTROM_IN_GPA)

    def measured(self) -> list[Deviation]:
        return [d for d in (self.energy, self.forces, self.virial, self.stress) if d.count]
