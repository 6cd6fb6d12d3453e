# SPDX-License-Identifier: MIT
"""The short range of a model file: for each pair of elements the distance below which its training frames have nothing.

    term = short_range.from_distances(distances, elements, cutoff)
    model.short_range = term

docs/model-file.md has the format and docs/equations.md the mathematics, which are the library's business.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from typing import Iterable, Sequence

import numpy as np

from .errors import MlffError, ModelFileError

LEAST_DISTANCE = 0.01  # angstrom; least outer distance, and least difference of outer and inner
DEFAULT_WIDTH = 0.25  # angstrom, from the outer distance in; the network then sees 0.06 less than it was trained on
_STEP = 1e-3  # angstrom; distances are rounded down to whole steps, so that no training frame is below them

Pair = tuple[str, str]


@dataclass
class ShortRange:
    """Distances of every pair of elements in the order of pairs_of(elements), angstrom; both 0: no term."""

    inner: list[float]  # below: the repulsion in full
    outer: list[float]  # from here on nothing is changed

    def check(self, name: str, elements: Sequence[str], cutoff: float) -> None:
        """Raises ModelFileError where the library would refuse these distances; `name` stands for the file."""
        pairs = pairs_of(elements)
        for key, values in (("short_range_inner", self.inner), ("short_range_outer", self.outer)):
            if len(values) != len(pairs):
                raise ModelFileError(f"{name}: {key} has {len(values)} numbers, expected {len(pairs)}, one a pair")
        for (a, b), inner, outer in zip(pairs, self.inner, self.outer):
            none = inner == 0 and outer == 0
            if not none and not (LEAST_DISTANCE <= outer <= cutoff and 0 <= inner <= outer - LEAST_DISTANCE):
                raise ModelFileError(
                    f"{name}: short range of {a}-{b}: inner {inner:g} and outer {outer:g}, expected outer of "
                    f"{LEAST_DISTANCE:g} to the cutoff {cutoff:g} and inner at most outer - {LEAST_DISTANCE:g} "
                    "(angstrom), or both 0"
                )

    def by_pair(self, elements: Sequence[str]) -> dict[Pair, tuple[float, float]]:
        """(inner, outer) of every pair that has a term."""
        return {
            pair: (inner, outer) for pair, inner, outer in zip(pairs_of(elements), self.inner, self.outer) if outer > 0
        }


def pairs_of(elements: Sequence[str]) -> list[Pair]:
    """Every pair of elements in the order of the model file: 1-1, 1-2, ..., 1-n, 2-2, ..., n-n."""
    return list(itertools.combinations_with_replacement(elements, 2))


def shortest_distances(
    edges: Iterable[tuple[Sequence[str], np.ndarray, np.ndarray, np.ndarray]], elements: Sequence[str]
) -> dict[Pair, float]:
    """Shortest distance of each pair that met, angstrom.

    edges: of every frame the symbols [n], and for its neighbours i [e], j [e] and the distances d [e].
    """
    index = {symbol: k for k, symbol in enumerate(elements)}
    n = len(elements)
    shortest = np.full((n, n), np.inf)
    for symbols, i, j, d in edges:
        species = np.array([index[symbol] for symbol in symbols], int)
        np.minimum.at(shortest, (species[i], species[j]), d)
    shortest = np.minimum(shortest, shortest.T)
    return {
        (elements[a], elements[b]): float(shortest[a, b])
        for a, b in itertools.combinations_with_replacement(range(n), 2)
        if np.isfinite(shortest[a, b])
    }


def read_distances(paths: Iterable[str], elements: Sequence[str], cutoff: float) -> dict[Pair, float]:
    """Shortest distances below the cutoff in all frames of files that ASE reads (extended XYZ; .xz, .gz, .bz2 too).

    Raises MlffError, naming file and frame, where a file cannot be read or has an element that is not of `elements`.
    """

    def edges():
        from ase.neighborlist import neighbor_list

        from .frames import read_atoms

        for path in paths:
            for number, atoms in enumerate(read_atoms(path)):
                symbols = atoms.get_chemical_symbols()
                unknown = sorted(set(symbols) - set(elements))
                if unknown:
                    raise MlffError(
                        f"{path}: frame {number} has {' '.join(unknown)}, expected elements of the model: "
                        f"{' '.join(elements)}"
                    )
                yield symbols, *neighbor_list("ijd", atoms, cutoff)

    return shortest_distances(edges(), elements)


def distances_of_frames(frames: Iterable, elements: Sequence[str]) -> dict[Pair, float]:
    """Shortest distances in frames of a training (train_data.Frame), which know their neighbours."""
    return shortest_distances(((f.symbols, f.i, f.j, np.linalg.norm(f.r, axis=1)) for f in frames), elements)


def format_distances(distances: dict[Pair, float]) -> str:
    """'Si-Si 1.829 Si-O 1.550', which parse_distances reads; angstrom."""
    return " ".join(f"{a}-{b} {d:.3f}" for (a, b), d in distances.items())


def parse_distances(text: str, elements: Sequence[str], name: str) -> dict[Pair, float]:
    """From 'Si-Si 1.829 Si-O 1.550', as format_distances gives it, in angstrom; mlff-train's info.shortest_distances.

    Raises MlffError, beginning with `name`, where the text is something else.
    """
    order = {frozenset(pair): pair for pair in pairs_of(elements)}
    words = text.split()
    found: dict[Pair, float] = {}
    for pair, number in itertools.zip_longest(words[::2], words[1::2], fillvalue=""):
        symbols = frozenset(pair.split("-")) if pair.count("-") == 1 else frozenset()
        try:
            distance = float(number)
        except ValueError:
            distance = math.nan
        if symbols not in order or not 0 < distance < math.inf:
            raise MlffError(f"{name}: found '{pair} {number}', expected pairs of {' '.join(elements)} with a distance "
                            "in angstrom, as 'Si-Si 1.829'")
        found[order[symbols]] = distance
    return found


def from_distances(
    distances: dict[Pair, float],
    elements: Sequence[str],
    cutoff: float,
    width: float = DEFAULT_WIDTH,
    earlier: ShortRange | None = None,
) -> ShortRange:
    """The term whose outer distances are `distances`, rounded down, and whose inner ones are `width` less (angstrom),
    but at least half of the outer ones. A pair that never met gets the sum of its covalent radii.

    earlier: of the model whose training went on, by which it knows shorter distances too.
    """
    from ase.data import atomic_numbers, covalent_radii

    inner, outer = [], []
    for k, (a, b) in enumerate(pairs_of(elements)):
        known = distances.get((a, b))
        if known is None:
            known = min(float(covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]]), cutoff)
        if earlier and earlier.outer[k] > 0:
            known = min(known, earlier.outer[k])
        far = max(math.floor(known / _STEP) * _STEP, 2 * LEAST_DISTANCE)
        outer.append(round(far, 6))
        inner.append(round(max(far - width, far / 2), 6))
    return ShortRange(inner, outer)


def of_training(distances: dict[Pair, float], file, start: str | os.PathLike | None = None) -> ShortRange:
    """The term for a model whose training frames have these distances; start: the model file that it began with.

    file: the ModelFile, of which elements and cutoff are read.
    """
    from .model_file import ModelFile

    earlier = ModelFile.read(start).short_range if start else None
    return from_distances(distances, file.elements, file.cutoff, earlier=earlier)
