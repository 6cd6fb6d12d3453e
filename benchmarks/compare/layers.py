# SPDX-License-Identifier: MIT
"""Each layer's time beside the least that its arithmetic and its memory traffic need: the share of the limit.

Times come from mlff_layers (layers.c). The model below counts, an atom, what no kernel can leave out:

  matrix   multiply-adds of dense layers, through the matrix units
  filter   multiply-adds of the filters W = sum_k Wf[k] phi_k, through the matrix units (E edges, K + 1 functions)
  plain    multiply-adds through the ordinary units: sums over edges
  gather   values read from neighbours' rows, wherever they are cached
  stream   bytes that pass DRAM once: rows read, rows written, edges; a gathered row counts once

F features, K radial functions, H readout features, Z elements, E edges an atom; b bytes of a stored value, c bytes of a
computed one (state.cuh), an edge 4c. The limit is the slowest of the five alone: everything else fully overlapped.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass


@dataclass
class Work:
    matrix: float = 0
    filter: float = 0
    plain: float = 0
    gather: float = 0
    stream: float = 0


def work(F: int, K: int, H: int, Z: int, E: float, b: int, c: int) -> dict[str, Work]:
    edges, functions = 4 * c * E, K + 1
    return {
        # candidates' indices and a position in; edges, rows and slots out
        "positions, edges": Work(stream=8 * E + 24 + edges + 12 * E),
        # A, B over the edges, then (s, v) from them; the reverse contracts to the same coefficients
        "first message": Work(plain=4 * E * functions + 4 * F * functions * Z, stream=edges + F * c + 3 * F * b),
        "first message, reverse": Work(plain=8 * E * functions + 4 * F * functions * Z, stream=3 * edges + 4 * F * b),
        # V, U 6 F^2; A1 2 F^2; A2 3 F^2 (2 in the last). In: s, v; out: s, v, and VU, slope, y_sv, y_v for the reverse
        "update, first": Work(matrix=11 * F * F, stream=2 * F * c + (3 + 3 + 6 + 1 + 2) * F * b),
        "update, last": Work(matrix=10 * F * F, stream=2 * F * c + (3 + 6 + 1 + 1) * F * b),
        "update, first, reverse": Work(matrix=11 * F * F, stream=(4 + 6 + 1 + 2 + 4) * F * b),
        "update, last, reverse": Work(matrix=10 * F * F, stream=(4 + 6 + 1 + 1 + 4) * F * b),
        # in: s, v; out: features, slope, x_v. Reverse in: features_adj, v, x_v, slope, adj; out: adj
        "context": Work(matrix=4 * F * F, stream=F * c + (3 + 5 + 1 + 1) * F * b),
        "context, reverse": Work(matrix=4 * F * F, stream=(5 + 3 + 1 + 1 + 4 + 4) * F * b),
        # sums: s 1, x_R u 4, y 3 an edge and feature; reverse: adjoints 8, d_adj 8, u_adj 4, and W' beside W
        "message": Work(
            filter=3 * F * functions * E,
            plain=8 * F * E,
            gather=5 * F * E,
            stream=edges + 2 * F * c + (5 + 3 + 3) * F * b,
        ),
        "message, reverse": Work(
            filter=6 * F * functions * E, plain=20 * F * E, gather=4 * F * E, stream=3 * edges + (4 + 5 + 5) * F * b
        ),
        "readout": Work(matrix=F * H, stream=F * c + H * b),
        "readout, reverse": Work(matrix=F * H, stream=H * b + 4 * F * b),
        # edges and their adjoints in; slots' gradients (3 doubles) out and in twice; forces out
        "forces": Work(stream=2 * edges + 8 * E + 3 * 24 * E + 8 * E + 24),
    }


@dataclass
class Rates:
    """What one GPU can do at most. Data sheet (dense), except the gathers: a warp an atom that sums its neighbours'
    rows of 640 fp32 values did 18.8e12 B/s on an H200, atoms in Morton order."""

    dram: float  # B/s
    gather: float = 18.8e12  # B/s
    fp64: float = 33.5e12  # flop/s
    fp64_matrix: float = 67e12
    fp32: float = 67e12
    tf32_matrix: float = 494e12
    fp16_matrix: float = 989e12


RATES = {"H200": Rates(dram=4.8e12), "H100": Rates(dram=3.35e12)}


def limit_ns(w: Work, rates: Rates, precision: str, b: int) -> dict[str, float]:
    """Each resource's least time, ns an atom. Single makes fp32 products of three TF32 or three fp16 ones."""
    dense, filters, plain = {
        "double": (rates.fp64_matrix, rates.fp64_matrix, rates.fp64),
        "single": (rates.tf32_matrix / 3, rates.fp16_matrix / 3, rates.fp32),
        "mixed": (rates.fp16_matrix, rates.fp16_matrix, rates.fp32),
    }[precision]
    # fmt: off
    return {"dense layers": 2e9 * w.matrix / dense, "filters": 2e9 * w.filter / filters, "sums": 2e9 * w.plain / plain,
            "gathers": 1e9 * b * w.gather / rates.gather, "DRAM": 1e9 * w.stream / rates.dram}
    # fmt: on


BYTES = {"double": (8, 8), "single": (4, 4), "mixed": (2, 4)}  # stored, computed


def parse(text: str) -> tuple[dict, dict[str, tuple[int, float]]]:
    """(atoms, neighbours), layer -> (how often, ns an atom)."""
    head = re.search(r"(\d+) atoms, ([\d.]+) neighbours", text)
    layers = {
        name.strip(): (int(count), float(ns))
        for name, count, ns in re.findall(r"^(.*?) +(\d+) x +([\d.]+) ns an atom", text, re.MULTILINE)
    }
    return {"atoms": int(head[1]), "neighbours": float(head[2])}, layers


def rows(
    program: str, model_path: str, model, file, device: str, gpu: str, precision: str, side: int, threads: int
) -> list[dict]:
    """A row for each layer, or one row that says why there is none."""
    head = {"precision": precision, "outcome": "measured"}
    command = [program, model_path, device, precision, str(side), str(threads or 1)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [head | {"outcome": str(error)}]
    if done.returncode:
        return [head | {"outcome": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]}]
    found, layers = parse(done.stdout)
    rates = next((r for name, r in RATES.items() if name in gpu), None)
    b, c = BYTES[precision]
    least = work(
        model.features, model.radial_functions, file.readout_features, len(model.elements), found["neighbours"], b, c
    )
    out = []
    for name, (count, ns) in layers.items():
        row = head | found | {"layer": name, "count": count, "ns": ns}
        if rates and name in least:
            parts = limit_ns(least[name], rates, precision, b)
            row |= {"parts_ns": parts, "limit_ns": max(parts.values()), "limited_by": max(parts, key=parts.get)}
        out.append(row)
    return out
