# SPDX-License-Identifier: MIT
"""mlff bench: speed against size."""

from __future__ import annotations

import json
import time

from ..errors import LibraryError, MlffError
from . import options

DEFAULT_SIZES = [64, 256, 1024, 4096]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="time a model",
        description="Time evaluations of energy, forces and virial for several sizes, and print atom-steps a second "
        "(median of the repetitions). Each evaluation finds its neighbours anew, as a single-point calculation does; "
        "in LAMMPS the list is rebuilt only now and then.",
        epilog="Without --structure the atoms are random, at a density that gives about 53 neighbours within the "
        "cutoff, the elements of the model in equal parts.",
    )
    options.add_model(parser)
    parser.add_argument(
        "--sizes",
        type=options.positive_integers,
        default=DEFAULT_SIZES,
        metavar="N,N,...",
        help="numbers of atoms; default: " + ",".join(map(str, DEFAULT_SIZES)),
    )
    parser.add_argument("--structure", metavar="FILE", help="replicate the first frame of this file instead")
    parser.add_argument(
        "--seconds",
        type=options.number("a number of seconds above 0 and below 1e6", lambda x: 0.0 < x < 1e6),
        default=2.0,
        metavar="S",
        help="spend about so long on a size; default: 2",
    )
    options.add_precision(parser)
    options.add_device_and_threads(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from .._library import Evaluator, Model

    model = Model(arguments.model)
    evaluator = Evaluator(model, arguments.device, arguments.precision, arguments.threads)
    structures = _structures(arguments, model)
    try:
        rows = [
            _time(evaluator, structure, model.cutoff, arguments.seconds)
            for structure in options.progress(structures, desc="bench", unit="size")
        ]
    except LibraryError as error:
        if error.status != "numerical failure" or arguments.structure:
            raise
        raise MlffError(
            f"{error}; the random structure is beyond what this model can extrapolate to: name one that it knows with "
            "--structure FILE"
        ) from error
    report = {
        "model": arguments.model,
        "parameters": model.n_parameters,
        "features": model.features,
        "interactions": model.interactions,
        "cutoff": model.cutoff,
        "device": evaluator.device,
        "precision": evaluator.precision,
        "threads": evaluator.threads,
        "structure": arguments.structure or "random",
        "sizes": rows,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_text(report)
    return 0


def _structures(arguments, model) -> list:
    """One structure for each size asked for."""
    import numpy as np

    from .. import frames, structures

    if not arguments.structure:
        rng = np.random.default_rng(1)
        return [structures.random_crystal(n, len(model.elements), model.cutoff, rng) for n in arguments.sizes]
    unit = next(frames.read(arguments.structure, model)).structure
    if unit.cell is None or not all(unit.periodic):
        raise MlffError(f"{arguments.structure}: the first frame is not periodic, so it cannot be replicated")
    return [structures.replicate(unit, _copies(unit, n)) for n in arguments.sizes]


def _copies(unit, n_atoms: int) -> tuple[int, int, int]:
    """Copies along each lattice vector that give about n_atoms (at least one copy), the box as cubic as it goes."""
    import numpy as np

    lengths = np.linalg.norm(unit.cell, axis=1)
    copies = [1, 1, 1]
    while True:
        shortest = int(np.argmin(lengths * copies))
        larger = list(copies)
        larger[shortest] += 1
        if abs(np.prod(larger) * len(unit.species) - n_atoms) >= abs(np.prod(copies) * len(unit.species) - n_atoms):
            return tuple(copies)
        copies = larger


def _time(evaluator, structure, cutoff: float, seconds: float) -> dict:
    """Median time of one evaluation after a first one that allocates."""
    import numpy as np

    evaluator.evaluate_one(structure)
    times = []
    began = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - began < seconds and len(times) < 1000):
        start = time.perf_counter()
        evaluator.evaluate_one(structure)
        times.append(time.perf_counter() - start)
    n = len(structure.species)
    median = float(np.median(times))
    return {
        "atoms": n,
        "neighbours": neighbours_of_some_atoms(structure, cutoff),
        "repetitions": len(times),
        "seconds": median,
        "fastest_seconds": min(times),
        "atom_steps_per_second": n / median,
        "memory_bytes": evaluator.memory(),
    }


def neighbours_of_some_atoms(structure, cutoff: float, n_sampled: int = 200) -> float:
    """Mean number of neighbours within the cutoff, from at most n_sampled atoms."""
    import itertools

    import numpy as np

    inverse = np.linalg.inv(structure.cell)
    spread = np.ptp(structure.positions @ inverse, axis=0)
    reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + np.maximum(spread - 1.0, 0.0)).astype(int)
    n = len(structure.species)
    sampled = structure.positions[:: max(n // n_sampled, 1)]
    low, high = sampled.min(axis=0) - cutoff, sampled.max(axis=0) + cutoff
    count = -len(sampled)  # each atom finds itself once
    for image in itertools.product(*(range(-k, k + 1) for k in reach)):
        moved = structure.positions + np.array(image, float) @ structure.cell
        moved = moved[((moved > low) & (moved < high)).all(axis=1)]  # of most images of a large box little is left
        for x in sampled:
            count += int(np.sum(np.sum((moved - x) ** 2, axis=1) < cutoff**2))
    return count / len(sampled)


def print_text(report: dict) -> None:
    print(
        f"{report['model']}: {report['features']} features, {report['interactions']} interactions, "
        f"{report['precision']} precision on {report['device']}, threads: {report['threads']}"
    )
    print(f"{'atoms':>8} {'neighbours':>10} {'ms/step':>10} {'atom-steps/s':>13} {'memory MiB':>11}")
    for row in report["sizes"]:
        print(
            f"{row['atoms']:>8} {row['neighbours']:>10.1f} {1e3 * row['seconds']:>10.3f} "
            f"{row['atom_steps_per_second']:>13.0f} {row['memory_bytes'] / 2**20:>11.1f}"
        )
