# SPDX-License-Identifier: MIT
"""Checkpoints that nobody should trust: nothing in them runs, and each is refused with a sentence."""

import pickle
import struct
import zipfile

import numpy as np
import pytest
from checkpoints import dtu_checkpoint, dtu_state, schnetpack_model
from torch_files import Call, View, function, save, save_legacy, stand_in

from mlff import ConversionError, MlffError
from mlff.convert import archive, dtu, schnetpack, unpickle
from mlff.convert.source import Conversion

VOCABULARIES = {"schnetpack": schnetpack.VOCABULARY, "dtu": dtu.VOCABULARY}


@pytest.fixture(params=VOCABULARIES)
def vocabulary(request):
    return VOCABULARIES[request.param]


class Executes:
    """Its pickle calls a function of a real module, by way of the standard pickler."""

    def __init__(self, called, *arguments):
        self.called, self.arguments = called, arguments

    def __reduce__(self):
        return self.called, self.arguments


def zip_with(path, content):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    return path


@pytest.mark.parametrize(
    "protocol, legacy",
    [(p, False) for p in range(6)] + [(p, True) for p in range(2, 6)],  # the older format begins with protocol 2
    ids=lambda value: {True: "legacy", False: "zip"}[value] if isinstance(value, bool) else f"protocol{value}",
)
def test_system_call_is_refused_and_not_executed(tmp_path, vocabulary, protocol, legacy):
    import os

    trace = tmp_path / "executed"
    content = pickle.dumps({"model": Executes(os.system, f"touch {trace}")}, protocol=protocol)
    path = tmp_path / "best_model"
    path.write_bytes(content) if legacy else zip_with(path, content)
    with pytest.raises(ConversionError, match=r"(posix|nt)\.system"):
        archive.load(path, vocabulary)
    assert not trace.exists()


def test_a_file_for_the_other_converter_is_told_so(tmp_path):
    content = b"cschnetpack.model.base\nNeuralNetworkPotential\n."
    with pytest.raises(ConversionError, match="is it a file for 'mlff-convert schnetpack'"):
        archive.load(zip_with(tmp_path / "best_model", content), dtu.VOCABULARY)


@pytest.mark.parametrize("name", ["eval", "exec", "vars", "__import__", "open", "compile", "setattr", "type"])
def test_builtins_are_refused_by_name(tmp_path, vocabulary, name):
    trace = tmp_path / "executed"
    bad = Call(function("builtins", name), f"open({str(trace)!r}, 'w')")
    with pytest.raises(ConversionError, match=rf"'builtins\.{name}'.*nothing was executed"):
        archive.load(save(tmp_path / "file", {"model": bad}), vocabulary)
    assert not trace.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("subprocess", "Popen"),
        ("importlib", "import_module"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("numpy", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("operator", "attrgetter"),
        ("pickle", "loads"),
        ("functools", "reduce"),
        ("torch.nn", "Module.__init__.__globals__"),
        ("torch.nn.functional", "silu.__globals__"),
        ("codecs", "encode"),
        ("os", "silu"),
    ],
)
def test_names_off_the_list_are_refused(tmp_path, vocabulary, module, name):
    bad = Call(function(module, name), "x")
    with pytest.raises(ConversionError, match="names '" + f"{module}.{name}".replace(".", r"\.")):
        archive.load(save(tmp_path / "file", [bad]), vocabulary)


def test_dotted_names_do_not_reach_into_whitelisted_classes(tmp_path):
    """Protocol 4 looks up 'A.b.c'; the name is compared as a whole."""
    content = b"\x80\x04\x8c\x14torch.nn.modules.foo\x8c\x10Dense.__init__.x\x93."
    with pytest.raises(ConversionError, match=r"Dense\.__init__\.x"):
        archive.load(zip_with(tmp_path / "file", content), schnetpack.VOCABULARY)


def test_getattr_is_refused_or_inert(tmp_path):
    """curator's files store bound methods as calls of getattr; nothing is looked up for them."""
    bad = save(tmp_path / "file", Call(function("builtins", "getattr"), {"a": 1}, "clear"))
    with pytest.raises(ConversionError, match=r"'builtins\.getattr'"):
        archive.load(bad, schnetpack.VOCABULARY)
    record = archive.load(bad, dtu.VOCABULARY)
    assert isinstance(record, unpickle.Record) and record.arguments == ({"a": 1}, "clear")


