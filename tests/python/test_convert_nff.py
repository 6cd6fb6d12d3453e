# SPDX-License-Identifier: MIT
"""Whole models and training states of nff become model files that give nff's energies."""

import json
import re

import numpy as np
import pytest
from nff_checkpoints import module, nff_energy, nff_model, state_of, training_state, with_partial
from painn_numpy import atom_energies
from torch_files import save, save_legacy

from mlff import ConversionError
from mlff.convert import nff
from mlff.convert.source import Conversion

NUMBERS = np.array([1, 8, 8, 1, 1, 8])
POSITIONS = np.random.default_rng(6).uniform(0, 4.0, (6, 3))
LEARNT = [0.9, 2.1, 3.0, 4.2, 4.9]


def conversion(elements=("H", "O"), unit="eV", **settings):
    return Conversion("best_model", list(elements) if elements else None, unit, "a test", "MIT", **settings)


def convert(folder, content, **settings):
    model = nff.convert(save(folder / "best_model", content), conversion(**settings))
    model.check()
    return model


def energy(model):
    species = [model.elements.index({1: "H", 8: "O"}[z]) for z in NUMBERS]
    return atom_energies(model, POSITIONS, species).sum()


def part(root, place):
    for name in place.split("."):
        root = root._modules[name]
    return root


@pytest.mark.parametrize("settings", [{}, {"L": 3}, {"L": 1}, {"F": 8, "K": 7}, {"dtype": "f8"}, {"older": True},
                                      {"learnable_k": [LEARNT, LEARNT]},
                                      {"learnable_k": [LEARNT, LEARNT], "older": True}], ids=str)
def test_energy_of_a_whole_model_is_nffs(tmp_path, settings):
    root = nff_model(**settings)
    model = convert(tmp_path, root)
    assert model.epsilon == 3e-15 and not model.vector_bias and model.radial == "bessel"
    assert energy(model) == pytest.approx(nff_energy(root, POSITIONS, NUMBERS), abs=1e-11)


@pytest.mark.parametrize("settings", [{}, {"older": True}, {"learnable_k": [LEARNT, LEARNT]}], ids=str)
def test_energy_of_a_training_state_is_nffs(tmp_path, settings):
    root = nff_model(**settings)
    model = convert(tmp_path, training_state(root), cutoff=4.0)
    assert energy(model) == pytest.approx(nff_energy(root, POSITIONS, NUMBERS), abs=1e-11)


def test_bare_state_dictionary_and_older_torch_file_are_read(tmp_path):
    root = nff_model()
    expected = pytest.approx(nff_energy(root, POSITIONS, NUMBERS), abs=1e-11)
    assert energy(convert(tmp_path, state_of(root), cutoff=4.0)) == expected
    assert energy(nff.convert(save_legacy(tmp_path / "old", root), conversion())) == expected


def test_initialisers_in_the_pickle_are_passed_over(tmp_path):
    assert convert(tmp_path, with_partial(nff_model())).features == 6


def test_deviation_and_mean_are_scale_and_shift_of_an_atom(tmp_path):
    root = nff_model(means={"energy": -2.5}, deviations={"energy": np.array([1.75], "f8")})
    model = convert(tmp_path, root)
    assert (model.scale, model.shift) == (1.75, -2.5)
    assert energy(model) == pytest.approx(nff_energy(root, POSITIONS, NUMBERS, mean=-2.5, deviation=1.75), abs=1e-11)


def test_units_are_mapped(tmp_path):
    root = nff_model(means={"energy": -2.5})
    assert convert(tmp_path, root, unit="kcal/mol").energy_unit == "kcal/mol"
    model = convert(tmp_path, root, unit="Hartree")
    assert model.energy_unit == "eV" and model.scale == 27.211386245988 and model.shift == -2.5 * 27.211386245988


def test_the_named_output_is_taken_and_others_left_out_with_a_note(tmp_path):
    root = nff_model(outputs=("energy_0", "energy_1"))
    request = conversion(energy_key="energy_1")
    model = nff.convert(save(tmp_path / "best_model", root), request)
    assert energy(model) == pytest.approx(nff_energy(root, POSITIONS, NUMBERS, key="energy_1"), abs=1e-11)
    assert any("energy_0" in note for note in request.notes)
    with pytest.raises(ConversionError, match="no output 'energy', found energy_0, energy_1; name one"):
        convert(tmp_path, root)


def test_an_output_that_skips_leaves_the_energy_with_its_first_readout(tmp_path):
    root = nff_model(outputs=("energy", "charge"), skip=True)
    root.skip = {"energy": False, "charge": True}
    assert energy(convert(tmp_path, root)) == pytest.approx(nff_energy(root, POSITIONS, NUMBERS), abs=1e-11)


def test_elements_of_a_training_state_come_from_the_optimizer(tmp_path):
    request = conversion(None, cutoff=4.0)
    model = nff.convert(save(tmp_path / "m", training_state(nff_model(), numbers=(8, 1, 6))), request)
    assert model.elements == ["H", "C", "O"]


def test_elements_of_a_whole_model_must_be_given(tmp_path):
    with pytest.raises(ConversionError, match="--elements"):
        convert(tmp_path, nff_model(), elements=None)


def parameters(folder, nested=None, **changes):
    content = {"model_type": "Painn", "activation": "swish", "cutoff": 4.0, "skip_connection": {"energy": False}}
    content.update(changes)
    (folder / "params.json").write_text(json.dumps({nested: content, "other": 1} if nested else content))
    return str(folder / "params.json")


