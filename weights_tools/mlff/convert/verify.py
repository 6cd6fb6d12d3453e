# SPDX-License-Identifier: MIT
"""Evaluates a model file that was just written, so that nobody finds out in a simulation that it is wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from .._library import Model
from ..errors import ConversionError
from ..selftest import SelfTest

N_ATOMS = 12


@dataclass
class Verification:
    """What came out for one random structure."""

    n_atoms: int
    energy: float  # eV
    largest_force: float  # eV/angstrom
    force_deviation: float  # against differences of the energy, relative to the largest force
    energy_jump: float  # eV, where an atom crosses the cutoff
    force_jump: float  # eV/angstrom
    warnings: list[str]


def verify(path: str | os.PathLike) -> Verification:
    """Evaluates the model file at path on a small random structure of its elements, in double precision.

    Raises ConversionError when the forces are not the energy's derivative or a number is not finite.
    """
    test = SelfTest(Model(path), n_atoms=N_ATOMS, device="cpu")
    (forces,) = test.forces_against_differences(n_moved=4)
    energy_jump, force_jump = test.smoothness_at_cutoff()
    result = test.reference
    if not np.isfinite(result.energy) or not np.all(np.isfinite(result.forces)):
        raise ConversionError(f"{path}: energy or forces of a random structure are not finite numbers")
    if not forces.passed:
        raise ConversionError(
            f"{path}: forces differ from differences of the energy by {forces.value:.1e} of the largest, expected at "
            f"most {forces.bound:.0e}"
        )
    warnings = []
    if not energy_jump.passed:
        warnings.append(
            f"the energy jumps by {energy_jump.value:.1e} eV where an atom crosses the cutoff (a bias after the cutoff "
            "does that); dynamics will not conserve energy"
        )
    elif not force_jump.passed:
        warnings.append(f"a force jumps by {force_jump.value:.1e} eV/angstrom where an atom crosses the cutoff")
    return Verification(
        n_atoms=len(test.crystal.species),
        energy=result.energy,
        largest_force=test.largest_force,
        force_deviation=forces.value,
        energy_jump=energy_jump.value,
        force_jump=force_jump.value,
        warnings=warnings,
    )
