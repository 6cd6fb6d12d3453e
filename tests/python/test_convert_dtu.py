# SPDX-License-Identifier: MIT
"""State dictionaries of painn-sli, cPaiNN and curator become model files that give those programs' energies."""

import numpy as np
import pytest
from checkpoints import dtu_checkpoint, dtu_energy, dtu_state
from painn_numpy import atom_energies
from torch_files import Call, function, save, save_legacy, stand_in

from mlff import ConversionError
from mlff.convert import dtu
from mlff.convert.source import Conversion

NUMBERS = np.array([1, 8, 8, 1, 1, 8])
POSITIONS = np.random.default_rng(6).uniform(0, 4.0, (6, 3))


def conversion(elements=None, cutoff=None):
    return Conversion("96_node.pth", elements, "eV", "a test", "MIT", cutoff)


def convert(folder, content, **settings):
    model = dtu.convert(save(folder / "model.pth", content), conversion(**settings))
    model.check()
    return model


def energy(model):
    species = [model.elements.index({1: "H", 8: "O"}[z]) for z in NUMBERS]
    return atom_energies(model, POSITIONS, species).sum()


@pytest.mark.parametrize("settings", [{}, {"L": 3}, {"L": 1}, {"dtype": "f8"}], ids=str)
def test_energy_is_painn_slis(tmp_path, settings):
    state = dtu_state(**settings)
    model = convert(tmp_path, dtu_checkpoint(state))
    assert energy(model) == pytest.approx(dtu_energy(state, POSITIONS, NUMBERS), abs=1e-11)


def test_normalisation_is_scale_and_shift(tmp_path):
    state = dtu_state(mean=-2.5, deviation=1.75)
    model = convert(tmp_path, dtu_checkpoint(state))
    expected = 1.75 * dtu_energy(state, POSITIONS, NUMBERS) - 2.5 * len(NUMBERS)
    assert energy(model) == pytest.approx(expected, abs=1e-11)


def test_normalisation_that_is_switched_off_is_not_applied(tmp_path):
    state = dtu_state(mean=-2.5, deviation=1.75)
    state["normalization"] = np.array(False)
    model = convert(tmp_path, dtu_checkpoint(state))
    assert (model.scale, model.shift) == (1.0, 0.0)


def test_vector_biases_keep_their_sign(tmp_path):
    """The edge vector points from the receiver to the neighbour in painn-sli as in the model file."""
    state = dtu_state()
    model = convert(tmp_path, dtu_checkpoint(state))
    assert model.vector_bias and model.epsilon == 0.0
    assert np.array_equal(model.tensors["update.0.V.bias"], state["update_layers.0.update_V.bias"])
    for layer in range(2):
        model.tensors[f"update.{layer}.V.bias"] = -model.tensors[f"update.{layer}.V.bias"]
        model.tensors[f"update.{layer}.U.bias"] = -model.tensors[f"update.{layer}.U.bias"]
    assert abs(energy(model) - dtu_energy(state, POSITIONS, NUMBERS)) > 1e-6  # so the test above sees the sign


def test_older_torch_file_is_read(tmp_path):
    state = dtu_state()
    model = dtu.convert(save_legacy(tmp_path / "model.pth", dtu_checkpoint(state)), conversion())
    assert energy(model) == pytest.approx(dtu_energy(state, POSITIONS, NUMBERS), abs=1e-11)


def test_elements_come_from_the_optimizer_state(tmp_path):
    assert convert(tmp_path, dtu_checkpoint(dtu_state(), numbers=(79, 1, 8))).elements == ["H", "O", "Au"]


def test_elements_come_from_the_optimizer_state_of_cpainn(tmp_path):
    """cPaiNN's normalisation constants are parameters too, so the embedding is not the first."""
    assert convert(tmp_path, dtu_checkpoint(dtu_state(), numbers=(3, 8), first=4)).elements == ["Li", "O"]


def test_given_elements_win(tmp_path):
    assert convert(tmp_path, dtu_checkpoint(dtu_state()), elements=["O", "H"]).elements == ["O", "H"]


@pytest.mark.parametrize("numbers", [(), range(119)], ids=["none", "all"])
def test_elements_must_be_given_where_the_optimizer_does_not_tell(tmp_path, numbers):
    with pytest.raises(ConversionError, match="--elements"):
        convert(tmp_path, dtu_checkpoint(dtu_state(), numbers=numbers))


def test_elements_must_be_given_without_an_optimizer(tmp_path):
    content = dtu_checkpoint(dtu_state())
    del content["optimizer"]
    with pytest.raises(ConversionError, match="--elements"):
        convert(tmp_path, content)


def test_other_outputs_of_cpainn_are_left_out_with_a_note(tmp_path):
    state = dtu_state()
    state["linear_magmom.weight"], state["linear_magmom.bias"] = np.ones((1, 6), "f4"), np.ones(1, "f4")
    request = conversion()
    dtu.convert(save(tmp_path / "model.pth", dtu_checkpoint(state)), request)
    assert any("linear_magmom.weight" in note for note in request.notes)


