# SPDX-License-Identifier: MIT
"""mlff zbl: gives a model file its short range."""

from __future__ import annotations

import json

from . import options


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "zbl",
        help="keep atoms apart below the trained distances",
        description="Write the model with a short range: below the shortest distance that its training frames had for a "
        "pair of elements, the two atoms repel as screened nuclei (Ziegler, Biersack, Littmark) and the network sees "
        "them at a distance that it knows. Above it nothing changes. A short range that the file has is replaced.",
        epilog="Distances are in angstrom. A pair of elements that never met within the cutoff gets the sum of its "
        "covalent radii. mlff-train writes the short range by itself.",
    )
    options.add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--frames", nargs="+", metavar="FRAMES",
        help="the training frames: extended XYZ, or what else ASE reads; without them the shortest distances are those "
        "that mlff-train wrote into the file (info.shortest_distances)",
    )
    source.add_argument("--distances", metavar="LIST", help="shortest distances by hand: 'O-O 2.3 H-O 0.85'")
    source.add_argument("--remove", action="store_true", help="write the model without a short range")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="model file to write; may be MODEL")
    parser.add_argument(
        "--width", type=options.number("a number of 0.01 to 100 (angstrom)", lambda x: 0.01 <= x <= 100.0),
        default=None, metavar="A",
        help="from the shortest distance in to where the repulsion is there in full; default: 0.25",
    )
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments) -> int:
    from .. import short_range
    from ..errors import MlffError, require
    from ..model_file import ModelFile

    if not arguments.remove:
        require("ase", "mlff zbl", "ase")  # its readers, its covalent radii
    model = ModelFile.read(arguments.model)
    distances = {}
    if arguments.remove:
        model.short_range = None
    else:
        if arguments.frames:
            distances = short_range.read_distances(arguments.frames, model.elements, model.cutoff)
        elif arguments.distances:
            distances = short_range.parse_distances(arguments.distances, model.elements, "--distances")
        elif "shortest_distances" in model.info:
            # three decimals, which may have been rounded up
            printed = short_range.parse_distances(
                model.info["shortest_distances"], model.elements, f"{arguments.model}: info.shortest_distances")
            distances = {pair: d - 5e-4 for pair, d in printed.items()}
        else:
            raise MlffError(f"{arguments.model}: has no info.shortest_distances, expected --frames or --distances")
        model.short_range = short_range.from_distances(
            distances, model.elements, model.cutoff, arguments.width or short_range.DEFAULT_WIDTH)
    model.write(arguments.output)
    print_result(arguments, model, distances)
    return 0


def print_result(arguments, model, distances: dict) -> None:
    rows = [
        {"pair": f"{a}-{b}", "inner": inner, "outer": outer,
         "source": "training" if (a, b) in distances else "covalent radii"}
        for (a, b), (inner, outer) in (model.short_range.by_pair(model.elements) if model.short_range else {}).items()
    ]
    if arguments.json:
        print(json.dumps({"model": arguments.model, "output": arguments.output, "short_range": rows or None}, indent=2))
        return
    if rows:
        print(f"{'pair':<8} {'in full below':>13} {'acts below':>11}   angstrom")
    for row in rows:
        note = "" if row["source"] == "training" else "   never met in training: sum of covalent radii"
        print(f"{row['pair']:<8} {row['inner']:13.3f} {row['outer']:11.3f}{note}")
    print(f"{arguments.output}: written {'with' if rows else 'without'} a short range")
