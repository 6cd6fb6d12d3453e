# SPDX-License-Identifier: MIT
"""Calculators of ASE by name, for mlff-label.

A name is one of
  tblite               GFN2-xTB or another method of tblite (package tblite)
  FILE.safetensors     a model file, through the C library
  package.module:Name  any class or function that gives a calculator
  a name of ASE's own  emt, lj, orca, ... (ase.calculators.calculator.names)
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
from dataclasses import dataclass, field
from typing import Any, Callable

from .errors import MlffError, UsageError, require
from .files import file_hash


@dataclass(frozen=True)
class Recipe:
    """How to make a calculator, in this process or in another one."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


def parse(words: list[str]) -> Recipe:
    """From `NAME KEY=VALUE ...`; a value is a literal of Python (3, 0.5, True, [1, 2]) or else a text."""
    name, *options = words
    if "=" in name:
        raise UsageError(f"--calculator begins with '{name}', expected the name of a calculator before KEY=VALUE")
    values: dict[str, Any] = {}
    for word in options:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--calculator {name}: '{word}', expected KEY=VALUE (FRAMES stands before --calculator)")
        if key in values:
            raise UsageError(f"--calculator {name}: {key} is given twice")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return Recipe(name, values)


def make(recipe: Recipe):
    """The calculator; MlffError says why there is none."""
    maker, options = _maker(recipe.name), dict(recipe.options)
    if recipe.name == "tblite":
        unknown = set(options) - set(maker.default_parameters)  # which tblite itself would pass over
        if unknown:
            raise UsageError(f"--calculator tblite: unknown option {' '.join(sorted(unknown))}, expected some of "
                             f"{' '.join(sorted(maker.default_parameters))}")
        options.setdefault("verbosity", 0)  # it writes to stdout
    try:
        calculator = maker(**options)
    except MlffError:
        raise
    except Exception as error:  # a calculator of anyone's raises anything
        raise MlffError(f"--calculator {recipe}: cannot be made: {type(error).__name__}: {error}") from None
    if not hasattr(calculator, "get_forces"):
        raise MlffError(f"--calculator {recipe}: gives a {type(calculator).__name__}, expected a calculator of ASE")
    return calculator


def describe(recipe: Recipe) -> str:
    """What is kept with each frame: name and options, version of the package or hash of the model file."""
    if recipe.name.endswith(".safetensors"):
        name = Recipe(os.path.basename(recipe.name), recipe.options)
        return f"mlff {name} (sha256 {file_hash(recipe.name)})"
    module = str(getattr(_maker(recipe.name), "__module__", "")).partition(".")[0]
    try:
        return f"{recipe} ({module} {importlib.metadata.version(module)})"
    except (importlib.metadata.PackageNotFoundError, ValueError):  # a module that is no installed package
        return str(recipe)


def _maker(name: str) -> Callable:
    """The class or function that gives the calculator."""
    if name == "tblite":
        require("tblite.ase", "--calculator tblite", "label")
        from tblite.ase import TBLite

        return TBLite
    if name.endswith(".safetensors"):
        from .calculator import Calculator

        return lambda **options: Calculator(name, **options)
    if ":" in name:
        return _imported(*name.split(":", 1))
    from ase.calculators.calculator import get_calculator_class, names

    if name not in names:
        raise UsageError(f"--calculator {name}: not a known name; expected tblite, a model file (.safetensors), "
                         "package.module:Name, or a name of ASE's such as emt")
    try:
        return get_calculator_class(name)
    except ImportError as error:
        raise MlffError(f"--calculator {name}: cannot be imported: {error}") from None


def _imported(module: str, attribute: str) -> Callable:
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise MlffError(f"--calculator {module}:{attribute}: cannot be imported: {error}") from None
    if not callable(found):
        raise MlffError(f"--calculator {module}:{attribute}: is a {type(found).__name__}, expected a class or function")
    return found
