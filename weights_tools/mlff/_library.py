# SPDX-License-Identifier: MIT
"""The C library (core/include/mlff.h) through ctypes. Only translation: arrays in, arrays out, failures as exceptions.

The shared library is mlff/lib/libmlff.so of the installed package; the environment variable MLFF_LIBRARY names
another one.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure as CStruct, byref, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np

from .errors import LibraryError, MissingLibraryError, MlffError, ModelFileError, UsageError
from .plugin import path as installed_plugin

DEVICES = ("auto", "cpu", "cuda")  # in the order of mlff_device
PRECISIONS = ("default", "double", "single", "mixed")  # in the order of mlff_precision

_MODEL_FILE_STATUSES = (2, 3)  # MLFF_ERROR_FILE, MLFF_ERROR_FORMAT


class _Error(CStruct):
    _fields_ = [("message", c_char * 1024)]


class _ModelInfo(CStruct):
    _fields_ = [
        ("name", c_char_p),
        ("architecture", c_char_p),
        ("features", c_int),
        ("interactions", c_int),
        ("radial", c_char_p),
        ("radial_functions", c_int),
        ("cutoff", c_double),
        ("epsilon", c_double),
        ("vector_bias", c_int),
        ("n_elements", c_int),
        ("elements", POINTER(c_char_p)),
        ("n_parameters", c_int64),
        ("energy_unit", c_char_p),
    ]


class _Options(CStruct):
    _fields_ = [("device", c_int), ("precision", c_int), ("threads", c_int), ("device_index", c_int)]


class _EvaluatorInfo(CStruct):
    _fields_ = [
        ("device", c_char_p),
        ("precision", c_char_p),
        ("threads", c_int),
        ("real_bytes", c_int),
        ("halo_width", c_int),
        ("bytes_per_atom", c_double),
        ("bytes_per_neighbour", c_double),
        ("device_index", c_int),
        ("gpu", c_char_p),
    ]


class _Structures(CStruct):
    _fields_ = [
        ("n_structures", c_int32),
        ("first_atom", POINTER(c_int32)),
        ("cell", POINTER(c_double)),
        ("periodic", POINTER(c_int32)),
    ]


class _Input(CStruct):
    _fields_ = [
        ("n_local", c_int32),
        ("n_all", c_int32),
        ("x", POINTER(c_double)),
        ("species", POINTER(c_int32)),
        ("neighbours", c_void_p),
        ("structures", POINTER(_Structures)),
        ("halo", c_void_p),
    ]


class _Output(CStruct):
    _fields_ = [
        ("energy", POINTER(c_double)),
        ("atom_energy", POINTER(c_double)),
        ("forces", POINTER(c_double)),
        ("virial", POINTER(c_double)),
        ("atom_virial", POINTER(c_double)),
    ]


class _ClosePairs(CStruct):
    _fields_ = [
        ("count", c_int64),
        ("atom", c_int32),
        ("neighbour", c_int32),
        ("distance", c_double),
        ("trained", c_double),
    ]


def library_path() -> Path:
    """Where libmlff.so is; MissingLibraryError when it is not there."""
    named = os.environ.get("MLFF_LIBRARY")
    if named:
        if not os.path.isfile(named):
            raise MissingLibraryError(f"MLFF_LIBRARY names '{named}', where there is no file")
        return Path(named)
    path = Path(__file__).resolve().parent / "lib" / "libmlff.so"
    if not path.is_file():
        raise MissingLibraryError(f"libmlff.so is not at {path}; install mlff, or set MLFF_LIBRARY to its path")
    return path


def plugin_path() -> Path:
    """Where mlffplugin.so is (MLFF_PLUGIN names another one); MlffError when it is not there."""
    named = os.environ.get("MLFF_PLUGIN")
    path = Path(named or installed_plugin())
    if not path.is_file():
        why = "MLFF_PLUGIN names that path" if named else "this installation was built without it"
        raise MlffError(f"mlffplugin.so is not at {path}; {why}")
    return path


_loaded: dict[str, ctypes.CDLL] = {}


def _library() -> ctypes.CDLL:
    path = str(library_path())
    if path not in _loaded:
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise MissingLibraryError(f"{path} cannot be loaded: {error}") from None
        _declare(library)
        _loaded[path] = library
    return _loaded[path]


def _declare(library: ctypes.CDLL) -> None:
    """Argument and result types of what is called below."""
    pointer = c_void_p
    library.mlff_status_name.restype = c_char_p
    library.mlff_model_load.argtypes = [c_char_p, POINTER(pointer), POINTER(_Error)]
    library.mlff_model_load_memory.argtypes = [c_char_p, ctypes.c_size_t, c_char_p, POINTER(pointer), POINTER(_Error)]
    library.mlff_model_free.argtypes = [pointer]
    library.mlff_model_free.restype = None
    library.mlff_model_get_info.argtypes = [pointer]
    library.mlff_model_get_info.restype = POINTER(_ModelInfo)
    library.mlff_model_get_metadata.argtypes = [pointer, c_char_p]
    library.mlff_model_get_metadata.restype = c_char_p
    library.mlff_evaluator_create.argtypes = [pointer, POINTER(_Options), POINTER(pointer), POINTER(_Error)]
    library.mlff_evaluator_free.argtypes = [pointer]
    library.mlff_evaluator_free.restype = None
    library.mlff_evaluator_get_info.argtypes = [pointer]
    library.mlff_evaluator_get_info.restype = POINTER(_EvaluatorInfo)
    library.mlff_evaluator_get_memory.argtypes = [pointer]
    library.mlff_evaluator_get_memory.restype = ctypes.c_size_t
    library.mlff_evaluator_get_close_pairs.argtypes = [pointer]
    library.mlff_evaluator_get_close_pairs.restype = POINTER(_ClosePairs)
    library.mlff_evaluate.argtypes = [pointer, POINTER(_Input), POINTER(_Output), POINTER(_Error)]


def _check(library: ctypes.CDLL, status: int, error: _Error) -> None:
    if status == 0:
        return
    sentence = error.message.decode(errors="replace")
    if status in _MODEL_FILE_STATUSES:
        raise ModelFileError(sentence)
    raise LibraryError(sentence, library.mlff_status_name(c_int(status)).decode())


class Model:
    """Weights and hyperparameters, immutable; may serve several evaluators."""

    def __init__(self, source: str | os.PathLike | bytes, name: str = "model"):
        """Reads the model file at the path `source`, or the file's bytes, which `name` then stands for."""
        self._library = _library()
        handle, error = c_void_p(), _Error()
        if isinstance(source, bytes):
            status = self._library.mlff_model_load_memory(
                source, len(source), name.encode(), byref(handle), byref(error)
            )
        else:
            status = self._library.mlff_model_load(os.fsencode(source), byref(handle), byref(error))
        _check(self._library, status, error)
        self._handle = handle
        info = self._library.mlff_model_get_info(handle).contents
        self.name: str = info.name.decode(errors="replace")
        self.architecture: str = info.architecture.decode()
        self.features: int = info.features
        self.interactions: int = info.interactions
        self.radial: str = info.radial.decode()
        self.radial_functions: int = info.radial_functions
        self.cutoff: float = info.cutoff  # angstrom
        self.epsilon: float = info.epsilon
        self.vector_bias: bool = bool(info.vector_bias)
        self.elements: tuple[str, ...] = tuple(info.elements[k].decode() for k in range(info.n_elements))
        self.n_parameters: int = info.n_parameters
        self.energy_unit: str = info.energy_unit.decode()  # of the file; results are in eV

    def metadata(self, key: str) -> str | None:
        """A string of the file's metadata."""
        value = self._library.mlff_model_get_metadata(self._handle, key.encode())
        return None if value is None else value.decode(errors="replace")

    def species(self, symbols: Sequence[str]) -> np.ndarray:
        """Species [n] of chemical symbols; MlffError names an element that the model does not know."""
        index = {symbol: k for k, symbol in enumerate(self.elements)}
        for symbol in symbols:
            if symbol not in index:
                raise MlffError(f"the model does not know the element {symbol}; it knows {' '.join(self.elements)}")
        return np.array([index[symbol] for symbol in symbols], np.int32)

    def __del__(self):
        if getattr(self, "_handle", None):
            self._library.mlff_model_free(self._handle)
            self._handle = None


