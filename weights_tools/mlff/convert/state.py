# SPDX-License-Identifier: MIT
"""State dictionaries: tensors by name, each taken once, so that nothing is passed over in silence."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from ..elements import CHEMICAL_SYMBOLS
from .source import Conversion, reorder
from .unpickle import Tensor


@dataclass
class StateDictionary:
    """The tensors of a model; `taken` are those that were read or left out on purpose."""

    entries: dict[str, Tensor]
    prefix: str  # of the representation: "", or "model.representation." and the like
    conversion: Conversion
    taken: set[str] = field(default_factory=set)

    def take(self, name: str) -> np.ndarray:
        """A float tensor of the representation."""
        return self.array(self.prefix + name)

    def array(self, key: str) -> np.ndarray:
        """A float tensor at the full key; ConversionError where it is missing or of another type."""
        if key not in self.entries:
            raise self.conversion.fail(f"tensor '{key}' is missing")
        self.taken.add(key)
        array = self.entries[key].array()
        if array.dtype not in (np.float32, np.float64):
            raise self.conversion.fail(f"tensor '{key}' has the type {array.dtype}, expected float32 or float64")
        return array

    def dense(self, source: str, target: str, tensors: dict, order: tuple[str, str] | None = None) -> None:
        """Copies a Linear layer; `order` = (the blocks of its rows, those wanted)."""
        weight, bias = self.take(source + ".weight"), self.take(source + ".bias")
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise self.conversion.fail(f"'{source}' has the shapes {list(weight.shape)} and {list(bias.shape)}")
        if order:
            if weight.shape[0] % 3:
                raise self.conversion.fail(f"'{source}.weight' has {weight.shape[0]} rows, expected three blocks")
            weight, bias = reorder(weight, *order), reorder(bias, *order)
        tensors[target + ".weight"], tensors[target + ".bias"] = weight, bias

    def nothing_left(self, unrelated: re.Pattern[str] | None = None) -> None:
        """Refuses tensors that were not taken; those of the representation that match `unrelated` get a note."""
        for key in self.entries:
            if key in self.taken:
                continue
            if unrelated and key.startswith(self.prefix) and unrelated.match(key[len(self.prefix) :]):
                self.conversion.notes.append(f"'{key}' does not enter the energy and is left out")
            else:
                raise self.conversion.fail(f"tensor '{key}' is not understood")


def trained_elements(content: object, shape: tuple[int, ...], conversion: Conversion) -> list[str]:
    """Elements whose embedding rows have ever had a gradient: their second moments in Adam's state are not zero."""
    ask = "give the elements with --elements"
    moments = []
    for optimizer in _optimizers(content):
        states = optimizer.get("state")
        for entry in states.values() if isinstance(states, dict) else ():
            moment = entry.get("exp_avg_sq") if isinstance(entry, dict) else None
            if isinstance(moment, Tensor) and tuple(moment.shape) == tuple(shape):
                moments.append(moment.array())
    if len(moments) != 1:
        raise conversion.fail(f"its optimizer state does not tell which elements were trained, {ask}")
    rows = np.flatnonzero(np.any(moments[0] != 0, axis=1))
    # no atom has the number 0; where weight decay is added to the gradient every row moves
    if rows.size == 0 or rows[0] == 0 or rows[-1] >= len(CHEMICAL_SYMBOLS):
        raise conversion.fail(f"its optimizer state does not tell which elements were trained, {ask}")
    elements = [CHEMICAL_SYMBOLS[row] for row in rows]
    conversion.notes.append(f"elements from the optimizer state: {' '.join(elements)}")
    return elements


def _optimizers(content: object) -> list[dict]:
    if not isinstance(content, dict):
        return []
    found = [content.get("optimizer")] + list(content.get("optimizer_states") or [])
    return [optimizer for optimizer in found if isinstance(optimizer, dict)]