def test_mentioned_functions_cannot_be_called(tmp_path):
    bad = Call(function("torch.nn.functional", "silu"), 1.0)
    with pytest.raises(ConversionError, match="not callable"):
        archive.load(save(tmp_path / "file", bad), schnetpack.VOCABULARY)


def test_records_are_inert(tmp_path):
    made = stand_in("schnetpack.nn.base", "Dense")()
    made.__dict__.update({"__class__": "x", "__reduce__": "y", "weight": 3, "class_path": "forged"})
    record = archive.load(save(tmp_path / "file", made), schnetpack.VOCABULARY)
    assert isinstance(record, unpickle.Record)
    assert type(record).__mro__[1] is unpickle.Record
    assert record.class_name == "Dense"
    assert vars(record)["weight"] == 3


def test_state_cannot_be_written_into_the_converters_functions(tmp_path):
    # BUILD on the function that makes tensors, instead of on an object
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}(U\x08function\nK\x01ub."
    content = content.replace(b"U\x08function\n", b"X\x08\x00\x00\x00function")
    with pytest.raises(ConversionError, match="alter"):
        archive.load(zip_with(tmp_path / "file", content), schnetpack.VOCABULARY)


# ----------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize(
    "offset, shape, strides, sentence",
    [
        (0, (5,), (1,), "reaches outside its storage of 4 elements"),
        (3, (2,), (1,), "reaches outside"),
        (0, (2,), (9,), "reaches outside"),
        (0, (2, 2), (1,), "shape \\[2, 2\\] but the strides \\[1\\]"),
        (-1, (2,), (1,), "offset"),
        (0, (-2,), (1,), "shape"),
        (0, (2,), (-1,), "strides"),
        (0, (2**40, 2**40), (0, 0), "reaches outside"),
        (0, (2**60,), (0,), "shape"),
        (0, (100,), (0,), "reaches outside"),
        (0, (True,), (1,), "shape"),
        (0, ("2",), (1,), "shape"),
        (0, (1,) * 9, (1,) * 9, "shape"),
    ],
)
def test_tensor_that_leaves_its_storage_is_refused(tmp_path, offset, shape, strides, sentence):
    bad = View(np.arange(4, dtype="f4"), offset, shape, strides)
    with pytest.raises(ConversionError, match=sentence):
        archive.load(save(tmp_path / "file", {"w": bad}), dtu.VOCABULARY)


def test_strided_views_are_read(tmp_path):
    view = View(np.arange(12, dtype="f4"), 1, (2, 3), (1, 4))
    loaded = archive.load(save(tmp_path / "file", {"w": view}), dtu.VOCABULARY)
    assert np.array_equal(loaded["w"].array(), [[1, 5, 9], [2, 6, 10]])


def test_empty_tensors_are_read(tmp_path):
    loaded = archive.load(save(tmp_path / "file", {"w": np.zeros((0, 3), "f4")}), dtu.VOCABULARY)
    assert loaded["w"].array().shape == (0, 3)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"", lambda b: None])
def test_storage_of_the_wrong_size_is_refused(tmp_path, change):
    path = save(tmp_path / "file", {"w": np.zeros(4, "f4")}, storage_bytes=lambda key, data: change(data))
    with pytest.raises(ConversionError, match="storage '0' has|'data/0' is missing"):
        archive.load(path, dtu.VOCABULARY)


# ------------------------------------------------------------------------------------------------------------- files


def test_big_endian_file_is_refused(tmp_path):
    path = save(tmp_path / "file", {"w": np.zeros(4, "f4")}, byteorder=b"big")
    with pytest.raises(ConversionError, match="big-endian"):
        archive.load(path, dtu.VOCABULARY)


def test_compressed_archive_is_refused(tmp_path):
    path = save(tmp_path / "file", {"w": np.zeros(4, "f4")}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ConversionError, match="compressed"):
        archive.load(path, dtu.VOCABULARY)


