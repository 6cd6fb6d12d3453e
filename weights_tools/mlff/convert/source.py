# SPDX-License-Identifier: MIT
"""What the converters share: blocks of rows, elements, units."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..elements import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS
from ..errors import ConversionError, UsageError
from ..model_file import EV_IN_KCAL_PER_MOL

# name on the command line: (unit of the model file, factor from the name's unit to the file's)
_KJ_PER_MOL_IN_EV = 1.0 / 96.48533212331001  # SI 2019
ENERGY_UNITS: dict[str, tuple[str, float]] = {
    "eV": ("eV", 1.0),
    "meV": ("eV", 1e-3),
    "kcal/mol": ("kcal/mol", 1.0),
    "kJ/mol": ("eV", _KJ_PER_MOL_IN_EV),
    "Hartree": ("eV", 27.211386245988),  # CODATA 2018
}
assert abs(4.184 * _KJ_PER_MOL_IN_EV * EV_IN_KCAL_PER_MOL - 1.0) < 1e-12


@dataclass
class Conversion:
    """What a converter adds to the weights: the user's words, and what to tell the user."""

    source: str  # name of the file, for messages
    elements: list[str] | None
    energy_unit: str  # a key of ENERGY_UNITS
    provenance: str
    licence: str
    cutoff: float | None = None  # angstrom, where the checkpoint does not say it
    params: str | None = None  # nff: the file with the model's parameters, for a checkpoint without them
    energy_key: str = "energy"  # nff: the output that is the energy
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fail(self, sentence: str) -> ConversionError:
        return ConversionError(f"{self.source}: {sentence}")

    def energies(self, scale: float, shift: float, element_energies: np.ndarray) -> dict:
        """The model file's unit, scale, shift and element energies from those in the checkpoint's unit."""
        unit, factor = ENERGY_UNITS[self.energy_unit]
        return {
            "energy_unit": unit,
            "scale": float(scale) * factor,
            "shift": float(shift) * factor,
            "element_energies": [float(energy) * factor for energy in element_energies],
        }


def parse_elements(text: str) -> list[str]:
    """'H,C,O' or 'H C O' to symbols; refuses what is not an element and repetitions."""
    symbols = text.replace(",", " ").split()
    if not symbols:
        raise UsageError("--elements is empty, expected symbols such as H,C,O")
    for symbol in symbols:
        if symbol not in CHEMICAL_SYMBOLS[1:]:
            raise UsageError(f"--elements: '{symbol}' is not the symbol of a chemical element")
    if len(set(symbols)) != len(symbols):
        raise UsageError(f"--elements: an element appears twice in '{text}'")
    return symbols


def rows_of_elements(conversion: Conversion, table: np.ndarray, what: str) -> np.ndarray:
    """The rows of a table by atomic number that belong to the elements. table [rows] or [rows][F]."""
    numbers = [ATOMIC_NUMBERS[symbol] for symbol in conversion.elements]
    for symbol, number in zip(conversion.elements, numbers):
        if number >= table.shape[0]:
            raise conversion.fail(
                f"{symbol} has the atomic number {number}, but the {what} ends at {table.shape[0] - 1}"
            )
    return table[numbers]


def reorder(array: np.ndarray, order: str, wanted: str) -> np.ndarray:
    """Blocks of rows in another order. reorder(W, "v R s", "s R v"): W [3F] or [3F, n] has the rows of v first."""
    have = order.split()
    blocks = dict(zip(have, np.split(array, len(have), axis=0)))
    return np.concatenate([blocks[name] for name in wanted.split()], axis=0)


MESSAGE_ORDER = "s R v"  # of the model file, docs/model-file.md
UPDATE_ORDER = "s v sv"


def swap_halves(weight: np.ndarray) -> np.ndarray:
    """Columns for the input [s, n] from columns for [n, s]. weight [out, 2F]."""
    first, second = np.split(weight, 2, axis=1)
    return np.concatenate([second, first], axis=1)
