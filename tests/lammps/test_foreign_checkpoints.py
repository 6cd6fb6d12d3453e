# SPDX-License-Identifier: MIT
"""Other people's checkpoints, converted, in LAMMPS: energy, forces and virial of independent float64 references.

They are in MLFF_TEST_DATA (default: ../shared/data beside the checkout), which a clone does not have.
"""
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import systems

SCHNETPACK = "schnetpack", "schnetpack_rmd17_ethanol_{}/best_model", "H,C,O", "kcal/mol"
CASES = {
    "ethanol_painn1": tuple(word.format(1) for word in SCHNETPACK),
    "ethanol_painn2": tuple(word.format(2) for word in SCHNETPACK),
    "ethanol_pbc_small": tuple(word.format(1) for word in SCHNETPACK),
    "au_water_0": ("dtu", "painn_sli_au_water/96_node_3_layer.pth", "H,O,Au", "eV"),
    "au_water_120": ("dtu", "painn_sli_au_water/96_node_3_layer.pth", "H,O,Au", "eV"),
}
NUMBERS = {"H": 1, "C": 6, "O": 8, "Au": 79}
EV = {"eV": 1.0, "kcal/mol": 1.0 / 23.06054783061903}


def converter() -> list[str]:
    """mlff-convert of the environment, or of this checkout."""
    installed = pathlib.Path(os.environ.get("MLFF_LAMMPS_ENV", ROOT / ".venv")) / "bin" / "mlff-convert"
    if installed.exists():
        return [str(installed)]
    return [shutil.which("mlff-convert") or pytest.skip("mlff-convert is not installed")]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Reference, converted model, elements, eV in the reference's unit of energy."""
    data = pathlib.Path(os.environ.get("MLFF_TEST_DATA", ROOT.parent / "shared" / "data"))
    kind, checkpoint, elements, unit = CASES[request.param]
    if not (data / "checkpoints" / checkpoint).exists():
        pytest.skip(f"no {checkpoint} in {data}")
    model = tmp_path_factory.mktemp("foreign") / "model.safetensors"
    subprocess.run([*converter(), kind, str(data / "checkpoints" / checkpoint), "-o", str(model), "--elements", elements,
                    "--energy-unit", unit], check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return np.load(data / "reference" / f"{request.param}.npz"), str(model), elements.split(","), EV[unit]


@pytest.mark.parametrize("ranks", [1, 2])
def test_double_precision_meets_the_reference(lammps, tmp_path, case, ranks):
    reference, model, elements, unit = case
    run, forces, virial = evaluate(lammps, tmp_path, case, "double", ranks)
    n = len(reference["numbers"])
    assert abs(run.thermo()["PotEng"][0] - unit * float(reference["energy"])) / n < 1e-8
    assert np.abs(run.forces() - forces).max() < 1e-9 * np.abs(forces).max()
    assert np.abs(systems.virial_of(run.thermo()) - virial).max() < 1e-9 * np.abs(virial).max()


@pytest.mark.parametrize("ranks", [1, 2])
def test_single_precision_is_close(lammps, tmp_path, case, ranks):
    run, forces, _ = evaluate(lammps, tmp_path, case, "single", ranks)
    error = run.forces() - forces
    assert np.sqrt((error**2).sum() / (forces**2).sum()) < 3e-6


def evaluate(lammps, folder, case, precision: str, ranks: int):
    """The run, and the reference's forces and six virials in eV."""
    reference, model, elements, unit = case
    types = np.array([[NUMBERS[symbol] for symbol in elements].index(z) + 1 for z in reference["numbers"]])
    system, q, boundary = systems.from_reference(reference, types)
    assert np.allclose(q, np.eye(3))
    data = systems.write_data(folder / "data.reference", system)
    run = lammps(systems.setup(data, model, elements=" ".join(elements), boundary=boundary,
                               style=f"mlff precision {precision}") + systems.OUTPUT + "run 0\n", ranks=ranks)
    w = unit * reference["virial"]
    w = 0.5 * (w + w.T)
    return run, unit * reference["forces"], np.array([w[0, 0], w[1, 1], w[2, 2], w[0, 1], w[0, 2], w[1, 2]])
