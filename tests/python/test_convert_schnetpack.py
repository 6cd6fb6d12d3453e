# SPDX-License-Identifier: MIT
"""SchNetPack 2.x checkpoints become model files that give SchNetPack's energies, or are refused by name."""

import numpy as np
import pytest
from checkpoints import listed, module, part, schnetpack_energy, schnetpack_model
from painn_numpy import atom_energies
from torch_files import function, save, save_legacy, stand_in

from mlff import ConversionError
from mlff.convert import schnetpack
from mlff.convert.source import Conversion

ELEMENTS = ["O", "H", "C"]
NUMBERS = np.array([1, 8, 6, 1, 6, 1, 8])
SPECIES = [ELEMENTS.index({1: "H", 6: "C", 8: "O"}[z]) for z in NUMBERS]
POSITIONS = np.random.default_rng(5).uniform(0, 4.5, (7, 3))


def conversion(elements=ELEMENTS, unit="eV"):
    return Conversion("best_model", list(elements) if elements else None, unit, "a test", "MIT")


def convert(folder, root, **settings):
    model = schnetpack.convert(save(folder / "best_model", root), conversion(**settings))
    model.check()
    return model


def assert_same_energy(model, root):
    expected = schnetpack_energy(root, POSITIONS, NUMBERS)
    assert atom_energies(model, POSITIONS, SPECIES).sum() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"radial": "BesselRBF"},
        {"radial": "GaussianRBFCentered"},
        {"trainable": True},
        {"share_filters": True},
        {"share_interactions": True},
        {"share_filters": True, "share_interactions": True, "L": 3},
        {"L": 1},
        {"dtype": "f8"},
        {"epsilon": 1e-4},
        {"mean": -3.5},
        {"mean": -3.5, "atomref": np.linspace(-1, 1, 100).astype("f4")},
    ],
    ids=str,
)
def test_energy_is_schnetpacks(tmp_path, settings):
    root = schnetpack_model(**settings)
    assert_same_energy(convert(tmp_path, root), root)


def test_older_torch_file_is_read(tmp_path):
    root = schnetpack_model()
    model = schnetpack.convert(save_legacy(tmp_path / "best_model", root), conversion())
    assert_same_energy(model, root)


def test_radial_offsets_are_used_as_stored(tmp_path):
    root = schnetpack_model(trainable=True)
    model = convert(tmp_path, root)
    stored = part(root, "representation.radial_basis")._parameters
    assert np.array_equal(model.tensors["radial.offset"], stored["offsets"])
    assert np.array_equal(model.tensors["radial.width"], stored["widths"])


def test_single_precision_weights_stay_single(tmp_path):
    model = convert(tmp_path, schnetpack_model(mean=1.0 / 3.0))
    assert {a.dtype.name for a in model.tensors.values()} == {"float32"}
    assert model.shift == 1.0 / 3.0  # of the double-precision buffer


def test_input_dtype_of_any_version_is_read(tmp_path):
    for attribute, value in (("input_dtype_str", "float32"), ("input_dtype", function("torch", "float32"))):
        root = schnetpack_model()
        del root.input_dtype_str
        setattr(root, attribute, value)
        assert_same_energy(convert(tmp_path, root), root)


def test_silu_as_a_module_is_read(tmp_path):
    root = schnetpack_model()
    layer = part(root, "representation.interactions.0.interatomic_context_net.0")
    layer._modules["activation"] = stand_in("torch.nn.modules.activation", "SiLU")()
    assert_same_energy(convert(tmp_path, root), root)


def test_energy_units_are_stored_or_converted(tmp_path):
    root = schnetpack_model(mean=2.0)
    kcal = convert(tmp_path, root, unit="kcal/mol")
    assert (kcal.energy_unit, kcal.scale, kcal.shift) == ("kcal/mol", 1.0, 2.0)
    kilojoule = convert(tmp_path, root, unit="kJ/mol")
    assert kilojoule.energy_unit == "eV"
    in_ev = atom_energies(kcal, POSITIONS, SPECIES) / 23.06054783061903
    assert np.allclose(4.184 * atom_energies(kilojoule, POSITIONS, SPECIES), in_ev, rtol=1e-12)


def test_postprocessors_that_are_switched_off_add_nothing(tmp_path):
    root = schnetpack_model(mean=2.0)
    root.do_postprocessing = False
    request = conversion()
    model = schnetpack.convert(save(tmp_path / "best_model", root), request)
    assert model.shift == 0.0
    assert "postprocessors" in request.warnings[0]


# ------------------------------------------------------------------------------------------------- refused by name


