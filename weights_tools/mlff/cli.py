# SPDX-License-Identifier: MIT
"""The `mlff` command: info, check, eval, bench, zbl, plugin.

Exit codes: 0 well, 1 a file is bad or a check failed, 2 wrong usage. What was asked for goes to stdout, everything
else to stderr; with --json stdout holds one JSON object and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Callable

from . import __version__
from .commands import bench, check, evaluate, info, plugin, zbl
from .errors import MlffError, UsageError

_EPILOG = """All numbers are in eV and angstrom, whatever the unit of the model file.
Model files are made by mlff-convert (from other programs' checkpoints) and by mlff-train."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlff",
        description="Look at, test, evaluate and time the force fields that pair_style mlff runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlff {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (info, check, evaluate, bench, zbl, plugin):
        command.add_parser(subparsers)
    return parser


def run_safely(program: str, action: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Runs the action; failures that are the input's become one sentence on stderr and an exit code.

    interrupted: what is said where the user ends it (Ctrl-C).
    """
    try:
        status = action()
        sys.stdout.flush()  # here, where a reader that has gone is noticed
        return status
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except MlffError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the reader of our output has gone (`mlff info ... | head`); keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{program}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 130


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    return run_safely("mlff", lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
