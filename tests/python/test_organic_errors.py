# SPDX-License-Identifier: MIT
"""examples/organic/training/errors.py: errors by molecule and by how its frames were made."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ase", reason="ASE is not installed (pip install '.[ase]')")

from ase.build import molecule  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import write  # noqa: E402

from mlff import Calculator  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "organic" / "training" / "errors.py"


def table(*arguments) -> subprocess.CompletedProcess:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), OMP_NUM_THREADS="1")
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=environment)


@pytest.fixture(scope="module")
def model(library, fixtures) -> Path:
    return fixtures / "gaussian_ev.safetensors"


@pytest.fixture(scope="module")
def labelled(model, tmp_path_factory) -> Path:
    """Water and methane whose labels are the model's, off by what the tests expect to find."""
    rng, frames, calculator = np.random.default_rng(0), [], Calculator(model, device="cpu", threads=1)
    wrong = (("water", "H2O", 0.05, (0.01, 0.01)), ("methane", "CH4", 0.11, (0.02, 0.04)))
    for name, formula, force, energies in wrong:
        for k, energy in enumerate(energies):
            atoms = molecule(formula)
            atoms.rattle(0.02, rng=rng)
            atoms.calc = calculator
            labels = {"energy": atoms.get_potential_energy() + energy * len(atoms),
                      "forces": atoms.get_forces() - force}
            atoms = atoms.copy()
            atoms.calc = SinglePointCalculator(atoms, **labels)
            atoms.info = {"name": name, "how": f"heated {(1000, 300)[k]} K", "split": "test"}
            frames.append(atoms)
    odd = frames[0].copy()  # without labels, in another part
    odd.info["split"] = "train"
    path = tmp_path_factory.mktemp("errors") / "labelled.extxyz"
    write(path, [*frames, odd], format="extxyz")
    return path


def rows(result: subprocess.CompletedProcess) -> dict[str, list[str]]:
    assert result.returncode == 0, result.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines()[2:]]
    return {line[0]: line[1:2] + line[3:] for line in lines}


def test_errors_are_those_of_each_molecule(model, labelled):
    found = rows(table(model, labelled, "--split", "test"))
    assert found["water"] == ["2", "50.0, 50.0", "10.00", "0.00"]
    assert found["methane"] == ["2", "110.0, 110.0", "30.00", "10.00"]  # +20 and +40: 10 beside their mean
    # 18 components of 50 and 30 of 110; two frames of each
    assert found["**all**"] == ["4", f"{(18 * 50 + 30 * 110) / 48:.1f}, {np.sqrt((18 * 50**2 + 30 * 110**2) / 48):.1f}",
                                "20.00", "5.00"]


def test_errors_by_temperature_take_off_each_molecules_mean(model, labelled):
    found = rows(table(model, labelled, "--split", "test", "--by", "how"))
    assert list(found) == ["heated 300 K", "heated 1000 K", "**all**"]  # in order of temperature
    assert found["heated 300 K"] == ["2", "87.5, 92.2", "25.00", "0.00"]


@pytest.mark.parametrize("arguments, said", [
    (("--split", "nowhere"), "no frame has split 'nowhere'"),
    ((), "frame 4 has no labels, expected energy and forces (mlff-label)"),
])
def test_frames_that_tell_nothing_are_refused(model, labelled, arguments, said):
    result = table(model, labelled, *arguments)
    assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr
