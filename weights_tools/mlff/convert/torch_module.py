# SPDX-License-Identifier: MIT
"""A torch module in a checkpoint that holds the whole model: a Record with `_modules`, `_parameters` and `_buffers`."""

from __future__ import annotations

import numpy as np

from .source import Conversion
from .unpickle import Name, Record, Tensor


class Module:
    """A torch module in the checkpoint, with its place in it for messages."""

    def __init__(self, record: object, place: str, conversion: Conversion, whole: str = "a torch module"):
        if not isinstance(record, Record):
            found = type(record).__name__
            if not place:
                raise conversion.fail(f"holds a {found}, expected {whole}")
            raise conversion.fail(f"'{place}' is a {found}, expected a torch module")
        self.record, self.place, self.conversion = record, place, conversion
        self.attributes = vars(record)

    @property
    def kind(self) -> str:
        return self.record.class_name

    @property
    def article_kind(self) -> str:
        return f"{'an' if self.kind[:1] in 'AEIO' else 'a'} {self.kind}"

    def _table(self, name: str) -> dict:
        table = self.attributes.get(name)
        return table if isinstance(table, dict) else {}

    def children(self) -> list[Module]:
        return [self.child(str(name)) for name in self._table("_modules")]

    def has_child(self, name: str) -> bool:
        return self._table("_modules").get(name) is not None

    def child(self, name: str) -> Module:
        place = f"{self.place}.{name}" if self.place else name
        if not self.has_child(name):
            raise self.conversion.fail(f"'{place}' is missing, expected a torch module")
        return Module(self._table("_modules")[name], place, self.conversion)

    def expect(self, *kinds: str) -> Module:
        if self.kind not in kinds:
            raise self.fail(f"is {self.article_kind}, expected {' or '.join(kinds)}")
        return self

    def fail(self, sentence: str) -> Exception:
        return self.conversion.fail(f"'{self.place or 'the model'}' {sentence}")

    def stored(self, name: str) -> object:
        """A parameter, a buffer (trained or not, torch keeps them apart) or a plain attribute; None if missing."""
        for table in (self._table("_parameters"), self._table("_buffers"), self.attributes):
            if table.get(name) is not None:
                return table[name]
        return None

    def tensor(self, name: str) -> np.ndarray:
        stored = self.stored(name)
        if not isinstance(stored, Tensor):
            raise self.fail(f"has no tensor '{name}'")
        array = stored.array()
        if array.dtype not in (np.float32, np.float64):
            raise self.fail(f"has the tensor '{name}' of the type {array.dtype}, expected float32 or float64")
        return array

    def activation(self) -> str:
        """Name of a Dense layer's activation; '' for none."""
        found = self._table("_modules").get("activation", self.attributes.get("activation"))
        if found is None:
            return ""
        if isinstance(found, Record):
            return "" if found.class_name == "Identity" else found.class_name
        return found.last if isinstance(found, Name) else type(found).__name__
