# SPDX-License-Identifier: MIT
"""Pickles to plain data, without executing anything.

A pickle is a program: it names functions and calls them. Here a name gives one of a few functions of this file or
an inert Record, or the file is refused. Nothing is imported; what a Record's class was does not matter, only its
name and its attributes are kept.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any, Callable

import numpy as np

from ..errors import ConversionError


class Record:
    """An object of a class that is only known by name: its attributes as they were stored, no behaviour."""

    class_path = ""  # "schnetpack.nn.base.Dense"
    arguments: tuple = ()

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        # torch modules store a dictionary, objects with slots (dictionary, slots), some classes anything
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:
            if isinstance(part, dict) and all(isinstance(key, str) for key in part):
                # not setattr: a stored "__class__" must stay an entry
                self.__dict__.update(part)
            elif part is not None:
                self.__dict__["state"] = part

    @property
    def class_name(self) -> str:
        return type(self).class_path.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<{type(self).class_path}>"


class Name:
    """A function or a value that the pickle names without calling it, such as torch.nn.functional.silu."""

    def __init__(self, path: str):
        self.path = path

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<{self.path}>"


class Dictionary(OrderedDict):
    """Stands for collections.OrderedDict, whose instances torch gives an attribute (_metadata)."""

    def __setstate__(self, state):
        pass  # torch's version numbers of modules; not needed


class Storage:
    """The elements of a torch storage, to be filled in when the file's data are at hand."""

    def __init__(self, dtype: np.dtype, key: str, n_elements: int):
        self.dtype, self.key, self.n_elements = dtype, key, n_elements
        self.elements: np.ndarray | None = None


class Tensor:
    """A view of a storage; array() gives the numbers."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        """A copy of the elements. The view was checked against the storage when it was made."""
        elements = self.storage.elements
        if elements is None:
            raise ConversionError(f"the data of tensor storage '{self.storage.key}' are missing")
        size = elements.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(
            elements[self.offset :], self.shape, [stride * size for stride in self.strides], writeable=False
        )
        return view.copy()


_STORAGE_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


def _integers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not all(type(v) is int and 0 <= v < 2**48 for v in value):
        raise ConversionError(f"a tensor's {what} is not a list of whole numbers of 0 or more")
    return tuple(value)


def _make_tensor(storage, offset, shape, strides, *_requires_grad_and_hooks) -> Tensor:
    """Stands for torch._utils._rebuild_tensor_v2. Refuses views that reach outside their storage."""
    if not isinstance(storage, Storage):
        raise ConversionError("a tensor's storage is not a storage")
    (offset,) = _integers((offset,), "offset")
    shape, strides = _integers(shape, "shape"), _integers(strides, "strides")
    if len(shape) != len(strides) or len(shape) > 8:
        raise ConversionError(f"a tensor has the shape {list(shape)} but the strides {list(strides)}")
    n_elements = 1
    for extent in shape:
        n_elements *= extent
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides))
    if n_elements and (last >= storage.n_elements or n_elements > storage.n_elements):
        raise ConversionError(
            f"a tensor of shape {list(shape)}, strides {list(strides)}, offset {offset} reaches outside its storage of "
            f"{storage.n_elements} elements"
        )
    return Tensor(storage, offset if n_elements else 0, shape, strides)


def _make_parameter(tensor, *_requires_grad_and_hooks) -> Tensor:
    """Stands for torch._utils._rebuild_parameter."""
    if not isinstance(tensor, Tensor):
        raise ConversionError("a parameter's data are not a tensor")
    return tensor


def _make_set(items=()) -> set:
    return set(items) if isinstance(items, (list, tuple)) else set()


def _make_bytes(text, encoding="latin1") -> bytes:
    """Stands for _codecs.encode, by which older pickles store bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ConversionError("bytes in the pickle are not stored as latin1 text")
    return text.encode("latin1")


class _NumpyType:
    """Stands for numpy.dtype(name, align, copy)."""

    def __init__(self, name, *_align_and_copy):
        if not isinstance(name, str) or name not in ("f4", "f8", "i4", "i8", "b1"):
            raise ConversionError("a numpy number of another type than a plain float or integer")
        self.dtype = np.dtype("<" + name)

    def __setstate__(self, state):
        pass  # byte order and padding of the type: '<' for plain numbers


def _make_scalar(numpy_type, content=b"\0" * 8) -> float | int | bool:
    """Stands for numpy.core.multiarray.scalar."""
    if not isinstance(numpy_type, _NumpyType) or not isinstance(content, bytes):
        raise ConversionError("a numpy number in the pickle is not stored as a type and bytes")
    if len(content) != numpy_type.dtype.itemsize:
        raise ConversionError(f"a numpy number of {len(content)} bytes, expected {numpy_type.dtype.itemsize}")
    return np.frombuffer(content, numpy_type.dtype)[0].item()


class _Function:
    """A callable that a pickle may call but not alter (BUILD would write into a plain function's attributes)."""

    __slots__ = ("function",)

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __setstate__(self, state):
        raise ConversionError("the pickle tries to alter one of the converter's functions")


