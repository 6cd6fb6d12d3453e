#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""O-O radial distribution of frames, which the example's picture shows beside that of its run.

    python rdf.py water.extxyz ../reference/rdf_data.json

writes r (angstrom, middle of each bin) and g, averaged over the frames by ASE, in the bins of in.water.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
from ase.geometry.rdf import get_rdf
from ase.io import iread
from tqdm import tqdm

LONGEST, BINS = 6.2, 124  # angstrom; less than half of the data's box


def oxygen_distribution(frames) -> tuple[np.ndarray, np.ndarray, int]:
    """(r [BINS] angstrom, g [BINS], number of frames), g = 1 for atoms that do not see each other.

    As in LAMMPS an atom is no neighbour of its own: N - 1 others make up the mean density, where ASE counts N.
    """
    total, n = np.zeros(BINS), 0
    for atoms in frames:
        oxygen = atoms[[a.index for a in atoms if a.symbol == "O"]]
        g, r = get_rdf(oxygen, LONGEST, BINS)
        total += g * len(oxygen) / (len(oxygen) - 1)
        n += 1
    if not n:
        sys.exit("rdf: the file has no frames")
    return r, total / n, n


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", help="frames that ASE reads, such as prepare.py writes")
    parser.add_argument("output", type=Path, help="JSON to write")
    parser.add_argument("--source", default="", help="words on where the frames come from")
    args = parser.parse_args()
    r, g, n = oxygen_distribution(tqdm(iread(args.frames, index=":"), unit="frame", disable=None))
    table = {"source": args.source or Path(args.frames).name, "frames": n, "r": [round(x, 4) for x in r.tolist()],
             "g": [round(x, 4) for x in g.tolist()]}
    args.output.write_text(json.dumps(table) + "\n")
    print(f"{args.output}: {n} frames, first peak {g.max():.2f} at {r[g.argmax()]:.2f} angstrom")
    return 0


if __name__ == "__main__":
    sys.exit(main())
