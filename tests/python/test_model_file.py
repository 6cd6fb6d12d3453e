# SPDX-License-Identifier: MIT
"""Model files written and read in Python: the same bytes every time, wrong ones refused with a sentence."""

import os
import subprocess
import sys

import numpy as np
import pytest

import mlff
from mlff import ModelFile, ModelFileError
from mlff.elements import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS


def small_model(**changes):
    model = ModelFile(
        features=4, interactions=2, radial="gaussian", radial_functions=3, cutoff=5.0, epsilon=1e-8,
        vector_bias=False, readout_features=2, elements=["H", "O"], energy_unit="eV", scale=1.5, shift=-2.25,
        element_energies=[-0.5, 1e-17], provenance="a test", licence="MIT", tensors={},
        info={"note": 'two\n"lines" ü'},
    )
    for key, value in changes.items():
        setattr(model, key, value)
    rng = np.random.default_rng(1)
    model.tensors = {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in model.tensor_shapes().items()}
    return model


@pytest.mark.parametrize("changes", [{}, {"radial": "bessel"}, {"vector_bias": True, "epsilon": 0.0}], ids=str)
def test_what_is_written_reads_back(tmp_path, changes):
    model = small_model(**changes)
    model.write(tmp_path / "m.safetensors")
    again = ModelFile.read(tmp_path / "m.safetensors")
    assert again.metadata() == model.metadata()
    assert again.element_energies == model.element_energies
    assert all(np.array_equal(again.tensors[name], array) for name, array in model.tensors.items())


def test_bytes_are_the_same_in_every_process():
    """The safetensors library alone orders the metadata anew in each process."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); from test_model_file import small_model; " \
             "sys.stdout.buffer.write(small_model().to_bytes())"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    outputs = {
        subprocess.run([sys.executable, "-c", script, os.path.dirname(__file__)], env=environment, check=True,
                       capture_output=True).stdout
        for _ in range(3)
    }
    assert outputs == {small_model().to_bytes()}


def test_one_double_tensor_makes_all_double():
    model = small_model()
    model.tensors["readout.1.bias"] = model.tensors["readout.1.bias"].astype("f8")
    assert b'"F32"' not in model.to_bytes()


def test_existing_file_is_replaced_whole(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    small_model().write(path)
    assert ModelFile.read(path).features == 4
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.safetensors"
    small_model().write(path)
    before = path.read_bytes()
    model = small_model()
    model.tensors["readout.1.bias"][0] = np.nan
    with pytest.raises(ModelFileError, match=r"'readout\.1\.bias': element 0 is nan"):
        model.write(path)
    assert path.read_bytes() == before


def test_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be written"):
        small_model().write(tmp_path / "nothing" / "m.safetensors")


WRONG = {
    "features": (0, "features is 0, expected 1 to 1024"),
    "cutoff": (0.0, "cutoff is 0, expected 0.1 to 100"),
    "epsilon": (-1.0, "epsilon is -1, expected 0 to 1"),
    "scale": (float("inf"), "scale is inf"),
    "radial": ("chebyshev", "radial is 'chebyshev', expected gaussian or bessel"),
    "energy_unit": ("Hartree", "energy_unit is 'Hartree', expected eV or kcal/mol"),
    "elements": (["H", "Xy"], "'Xy' among the elements"),
    "element_energies": ([1.0], "1 element energies, expected 2"),
    "provenance": (" ", "provenance is empty"),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_hyperparameter_is_refused(key):
    value, sentence = WRONG[key]
    model = small_model()
    setattr(model, key, value)
    with pytest.raises(ModelFileError) as error:
        model.check("m")
    assert sentence in str(error.value)


def test_repeated_element_is_refused():
    model = small_model()
    model.elements = ["H", "H"]
    with pytest.raises(ModelFileError, match="twice"):
        model.check()


def test_wrong_shape_names_found_and_expected():
    model = small_model()
    model.tensors["message.1.filter.weight"] = np.zeros((12, 4), "f4")
    with pytest.raises(ModelFileError, match=r"'message\.1\.filter\.weight': shape \[12, 4\], expected \[12, 3\]"):
        model.check()


def test_missing_and_unexpected_tensors_are_named():
    model = small_model()
    array = model.tensors.pop("update.0.U.weight")
    with pytest.raises(ModelFileError, match=r"'update\.0\.U\.weight' is missing"):
        model.check()
    model.tensors.update({"update.0.U.weight": array, "update.0.U.bias": array[0]})
    with pytest.raises(ModelFileError, match=r"unexpected tensor 'update\.0\.U\.bias'"):
        model.check()


@pytest.mark.parametrize(
    "key, value, sentence",
    [
        ("mlff_format", "2", "'mlff_format' is '2', expected '1'"),
        ("architecture", "schnet", "expected 'painn'"),
        ("cutoff", "6.0abc", "'6.0abc', expected a number"),
        ("cutoff", "nan", "expected a number"),
        ("cutoff", " 5.0", "expected a number"),
        ("features", "4.0", "expected an integer"),
        ("features", "", "is empty"),
        ("vector_bias", "True", "expected true or false"),
        ("misspelt", "1", "unknown metadata 'misspelt'"),
        ("scale", None, "'scale' is missing"),
    ],
)
def test_wrong_metadata_is_refused(key, value, sentence):
    model = small_model()
    metadata = model.metadata()
    if value is None:
        del metadata[key]
    else:
        metadata[key] = value
    with pytest.raises(ModelFileError, match=sentence):
        ModelFile.from_parts(metadata, model.tensors)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}.", b"\xff" * 20], ids=["empty", "pickle", "noise"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        ModelFile.read(tmp_path / "m")


def test_library_reads_what_python_writes(library):
    model = small_model(energy_unit="kcal/mol")
    loaded = mlff.Model(model.to_bytes(), "m")
    assert loaded.elements == ("H", "O")
    assert (loaded.features, loaded.interactions, loaded.cutoff) == (4, 2, 5.0)
    assert loaded.n_parameters == model.n_parameters()
    assert loaded.metadata("info.note") == 'two\n"lines" ü'


def test_the_table_of_elements_is_ases():
    data = pytest.importorskip("ase.data", reason="ASE is not installed (pip install '.[ase]')")
    assert list(CHEMICAL_SYMBOLS) == data.chemical_symbols and ATOMIC_NUMBERS == data.atomic_numbers