@pytest.mark.parametrize("nested", [None, "details", "modelparams"])
def test_a_training_states_parameters_come_from_params_json(tmp_path, nested):
    root = nff_model()
    request = conversion(params=parameters(tmp_path, nested, means={"energy": -2.5}, stddevs={"energy": 3.0}))
    model = nff.convert(save(tmp_path / "m", training_state(root)), request)
    assert (model.cutoff, model.scale, model.shift) == (4.0, 3.0, -2.5) and not request.notes


def test_what_is_assumed_without_params_json_is_said(tmp_path):
    request = conversion(cutoff=4.0)
    nff.convert(save(tmp_path / "m", training_state(nff_model())), request)
    assert any("assumed" in note for note in request.notes)


@pytest.mark.parametrize("changes, sentence", [
    ({"activation": "shifted_softplus"}, "activation 'shifted_softplus', expected 'swish'"),
    ({"model_type": "PainnDiabat"}, "model_type 'PainnDiabat', expected 'Painn'"),
    ({"skip_connection": {"energy": True}}, "skip_connection"),
    ({"skip_connection": True}, "skip_connection"),
    ({"excl_vol": True}, "excl_vol"),
    ({"pool_dic": {"energy": {"name": "attention"}}}, "pools the energy by 'attention'"),
    ({"means": {"energy": [1.0, 2.0]}}, "'means' of 'energy' is not one number"),
    ({"cutoff": 5.0}, "cutoff of 5.0 angstrom, but --cutoff says 4.0"),
])
def test_other_options_in_params_json_are_refused_by_name(tmp_path, changes, sentence):
    with pytest.raises(ConversionError, match=sentence):
        convert(tmp_path, training_state(nff_model()), params=parameters(tmp_path, **changes), cutoff=4.0)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"cutoff"'])
def test_unreadable_params_json_is_refused(tmp_path, content):
    (tmp_path / "params.json").write_text(content)
    with pytest.raises(ConversionError, match="params.json: "):
        convert(tmp_path, training_state(nff_model()), params=str(tmp_path / "params.json"))


def test_cutoff_must_be_known(tmp_path):
    with pytest.raises(ConversionError, match="--params, or --cutoff"):
        convert(tmp_path, training_state(nff_model()))


def test_contradicting_cutoff_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="cutoff of 4.0 angstrom, but --cutoff says 5.0"):
        convert(tmp_path, nff_model(), cutoff=5.0)


@pytest.mark.parametrize("settings, sentence", [
    ({"activation": "shifted_softplus"}, "activations 'shifted_softplus', 'none', expected swish"),
    ({"activation": "LearnableSwish"}, "activations 'LearnableSwish'"),
    ({"activation": "shifted_softplus", "older": True}, "activations 'shifted_softplus'"),
    ({"skip": True}, "skip_connection"),
    ({"skip": True, "older": True}, "skip_connection"),
    ({"pool": "MeanPool"}, "'pool_dic.energy' is a MeanPool, expected SumPool"),
    ({"excl_vol": True}, "excl_vol"),
    ({"learnable_k": [LEARNT, [1.0, 2.0, 3.0, 4.0, 5.0]]}, "different radial functions"),
], ids=str)
def test_other_options_of_a_whole_model_are_refused_by_name(tmp_path, settings, sentence):
    with pytest.raises(ConversionError, match=sentence):
        convert(tmp_path, nff_model(**settings))


def test_readouts_of_every_layer_in_a_training_state_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="a readout for every layer"):
        convert(tmp_path, training_state(nff_model(skip=True)), cutoff=4.0)


def test_layers_of_different_cutoffs_are_refused(tmp_path):
    root = nff_model()
    part(root, "message_blocks.1.inv_message.dist_embed.f_cut").cutoff = 3.0
    with pytest.raises(ConversionError, match="expected one number that all share"):
        convert(tmp_path, root)


def test_another_model_of_nff_is_refused_by_name(tmp_path):
    root = nff_model()
    other = module("PainnDiabat")
    other.__dict__.update(root.__dict__)
    with pytest.raises(ConversionError, match="'the model' is a PainnDiabat, expected Painn"):
        convert(tmp_path, other)


def test_unknown_and_missing_tensors_are_named(tmp_path):
    root = nff_model()
    state = state_of(root)
    with pytest.raises(ConversionError, match="'extra.weight' is not understood"):
        convert(tmp_path, {**state, "extra.weight": np.zeros(3, "f4")}, cutoff=4.0)
    del state["update_blocks.1.v_mat.weight"]
    with pytest.raises(ConversionError, match=r"'update_blocks\.1\.v_mat\.weight' is missing"):
        convert(tmp_path, state, cutoff=4.0)


@pytest.mark.parametrize("name", ["readout_blocks.0.readoutdict.energy.2.weight", "readout_blocks.0.gate.weight"])
def test_unknown_tensors_of_the_energys_readout_are_refused_by_name(tmp_path, name):
    state = state_of(nff_model(outputs=("energy", "charge")))
    state["readout_blocks.0.readoutdict.charge.2.weight"] = np.zeros((1, 1), "f4")  # what is left out may be anything
    convert(tmp_path, state, cutoff=4.0)
    with pytest.raises(ConversionError, match=f"tensor '{re.escape(name)}' is not understood"):
        convert(tmp_path, {**state, name: np.zeros((1, 1), "f4")}, cutoff=4.0)


def test_file_of_another_program_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="expected nff's PaiNN"):
        convert(tmp_path, {"model": {"weight": np.zeros(3, "f4")}})
