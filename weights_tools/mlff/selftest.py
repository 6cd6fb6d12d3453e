# SPDX-License-Identifier: MIT
"""Is this model, as the library evaluates it, what a force field must be? Used by `mlff check` and `mlff-convert`.

Each test measures one number on random structures and holds it against a bound. Relative numbers are relative to the
largest force (or virial component) of the structure.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Callable, Iterator, Sequence

import numpy as np

from ._library import Evaluator, Model, Result, Structure
from .structures import away_from_cutoff, random_crystal, random_molecule, replicate

# Steps of the differences, angstrom; half of it for the strain. The best of them counts: on steep structures the large
# one is inexact, with large energies the small one drowns in rounding, and a wrong force agrees with none.
STEPS = (1e-4, 2.5e-5, 6e-6, 1.5e-6)
_STENCIL = ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0))  # /12: fourth-order central difference


@dataclass
class Measurement:
    """One line of the report. bound None: shown, not judged."""

    name: str
    value: float
    bound: float | None
    unit: str  # "relative", "eV", ...
    remark: str = ""

    @property
    def passed(self) -> bool:
        return self.bound is None or bool(self.value <= self.bound)  # a NaN does not pass

    def as_dict(self) -> dict:
        value = self.value if np.isfinite(self.value) else None  # JSON has no NaN
        return {**asdict(self), "value": value, "passed": self.passed}


class SelfTest:
    """Evaluators and random structures for one model; run() goes through all tests."""

    def __init__(self, model: Model, seed: int = 1, n_atoms: int = 20, threads: int = 0, device: str = "auto"):
        self.model = model
        self.rng = np.random.default_rng(seed)
        self.double = Evaluator(model, device=device, precision="double", threads=threads)
        self.single = Evaluator(model, device=device, precision="single", threads=threads)
        n_elements, cutoff = len(model.elements), model.cutoff
        n_atoms = max(n_atoms, n_elements)
        crystal = random_crystal(n_atoms, n_elements, cutoff, self.rng)
        self.crystal = away_from_cutoff(crystal, cutoff, 4e-4, self.rng)
        self.molecule = random_molecule(n_atoms, n_elements, cutoff, self.rng)
        self.reference = self.double.evaluate_one(self.crystal)
        self.largest_force = float(np.max(np.abs(self.reference.forces))) or 1.0
        self.largest_virial = float(np.max(np.abs(self.reference.virial))) or 1.0

    def tests(self) -> list[Callable[[], Iterator[Measurement]]]:
        return [
            self.forces_against_differences,
            self.virial_against_differences,
            self.translation,
            self.rotation,
            self.permutation,
            self.extensivity,
            self.smoothness_at_cutoff,
            self.single_against_double,
            self.repeatability,
        ]

    def run(self, progress: Callable = iter) -> list[Measurement]:
        return [measurement for test in progress(self.tests()) for measurement in test()]

    # ----------------------------------------------------------------------------------------------------- the tests

    def forces_against_differences(self, n_moved: int = 6) -> Iterator[Measurement]:
        """F = -dE/dx for all three components of some atoms."""
        moved = self.rng.permutation(len(self.crystal.species))[:n_moved]
        components = list(itertools.product(moved, range(3)))

        def displaced(component: tuple[int, int], amount: float) -> Structure:
            positions = self.crystal.positions.copy()
            positions[component] += amount
            return Structure(positions, self.crystal.species, self.crystal.cell, self.crystal.periodic)

        found = np.array([self.reference.forces[component] for component in components])
        worst = self._deviation(found, components, displaced, STEPS) / self.largest_force
        yield Measurement("forces against differences of the energy", worst, 1e-7, "relative")

    def virial_against_differences(self) -> Iterator[Measurement]:
        """W_ab = -dE/deps_ab, positions and cell becoming r'_b = r_b + sum_a r_a eps_ab."""
        components = list(itertools.product(range(3), range(3)))

        def strained(component: tuple[int, int], amount: float) -> Structure:
            deformation = np.eye(3)
            deformation[component] += amount
            positions, cell = self.crystal.positions @ deformation, self.crystal.cell @ deformation
            return Structure(positions, self.crystal.species, cell, self.crystal.periodic)

        found = self.reference.virial.reshape(9)
        worst = self._deviation(found, components, strained, [step / 2 for step in STEPS]) / self.largest_virial
        yield Measurement("virial against differences of the energy", worst, 1e-7, "relative")

    def translation(self) -> Iterator[Measurement]:
        """The forces sum to zero, and a shift by any vector changes nothing."""
        shift = self.rng.uniform(-3, 3, 3)
        moved = Structure(self.crystal.positions + shift, self.crystal.species, self.crystal.cell)
        worst = self._worst(self.double.evaluate_one(moved), self.reference.forces)
        total = float(np.max(np.abs(self.reference.forces.sum(axis=0)))) / self.largest_force
        yield Measurement("translation, and sum of the forces", max(worst, total), 1e-9, "relative")

    def rotation(self) -> Iterator[Measurement]:
        """Rotated and mirrored, the energy stays and the forces turn along."""
        rotation, _ = np.linalg.qr(self.rng.normal(size=(3, 3)))  # proper or not: both must hold
        turned = Structure(self.crystal.positions @ rotation, self.crystal.species, self.crystal.cell @ rotation)
        worst = self._worst(self.double.evaluate_one(turned), self.reference.forces @ rotation)
        if self.model.vector_bias:
            yield Measurement("rotation", worst, None, "relative", "not rotation-equivariant: vector bias")
        else:
            yield Measurement("rotation", worst, 1e-9, "relative")

    def permutation(self) -> Iterator[Measurement]:
        """The order of the atoms does not matter."""
        order = self.rng.permutation(len(self.crystal.species))
        shuffled = Structure(self.crystal.positions[order], self.crystal.species[order], self.crystal.cell)
        worst = self._worst(self.double.evaluate_one(shuffled), self.reference.forces[order])
        yield Measurement("permutation of the atoms", worst, 1e-9, "relative")

    def extensivity(self) -> Iterator[Measurement]:
        """A supercell has the energy of its cells, and two distant molecules that of both."""
        counts = (2, 1, 2)
        copies = int(np.prod(counts))
        super_cell = self.double.evaluate_one(replicate(self.crystal, counts))
        worst = self._worst(super_cell, np.tile(self.reference.forces, (copies, 1)), copies)
        yield Measurement("extensivity, supercell", worst, 1e-9, "relative")
        positions = self.molecule.positions
        far = positions + [np.ptp(positions[:, 0]) + 1.5 * self.model.cutoff, 0.0, 0.0]
        both = Structure(np.concatenate([positions, far]), np.tile(self.molecule.species, 2))
        one = self.double.evaluate_one(self.molecule)
        two = self.double.evaluate_one(both)
        yield Measurement(
            "extensivity, two distant copies", self._worst(two, np.tile(one.forces, (2, 1)), 2, one), 1e-9, "relative"
        )

    def smoothness_at_cutoff(self) -> Iterator[Measurement]:
        """Jumps of energy and force where an atom crosses the cutoff of another, for every pair of elements.

        Just inside the cutoff the energy differs from that outside by jump + a d^2, the force by jump + b d; two
        distances d tell the jumps.
        """
        cutoff, n_elements = self.model.cutoff, len(self.model.elements)
        distance = 1e-5 * cutoff
        energy_jump = force_jump = 0.0
        for first, second in itertools.combinations_with_replacement(range(n_elements), 2):

            def crossing(gap: float) -> Structure:
                """An atom with a close neighbour behind it, and one that crosses its cutoff in front."""
                positions = [[0, 0, 0], [-0.4 * cutoff, 0.1 * cutoff, 0.2 * cutoff], [cutoff - gap, 0, 0]]
                return Structure(np.array(positions, float), np.array([first, first, second], np.int32))

            outside, near, nearer = self.double.evaluate([crossing(d) for d in (-distance, distance, distance / 4)])
            energies = [_difference(r, outside) for r in (near, nearer)]
            forces = [r.forces - outside.forces for r in (near, nearer)]
            energy_jump = max(energy_jump, abs(16 * energies[1] - energies[0]) / 15)
            force_jump = max(force_jump, float(np.max(np.abs(4 * forces[1] - forces[0]))) / 3)
        yield Measurement("jump of the energy at the cutoff", energy_jump, 1e-9, "eV")
        yield Measurement("jump of a force at the cutoff", force_jump, 1e-6, "eV/angstrom")

    def single_against_double(self) -> Iterator[Measurement]:
        """What single precision costs: RMS of the force differences by the RMS force.

        The bound finds a broken single precision, not a poor one: random structures are far from any training data,
        and rounding grows with the size of what cancels there.
        """
        single = self.single.evaluate_one(self.crystal)
        difference = np.sqrt(np.mean((single.forces - self.reference.forces) ** 2))
        size = np.sqrt(np.mean(self.reference.forces**2)) or 1.0
        yield Measurement("single against double, RMS force", float(difference / size), 1e-4, "relative")
        per_atom = abs(single.energy - self.reference.energy) / len(self.crystal.species)
        yield Measurement("single against double, energy", per_atom, None, "eV/atom")

    def repeatability(self) -> Iterator[Measurement]:
        """The same input gives the same bits."""
        again = self.double.evaluate_one(self.crystal)
        same = again.energy == self.reference.energy and np.array_equal(again.forces, self.reference.forces)
        yield Measurement("the same input again", 0.0 if same else 1.0, 0.0, "", "" if same else "other bits")

    # ------------------------------------------------------------------------------------------------------- helpers

    def _worst(self, found: Result, forces: np.ndarray, copies: int = 1, reference: Result | None = None) -> float:
        """Largest deviation of forces [n][3] and of the energy from `copies` times the reference's, relative."""
        reference = reference or self.reference
        size = float(np.max(np.abs(reference.forces))) or 1.0
        force = float(np.max(np.abs(found.forces - forces))) / size
        # energies may carry large constants (element energies): relative to their own size
        energy = abs(found.energy - copies * reference.energy) / max(copies * abs(reference.energy), 1.0)
        return max(force, energy)

    def _deviation(self, found: np.ndarray, components: list, make: Callable, steps: Sequence[float]) -> float:
        """Largest |found + dE/dc| over the components c of a structure that make(component, amount) gives."""
        return min(float(np.max(np.abs(found + self._slopes(components, make, step)))) for step in steps)

    def _slopes(self, components: list, make: Callable, step: float) -> np.ndarray:
        """dE/dc for each component [len(components)], eV a unit of the step."""
        structures = [make(component, k * step) for component in components for k, _ in _STENCIL]
        results = self.double.evaluate(structures, forces=False, virial=False)
        slopes = np.zeros(len(components))
        for k in range(len(components)):
            for (_, weight), result in zip(_STENCIL, results[k * len(_STENCIL) :]):
                slopes[k] += weight * _difference(result, self.reference)
        return slopes / (12 * step)


def _difference(result: Result, reference: Result) -> float:
    """Difference of two energies of the same atoms, eV, summed atom by atom so that large constants cancel first."""
    return float(np.sum(result.atom_energies - reference.atom_energies))
