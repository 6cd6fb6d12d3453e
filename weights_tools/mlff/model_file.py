# SPDX-License-Identifier: MIT
"""The model file (docs/model-file.md) in Python: what the converters and the training write.

    model = ModelFile(features=128, ..., tensors={"embedding.weight": array, ...})
    model.write("model.safetensors")
    model = ModelFile.read("model.safetensors")

F features, K radial functions, H readout features, L interactions.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from .elements import CHEMICAL_SYMBOLS
from .errors import ModelFileError
from .short_range import ShortRange

FORMAT_VERSION = "1"
ARCHITECTURE = "painn"
RADIAL_KINDS = ("gaussian", "bessel")
ENERGY_UNITS = ("eV", "kcal/mol")
EV_IN_KCAL_PER_MOL = 23.06054783061903  # SI 2019, as in mlff.h

LARGEST_LAYER = 1024
LARGEST_DEPTH = 16
LARGEST_BASIS = 256
CUTOFF_RANGE = (0.1, 100.0)  # angstrom
EPSILON_RANGE = (0.0, 1.0)
LARGEST_ENERGY = 1e9

_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\Z", re.ASCII)
_INTEGER = re.compile(r"(0|[1-9]\d*)\Z", re.ASCII)


@dataclass
class ModelFile:
    """The canonical PaiNN model: hyperparameters and tensors, named and shaped as the model file has them."""

    features: int  # F
    interactions: int  # L
    radial: str  # "gaussian" or "bessel"
    radial_functions: int  # K
    cutoff: float  # angstrom
    epsilon: float  # in n = sqrt(|V|^2 + epsilon)
    vector_bias: bool  # U and V of the update have a bias
    readout_features: int  # H
    elements: list[str]  # symbols, in the order of the embedding rows
    energy_unit: str  # "eV" or "kcal/mol": of scale, shift, element_energies and of what the network gives
    scale: float
    shift: float
    element_energies: list[float]  # one an element
    provenance: str
    licence: str
    tensors: dict[str, np.ndarray] = field(repr=False)  # float32 or float64, see tensor_shapes()
    info: dict[str, str] = field(default_factory=dict)  # written as info.<key>, for people only
    short_range: ShortRange | None = None  # None: a model without the term

    # ------------------------------------------------------------------------------------------- what must be there

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that these hyperparameters ask for, in the order of docs/model-file.md."""
        F, K, H = self.features, self.radial_functions, self.readout_features
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (len(self.elements), F)}
        if self.radial == "gaussian":
            shapes["radial.offset"] = (K,)
            shapes["radial.width"] = (K,)
        else:
            shapes["radial.frequency"] = (K,)

        def dense(name: str, n_out: int, n_in: int, bias: bool = True) -> None:
            shapes[name + ".weight"] = (n_out, n_in)
            if bias:
                shapes[name + ".bias"] = (n_out,)

        for layer in range(self.interactions):
            dense(f"message.{layer}.filter", 3 * F, K)
            dense(f"message.{layer}.context.0", F, F)
            dense(f"message.{layer}.context.1", 3 * F, F)
            dense(f"update.{layer}.V", F, F, self.vector_bias)
            dense(f"update.{layer}.U", F, F, self.vector_bias)
            dense(f"update.{layer}.dense.0", F, 2 * F)
            dense(f"update.{layer}.dense.1", 3 * F, F)
        dense("readout.0", H, F)
        dense("readout.1", 1, H)
        return shapes

    def n_parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.tensor_shapes().values())

    def check(self, name: str = "model") -> None:
        """Raises ModelFileError where the library would refuse the file; `name` stands for it in the message."""
        _check_range(name, "features", self.features, LARGEST_LAYER)
        _check_range(name, "interactions", self.interactions, LARGEST_DEPTH)
        _check_range(name, "radial_functions", self.radial_functions, LARGEST_BASIS)
        _check_range(name, "readout_features", self.readout_features, LARGEST_LAYER)
        _check_choice(name, "radial", self.radial, RADIAL_KINDS)
        _check_choice(name, "energy_unit", self.energy_unit, ENERGY_UNITS)
        _check_number(name, "cutoff", self.cutoff, *CUTOFF_RANGE)
        _check_number(name, "epsilon", self.epsilon, *EPSILON_RANGE)
        _check_number(name, "scale", self.scale, -LARGEST_ENERGY, LARGEST_ENERGY)
        _check_number(name, "shift", self.shift, -LARGEST_ENERGY, LARGEST_ENERGY)
        if not self.elements:
            raise ModelFileError(f"{name}: no elements, expected at least one")
        for symbol in self.elements:
            if symbol not in CHEMICAL_SYMBOLS[1:]:
                raise ModelFileError(f"{name}: '{symbol}' among the elements is not the symbol of a chemical element")
        if len(set(self.elements)) != len(self.elements):
            raise ModelFileError(f"{name}: an element appears twice in '{' '.join(self.elements)}'")
        if len(self.element_energies) != len(self.elements):
            raise ModelFileError(
                f"{name}: {len(self.element_energies)} element energies, expected {len(self.elements)} "
                f"({' '.join(self.elements)})"
            )
        for symbol, energy in zip(self.elements, self.element_energies):
            _check_number(name, f"element energy of {symbol}", energy, -LARGEST_ENERGY, LARGEST_ENERGY)
        for key in ("provenance", "licence"):
            if not getattr(self, key).strip():
                raise ModelFileError(f"{name}: {key} is empty, expected a text")
        if self.short_range:
            self.short_range.check(name, self.elements, self.cutoff)
        self._check_tensors(name)

    def _check_tensors(self, name: str) -> None:
        shapes = self.tensor_shapes()
        for tensor_name, shape in shapes.items():
            if tensor_name not in self.tensors:
                raise ModelFileError(f"{name}: tensor '{tensor_name}' is missing, expected shape {list(shape)}")
            array = self.tensors[tensor_name]
            if array.shape != shape:
                raise ModelFileError(
                    f"{name}: tensor '{tensor_name}': shape {list(array.shape)}, expected {list(shape)}"
                )
            if array.dtype not in (np.float32, np.float64):
                raise ModelFileError(f"{name}: tensor '{tensor_name}': type {array.dtype}, expected float32 or float64")
            bad = np.flatnonzero(~np.isfinite(array))
            if bad.size:
                raise ModelFileError(
                    f"{name}: tensor '{tensor_name}': element {bad[0]} is {array.flat[bad[0]]}, not a finite number"
                )
        for tensor_name in self.tensors:
            if tensor_name not in shapes:
                raise ModelFileError(f"{name}: unexpected tensor '{tensor_name}'")
        for tensor_name in ("radial.width", "radial.frequency"):
            if tensor_name in shapes and not np.all(self.tensors[tensor_name] > 0):
                raise ModelFileError(f"{name}: tensor '{tensor_name}': expected only values above 0")

    # ---------------------------------------------------------------------------------------------------- metadata

    def metadata(self) -> dict[str, str]:
        """The strings of __metadata__."""
        metadata = {
            "mlff_format": FORMAT_VERSION,
            "architecture": ARCHITECTURE,
            "features": str(int(self.features)),
            "interactions": str(int(self.interactions)),
            "radial": self.radial,
            "radial_functions": str(int(self.radial_functions)),
            "cutoff_function": "cosine",
            "cutoff": _number(self.cutoff),
            "epsilon": _number(self.epsilon),
            "vector_bias": "true" if self.vector_bias else "false",
            "readout_features": str(int(self.readout_features)),
            "elements": " ".join(self.elements),
            "energy_unit": self.energy_unit,
            "length_unit": "angstrom",
            "scale": _number(self.scale),
            "shift": _number(self.shift),
            "element_energies": " ".join(_number(e) for e in self.element_energies),
            "provenance": self.provenance,
            "licence": self.licence,
        }
        if self.short_range:
            metadata["short_range"] = "zbl"
            metadata["short_range_inner"] = " ".join(_number(d) for d in self.short_range.inner)
            metadata["short_range_outer"] = " ".join(_number(d) for d in self.short_range.outer)
        for key, value in self.info.items():
            metadata["info." + key] = str(value)
        return metadata

    # ------------------------------------------------------------------------------------------------------- bytes

    def to_bytes(self) -> bytes:
        """The file's bytes; the same model gives the same bytes. Float32 only if every tensor is float32."""
        self.check()
        all_single = all(array.dtype == np.float32 for array in self.tensors.values())
        dtype = np.dtype("<f4") if all_single else np.dtype("<f8")
        tensors = {name: np.ascontiguousarray(self.tensors[name], dtype) for name in sorted(self.tensors)}
        return _in_fixed_order(safetensors.numpy.save(tensors, self.metadata()))

    def write(self, path: str | os.PathLike) -> None:
        """Writes the file in one step: a reader sees the old file or the whole new one."""
        path = Path(path)
        content = self.to_bytes()
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="." + path.name, suffix=".part")
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files
            os.replace(temporary, path)
        except OSError as error:
            os.unlink(temporary)
            raise ModelFileError(f"{path}: cannot be written: {error.strerror}") from None
        except BaseException:
            os.unlink(temporary)
            raise

    @classmethod
    def read(cls, path: str | os.PathLike) -> ModelFile:
        """Reads and checks a model file."""
        path = str(path)
        if not os.path.isfile(path):
            found = "a directory" if os.path.isdir(path) else "no such file"
            raise ModelFileError(f"{path}: {found}, expected a model file")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, safetensors.SafetensorError) as error:
            raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from None
        model = cls.from_parts(metadata, tensors, path)
        model.check(path)
        return model

    @classmethod
    def from_parts(cls, metadata: dict[str, str], tensors: dict[str, np.ndarray], name: str = "model") -> ModelFile:
        """From the strings of __metadata__ and the tensors; check() is left to the caller."""
        read = _Metadata(metadata, name)
        read.fixed("mlff_format", FORMAT_VERSION)
        read.fixed("architecture", ARCHITECTURE)
        read.fixed("cutoff_function", "cosine")
        read.fixed("length_unit", "angstrom")
        model = cls(
            features=read.integer("features"),
            interactions=read.integer("interactions"),
            radial=read.text("radial"),
            radial_functions=read.integer("radial_functions"),
            cutoff=read.number("cutoff"),
            epsilon=read.number("epsilon"),
            vector_bias=read.boolean("vector_bias"),
            readout_features=read.integer("readout_features"),
            elements=read.text("elements").split(" "),
            energy_unit=read.text("energy_unit"),
            scale=read.number("scale"),
            shift=read.number("shift"),
            element_energies=read.numbers("element_energies"),
            provenance=read.text("provenance"),
            licence=read.text("licence"),
            tensors=tensors,
            info={key[len("info.") :]: value for key, value in metadata.items() if key.startswith("info.")},
            short_range=read.short_range(),
        )
        read.nothing_else()
        return model


