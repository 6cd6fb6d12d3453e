# SPDX-License-Identifier: MIT
"""mlff.Calculator in ASE: the fixtures' numbers, ASE's conventions, dynamics and relaxations."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import mlff
from mlff import LibraryError, MlffError, ModelFileError, UsageError
from mlff.errors import MissingLibraryError

ROOT = Path(__file__).resolve().parents[2]
SILICON = ROOT / "examples" / "silicon" / "silicon.safetensors"
STRUCTURES = [("gaussian_ev", "molecule"), ("gaussian_kcal", "ortho"), ("bessel_plain", "triclinic"),
              ("si_small", "crystal"), ("five_elements", "triclinic")]


@pytest.fixture
def make(library, fixtures):
    """make(name, **options): the calculator of a fixture's model, in double precision on the CPU."""

    def call(name="gaussian_ev", **options):
        return mlff.Calculator(fixtures / f"{name}.safetensors", **{"device": "cpu", "threads": 1, **options})

    return call


@pytest.fixture(scope="module")
def silicon():
    try:
        mlff.library_path()
    except MissingLibraryError as error:
        pytest.skip(str(error))
    return mlff.Calculator(SILICON, device="cpu", threads=1)


def atoms_of(reference) -> ase.Atoms:
    return ase.Atoms(reference["numbers"], reference["positions"], cell=reference["cell"], pbc=reference["pbc"])


@pytest.mark.parametrize("name, structure", STRUCTURES)
def test_results_are_the_references_in_ases_conventions(make, fixtures, name, structure):
    reference = np.load(fixtures / f"{name}.{structure}.npz")
    atoms = atoms_of(reference)
    atoms.calc = make(name)
    n = len(atoms)
    assert atoms.get_potential_energy() == pytest.approx(float(reference["energy"]), abs=1e-8 * n)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9 * n)
    scale = np.abs(reference["forces"]).max()
    np.testing.assert_allclose(atoms.get_forces(), reference["forces"], rtol=0, atol=1e-9 * scale)
    if atoms.pbc.all():
        virial = 0.5 * (reference["virial"] + reference["virial"].T)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), -virial / atoms.get_volume(), rtol=0,
                                   atol=1e-9 * np.abs(virial).max() / atoms.get_volume())


def test_forces_and_stress_are_what_ase_finds_by_differences(make, fixtures):
    """ASE's own differences of the energy, so that signs and Voigt's order are ASE's and not ours."""
    atoms = atoms_of(np.load(fixtures / "gaussian_ev.triclinic.npz"))
    atoms.calc = make()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert len(set(np.round(stress, 6))) == 6  # a wrong order would show
    np.testing.assert_allclose(calculate_numerical_stress(atoms, eps=1e-5), stress, rtol=0,
                               atol=1e-6 * np.abs(stress).max())
    first = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 3])
    np.testing.assert_allclose(first, forces[[0, 3]], rtol=0, atol=1e-5 * np.abs(forces).max())


def test_atoms_outside_of_the_cell_change_nothing(make, fixtures):
    atoms = atoms_of(np.load(fixtures / "gaussian_ev.triclinic.npz"))
    atoms.calc = make()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions[::2] += np.array([3, -2, 1]) @ atoms.cell.array
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-9 * np.abs(forces).max())


def test_a_change_of_anything_that_matters_is_noticed(make, fixtures):
    atoms = atoms_of(np.load(fixtures / "gaussian_ev.triclinic.npz"))
    atoms.calc = make()
    energies = [atoms.get_potential_energy()]
    atoms.positions[0] += 0.1
    energies.append(atoms.get_potential_energy())
    atoms.set_cell(atoms.cell.array * 1.01)
    energies.append(atoms.get_potential_energy())
    atoms.pbc = False
    energies.append(atoms.get_potential_energy())
    atoms.numbers[atoms.numbers == 1] = 8
    energies.append(atoms.get_potential_energy())
    del atoms[-1]
    energies.append(atoms.get_potential_energy())
    assert len(set(np.round(energies, 6))) == len(energies)


def test_forces_asked_for_after_the_energy_are_there(make):
    atoms = molecule("CH3CH2OH")
    atoms.calc = make()
    atoms.get_potential_energy()
    assert "forces" not in atoms.calc.results  # no reverse pass for an energy
    assert atoms.get_forces().shape == (9, 3)


