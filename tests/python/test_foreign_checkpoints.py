# SPDX-License-Identifier: MIT
"""Other people's checkpoints against an independent float64 PyTorch (not in the repository, see conftest.py)."""

import numpy as np
import pytest
from ase.data import chemical_symbols
from painn_numpy import EV_IN_KCAL_PER_MOL, atom_energies

import mlff
from mlff.convert import dtu, schnetpack
from mlff.convert.source import Conversion

# reference file: (converter, checkpoint, elements, unit)
ETHANOL_1 = (schnetpack.convert, "schnetpack_rmd17_ethanol_1/best_model", ["H", "C", "O"], "kcal/mol")
ETHANOL_2 = (schnetpack.convert, "schnetpack_rmd17_ethanol_2/best_model", ["H", "C", "O"], "kcal/mol")
GOLD = (dtu.convert, "painn_sli_au_water/96_node_3_layer.pth", None, "eV")
REFERENCES = {
    "ethanol_painn1": ETHANOL_1,
    "ethanol_painn2": ETHANOL_2,
    "ethanol_pbc_small": ETHANOL_1,
    "au_water_0": GOLD,
    "au_water_120": GOLD,
}


def converted(test_data, source):
    convert, checkpoint, elements, unit = source
    request = Conversion(checkpoint, elements, unit, "a test", "see there")
    return convert(test_data / "checkpoints" / checkpoint, request)


@pytest.fixture(params=REFERENCES)
def case(request, test_data):
    """The converted model, the reference, and the reference's unit of energy in eV."""
    model = converted(test_data, REFERENCES[request.param])
    unit = 1.0 / EV_IN_KCAL_PER_MOL if model.energy_unit == "kcal/mol" else 1.0
    return model, np.load(test_data / "reference" / f"{request.param}.npz"), unit


def structure_of(model, data):
    species = np.array([model.elements.index(chemical_symbols[z]) for z in data["numbers"]], np.int32)
    return mlff.Structure(data["positions"], species, data["cell"] if np.any(data["pbc"]) else None, data["pbc"])


def test_converted_energy_is_the_reference(case):
    model, data, _ = case
    structure = structure_of(model, data)
    found = atom_energies(model, structure.positions, structure.species, data["cell"], data["pbc"])
    assert np.abs(found - data["e_atom"]).max() < 1e-10
    assert abs(found.sum() - data["energy"]) < 1e-10 * len(found)


def test_library_gives_the_reference_in_double(library, case):
    model, data, unit = case
    result = mlff.Evaluator(mlff.Model(model.to_bytes()), precision="double").evaluate_one(structure_of(model, data))
    forces, virial = data["forces"] * unit, data["virial"] * unit
    assert np.abs(result.forces - forces).max() < 1e-9 * np.abs(forces).max()
    assert np.abs(result.virial - virial).max() < 1e-9 * np.abs(virial).max()
    assert abs(result.energy - data["energy"] * unit) < 1e-8 * len(forces)
    assert np.abs(result.atom_energies - data["e_atom"] * unit).max() < 1e-8


def test_library_is_near_the_reference_in_single(library, case):
    model, data, unit = case
    result = mlff.Evaluator(mlff.Model(model.to_bytes()), precision="single").evaluate_one(structure_of(model, data))
    forces = data["forces"] * unit
    assert np.sqrt(np.mean((result.forces - forces) ** 2) / np.mean(forces**2)) < 3e-6
    assert abs(result.energy - data["energy"] * unit) < 1e-5 * len(forces)


def test_trained_elements_are_found(test_data):
    assert converted(test_data, GOLD).elements == ["H", "O", "Au"]


def test_weights_are_taken_bit_by_bit(test_data):
    model = converted(test_data, ETHANOL_1)
    assert {array.dtype.name for array in model.tensors.values()} == {"float32"}
    assert model.n_parameters() == sum(array.size for array in model.tensors.values())


def test_each_source_refuses_the_others_files(test_data):
    with pytest.raises(mlff.ConversionError, match="NeuralNetworkPotential"):
        converted(test_data, (dtu.convert, *ETHANOL_1[1:]))
    with pytest.raises(mlff.ConversionError, match="expected the whole model"):
        converted(test_data, (schnetpack.convert, *GOLD[1:]))
    with pytest.raises(mlff.ConversionError, match="neither a torch zip archive"):
        converted(test_data, (dtu.convert, "mlff_distiller_student/student_model.onnx", None, "eV"))
