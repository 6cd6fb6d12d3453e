# SPDX-License-Identifier: MIT
"""The C library from Python, against the references of tests/fixtures."""

from pathlib import Path

import numpy as np
import pytest
from painn_numpy import EV_IN_KCAL_PER_MOL, atom_energies

import mlff
from mlff import Evaluator, LibraryError, MlffError, Model, ModelFileError, Structure, UsageError

MANIFEST = Path(__file__).resolve().parents[1] / "fixtures" / "manifest.txt"
PAIRS = [line.split() for line in MANIFEST.read_text().splitlines() if line.strip()]


def reference(fixtures, model, structure):
    return np.load(fixtures / f"{model}.{structure}.npz")


def structure_of(data):
    cell = data["cell"] if np.any(data["pbc"]) else None
    return Structure(data["positions"], data["species"], cell, data["pbc"])


@pytest.mark.parametrize("name, structure", PAIRS, ids=[".".join(pair) for pair in PAIRS])
def test_library_gives_the_reference_in_double(library, fixtures, name, structure):
    data = reference(fixtures, name, structure)
    result = Evaluator(Model(fixtures / f"{name}.safetensors"), precision="double").evaluate_one(structure_of(data))
    largest = max(np.abs(data["forces"]).max(), 1e-3)
    assert np.abs(result.forces - data["forces"]).max() < 1e-9 * largest
    assert np.abs(result.virial - data["virial"]).max() < 1e-9 * max(np.abs(data["virial"]).max(), 1e-3)
    assert np.abs(result.atom_energies - data["e_atom"]).max() < 1e-8
    assert abs(result.energy - data["energy"]) < 1e-8 * len(data["species"])


@pytest.mark.parametrize("name, structure", PAIRS, ids=[".".join(pair) for pair in PAIRS])
def test_reference_energy_is_that_of_a_second_implementation(fixtures, name, structure):
    """The references come from PyTorch; numpy, written from docs/model-file.md alone, agrees."""
    data = reference(fixtures, name, structure)
    model = mlff.ModelFile.read(fixtures / f"{name}.safetensors")
    unit = EV_IN_KCAL_PER_MOL if model.energy_unit == "kcal/mol" else 1.0
    found = atom_energies(model, data["positions"], data["species"], data["cell"], data["pbc"]) / unit
    assert np.abs(found - data["e_atom"]).max() < 1e-9


def test_batch_gives_what_single_structures_give(library, fixtures):
    names = ["molecule", "triclinic", "isolated", "ortho"]
    evaluator = Evaluator(Model(fixtures / "gaussian_ev.safetensors"), precision="double")
    structures = [structure_of(reference(fixtures, "gaussian_ev", name)) for name in names]
    for batched, structure in zip(evaluator.evaluate(structures), structures):
        alone = evaluator.evaluate_one(structure)
        assert batched.energy == pytest.approx(alone.energy, rel=1e-14)
        assert np.allclose(batched.forces, alone.forces, rtol=0, atol=1e-13)
        assert np.allclose(batched.virial, alone.virial, rtol=0, atol=1e-12)


def test_what_is_not_asked_for_is_not_there(library, fixtures):
    evaluator = Evaluator(Model(fixtures / "gaussian_ev.safetensors"))
    result = evaluator.evaluate_one(structure_of(reference(fixtures, "gaussian_ev", "molecule")), False, False)
    assert result.forces is None and result.virial is None
    assert np.isfinite(result.energy)


def test_empty_batch_gives_nothing(library, fixtures):
    assert Evaluator(Model(fixtures / "gaussian_ev.safetensors")).evaluate([]) == []


def test_single_precision_is_single(library, fixtures):
    model = Model(fixtures / "gaussian_ev.safetensors")
    structure = structure_of(reference(fixtures, "gaussian_ev", "triclinic"))
    double, single = (Evaluator(model, precision=p).evaluate_one(structure) for p in ("double", "single"))
    rms = np.sqrt(np.mean((double.forces - single.forces) ** 2) / np.mean(double.forces**2))
    assert 1e-10 < rms < 3e-6


def test_model_outlives_its_name(library, fixtures):
    """The evaluator keeps the model that it needs."""
    evaluator = Evaluator(Model(fixtures / "gaussian_ev.safetensors"), precision="double")
    data = reference(fixtures, "gaussian_ev", "molecule")
    assert evaluator.evaluate_one(structure_of(data)).energy == pytest.approx(float(data["energy"]), abs=1e-7)


def test_species_of_symbols(library, fixtures):
    model = Model(fixtures / "five_elements.safetensors")
    assert list(model.species(["Fe", "Li", "H"])) == [3, 0, 4]
    with pytest.raises(MlffError, match="does not know the element Au; it knows Li O P Fe H"):
        model.species(["Au"])


def test_failures_carry_the_librarys_sentence(library, fixtures, tmp_path):
    with pytest.raises(ModelFileError, match="nothing.safetensors"):
        Model(tmp_path / "nothing.safetensors")
    (tmp_path / "noise").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFileError, match="noise.*header length"):
        Model(tmp_path / "noise")
    evaluator = Evaluator(Model(fixtures / "gaussian_ev.safetensors"))
    with pytest.raises(LibraryError) as error:
        evaluator.evaluate_one(Structure(np.array([[0.0, 0, np.nan]]), np.array([0])))
    assert error.value.status == "numerical failure"
    with pytest.raises(LibraryError) as error:
        evaluator.evaluate_one(Structure(np.zeros((1, 3)), np.array([7])))
    assert error.value.status == "wrong argument"


def test_wrong_words_are_refused(library, fixtures):
    model = Model(fixtures / "gaussian_ev.safetensors")
    with pytest.raises(UsageError, match="precision 'half', expected default, double, single, mixed"):
        Evaluator(model, precision="half")
    with pytest.raises(UsageError, match="device 'tpu'"):
        Evaluator(model, device="tpu")


def test_wrong_arrays_are_refused(library, fixtures):
    evaluator = Evaluator(Model(fixtures / "gaussian_ev.safetensors"))
    with pytest.raises(UsageError, match="positions have the shape"):
        evaluator.evaluate_one(Structure(np.zeros((2, 3)), np.array([0])))
    with pytest.raises(UsageError, match="species are not whole numbers"):
        evaluator.evaluate_one(Structure(np.zeros((1, 3)), np.array([0.5])))


def test_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFF_LIBRARY", str(tmp_path / "libmlff.so"))
    with pytest.raises(MlffError, match="MLFF_LIBRARY names"):
        mlff.library_path()
    with pytest.raises(MlffError, match="MLFF_LIBRARY names"):
        Model(b"")
