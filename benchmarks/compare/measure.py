# SPDX-License-Identifier: MIT
"""Time of steps, and how far results are from the reference."""

from __future__ import annotations

import statistics
import time

import numpy as np

from candidates import Refused, Result
from systems import Problem

WARM_UP = 3  # steps, timed one by one and kept apart
MOST = 2000  # samples
LEAST = 3

# What a candidate's forces may be off from the reference (RMS, relative). TF32 keeps 11 bits of each factor and mixed
# stores 11: that they compute the same thing is all that is asked of them here.
BOUNDS = {"double": 1e-9, "single": 1e-4, "TF32": 3e-2, "mixed": 3e-2}


def timed(step) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def measure(candidate, seconds: float) -> dict:
    """Each sample is one step from begin to end. At least LEAST samples, then as many as fit into `seconds`."""
    first = [timed(candidate.step) for _ in range(WARM_UP)]
    samples: list[float] = []
    while len(samples) < MOST and (len(samples) < LEAST or sum(samples) < seconds):
        samples.append(timed(candidate.step))
    figures = {"median_s": statistics.median(samples), "min_s": min(samples), "samples": len(samples), "first_s": first}
    if getattr(candidate, "list", None):
        again = []
        while len(again) < MOST and (len(again) < LEAST or sum(again) < seconds / 4):
            candidate.rebuilt()
            again.append(timed(candidate.step))
        figures["rebuilt_median_s"] = statistics.median(again)
    return figures


def difference(found: Result, wanted: Result, problem: Problem) -> dict:
    """Errors: forces and virial RMS, relative; energy eV an atom, the largest of the structures."""
    sizes = np.array([len(s) for s in problem.systems])

    def relative(a, b):
        return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))

    return {
        "force_error": relative(found.forces, wanted.forces),
        "virial_error": relative(found.virial, wanted.virial),
        "energy_error_eV_per_atom": float(np.max(np.abs(found.energy - wanted.energy) / sizes)),
    }


def bound(candidate) -> float:
    return BOUNDS["TF32" if getattr(candidate, "tf32", False) else candidate.precision]


def row_of(candidate, problem: Problem, seconds: float, wanted: Result | None) -> dict:
    """Opens, compares, times and closes; what the table has to say where that fails stands in `outcome`."""
    row = {
        "system": problem.systems[0].name,
        "atoms": problem.atoms,
        "structures": len(problem.systems),
        "neighbours": problem.neighbours,
        "candidate": candidate.name,
        "outcome": "measured",
    }
    try:
        candidate.open(problem)
        candidate.step()
        if wanted is not None:
            row |= difference(candidate.result(), wanted, problem)
            if not row["force_error"] < bound(candidate):
                row["outcome"] = (
                    f"wrong: forces differ by {row['force_error']:.1e}, expected below {bound(candidate):.0e}"
                )
        row |= measure(candidate, seconds)
        row["bytes"] = candidate.bytes()
    except Refused as refusal:
        row["outcome"] = str(refusal)
    finally:
        candidate.close()
    return row
