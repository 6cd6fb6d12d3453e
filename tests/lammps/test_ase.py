# SPDX-License-Identifier: MIT
"""mlff.Calculator in ASE and pair_style mlff in LAMMPS give the same numbers, to 1e-10 in double precision."""
import importlib.util
import sys

import numpy as np
import pytest
from conftest import FIXTURES, ROOT

import systems

pytest.importorskip("ase", reason="ASE is not installed (pip install '.[ase]')")

# the installed package if there is one; else this checkout's, whose library MLFF_LIBRARY names
if importlib.util.find_spec("mlff") is None:
    sys.path.insert(0, str(ROOT / "weights_tools"))

import ase  # noqa: E402

import mlff  # noqa: E402
from mlff.errors import MissingLibraryError  # noqa: E402

SILICON = ROOT / "examples" / "silicon" / "silicon.safetensors"


def silicon() -> ase.Atoms:
    from ase.build import bulk

    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=4)
    return atoms


def reference(name: str) -> ase.Atoms:
    """A fixture's structure, turned into LAMMPS's orientation."""
    data = np.load(FIXTURES / f"{name}.npz")
    cell, q = systems.lower_triangular(data["cell"]) if data["pbc"].any() else (None, np.eye(3))
    return ase.Atoms(data["numbers"], data["positions"] @ q, cell=cell, pbc=data["pbc"])


@pytest.mark.parametrize("model, make", [
    (SILICON, silicon),
    (FIXTURES / "gaussian_ev.safetensors", lambda: reference("gaussian_ev.triclinic")),
    (FIXTURES / "gaussian_kcal.safetensors", lambda: reference("gaussian_kcal.ortho")),
    (FIXTURES / "gaussian_ev.safetensors", lambda: reference("gaussian_ev.molecule")),
], ids=["silicon", "triclinic", "kcal/mol", "molecule"])
def test_ase_and_lammps_agree_in_double_precision(lammps, model, make):
    atoms = make()
    try:
        atoms.calc = mlff.Calculator(model, device="cpu", precision="double", threads=1)
    except MissingLibraryError as error:
        pytest.skip(str(error))
    elements = list(atoms.calc.model.elements)
    types = np.array([elements.index(symbol) + 1 for symbol in atoms.symbols])
    given = {"positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc}
    system, turned, boundary = systems.from_reference(given, types)
    np.testing.assert_allclose(turned, np.eye(3), atol=1e-15)
    data = systems.write_data(lammps.folder / "data", system, types=len(elements))
    run = lammps(systems.setup(data, str(model), style="mlff precision double", elements=" ".join(elements),
                               boundary=boundary) + systems.OUTPUT + "run 0\n")
    n = len(atoms)
    assert run.thermo()["PotEng"][-1] == pytest.approx(atoms.get_potential_energy(), rel=0, abs=1e-10 * n)
    np.testing.assert_allclose(run.forces(), atoms.get_forces(), rtol=0, atol=1e-10)
    assert np.abs(atoms.get_forces()).max() > 0.01  # there was something to agree on
    if atoms.pbc.all():
        virial = -atoms.get_stress()[[0, 1, 2, 5, 4, 3]] * atoms.get_volume()  # LAMMPS's order: xx yy zz xy xz yz
        np.testing.assert_allclose(systems.virial_of(run.thermo()), virial, rtol=0, atol=1e-10 * n)