# What torch's own files call, whatever model is inside.
_FUNCTIONS: dict[str, Any] = {
    "collections.OrderedDict": Dictionary,
    "collections.defaultdict": _Function(lambda *_factory: Dictionary()),
    "builtins.set": _Function(_make_set),
    "__builtin__.set": _Function(_make_set),
    "builtins.dict": Dictionary,
    "__builtin__.dict": Dictionary,
    "torch.Size": _Function(lambda extents=(): _integers(extents, "shape")),
    "torch._utils._rebuild_tensor_v2": _Function(_make_tensor),
    "torch._utils._rebuild_tensor": _Function(_make_tensor),
    "torch._utils._rebuild_parameter": _Function(_make_parameter),
    "numpy.core.multiarray.scalar": _Function(_make_scalar),
    "numpy._core.multiarray.scalar": _Function(_make_scalar),
    "numpy.dtype": _NumpyType,
    "_codecs.encode": _Function(_make_bytes),
}
# What they only mention.
_VALUES = {"torch." + name for name in _STORAGE_TYPES} | {
    "torch." + name for name in ("float16", "float32", "float64", "int32", "int64", "bool")
}
_VALUES |= {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("bool", "float", "int", "list", "long", "str", "tuple")
}


class RestrictedUnpickler(pickle.Unpickler):
    """Reads one pickle. `records` are class names (their last part) that may appear as inert Records when their
    module is under one of `packages`; `names` are functions that may be mentioned but never called."""

    def __init__(self, content: bytes, packages: tuple[str, ...], records: frozenset[str], names: frozenset[str]):
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.packages, self.records, self.names = packages, records, names
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in _FUNCTIONS:
            return _FUNCTIONS[path]
        if path in _VALUES:
            return Name(path)
        if path == "torch.device":
            return _record_class(path)
        if module.partition(".")[0] in self.packages:
            if name in self.records:
                return _record_class(path)
            if name in self.names:
                return Name(path)
        mistaken = path.startswith("schnetpack.") and "schnetpack" not in self.packages
        hint = "; is it a file for 'mlff-convert schnetpack'?" if mistaken else ""
        raise ConversionError(
            f"the checkpoint's pickle names '{path}', which is not among the classes that the converter reads as data; "
            f"nothing was executed{hint}"
        )

    def persistent_load(self, identifier: Any) -> Any:
        """torch refers to storages as ('storage', type, key, location, number of elements[, view])."""
        if isinstance(identifier, tuple) and len(identifier) >= 2 and identifier[0] == "module":
            return identifier[1]  # older files: (class, source file, source text)
        if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
            raise ConversionError("the pickle refers to something outside itself that is not a tensor storage")
        kind, key, n_elements = identifier[1], identifier[2], identifier[4]
        kind_name = kind.last if isinstance(kind, Name) else type(kind).__name__
        if kind_name not in _STORAGE_TYPES:
            raise ConversionError(f"a tensor storage of the type {kind_name}, expected {', '.join(_STORAGE_TYPES)}")
        if len(identifier) > 5 and identifier[5] is not None:
            raise ConversionError("a tensor storage is a view of another one, which only very old files have")
        (n_elements,) = _integers((n_elements,), "number of elements")
        storage = self.storages.get(str(key))
        if storage is None:
            storage = self.storages[str(key)] = Storage(np.dtype(_STORAGE_TYPES[kind_name]), str(key), n_elements)
        if storage.n_elements != n_elements or storage.dtype != np.dtype(_STORAGE_TYPES[kind_name]):
            raise ConversionError(f"tensor storage '{key}' appears with two types or sizes")
        return storage


def _record_class(path: str) -> type:
    return type(path.rpartition(".")[2], (Record,), {"class_path": path})


def check_opcodes(content: bytes, what: str) -> int:
    """Walks through the pickle without running it; returns the bytes that it takes. Damage and indices that would
    make the unpickler allocate far more than the file holds are refused here."""
    stream = io.BytesIO(content)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("PUT", "LONG_BINPUT") and int(argument) > len(content):
                raise ConversionError(f"{what}: the pickle stores at index {argument}, more than the file has bytes")
    except ConversionError:
        raise
    except Exception as error:  # pickletools raises ValueError, and others on hostile input
        raise ConversionError(f"{what}: not a readable pickle: {error}") from None
    return stream.tell()


def load(
    content: bytes,
    what: str,
    packages: tuple[str, ...],
    records: frozenset[str],
    names: frozenset[str],
) -> tuple[Any, dict[str, Storage], int]:
    """The object in a pickle, the storages that it refers to (still empty), and the bytes that it took."""
    length = check_opcodes(content, what)
    unpickler = RestrictedUnpickler(content[:length], packages, records, names)
    try:
        return unpickler.load(), unpickler.storages, length
    except ConversionError as error:
        raise ConversionError(f"{what}: {error}") from None
    except (RecursionError, MemoryError):
        raise ConversionError(f"{what}: the pickle asks for more memory than it can need") from None
    except Exception as error:
        # a pickle can call the few functions above with anything; what they raise is the file's fault
        raise ConversionError(f"{what}: not a readable pickle: {type(error).__name__}: {error}") from None
