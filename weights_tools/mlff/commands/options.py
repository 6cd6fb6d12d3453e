# SPDX-License-Identifier: MIT
"""Options that several sub-commands share."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Callable, Iterable


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model file (.safetensors)")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def add_device_and_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--threads", type=positive_integer, default=0, metavar="N", help="of the CPU; default: as many as OpenMP takes"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("double", "single", "mixed"),
        default="default",
        help="default: double on the CPU, single on a GPU",
    )


def positive_integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return value


def positive_integers(text: str) -> list[int]:
    """'100,1000' to a list."""
    return [positive_integer(word) for word in text.split(",")]


def number(expected: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """A type of argparse's: numbers that `accepts` takes; of any other text it says that it is not `expected`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value) or not accepts(value):
            raise argparse.ArgumentTypeError(f"'{text}' is not {expected}")
        return value

    return parse


def progress(items: Iterable, **settings) -> Iterable:
    """A progress bar on stderr if that is a terminal, after a second; else just the items."""
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, disable=None, delay=1.0, leave=False, **settings)


def progress_of(**settings) -> Callable[[Iterable], Iterable]:
    return lambda items: progress(items, **settings)
