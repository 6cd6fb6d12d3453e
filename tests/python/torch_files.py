# SPDX-License-Identifier: MIT
"""Writes files as torch.save does, without torch: classes of any name, tensors from numpy arrays.

stand_in("schnetpack.nn.base", "Dense") gives a class that is pickled under that name.
"""

import io
import pickle
import types
import zipfile
from collections import OrderedDict

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "bool": "BoolStorage", "int64": "LongStorage",
             "float16": "HalfStorage"}


def stand_in(module, name):
    """A class that a pickle names module.name."""
    return type(name, (), {"__module__": module})


def function(module, name):
    """A function that a pickle names module.name."""

    def nothing(*_):
        raise AssertionError("a stand-in was called")

    nothing.__module__, nothing.__name__, nothing.__qualname__ = module, name, name
    return nothing


class Call:
    """Becomes a call of a function in the pickle (REDUCE), as a malicious file has it."""

    def __init__(self, called, *arguments):
        self.called, self.arguments = called, arguments


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class View:
    """A tensor that is a view of an array's storage, with any offset, shape and strides."""

    def __init__(self, array, offset, shape, strides):
        self.array, self.offset, self.shape, self.strides = array, offset, shape, strides


_rebuild_tensor = function("torch._utils", "_rebuild_tensor_v2")


class _Pickler(pickle._Pickler):
    """Names classes and functions without importing them; numpy arrays become torch tensors."""

    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []
        self.kept = []  # memo holds ids of objects, which must not be reused

    def save_global(self, obj, name=None):
        self.write(pickle.GLOBAL + f"{obj.__module__}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[types.FunctionType] = save_global
    dispatch[types.BuiltinFunctionType] = save_global

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        kind = stand_in("torch", _STORAGES[obj.array.dtype.name])
        self.kept.append(kind)
        return ("storage", kind, obj.key, "cpu", obj.array.size)

    def reducer_override(self, obj):
        if isinstance(obj, Call):
            return obj.called, tuple(obj.arguments)
        if isinstance(obj, (np.ndarray, View)):
            array = obj.array if isinstance(obj, View) else np.ascontiguousarray(obj)
            storage = Storage(str(len(self.storages)), array)
            self.storages.append(storage)
            strides = tuple(int(np.prod(array.shape[k + 1 :])) for k in range(array.ndim))
            view = obj if isinstance(obj, View) else View(array, 0, array.shape, strides)
            arguments = (storage, view.offset, tuple(view.shape), tuple(view.strides), False, OrderedDict())
            self.kept.append(arguments)
            return _rebuild_tensor, arguments
        return NotImplemented


def pickled(obj):
    """The bytes of the pickle and the storages that it refers to."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(obj)
    return file.getvalue(), pickler.storages


def save(path, obj, byteorder=b"little", compression=zipfile.ZIP_STORED, storage_bytes=None, extra=()):
    """Writes a zip archive as torch.save does. storage_bytes(key, bytes) may change a storage."""
    content, storages = pickled(obj)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", byteorder)
        for storage in storages:
            data = storage.array.tobytes()
            if storage_bytes:
                data = storage_bytes(storage.key, data)
            if data is not None:
                archive.writestr(f"archive/data/{storage.key}", data)
        for name, data in extra:
            archive.writestr(f"archive/{name}", data)
    return path


def save_legacy(path, obj):
    """Writes the format of torch before 1.6."""
    content, storages = pickled(obj)
    keys = [storage.key for storage in storages]
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, machine):
            pickle.dump(part, file, protocol=2)
        file.write(content)
        pickle.dump(keys, file, protocol=2)
        for storage in storages:
            file.write(storage.array.size.to_bytes(8, "little") + storage.array.tobytes())
    return path
