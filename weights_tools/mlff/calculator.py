# SPDX-License-Identifier: MIT
"""A model file as a calculator of ASE, the Atomic Simulation Environment (https://ase-lib.org).

    from mlff import Calculator
    atoms.calc = Calculator("model.safetensors")
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()

Units are ASE's own, eV and angstrom. All numbers come from the C library (_library.py).
"""

from __future__ import annotations

import os
from typing import Sequence

import numpy as np

from ._library import Evaluator, Model, Result
from .errors import MlffError, require

require("ase", "mlff.Calculator", "ase")
from ase import Atoms  # noqa: E402
from ase.calculators.calculator import Calculator as AseCalculator  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError, all_changes  # noqa: E402
from ase.stress import full_3x3_to_voigt_6_stress  # noqa: E402

from . import frames  # noqa: E402


class Calculator(AseCalculator):
    """Energy, forces and stress of ASE's atoms.

    results, by their names in ASE, n atoms:
      energy, free_energy  eV; the same number, for the forces are its exact gradient
      energies             [n] eV; they sum to energy
      forces               [n][3] eV/angstrom
      stress               [6] eV/angstrom^3, dE/dstrain / volume in Voigt's order xx yy zz yz xz xy: positive under
                           tension. Of structures with three lattice vectors that are periodic along at least one

    Raises MlffError (a sentence) for a model file that cannot be read, an element that the model does not know, atoms
    at the same place; ASE's PropertyNotImplementedError for the stress of a molecule.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
    name = "mlff"

    def __init__(
        self,
        model: str | os.PathLike | Model,
        device: str = "auto",
        precision: str = "default",
        threads: int = 0,
    ):
        """
        model      path of a model file, or a Model that several calculators share
        device     auto (a GPU where there is one), cpu or cuda
        precision  double, single, mixed (only on GPUs), or default: double on the CPU, single on a GPU
        threads    of the CPU; 0: as many as OpenMP would take
        """
        super().__init__()
        self.model = model if isinstance(model, Model) else Model(model)
        self.evaluator = Evaluator(self.model, device, precision, threads)
        self._options = (device, precision, threads)
        # what ASE writes into databases and trajectories
        self.parameters.update(
            model=self.model.name, device=device, precision=self.evaluator.precision, threads=threads
        )

    def __reduce__(self):
        # a copy or another process reads the file again: evaluators cannot be shared
        return Calculator, (self.model.name, *self._options)

    def calculate(self, atoms: Atoms | None = None, properties=("energy",), system_changes=all_changes) -> None:
        """What ASE calls. Without forces or stress among `properties` there is no reverse pass, a third of the time."""
        super().calculate(atoms, properties, system_changes)
        reverse = not set(properties) <= {"energy", "free_energy", "energies"}
        if "stress" in properties and not _has_stress(self.atoms):
            raise PropertyNotImplementedError(
                f"no stress of {self.atoms.get_chemical_formula()}: periodic {_letters(self.atoms.pbc)} with "
                f"{self.atoms.cell.rank} lattice vectors, expected three and one of them periodic at least"
            )
        structure = frames.structure_of(self.atoms, self.model)
        result = self.evaluator.evaluate_one(structure, forces=reverse, virial=reverse)
        self.results = _results(result, self.atoms)

    def evaluate(self, structures: Sequence[Atoms]) -> list[dict]:
        """The results of many structures, a dictionary for each, in their order; many small ones share a call of the
        library. Faster than one by one for small structures, above all on a GPU. MlffError names the structure that
        failed by its number from 0, `frame 3`. self.atoms and self.results stay as they are."""
        given = []
        for number, atoms in enumerate(structures):
            try:
                structure = frames.structure_of(atoms, self.model)
            except MlffError as error:
                raise MlffError(f"frame {number}: {error}") from None
            given.append(frames.Frame(number, atoms.get_chemical_symbols(), structure, None, None, None, None))
        return [_results(result, structures[f.number]) for f, result in frames.evaluate(given, self.evaluator)]


def _has_stress(atoms: Atoms) -> bool:
    return atoms.cell.rank == 3 and bool(atoms.pbc.any())


def _letters(pbc) -> str:
    return "".join("T" if p else "F" for p in pbc)


def _results(result: Result, atoms: Atoms) -> dict:
    """A Result under ASE's names; the arrays are copies, so that none keeps a whole batch alive."""
    results = {
        "energy": result.energy,
        "free_energy": result.energy,
        "energies": np.array(result.atom_energies),
    }
    if result.forces is not None:
        results["forces"] = np.array(result.forces)
    if result.virial is not None and _has_stress(atoms):
        # the virial of a model with vector biases, which is not rotation-invariant, has an antisymmetric part:
        # Voigt's six numbers are the mean of both halves
        results["stress"] = full_3x3_to_voigt_6_stress(-result.virial / atoms.get_volume())
    return results
