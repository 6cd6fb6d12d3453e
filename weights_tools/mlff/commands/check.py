# SPDX-License-Identifier: MIT
"""mlff check: the self-test of a model."""

from __future__ import annotations

import argparse
import json
import sys

from . import options


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "check",
        help="test a model on a random structure",
        description="Evaluate a model on random structures and test what every force field must obey: forces and "
        "virial against differences of the energy, translation, rotation, permutation, extensivity, smoothness at the "
        "cutoff, single against double precision, the same bits on repetition.",
        epilog="A model whose vector mixing has a bias is not rotation-equivariant; that is shown and does not fail. "
        "Exit code 1 if a test fails.",
    )
    options.add_model(parser)
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of the random structures; default: 1")
    parser.add_argument(
        "--atoms", type=options.positive_integer, default=20, metavar="N", help="in the structures; default: 20"
    )
    options.add_device_and_threads(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def run(arguments) -> int:
    from .._library import Model
    from ..selftest import SelfTest

    model = Model(arguments.model)
    test = SelfTest(model, arguments.seed, arguments.atoms, arguments.threads, arguments.device)
    measurements = test.run(options.progress_of(desc="check", unit="test"))
    failed = [m for m in measurements if not m.passed]
    if arguments.json:
        report = {
            "model": arguments.model,
            "device": test.double.device,
            "seed": arguments.seed,
            "rotation_equivariant": not model.vector_bias,
            "passed": not failed,
            "tests": [m.as_dict() for m in measurements],
        }
        print(json.dumps(report, indent=2))
    else:
        print_text(model.name, measurements)
    if failed:
        print(f"mlff: {arguments.model}: {len(failed)} of {len(measurements)} tests failed", file=sys.stderr)
    return 1 if failed else 0


def print_text(name: str, measurements: list) -> None:
    print(name)
    for m in measurements:
        verdict = "shown" if m.bound is None else "ok" if m.passed else "FAILED"
        bound = "" if m.bound is None else f"<= {m.bound:.0e}"
        remark = f"  ({m.remark})" if m.remark else ""
        print(f"  {verdict:<7} {m.name:<44} {m.value:9.2e} {bound:>8} {m.unit}{remark}")
