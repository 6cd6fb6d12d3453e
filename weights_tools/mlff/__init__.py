# SPDX-License-Identifier: MIT
"""mlff: the tools around the mlff library, and the library from Python.

    import mlff
    model = mlff.Model("model.safetensors")
    evaluator = mlff.Evaluator(model, precision="double")
    result = evaluator.evaluate([mlff.Structure(positions, species, cell, periodic)])

    atoms.calc = mlff.Calculator("model.safetensors")  # for ASE

All energies in eV, lengths in angstrom. The physics lives in libmlff.so; nothing of it is repeated here.
"""

from .errors import ConversionError, LibraryError, MlffError, ModelFileError, UsageError

__version__ = "0.1.0"
__all__ = [
    "Calculator",
    "ConversionError",
    "Evaluator",
    "LibraryError",
    "MlffError",
    "Model",
    "ModelFile",
    "ModelFileError",
    "Result",
    "Structure",
    "UsageError",
    "library_path",
    "plugin_path",
]

_LAZY = {
    "Calculator": "calculator",
    "Evaluator": "_library",
    "Model": "_library",
    "Result": "_library",
    "Structure": "_library",
    "library_path": "_library",
    "plugin_path": "_library",
    "ModelFile": "model_file",
}


def __getattr__(name: str):
    # loaded on first use: `mlff plugin` must not wait for numpy, and all but Calculator works without ASE
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module("." + _LAZY[name], __name__), name)
    raise AttributeError(f"module 'mlff' has no attribute '{name}'")
