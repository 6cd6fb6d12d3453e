# SPDX-License-Identifier: MIT
"""mlff info: what a model file holds."""

from __future__ import annotations

import json

from . import options


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "info",
        help="show what a model file holds",
        description="Read a model file with the library's strict reader and show its hyperparameters, elements, "
        "origin, and the memory that a simulation needs.",
    )
    options.add_model(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> int:
    facts = collect(arguments.model)
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print_text(facts)
    return 0


def collect(path: str) -> dict:
    """Everything that is known about the model at path."""
    from .._library import Evaluator, Model
    from ..model_file import ModelFile

    model = Model(path)  # the library's judgement comes first
    file = ModelFile.read(path)
    memory = {}
    for precision in ("double", "single"):
        evaluator = Evaluator(model, device="cpu", precision=precision, threads=1)
        memory[precision] = {
            "bytes_per_atom": evaluator.bytes_per_atom,
            "bytes_per_neighbour": evaluator.bytes_per_neighbour,
        }
    return {
        "file": path,
        "architecture": model.architecture,
        "elements": list(model.elements),
        "parameters": model.n_parameters,
        "features": model.features,
        "interactions": model.interactions,
        "cutoff": model.cutoff,
        "cutoff_function": "cosine",
        "radial": model.radial,
        "radial_functions": model.radial_functions,
        "readout_features": file.readout_features,
        "epsilon": model.epsilon,
        "vector_bias": model.vector_bias,
        "rotation_equivariant": not model.vector_bias,
        "weights": "float32" if all(a.dtype.itemsize == 4 for a in file.tensors.values()) else "float64",
        "energy_unit": model.energy_unit,
        "scale": file.scale,
        "shift": file.shift,
        "element_energies": dict(zip(file.elements, file.element_energies)),
        "short_range": _short_range(file),
        "provenance": file.provenance,
        "licence": file.licence,
        "info": dict(sorted(file.info.items())),
        "memory_cpu": memory,
    }


def _short_range(file) -> dict | None:
    """Inner and outer distances of each pair (angstrom), None for a model without the term."""
    if not file.short_range:
        return None
    distances = file.short_range.by_pair(file.elements)
    return {f"{a}-{b}": {"inner": inner, "outer": outer} for (a, b), (inner, outer) in distances.items()}


def print_text(facts: dict) -> None:
    memory = facts["memory_cpu"]
    energies = ", ".join(f"{symbol} {energy:.10g}" for symbol, energy in facts["element_energies"].items())
    rows = [
        ("file", facts["file"]),
        ("architecture", facts["architecture"]),
        ("size", f"{facts['interactions']} interactions, {facts['features']} features"),
        ("parameters", f"{facts['parameters']} ({facts['weights']})"),
        ("elements", " ".join(facts["elements"])),
        ("cutoff", f"{facts['cutoff']:.10g} angstrom, {facts['cutoff_function']}"),
        ("radial basis", f"{facts['radial_functions']} {facts['radial']} functions"),
        ("readout", f"{facts['readout_features']} features"),
        ("equivariance", "rotation" if facts["rotation_equivariant"] else "not exactly: the vector mixing has a bias"),
        ("energy unit", f"{facts['energy_unit']} in the file, eV in every result"),
        ("scale, shift", f"{facts['scale']:.10g}, {facts['shift']:.10g} {facts['energy_unit']} an atom"),
        ("element energies", f"{energies} {facts['energy_unit']}"),
        ("short range", _short_range_text(facts["short_range"])),
        ("provenance", facts["provenance"]),
        ("licence", facts["licence"]),
    ]
    rows += [(f"info.{key}", value) for key, value in facts["info"].items()]
    for precision, need in memory.items():
        text = f"{need['bytes_per_atom'] / 1024:.1f} KiB an atom + {need['bytes_per_neighbour']:.0f} B a neighbour"
        rows.append((f"memory, {precision}", text))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        # a text of several lines stays in its column
        print(f"{name:<{width}}  " + str(value).replace("\n", "\n" + " " * (width + 2)))


def _short_range_text(distances: dict | None) -> str:
    if distances is None:
        return "none: below the shortest distances of its training the model knows nothing"
    return "ZBL below " + ", ".join(f"{pair} {d['outer']:g} (in full {d['inner']:g})" for pair, d in distances.items()) + \
        " angstrom"
