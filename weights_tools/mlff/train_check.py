# SPDX-License-Identifier: MIT
"""A model file that was just written is evaluated through the C library and held against PyTorch."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .errors import MissingLibraryError, MlffError
from .model_file import ModelFile
from .train_data import Frame, GraphSet, count_elements
from .train_model import energy_forces_virial, from_model_file

# both sides sum in double: what remains is the rounding of some thousand additions
LARGEST_ENERGY_DEVIATION = 1e-8  # eV an atom
LARGEST_FORCE_DEVIATION = 1e-7  # eV/angstrom


def check_written_file(path: Path, frames: list[Frame], n: int = 3) -> str:
    """Says how far the library is from PyTorch on the first n frames, or why that was not checked.

    Raises MlffError where they differ by more than rounding.
    """
    try:
        from . import Evaluator, Model, Structure
        evaluator = Evaluator(Model(str(path)), device="cpu", precision="double")
    except MissingLibraryError as error:
        return f"not checked against the C library ({error})"
    file, frames = ModelFile.read(path), frames[:n]
    model = from_model_file(file).double()
    data = GraphSet(frames, model.elements, model.element_energies, model.h.cutoff, torch.device("cpu"), torch.float64)
    batch = data.batch(torch.arange(len(frames)))
    energy, forces, _ = energy_forces_virial(model, batch, len(frames), training=False)
    energy = energy.numpy() + count_elements(frames, model.elements) @ model.element_energies
    forces = forces.numpy()[:-1]  # without the padding atom

    index = {e: k for k, e in enumerate(model.elements)}
    results = evaluator.evaluate([
        Structure(f.positions, np.array([index[s] for s in f.symbols]), f.cell, f.periodic) for f in frames])
    d_energy = max(abs(r.energy - e) / n for r, e, n in zip(results, energy, data.n_atoms))
    d_forces = float(np.abs(np.concatenate([r.forces for r in results]) - forces).max())
    found = f"energy {d_energy:.1e} eV/atom and forces {d_forces:.1e} eV/A from PyTorch"
    if not (d_energy < LARGEST_ENERGY_DEVIATION and d_forces < LARGEST_FORCE_DEVIATION):
        raise MlffError(f"{path}: the C library is {found}, expected less than {LARGEST_ENERGY_DEVIATION:.0e} and "
                        f"{LARGEST_FORCE_DEVIATION:.0e}")
    return f"the C library is within {found}"
