# SPDX-License-Identifier: MIT
"""Errors of the GPU's precisions against float64 references and against the CPU in double.

    accuracy.py FOLDER        FOLDER holds models, NAME.safetensors, and structures, *.npz with model (NAME, or that of a
                              checkpoint in MODELS), numbers, positions, cell, pbc and, where something else than the CPU
                              is the reference, energy, forces, virial (eV, angstrom; of schnetpack's checkpoint kcal/mol)

Each structure is evaluated alone and as copies in one call of at least 1,200 rows, which goes another way through the
kernels. Prints a line each; the exit status is 1 when a bound of the project is missed.
"""

import sys
from pathlib import Path

import numpy as np

from mlff._library import Evaluator, Model, Structure
from mlff.errors import MlffError

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 14: "Si", 79: "Au"}
MODELS = {"dtu_sli_au_water_96x3": "au.safetensors", "spk_rmd17_ethanol_painn_1": "eth.safetensors"}
EV_IN_KCAL_PER_MOL = 23.06054783061903
MANY_ROWS = 1200


def exact(model: Model, structure: Structure) -> dict:
    """Energy, forces and virial (eV, angstrom) of the CPU in double."""
    result = Evaluator(model, "cpu", "double").evaluate_one(structure)
    return {"energy": result.energy, "forces": result.forces, "virial": result.virial}


def model_file(structure: Path) -> Path:
    """The model that a structure names, beside it."""
    name = str(np.load(structure, allow_pickle=True)["model"])
    return structure.parent / MODELS.get(name, f"{name}.safetensors")


def references(folder: Path):
    """(name, model, structure, expected energy, forces and virial in eV and angstrom) of every structure with a model."""
    for path in sorted(folder.glob("*.npz")):
        data = np.load(path, allow_pickle=True)
        name, file = str(data["model"]), model_file(path)
        if not file.is_file():
            print(f"{path.name}: skipped, no model file for {name}")
            continue
        model = Model(file)
        structure = Structure(
            data["positions"],
            model.species([SYMBOLS[int(z)] for z in data["numbers"]]),
            data["cell"] if data["pbc"].any() else None,
            [bool(p) for p in data["pbc"]],
        )
        if "energy" in data:
            unit = EV_IN_KCAL_PER_MOL if name.startswith("spk") else 1.0
            expected = {k: data[k] / unit for k in ("energy", "forces", "virial")}
        else:
            expected = exact(model, structure)
        yield path.stem, model, structure, expected


def crystals(folder: Path):
    """Shaken grids of 1,728 atoms for the models without a structure; expected: the CPU in double."""
    with_structure = {model_file(path) for path in folder.glob("*.npz")}
    for path in sorted(folder.glob("*.safetensors")):
        if path in with_structure:
            continue
        model = Model(path)
        elements = model.elements
        spacing = 2.71 if elements == ("Si",) else 2.1544  # silicon's density; 0.1 atoms in a cubic angstrom
        grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1).reshape(-1, 3)
        x = spacing * (grid + 0.15 * np.random.default_rng(1).uniform(-1, 1, grid.shape))
        species = np.arange(len(x), dtype=np.int32) % len(elements)
        structure = Structure(x, species, np.eye(3) * 12 * spacing)
        yield path.stem, model, structure, exact(model, structure)


def holds(precision: str, energy: float, rmse: float, relative: float, correlation: float, virial: float) -> bool:
    """The project's bounds: energy in eV an atom, rmse in eV/angstrom; relative and virial are RMS, relative."""
    if precision == "double":
        return relative < 1e-9 and virial < 1e-9
    if precision == "single":
        return relative < 3e-6 and virial < 3e-6
    return energy < 0.5e-3 and rmse < 10e-3 and correlation > 0.999 and virial < 1e-2


def check(name: str, precision: str, copies: int, result, expected: dict) -> bool:
    n, forces = len(result.forces), expected["forces"]
    difference = result.forces - forces
    rmse = float(np.sqrt(np.mean(difference**2)))
    relative = rmse / float(np.sqrt(np.mean(forces**2)))
    correlation = float(np.corrcoef(result.forces.ravel(), forces.ravel())[0, 1])
    energy = abs(result.energy - float(expected["energy"])) / n
    virial = np.sqrt(np.mean((result.virial - expected["virial"]) ** 2) / np.mean(expected["virial"] ** 2))
    good = holds(precision, energy, rmse, relative, correlation, float(virial))
    print(
        f"{name:20s} {precision:6s} x {copies:3d}: forces {relative:.2e} (RMS, relative), {1e3 * rmse:.2e} meV/A, "
        f"correlation {correlation:.6f}; energy {1e3 * energy:.2e} meV/atom; virial {virial:.2e}"
        + ("" if good else "   OUT OF BOUNDS")
    )
    return good


def main() -> int:
    folder, good, checked = Path(sys.argv[1]), True, 0
    for source in (references, crystals):
        for name, model, structure, expected in source(folder):
            for precision in ("double", "single", "mixed"):
                try:
                    evaluator = Evaluator(model, "cuda", precision)
                except MlffError as error:
                    print(f"{name} {precision}: {error}   OUT OF BOUNDS")
                    good = False
                    continue
                many = MANY_ROWS // len(structure.species) + 1
                for copies in sorted({1, many}):
                    checked += 1
                    results = evaluator.evaluate([structure] * copies)
                    good = check(name, precision, copies, results[0], expected) and good
                    again = evaluator.evaluate([structure] * copies)
                    if any((a.forces != b.forces).any() or a.energy != b.energy for a, b in zip(results, again)):
                        print(f"{name} {precision} x {copies}: not the same bits again   OUT OF BOUNDS")
                        good = False
    if not checked:
        print(f"{folder}: nothing was checked; expected models and references")
    return 0 if good and checked else 1


if __name__ == "__main__":
    sys.exit(main())