def test_torchscript_archive_is_refused(tmp_path):
    path = save(tmp_path / "file", {}, extra=[("code/__torch__.py", b"x")])
    with pytest.raises(ConversionError, match="TorchScript"):
        archive.load(path, dtu.VOCABULARY)


def test_archive_without_a_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "file", "w") as file:
        file.writestr("archive/other", b"x")
    with pytest.raises(ConversionError, match="'data.pkl' is missing"):
        archive.load(tmp_path / "file", dtu.VOCABULARY)


def test_missing_file_and_directory_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="no such file"):
        archive.load(tmp_path / "nothing", dtu.VOCABULARY)
    with pytest.raises(ConversionError, match="directory"):
        archive.load(tmp_path, dtu.VOCABULARY)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04", b"\x80\x02", b"\x80\x02.", b"\x1f\x8b\x08", b"\x80\x04K\x01."],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConversionError):
        archive.load(tmp_path / "file", dtu.VOCABULARY)


def test_huge_memo_index_is_refused(tmp_path):
    content = b"\x80\x02K\x01r\xff\xff\xff\x7f."  # LONG_BINPUT 2^31 - 1: the unpickler would allocate 16 GB
    with pytest.raises(ConversionError, match="index 2147483647"):
        archive.load(zip_with(tmp_path / "file", content), dtu.VOCABULARY)


def test_huge_string_length_is_refused(tmp_path):
    content = b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc."
    with pytest.raises(ConversionError):
        archive.load(zip_with(tmp_path / "file", content), dtu.VOCABULARY)


def test_deep_nesting_is_survived(tmp_path):
    content = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    with pytest.raises(ConversionError):
        schnetpack.convert(zip_with(tmp_path / "file", content), _request())


def _request():
    return Conversion("file", ["H"], "eV", "a test", "MIT")


@pytest.mark.parametrize("source", VOCABULARIES)
def test_damaged_files_never_end_in_another_exception(tmp_path, source):
    """Flipped and missing bytes in a valid file: a sentence, or a model, and nothing else."""
    if source == "schnetpack":
        path, convert = save_legacy(tmp_path / "file", schnetpack_model(F=2, L=1, K=2)), schnetpack.convert
    else:
        path, convert = save_legacy(tmp_path / "file", dtu_checkpoint(dtu_state(F=2, L=1, K=2))), dtu.convert
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    head = min(len(good), 6000)  # the pickles; behind them are only numbers
    for trial in range(400):
        bad = bytearray(good)
        for at in rng.integers(0, head, rng.integers(1, 4)):
            bad[at] = rng.integers(0, 256)
        if trial % 10 == 0:
            bad = bad[: rng.integers(0, len(bad))]
        path.write_bytes(bytes(bad))
        try:
            convert(path, _request()).check("file")
        except Exception as error:
            assert isinstance(error, MlffError), f"trial {trial}: {type(error).__name__}: {error}"


def test_plain_torch_vocabulary_is_enough_for_real_torch(tmp_path):
    """torch itself, where it is installed, writes what is read here, in both formats."""
    torch = pytest.importorskip("torch")
    content = {"a": torch.arange(6.0).reshape(2, 3).T, "n": torch.nn.Parameter(torch.ones(2)), "step": 3,
               "dtype": torch.float32, "ok": torch.tensor(True), "size": torch.Size([2])}
    for legacy in (False, True):
        torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=not legacy)
        loaded = archive.load(tmp_path / "file", dtu.VOCABULARY)
        assert np.array_equal(loaded["a"].array(), [[0, 3], [1, 4], [2, 5]])
        assert np.array_equal(loaded["n"].array(), [1, 1])
        assert loaded["ok"].array().item() is True
        assert loaded["size"] == (2,)


def test_own_writer_makes_what_torch_reads(tmp_path):
    """The synthetic files of these tests are torch files: torch reads them, where it is installed."""
    torch = pytest.importorskip("torch")
    state = dtu_state()
    loaded = torch.load(save(tmp_path / "file", dtu_checkpoint(state)), weights_only=True)
    assert np.array_equal(loaded["model"]["readout_mlp.0.weight"].numpy(), state["readout_mlp.0.weight"])
