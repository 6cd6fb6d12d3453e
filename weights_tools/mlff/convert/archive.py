# SPDX-License-Identifier: MIT
"""Files written by torch.save, read without torch.

zip archive (torch 1.6 and later):
    NAME/data.pkl      the pickle; tensors refer to storages by key
    NAME/data/KEY      the elements of one storage, stored without compression
    NAME/byteorder     "little"; missing in older files
older format: pickles one after another (a magic number, the protocol, the machine's sizes, the object, the storage
    keys), then for each key the number of elements (8 bytes) and the elements
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConversionError
from . import unpickle

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class Vocabulary:
    """Which names a format may use beside torch's own (see RestrictedUnpickler)."""

    packages: tuple[str, ...]
    records: frozenset[str]
    names: frozenset[str]


def load(path: str | os.PathLike, vocabulary: Vocabulary) -> Any:
    """The object that torch.save wrote, as plain data; tensors are unpickle.Tensor with their elements in place."""
    path = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except IsADirectoryError:
        raise ConversionError(f"{path}: a directory, expected a checkpoint file") from None
    except OSError as error:
        raise ConversionError(f"{path}: {error.strerror.lower()}") from None
    if content[:4] == b"PK\x03\x04":
        return _load_zip(content, path, vocabulary)
    if content[:1] == b"\x80":
        return _load_legacy(content, path, vocabulary)
    raise ConversionError(
        f"{path}: neither a torch zip archive nor an older torch file; expected a checkpoint as torch.save writes it"
    )


def _load_zip(content: bytes, path: str, vocabulary: Vocabulary) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = _Entries(archive, path)
            return _load_entries(entries, path, vocabulary)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        raise ConversionError(f"{path}: a damaged zip archive: {error}") from None


class _Entries:
    """The archive's entries by their path below its one top folder."""

    def __init__(self, archive: zipfile.ZipFile, path: str):
        self.archive, self.path = archive, path
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if name in self.entries:
                raise ConversionError(f"{path}: the archive has two entries '{name}'")
            # torch stores without compression; so no entry can be larger than the file
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ConversionError(f"{path}: the archive's entry '{name}' is compressed, expected plain entries")
            self.entries[name] = entry

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, name: str) -> bytes:
        if name not in self.entries:
            raise ConversionError(f"{self.path}: the archive's entry '{name}' is missing")
        return self.archive.read(self.entries[name])


def _load_entries(entries: _Entries, path: str, vocabulary: Vocabulary) -> Any:
    if any(name.startswith("code/") for name in entries.entries):
        raise ConversionError(
            f"{path}: a TorchScript archive (a deployed or compiled model), expected a checkpoint from training"
        )
    if "byteorder" in entries and entries.read("byteorder").strip() != b"little":
        raise ConversionError(f"{path}: written on a big-endian machine, expected little-endian numbers")
    pickled = entries.read("data.pkl")
    result, storages, _ = unpickle.load(pickled, path, vocabulary.packages, vocabulary.records, vocabulary.names)
    for storage in storages.values():
        _fill(storage, entries.read(f"data/{storage.key}"), path)
    return result


def _fill(storage: unpickle.Storage, content: bytes, path: str) -> None:
    expected = storage.n_elements * storage.dtype.itemsize
    if len(content) != expected:
        raise ConversionError(f"{path}: tensor storage '{storage.key}' has {len(content)} bytes, expected {expected}")
    if storage.dtype == np.dtype("?"):
        storage.elements = np.frombuffer(content, "u1") != 0  # any byte but 0 and 1 would break numpy's bool
    else:
        storage.elements = np.frombuffer(content, storage.dtype)


def _load_legacy(content: bytes, path: str, vocabulary: Vocabulary) -> Any:
    nothing: frozenset[str] = frozenset()
    at = 0

    def take(records: frozenset[str], names: frozenset[str]) -> tuple[Any, dict[str, unpickle.Storage]]:
        nonlocal at
        result, storages, length = unpickle.load(content[at:], path, vocabulary.packages, records, names)
        at += length
        return result, storages

    magic, _ = take(nothing, nothing)
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise ConversionError(f"{path}: a pickle, but not one that torch.save wrote")
    protocol, _ = take(nothing, nothing)
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise ConversionError(f"{path}: torch's older file format in another version than {_LEGACY_PROTOCOL}")
    machine, _ = take(nothing, nothing)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ConversionError(f"{path}: written on a big-endian machine, expected little-endian numbers")
    result, storages = take(vocabulary.records, vocabulary.names)
    keys, _ = take(nothing, nothing)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise ConversionError(f"{path}: the list of tensor storages does not match the tensors")
    for key in keys:
        storage = storages[str(key)]
        n_bytes = storage.n_elements * storage.dtype.itemsize
        if int.from_bytes(content[at : at + 8], "little") != storage.n_elements:
            raise ConversionError(f"{path}: tensor storage '{key}' is not where it should be")
        _fill(storage, content[at + 8 : at + 8 + n_bytes], path)
        at += 8 + n_bytes
    return result