@dataclass
class Structure:
    """One structure. Without a cell it is a molecule."""

    positions: np.ndarray  # [n][3] angstrom
    species: np.ndarray  # [n] index into the model's elements
    cell: np.ndarray | None = None  # [3][3] rows are lattice vectors, angstrom
    periodic: Sequence[bool] = (True, True, True)  # only looked at with a cell


@dataclass
class ClosePairs:
    """Atoms closer than the training frames ever had their elements, of a model with a short range."""

    count: int  # each pair from both ends
    atom: int  # the first, counted through all structures of the batch; -1 without any
    neighbour: int
    distance: float  # angstrom
    trained: float  # angstrom, the shortest of the training


@dataclass
class Result:
    """Of one structure; what was not asked for is None."""

    energy: float  # eV
    atom_energies: np.ndarray  # [n] eV
    forces: np.ndarray | None  # [n][3] eV/angstrom
    virial: np.ndarray | None  # [3][3] eV, -dE/dstrain


class Evaluator:
    """One device, one precision, one arena of memory."""

    def __init__(self, model: Model, device: str = "auto", precision: str = "default", threads: int = 0):
        """device, precision: of DEVICES and PRECISIONS; threads 0: as many as OpenMP would take."""
        for word, known, what in ((device, DEVICES, "device"), (precision, PRECISIONS, "precision")):
            if word not in known:
                raise UsageError(f"{what} '{word}', expected {', '.join(known)}")
        self.model = model  # must outlive the evaluator
        self._library = model._library
        handle, error = c_void_p(), _Error()
        options = _Options(DEVICES.index(device), PRECISIONS.index(precision), threads, -1)
        status = self._library.mlff_evaluator_create(model._handle, byref(options), byref(handle), byref(error))
        _check(self._library, status, error)
        self._handle = handle
        info = self._library.mlff_evaluator_get_info(handle).contents
        self.device: str = info.device.decode()
        self.precision: str = info.precision.decode()
        self.threads: int = info.threads
        self.bytes_per_atom: float = info.bytes_per_atom
        self.bytes_per_neighbour: float = info.bytes_per_neighbour

    def memory(self) -> int:
        """Bytes of the arena that the evaluator holds now."""
        return self._library.mlff_evaluator_get_memory(self._handle)

    def close_pairs(self) -> ClosePairs:
        """Of the last evaluation."""
        found = self._library.mlff_evaluator_get_close_pairs(self._handle).contents
        return ClosePairs(found.count, found.atom, found.neighbour, found.distance, found.trained)

    def evaluate(self, structures: Sequence[Structure], forces: bool = True, virial: bool = True) -> list[Result]:
        """Energies, forces and virials of a batch; the library finds the neighbours."""
        if not structures:
            return []
        counts = [len(structure.species) for structure in structures]
        first_atom = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        n = int(first_atom[-1])
        x = _joined([s.positions for s in structures], (n, 3), np.float64, "positions")
        species = _joined([s.species for s in structures], (n,), np.int32, "species")
        cell, periodic = _cells(structures)

        energy = np.empty(len(structures))
        atom_energy = np.empty(n)
        force = np.empty((n, 3)) if forces else None
        strain = np.empty((len(structures), 3, 3)) if virial else None
        batch = _Structures(len(structures), _ints(first_atom), _doubles(cell), _ints(periodic))
        given = _Input(n, n, _doubles(x), _ints(species), None, ctypes.pointer(batch), None)
        wanted = _Output(_doubles(energy), _doubles(atom_energy), _doubles(force), _doubles(strain), None)
        error = _Error()
        status = self._library.mlff_evaluate(self._handle, byref(given), byref(wanted), byref(error))
        _check(self._library, status, error)
        return [
            Result(
                float(energy[k]),
                atom_energy[begin:end],
                force[begin:end] if forces else None,
                strain[k] if virial else None,
            )
            for k, (begin, end) in enumerate(zip(first_atom[:-1], first_atom[1:]))
        ]

    def evaluate_one(self, structure: Structure, forces: bool = True, virial: bool = True) -> Result:
        return self.evaluate([structure], forces, virial)[0]

    def __del__(self):
        if getattr(self, "_handle", None):
            self._library.mlff_evaluator_free(self._handle)
            self._handle = None