def curator_checkpoint(elements_differ=False):
    """As curator's training saves it: a prefix, the rescaling in a module of its own, objects beside it."""
    state = {"model.representation." + key: value for key, value in list(dtu_state().items())[4:]}
    energies = np.zeros(119, "f4")
    energies[[1, 8]] = -1.5, -4.25
    rescale = "model.output_modules.1."
    state[rescale + "scale_by"], state[rescale + "shift_by"] = np.array([1.5], "f4"), np.array([-0.25], "f4")
    state[rescale + "atomwise_normalization"] = np.array(True)
    state[rescale + "shift_by_E0"], state[rescale + "atomic_energies"] = np.array(True), energies
    scales = np.full(119, 2.0, "f4")
    scales[8] = 3.0 if elements_differ else 2.0
    state["model.output_modules.0.scales"], state["model.output_modules.0.shifts"] = scales, energies
    optimizer = stand_in("functools", "partial")()
    optimizer.func = stand_in("torch.optim.adam", "Adam")
    return {"state_dict": state, "optimizer": optimizer, "epoch": 3}


def test_rescaling_of_curator_is_read(tmp_path):
    model = convert(tmp_path, curator_checkpoint(), elements=["H", "O"], cutoff=4.0)
    reference = np.array([-1.5, -4.25])[[0, 1, 1, 0, 0, 1]].sum()
    network = dtu_energy(dtu_state(), POSITIONS, NUMBERS)
    expected = 1.5 * (2.0 * network + reference) - 0.25 * len(NUMBERS) + reference
    assert energy(model) == pytest.approx(expected, abs=1e-10)


def whole_model_checkpoint(representation="PainnModel", radial="SineBasis"):
    """curator's default: the whole model beside the dictionary, with bound methods and configuration objects."""
    content = curator_checkpoint()
    rep = stand_in("curator.model.painn", representation)()
    rep.__dict__.update(cutoff=4.0, num_basis=5, _modules={"basis": stand_in("curator.layer.radial_basis", radial)()})
    model = stand_in("curator.model.base", "NeuralNetworkPotential")()
    outputs = stand_in("curator.model.base", "CallbackModuleList")()
    outputs.on_register_callback = Call(function("__builtin__", "getattr"), model, "register_callbacks")
    model.__dict__.update(training=True, _modules={"representation": rep, "output_modules": outputs})
    config = stand_in("omegaconf.dictconfig", "DictConfig")()
    config._content = {"n": stand_in("omegaconf.nodes", "AnyNode")()}
    return {**content, "model": model, "model_params": config}


def test_whole_model_of_curator_gives_the_cutoff(tmp_path):
    request = conversion(["H", "O"])
    model = dtu.convert(save(tmp_path / "model.ckpt", whole_model_checkpoint()), request)
    assert model.cutoff == 4.0
    assert not any("assumed" in note for note in request.notes)
    assert energy(model) == energy(convert(tmp_path, curator_checkpoint(), elements=["H", "O"], cutoff=4.0))


@pytest.mark.parametrize("parts", [{"radial": "BesselBasis"}, {"representation": "MACE"}], ids=str)
def test_other_parts_in_a_whole_model_of_curator_are_refused_by_name(tmp_path, parts):
    with pytest.raises(ConversionError, match=list(parts.values())[0]):
        convert(tmp_path, whole_model_checkpoint(**parts), elements=["H", "O"], cutoff=4.0)


def test_scales_that_differ_between_elements_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="scales' scales the elements differently"):
        convert(tmp_path, curator_checkpoint(elements_differ=True), elements=["H", "O"], cutoff=4.0)


def test_cutoff_must_be_known(tmp_path):
    with pytest.raises(ConversionError, match="--cutoff"):
        convert(tmp_path, curator_checkpoint(), elements=["H", "O"])


def test_contradicting_cutoff_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="cutoff of 4.0 angstrom, but --cutoff says 5.0"):
        convert(tmp_path, dtu_checkpoint(dtu_state()), cutoff=5.0)


def test_bare_state_dictionary_is_read(tmp_path):
    state = dtu_state()
    model = convert(tmp_path, state, elements=["H", "O"], cutoff=4.0)
    assert energy(model) == pytest.approx(dtu_energy(state, POSITIONS, NUMBERS), abs=1e-11)


def test_unknown_tensor_is_refused_by_name(tmp_path):
    state = dtu_state()
    state["message_layers.0.radial_basis.offsets"] = np.zeros(5, "f4")
    with pytest.raises(ConversionError, match=r"'message_layers\.0\.radial_basis\.offsets' is not understood"):
        convert(tmp_path, dtu_checkpoint(state))


def test_missing_tensor_is_named(tmp_path):
    state = dtu_state()
    del state["update_layers.1.update_V.bias"]
    with pytest.raises(ConversionError, match=r"'update_layers\.1\.update_V\.bias' is missing"):
        convert(tmp_path, dtu_checkpoint(state))


def test_mean_of_the_structure_is_refused(tmp_path):
    state = dtu_state(mean=-2.5)
    state["atomwise_normalization"] = np.array(False)
    with pytest.raises(ConversionError, match="does not grow with the number of atoms"):
        convert(tmp_path, dtu_checkpoint(state))


def test_half_precision_weights_are_refused_by_name(tmp_path):
    state = dtu_state()
    state["readout_mlp.2.bias"] = state["readout_mlp.2.bias"].astype("f2")
    with pytest.raises(ConversionError, match=r"'readout_mlp\.2\.bias' has the type float16"):
        convert(tmp_path, dtu_checkpoint(state))


def test_file_of_another_program_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="no state dictionary with a tensor 'atom_embedding.weight'"):
        convert(tmp_path, {"model": {"weight": np.zeros(3, "f4")}})