def with_module(place, name, replacement):
    def change(root):
        part(root, place)._modules[name] = replacement

    return change


def with_attribute(place, name, value):
    def change(root):
        setattr(part(root, place) if place else root, name, value)

    return change


def add_output(extra):
    def change(root):
        outputs = part(root, "output_modules")._modules
        outputs[str(len(outputs))] = extra

    return change


def tanh_as_function(root):
    part(root, "representation.mixing.1.intraatomic_context_net.0").activation = function("torch", "tanh")


def softplus(root):
    layer = part(root, "representation.interactions.0.interatomic_context_net.0")
    layer.activation = function("schnetpack.nn.activations", "shifted_softplus")


REFUSED = {
    "another_activation": (softplus, r"interactions\.0\.interatomic_context_net\.0.*'shifted_softplus'.*expected silu"),
    "activation_from_torch": (tanh_as_function, r"'tanh'"),
    "no_activation": (
        with_attribute("representation.mixing.0.intraatomic_context_net.0", "activation", None),
        r"activation 'none', expected silu",
    ),
    "another_cutoff": (
        with_module("representation", "cutoff_fn", module("MollifierCutoff")),
        r"MollifierCutoff, expected CosineCutoff",
    ),
    "no_representation": (None, r"'representation' is missing"),
    "schnet": (None, r"a SchNet, expected PaiNN"),
    "electronic_embedding": (
        with_module("representation", "electronic_embeddings", listed("ModuleList", [module("ElectronicEmbedding")])),
        r"electronic_embeddings\.0' is an ElectronicEmbedding",
    ),
    "dipole_output": (add_output(module("DipoleMoment")), r"output_modules\.2' is a DipoleMoment"),
    "scaling_postprocessor": (
        with_module("postprocessors", "1", module("ScaleProperty")),
        r"postprocessors\.1' is a ScaleProperty",
    ),
    "offset_of_another_property": (
        with_attribute("postprocessors.1", "_property", "enthalpy"),
        r"adds to 'enthalpy', expected the energy",
    ),
    "intensive_offset": (with_attribute("postprocessors.1", "is_extensive", False), r"does not grow with the number"),
    "mean_energy": (with_attribute("output_modules.0", "aggregation_mode", "avg"), r"mode 'avg', expected 'sum'"),
    "forces_of_another_energy": (with_attribute("output_modules.1", "energy_key", "U0"), r"differentiates 'U0'"),
    "different_epsilons": (with_attribute("representation.mixing.1", "epsilon", 1e-3), r"epsilon"),
    "renormalised_embedding": (with_attribute("representation.embedding", "max_norm", 1.0), r"max_norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_by_name(tmp_path, case):
    change, sentence = REFUSED[case]
    root = schnetpack_model(mean=1.0)
    if case == "schnet":
        root._modules["representation"] = module("SchNet")
    elif case == "no_representation":
        root._modules["representation"] = None
    else:
        change(root)
    with pytest.raises(ConversionError, match=sentence):
        convert(tmp_path, root)


def test_unknown_module_class_is_refused_by_its_full_name(tmp_path):
    root = schnetpack_model()
    root._modules["representation"] = stand_in("schnetpack.representation.new", "PaiNN3")()
    with pytest.raises(ConversionError, match=r"'schnetpack\.representation\.new\.PaiNN3'"):
        convert(tmp_path, root)


def test_classes_of_other_packages_are_refused(tmp_path):
    root = schnetpack_model()
    root._modules["representation"] = stand_in("somebody.else", "PaiNN")()
    with pytest.raises(ConversionError, match=r"'somebody\.else\.PaiNN'"):
        convert(tmp_path, root)


def test_elements_must_be_given(tmp_path):
    with pytest.raises(ConversionError, match="--elements"):
        convert(tmp_path, schnetpack_model(), elements=None)


def test_element_beyond_the_embedding_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="Lr has the atomic number 103, but the embedding ends at 99"):
        convert(tmp_path, schnetpack_model(), elements=["H", "Lr"])


def test_model_of_another_shape_is_refused(tmp_path):
    root = schnetpack_model()
    layer = part(root, "representation.filter_net")
    layer._parameters["weight"] = layer._parameters["weight"][:-1]
    with pytest.raises(ConversionError, match="filter_net.*expected 36 rows"):
        convert(tmp_path, root)


def test_missing_tensor_is_named(tmp_path):
    root = schnetpack_model()
    part(root, "representation.mixing.0.mu_channel_mix")._parameters["weight"] = None
    with pytest.raises(ConversionError, match=r"mixing\.0\.mu_channel_mix' has no tensor 'weight'"):
        convert(tmp_path, root)