def _joined(parts: Sequence, shape: tuple[int, ...], dtype: type, what: str) -> np.ndarray:
    arrays = [np.asarray(part) for part in parts]
    if dtype is np.int32 and not all(np.issubdtype(a.dtype, np.integer) for a in arrays if a.size):
        raise UsageError(f"{what} are not whole numbers")
    joined = np.ascontiguousarray(np.concatenate([a.reshape((-1,) + shape[1:]) for a in arrays]), dtype)
    if joined.shape != shape:
        raise UsageError(f"{what} have the shape {list(joined.shape)}, expected {list(shape)}")
    return joined


def _cells(structures: Sequence[Structure]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """cell [S][3][3] and periodic [S][3]; None when no structure has a cell."""
    if all(structure.cell is None for structure in structures):
        return None, None
    cell = np.zeros((len(structures), 3, 3))
    periodic = np.zeros((len(structures), 3), np.int32)
    for k, structure in enumerate(structures):
        if structure.cell is not None:
            cell[k] = structure.cell
            periodic[k] = [bool(p) for p in structure.periodic]
    return cell, periodic


def _doubles(array: np.ndarray | None):
    return None if array is None else array.ctypes.data_as(POINTER(c_double))


def _ints(array: np.ndarray | None):
    return None if array is None else array.ctypes.data_as(POINTER(c_int32))
