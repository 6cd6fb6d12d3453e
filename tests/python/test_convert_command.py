# SPDX-License-Identifier: MIT
"""mlff-convert as its users call it: output, files, exit codes, one sentence for each failure."""

import os
import subprocess
import sys

import pytest
from checkpoints import dtu_checkpoint, dtu_state, schnetpack_model
from nff_checkpoints import nff_model, training_state
from torch_files import Call, function, save

import mlff
import mlff.convert.cli
from mlff.convert import verify
from mlff.selftest import Measurement, SelfTest


@pytest.fixture
def convert(run):
    return lambda *arguments: run(*arguments, program=mlff.convert.cli.main)


def test_convert_schnetpack_writes_and_evaluates(convert, library, tmp_path):
    checkpoint = save(tmp_path / "best_model", schnetpack_model(mean=-2.0))
    model = tmp_path / "m.safetensors"
    status, out, err = convert("schnetpack", checkpoint, "-o", model, "--elements", "H,C,O", "--energy-unit",
                               "kcal/mol", "--licence", "MIT", "--provenance", "made for a test")
    assert (status, err) == (0, "")
    assert "elements H C O" in out and "evaluated: 12 random atoms" in out
    loaded = mlff.Model(model)
    assert loaded.metadata("licence") == "MIT" and loaded.metadata("provenance") == "made for a test"


def test_convert_twice_gives_the_same_bytes(convert, library, tmp_path):
    checkpoint = save(tmp_path / "m.pth", dtu_checkpoint(dtu_state()))
    for name in ("one", "two"):
        status, _, _ = convert("dtu", checkpoint, "-o", tmp_path / name, "--energy-unit", "eV")
        assert status == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_convert_dtu_says_which_elements_it_found(convert, library, tmp_path):
    checkpoint = save(tmp_path / "m.pth", dtu_checkpoint(dtu_state()))
    status, out, err = convert("dtu", checkpoint, "-o", tmp_path / "m", "--energy-unit", "eV")
    assert status == 0 and "elements H O" in out
    assert "note: elements from the optimizer state: H O" in err


def test_convert_refuses_a_hostile_file_and_writes_nothing(convert, tmp_path):
    checkpoint = save(tmp_path / "bad", Call(function("os", "system"), "touch " + str(tmp_path / "executed")))
    status, out, err = convert("schnetpack", checkpoint, "-o", tmp_path / "m", "--elements", "H",
                               "--energy-unit", "eV")
    assert (status, out) == (1, "")
    assert "'os.system'" in err and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["bad"]


def test_convert_keeps_a_model_that_fails_its_evaluation_apart(convert, library, tmp_path, monkeypatch):
    def fails(path):
        raise mlff.ConversionError(f"{path}: forces differ")

    monkeypatch.setattr(verify, "verify", fails)
    checkpoint = save(tmp_path / "m.pth", dtu_checkpoint(dtu_state()))
    status, _, err = convert("dtu", checkpoint, "-o", tmp_path / "m", "--energy-unit", "eV")
    assert status == 1 and "forces differ" in err
    assert set(os.listdir(tmp_path)) == {"m.pth", "m.failed"}


def test_convert_warns_of_a_jump_at_the_cutoff(convert, library, tmp_path, monkeypatch):
    jumps = [Measurement("energy", 1e-3, 1e-9, "eV"), Measurement("force", 0.0, 1e-6, "eV/angstrom")]
    monkeypatch.setattr(SelfTest, "smoothness_at_cutoff", lambda self: iter(jumps))
    checkpoint = save(tmp_path / "m.pth", dtu_checkpoint(dtu_state()))
    status, _, err = convert("dtu", checkpoint, "-o", tmp_path / "m", "--energy-unit", "eV")
    assert status == 0 and "warning: the energy jumps by 1.0e-03 eV" in err


@pytest.mark.parametrize(
    "elements, status, sentence",
    [("H,Qq", 2, "'Qq' is not the symbol"), ("", 2, "empty"), ("H,H", 2, "twice"), ("H,Lr", 1, "ends at 99")],
)
def test_convert_refuses_wrong_elements(convert, tmp_path, elements, status, sentence):
    checkpoint = save(tmp_path / "best_model", schnetpack_model())
    found, out, err = convert("schnetpack", checkpoint, "-o", tmp_path / "m", "--elements", elements,
                              "--energy-unit", "eV")
    assert (found, out) == (status, "") and sentence in err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("missing", ["--elements", "--energy-unit", "-o"])
def test_convert_needs_its_options(convert, tmp_path, missing):
    options = {"--elements": "H", "--energy-unit": "eV", "-o": str(tmp_path / "m")}
    del options[missing]
    status, _, err = convert("schnetpack", "x", *[word for option in options.items() for word in option])
    assert status == 2 and missing in err


def test_convert_does_not_write_over_its_checkpoint(convert, tmp_path):
    checkpoint = save(tmp_path / "m.pth", dtu_checkpoint(dtu_state()))
    status, _, err = convert("dtu", checkpoint, "-o", checkpoint, "--energy-unit", "eV")
    assert status == 2 and "same file" in err


def test_converters_import_neither_torch_nor_schnetpack(library, tmp_path):
    """Also where torch is installed, reading a checkpoint does not load it."""
    checkpoint = save(tmp_path / "best_model", schnetpack_model())
    script = (
        "import sys; sys.modules['torch'] = sys.modules['schnetpack'] = None; from mlff.convert.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run(
        [sys.executable, "-c", script, "schnetpack", checkpoint, "-o", tmp_path / "m", "--elements", "H,O",
         "--energy-unit", "eV"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_convert_nff_takes_a_training_state_with_its_parameters(convert, library, tmp_path):
    checkpoint = save(tmp_path / "best_model.pth.tar", training_state(nff_model()))
    (tmp_path / "params.json").write_text('{"model_type": "Painn", "activation": "swish", "cutoff": 4.0}')
    status, out, err = convert("nff", checkpoint, "-o", tmp_path / "m", "--params", tmp_path / "params.json",
                               "--energy-unit", "kcal/mol")
    assert status == 0 and "elements H O" in out and "6 features" in out and "cutoff 4 angstrom" in out
    assert err == "note: elements from the optimizer state: H O\n"


def test_convert_nff_takes_a_whole_model(convert, library, tmp_path):
    checkpoint = save(tmp_path / "best_model", nff_model(outputs=("energy_0", "energy_1")))
    options = ("-o", tmp_path / "m", "--elements", "O,H", "--energy-unit", "kcal/mol")
    status, _, err = convert("nff", checkpoint, *options)
    assert status == 1 and "--energy-key" in err and not (tmp_path / "m").exists()
    status, out, err = convert("nff", checkpoint, *options, "--energy-key", "energy_0")
    assert status == 0 and "elements O H" in out and "left out: energy_1" in err