def test_batches_equal_single_structures(make, fixtures):
    names = ["molecule", "triclinic", "isolated", "ortho", "one_atom"]
    frames = [atoms_of(np.load(fixtures / f"gaussian_ev.{name}.npz")) for name in names] * 60  # more than one call
    calculator = make()
    results = calculator.evaluate(frames)
    assert len(results) == 300 and calculator.evaluate([]) == []
    for atoms, found in zip(frames[:5], results[-5:]):
        atoms.calc = calculator
        assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(found["forces"], atoms.get_forces(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found["energies"], atoms.get_potential_energies(), rtol=0, atol=1e-10)
        assert ("stress" in found) == bool(atoms.pbc.any())
        if "stress" in found:
            np.testing.assert_allclose(found["stress"], atoms.get_stress(), rtol=0, atol=1e-10)


def test_options_reach_the_library(make):
    atoms = molecule("CH3CH2OH")
    double, single = make(), make(precision="single", threads=2)
    assert (double.evaluator.precision, single.evaluator.precision, single.evaluator.threads) == ("double", "single", 2)
    energies = [c.get_potential_energy(atoms) for c in (double, single)]
    assert 0 < abs(energies[0] - energies[1]) < 1e-3


def test_a_copy_is_a_calculator_of_its_own(make):
    atoms = molecule("CH3CH2OH")
    calculator = make()
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert other.evaluator is not calculator.evaluator
        assert other.get_potential_energy(atoms) == calculator.get_potential_energy(atoms)


def test_failures_are_sentences(make, fixtures, tmp_path):
    atoms = molecule("CH3CH2OH")
    atoms.calc = make()
    with pytest.raises(PropertyNotImplementedError, match="no stress of C2H6O: periodic FFF with 0 lattice vectors"):
        atoms.get_stress()
    atoms.numbers[0] = 14
    with pytest.raises(MlffError, match="does not know the element Si; it knows H C O"):
        atoms.get_potential_energy()
    with pytest.raises(MlffError, match="frame 1: the model does not know the element Si"):
        atoms.calc.evaluate([molecule("H2O"), atoms])
    with pytest.raises(LibraryError, match="frame 1: "):
        atoms.calc.evaluate([molecule("H2O"), ase.Atoms("H2", [[0, 0, 0]] * 2), molecule("H2O")])
    with pytest.raises(MlffError, match="lattice vector of length 0"):
        atoms.calc.get_potential_energy(ase.Atoms("H", pbc=True))
    with pytest.raises(ModelFileError, match="nothing.safetensors"):
        mlff.Calculator(tmp_path / "nothing.safetensors")
    with pytest.raises(UsageError, match="precision 'half', expected default, double"):
        make(precision="half")


def test_without_ase_there_is_one_sentence_and_the_rest_works(library, fixtures, tmp_path):
    model, out = str(fixtures / "gaussian_ev.safetensors"), str(tmp_path / "out.safetensors")
    script = f"""
import sys
sys.path[:] = {sys.path!r}
sys.modules["ase"] = None  # Python's own way to make an import fail
import mlff, mlff.convert.cli
from mlff.cli import main
assert main(["info", {model!r}]) == 0
assert main(["zbl", {model!r}, "--remove", "-o", {out!r}]) == 0
try:
    from mlff import Calculator
except ImportError as error:
    assert isinstance(error, mlff.MlffError)
    print(error)
for command in ["eval", {model!r}, "frames.extxyz"], ["zbl", {model!r}, "--distances", "O-H 0.9", "-o", {out!r}]:
    assert main(command) == 1
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "mlff.Calculator needs the package ase" in done.stdout and "pip install '.[ase]'" in done.stdout
    assert done.returncode == 0 and done.stderr.count("\n") == 2, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("mlff: reading and writing structures needs the package ase")
    assert second.startswith("mlff: mlff zbl needs the package ase")


# ------------------------------------------------------------------------------------------------- dynamics, relaxation


def total_energies(atoms, step, n_steps):
    """[n_steps + 1] eV/atom along NVE of `step` fs."""
    dynamics, energies = VelocityVerlet(atoms, timestep=step * units.fs), []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy() / len(atoms)))
    dynamics.run(n_steps)
    return np.array(energies)


def test_nve_conserves_the_energy(silicon):
    start = bulk("Si", cubic=True) * (2, 2, 1)
    kelvin, masses = 600.0, start.get_masses()[:, None]
    start.set_momenta(np.random.default_rng(1).normal(size=(len(start), 3)) * np.sqrt(masses * units.kB * kelvin))
    spread, exchanged = {}, {}
    for step in (1.0, 2.0):
        atoms = start.copy()
        atoms.calc = silicon
        energies = total_energies(atoms, step, int(120 / step))
        spread[step] = np.ptp(energies)
        exchanged[step] = abs(atoms.get_kinetic_energy() - start.get_kinetic_energy()) / len(atoms)
    # much energy changed its kind, and what is lost and gained again comes from the time step: it goes with its square
    assert spread[1.0] < 0.01 * exchanged[1.0]
    assert 3.0 < spread[2.0] / spread[1.0] < 5.0


def test_bfgs_finds_the_crystal_again(silicon):
    atoms = bulk("Si", a=5.47, cubic=True)  # the model's own lattice constant
    atoms.calc = silicon
    crystal = atoms.get_potential_energy()
    atoms.rattle(0.1, seed=2)
    assert atoms.get_potential_energy() > crystal + 0.1
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=60)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 1e-4
    # PaiNN's norm of the vectors has a kink where symmetry makes them 0, as on the sites of the crystal: this model's
    # minimum lies 0.0023 angstrom beside them and 7e-6 eV/atom below
    assert atoms.get_potential_energy() == pytest.approx(crystal, abs=1e-5 * len(atoms))
    displaced = atoms.positions - bulk("Si", a=5.47, cubic=True).positions
    assert np.linalg.norm(displaced - displaced.mean(0), axis=1).max() < 0.004


def test_a_cell_optimisation_ends_without_stress(silicon):
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + [[0.03, 0.02, 0.0], [0.0, -0.02, 0.01], [0.0, 0.0, 0.04]]),
                   scale_atoms=True)
    atoms.calc = silicon
    assert np.abs(atoms.get_stress()).max() > 0.01
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=100)
    # ASE's filter takes stress * volume / n_atoms for a force
    assert np.abs(atoms.get_stress()).max() < 1e-4 * len(atoms) / atoms.get_volume()
    lengths, angles = atoms.cell.cellpar()[:3], atoms.cell.cellpar()[3:]
    # PBE's lattice constant of silicon is 5.47 angstrom
    np.testing.assert_allclose(lengths, 5.47, atol=0.03)
    np.testing.assert_allclose(angles, 90.0, atol=0.05)
