# SPDX-License-Identifier: MIT
"""mlff eval: energies, forces and virials of the frames of a file."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack

from ..errors import MlffError, UsageError
from . import options


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="evaluate the frames of a file",
        description="Evaluate every frame of a file. Where the frames carry energy, forces, virial or stress, print "
        "a table of errors (model minus file).",
        epilog="Units are eV and angstrom; a virial in FRAMES is -dE/dstrain in eV, a stress has ASE's sign. OUT is "
        "extended XYZ with 17 significant digits: energy, virial (nine numbers, column by column, eV, -dE/dstrain), "
        "forces and energies of the atoms; ASE reads it.",
    )
    options.add_model(parser)
    parser.add_argument("frames", metavar="FRAMES", help="extended XYZ, or what else ASE reads; .xz, .gz, .bz2 too")
    parser.add_argument("-o", "--output", metavar="OUT", help="write the results there (.extxyz; .xz compresses)")
    options.add_precision(parser)
    options.add_device_and_threads(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from .. import frames
    from .._library import Evaluator, Model

    output = arguments.output
    if output and os.path.exists(output) and os.path.samefile(output, arguments.frames):
        raise UsageError(f"{output}: OUT is the same file as FRAMES")
    model = Model(arguments.model)
    evaluator = Evaluator(model, arguments.device, arguments.precision, arguments.threads)
    errors = frames.Errors()
    n_frames = n_atoms = 0
    began = time.perf_counter()
    with ExitStack() as stack:
        file = stack.enter_context(_Output(output)) if output else None
        given = options.progress(frames.read(arguments.frames, model), desc="eval", unit="frame")
        for frame, result in frames.evaluate(given, evaluator):
            errors.add(frame, result)
            n_frames, n_atoms = n_frames + 1, n_atoms + len(frame.symbols)
            if file:
                frames.write(file, frame, result)
    report = {
        "model": arguments.model,
        "frames": arguments.frames,
        "n_frames": n_frames,
        "n_atoms": n_atoms,
        "device": evaluator.device,
        "precision": evaluator.precision,
        "threads": evaluator.threads,
        "seconds": time.perf_counter() - began,
        "output": output,
        "errors": {d.name: d.as_dict() for d in errors.measured()},
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_text(report)
    return 0


class _Output:
    """The output file under another name until all frames are in it: a failure leaves no half-written file."""

    def __init__(self, path: str):
        self.path = path
        folder, name = os.path.split(path)
        self.partial = os.path.join(folder, "part-" + name)  # keeps the ending, by which it is compressed

    def __enter__(self):
        from ase.io.formats import open_with_compression

        try:
            self.file = open_with_compression(self.partial, "w")
        except OSError as error:
            raise MlffError(f"{self.path}: cannot be written: {error.strerror}") from None
        return self.file

    def __exit__(self, kind, _error, _traceback) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            os.unlink(self.partial)


def print_text(report: dict) -> None:
    print(
        f"{report['n_frames']} frames, {report['n_atoms']} atoms, {report['precision']} precision on "
        f"{report['device']}, {report['seconds']:.2f} s"
    )
    if report["errors"]:
        print(f"{'model - file':<12} {'unit':<13} {'values':>9} {'MAE':>10} {'RMSE':>10} {'mean':>10} {'largest':>10}")
        for name, error in report["errors"].items():
            numbers = " ".join(f"{error[key]:10.4g}" for key in ("mae", "rmse", "mean", "largest"))
            print(f"{name:<12} {error['unit']:<13} {error['count']:>9} {numbers}")
    else:
        print("the frames carry no energy, forces, virial or stress to compare with")
    if report["output"]:
        print(f"results in {report['output']}")
