# SPDX-License-Identifier: MIT
"""The `mlff-convert` command."""

from __future__ import annotations

import argparse
import os
import sys

from .. import __version__
from ..cli import run_safely
from ..commands import options
from ..errors import MlffError, UsageError
from . import dtu, nff, schnetpack
from .source import ENERGY_UNITS, Conversion, parse_elements

_EPILOG = """Nothing in a checkpoint is executed: its pickle is read as plain data, and what is not understood is
refused by name. Neither torch nor the program that wrote the checkpoint is needed. docs/converting.md says what
is supported."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlff-convert",
        description="Convert a PaiNN checkpoint of another program to a model file, and evaluate what was written.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlff-convert {__version__}")
    subparsers = parser.add_subparsers(title="sources", metavar="SOURCE", required=True)
    _add_source(
        subparsers,
        "schnetpack",
        schnetpack.convert,
        "a whole model of SchNetPack 2.x (best_model)",
        "Convert a whole-module file of SchNetPack 2.x, such as its training saves as best_model.",
    )
    source = _add_source(
        subparsers,
        "dtu",
        dtu.convert,
        "a state dictionary of cPaiNN, painn-sli or curator",
        "Convert a state dictionary of cPaiNN, painn-sli or curator (.pth).",
    )
    _add_cutoff(source)
    source = _add_source(
        subparsers,
        "nff",
        nff.convert,
        "a whole model or a training state of nff (best_model, best_model.pth.tar)",
        "Convert a PaiNN of nff (Neural Force Field): the whole model, or the state of its training.",
    )
    _add_cutoff(source)
    source.add_argument(
        "--params", metavar="FILE", help="nff's params.json; for a training state, which lacks the cutoff"
    )
    source.add_argument(
        "--energy-key", metavar="KEY", default="energy", help="the output that is the energy; default: energy"
    )
    return parser


def _add_cutoff(source: argparse.ArgumentParser) -> None:
    source.add_argument(
        "--cutoff",
        type=options.number("a length above 0 and below 1e6 (angstrom)", lambda x: 0.0 < x < 1e6),
        metavar="R",
        help="cutoff radius in angstrom, if the file does not say it",
    )


def _add_source(subparsers, name: str, convert, help_text: str, description: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=help_text, description=description)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file to convert")
    parser.add_argument("-o", "--output", metavar="MODEL", required=True, help="the model file to write (.safetensors)")
    elements_help = "symbols of the elements that the model was trained on, such as H,C,O"
    if name != "schnetpack":
        elements_help += "; default: those whose embedding the optimizer in the file has moved"
    parser.add_argument("--elements", metavar="A,B,...", required=name == "schnetpack", help=elements_help)
    parser.add_argument(
        "--energy-unit",
        required=True,
        choices=tuple(ENERGY_UNITS),
        help="unit of the energies that the model was trained on; lengths are angstrom",
    )
    parser.add_argument("--licence", metavar="TEXT", default="not stated", help="of the weights; default: not stated")
    parser.add_argument("--provenance", metavar="TEXT", help="where the weights come from; default: the file's name")
    parser.set_defaults(convert=convert, source=name)
    return parser


def run(arguments) -> int:
    if os.path.exists(arguments.output) and os.path.exists(arguments.checkpoint):
        if os.path.samefile(arguments.output, arguments.checkpoint):
            raise UsageError(f"{arguments.output}: MODEL is the same file as CHECKPOINT")
    name = os.path.basename(arguments.checkpoint)
    conversion = Conversion(
        source=arguments.checkpoint,
        elements=parse_elements(arguments.elements) if arguments.elements is not None else None,
        energy_unit=arguments.energy_unit,
        provenance=arguments.provenance or f"converted by mlff-convert {arguments.source} from {name}",
        licence=arguments.licence,
        cutoff=getattr(arguments, "cutoff", None),
        params=getattr(arguments, "params", None),
        energy_key=getattr(arguments, "energy_key", "energy"),
    )
    model = arguments.convert(arguments.checkpoint, conversion)
    model.check(arguments.checkpoint)
    model.write(arguments.output)
    for note in conversion.notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{arguments.output}: PaiNN, {model.interactions} interactions, {model.features} features, "
        f"{model.n_parameters()} parameters, {model.radial_functions} {model.radial} functions, cutoff "
        f"{model.cutoff:.10g} angstrom, elements {' '.join(model.elements)}"
    )
    report(arguments.output, conversion)
    return 0


def report(path: str, conversion: Conversion) -> None:
    """Evaluates the file and says what came out; a file that fails is left for inspection under another name."""
    from .verify import verify

    try:
        found = verify(path)
    except MlffError as error:
        os.replace(path, path + ".failed")
        raise type(error)(f"{error} (what was written is in {path}.failed)") from None
    print(
        f"evaluated: {found.n_atoms} random atoms, energy {found.energy:.6f} eV, largest force "
        f"{found.largest_force:.4f} eV/angstrom, forces agree with differences of the energy to "
        f"{found.force_deviation:.1e}"
    )
    for warning in conversion.warnings + found.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    return run_safely("mlff-convert", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