class _Metadata:
    """Reads the strings of __metadata__ one by one and remembers which were asked for."""

    def __init__(self, metadata: dict[str, str], name: str):
        self.metadata, self.name, self.known = metadata, name, set()

    def text(self, key: str) -> str:
        self.known.add(key)
        if key not in self.metadata:
            raise ModelFileError(f"{self.name}: metadata '{key}' is missing")
        if not self.metadata[key]:
            raise ModelFileError(f"{self.name}: metadata '{key}' is empty")
        return self.metadata[key]

    def fixed(self, key: str, expected: str) -> None:
        if self.text(key) != expected:
            raise ModelFileError(f"{self.name}: metadata '{key}' is '{self.metadata[key]}', expected '{expected}'")

    def parse(self, key: str, word: str) -> float:
        if not _NUMBER.match(word):
            raise ModelFileError(f"{self.name}: metadata '{key}' has '{word}', expected a number")
        return float(word)

    def number(self, key: str) -> float:
        return self.parse(key, self.text(key))

    def numbers(self, key: str) -> list[float]:
        return [self.parse(key, word) for word in self.text(key).split(" ")]

    def short_range(self) -> ShortRange | None:
        """All three keys, or none."""
        if not any(key in self.metadata for key in ("short_range", "short_range_inner", "short_range_outer")):
            return None
        self.fixed("short_range", "zbl")
        return ShortRange(self.numbers("short_range_inner"), self.numbers("short_range_outer"))

    def integer(self, key: str) -> int:
        if not _INTEGER.match(self.text(key)) or len(self.metadata[key]) > 9:
            raise ModelFileError(f"{self.name}: metadata '{key}' is '{self.metadata[key]}', expected an integer")
        return int(self.metadata[key])

    def boolean(self, key: str) -> bool:
        _check_choice(self.name, key, self.text(key), ("true", "false"))
        return self.metadata[key] == "true"

    def nothing_else(self) -> None:
        for key in self.metadata:
            if key not in self.known and not key.startswith("info."):
                raise ModelFileError(f"{self.name}: unknown metadata '{key}'")


def _number(value: float) -> str:
    """The shortest decimal that reads back as the same double."""
    return repr(float(value))


def _check_range(name: str, key: str, value: int, largest: int) -> None:
    if not 1 <= value <= largest:
        raise ModelFileError(f"{name}: {key} is {value}, expected 1 to {largest}")


def _check_number(name: str, key: str, value: float, smallest: float, largest: float) -> None:
    if not smallest <= value <= largest:  # false for a NaN too
        raise ModelFileError(f"{name}: {key} is {value:g}, expected {smallest:g} to {largest:g}")


def _check_choice(name: str, key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelFileError(f"{name}: {key} is '{value}', expected {' or '.join(choices)}")


def _in_fixed_order(content: bytes) -> bytes:
    """The safetensors library writes the metadata in an order that changes from run to run; this sorts it."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))}
    ordered.update(sorted(header.items(), key=lambda entry: entry[1]["data_offsets"]))
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
