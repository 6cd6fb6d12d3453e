# SPDX-License-Identifier: MIT
"""Structures for self-tests and benchmarks: random, but never with atoms on top of each other."""

from __future__ import annotations

import itertools

import numpy as np

from ._library import Structure

NEIGHBOURS = 53  # within the cutoff: what liquid water or silicon has at 5 to 6 angstrom


def density(cutoff: float, neighbours: float = NEIGHBOURS) -> float:
    """Atoms in a cubic angstrom that give so many neighbours within the cutoff (angstrom)."""
    return neighbours / (4.0 / 3.0 * np.pi * cutoff**3)


def random_crystal(
    n: int, n_elements: int, cutoff: float, rng: np.random.Generator, neighbours: float = NEIGHBOURS
) -> Structure:
    """A periodic, triclinic cell of n atoms at a density that gives about `neighbours` neighbours.

    A simple cubic grid with vacancies, shaken by a fifth of its spacing: cheap for any n, and no two atoms closer
    than about half the mean distance.
    """
    side = int(np.ceil(n ** (1.0 / 3.0) - 1e-9))
    length = (n / density(cutoff, neighbours)) ** (1.0 / 3.0)
    grid = rng.permutation(side**3)[:n]
    fractions = np.stack([grid // side**2, grid // side % side, grid % side], axis=1) / side
    fractions += rng.uniform(-0.2, 0.2, (n, 3)) / side
    cell = length * np.array([[1.0, 0.0, 0.0], [0.12, 1.0, 0.0], [-0.09, 0.07, 1.0]])
    species = np.resize(np.arange(n_elements, dtype=np.int32), n)
    return Structure(fractions @ cell, rng.permutation(species), cell)


def random_molecule(n: int, n_elements: int, cutoff: float, rng: np.random.Generator) -> Structure:
    """A cluster of n atoms without a cell."""
    crystal = random_crystal(n, n_elements, cutoff, rng)
    return Structure(crystal.positions, crystal.species)


def replicate(structure: Structure, counts: tuple[int, int, int]) -> Structure:
    """counts copies along each lattice vector; the atoms of the first copy come first."""
    images = np.array(list(itertools.product(*(range(c) for c in counts))), float)
    shifts = images @ structure.cell
    positions = (shifts[:, None, :] + structure.positions[None]).reshape(-1, 3)
    species = np.tile(structure.species, len(images))
    cell = structure.cell * np.array(counts)[:, None]
    return Structure(positions, species, cell, structure.periodic)


def away_from_cutoff(structure: Structure, cutoff: float, gap: float, rng: np.random.Generator) -> Structure:
    """The structure, shaken until no pair is within `gap` (angstrom) of the cutoff, where the energy's second
    derivative jumps and differences of energies say little about forces."""
    for _ in range(200):
        if _nearest_to_cutoff(structure, cutoff) > gap:
            return structure
        shaken = structure.positions + rng.uniform(-0.02, 0.02, structure.positions.shape)
        structure = Structure(shaken, structure.species, structure.cell, structure.periodic)
    return structure


def _nearest_to_cutoff(structure: Structure, cutoff: float) -> float:
    """Smallest | |r_ij| - cutoff | over all pairs and images; for small structures."""
    x = structure.positions
    shifts = np.zeros((1, 3))
    if structure.cell is not None:
        inverse = np.linalg.inv(structure.cell)
        spread = np.ptp(x @ inverse, axis=0)
        reach = np.ceil((cutoff + 1.0) * np.linalg.norm(inverse, axis=0) + spread).astype(int)
        images = itertools.product(*(range(-n, n + 1) for n in reach))
        shifts = np.array(list(images), float) @ structure.cell
    smallest = np.inf
    for shift in shifts:
        distances = np.linalg.norm(x[None] + shift - x[:, None], axis=2)
        smallest = min(smallest, float(np.min(np.abs(distances - cutoff))))
    return smallest
