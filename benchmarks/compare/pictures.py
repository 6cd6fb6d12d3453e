# SPDX-License-Identifier: MIT
"""The pictures of a comparison: speed against size, batches, memory, layers beside their limits."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


COLOURS = {
    "mlff double": "tab:blue",
    "mlff single": "tab:green",
    "mlff mixed": "tab:red",
    "PyTorch eager": "0.6",
    "PyTorch compiled": "tab:orange",
    "SchNetPack eager": "tab:purple",
}


def style(name: str) -> dict:
    """mlff solid, peers dashed; CUDA graphs dotted; TF32 and the library's own neighbours with hollow marks."""
    colour = next((c for start, c in COLOURS.items() if name.startswith(start)), "black")
    variant = "TF32" in name or "finds" in name
    line = "-" if name.startswith("mlff") else ":" if "graph" in name else "--"
    return {
        "color": colour,
        "linestyle": line,
        "marker": "o" if name.startswith("mlff") else "s",
        "markersize": 4,
        "markerfacecolor": "white" if variant else colour,
        "linewidth": 1.3,
    }


def lines(rows: list[dict], x: str, y, axes) -> None:
    """A line a candidate, of what was measured and right."""
    rows = [row for row in rows if row["outcome"] == "measured"]
    for name in dict.fromkeys(row["candidate"] for row in rows):
        points = [(row[x], y(row)) for row in rows if row["candidate"] == name]
        if points:
            axes.plot(*zip(*points), label=name, **style(name))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)


def saved(figure, title: str, path: Path) -> None:
    figure.suptitle(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, fontsize="x-small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def sizes(rows: list[dict], where: str, folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 6.5), constrained_layout=True)
    lines(rows, "atoms", lambda row: row["atoms"] / row["median_s"], axes)
    axes.set_xlabel("atoms")
    axes.set_ylabel("atom-steps/s")
    saved(figure, f"energy + forces + virial, {where}", folder / "speed.png")


def memory(rows: list[dict], where: str, folder: Path) -> None:
    rows = [row for row in rows if row.get("bytes")]
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    lines(rows, "atoms", lambda row: row["bytes"] / row["atoms"] / 1e3, axes)
    axes.set_xlabel("atoms")
    axes.set_ylabel("kB an atom")
    saved(figure, f"memory, {where}", folder / "memory.png")


def batches(rows: list[dict], where: str, folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 6), constrained_layout=True)
    lines(rows, "structures", lambda row: 1e6 * row["median_s"], axes)
    axes.set_xlabel("molecules of 9 atoms in a call")
    axes.set_ylabel("us a call")
    saved(figure, f"batches of ethanol, {where}", folder / "batches.png")


def layers(rows: list[dict], where: str, folder: Path) -> None:
    rows = [row for row in rows if "limit_ns" in row]
    if not rows:
        return
    names = list(dict.fromkeys(row["layer"] for row in rows))
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    height = 0.8 / len(precisions)
    figure, axes = plt.subplots(figsize=(8, 5.5), constrained_layout=True)
    for k, precision in enumerate(precisions):
        mine = {row["layer"]: row for row in rows if row["precision"] == precision}
        at = [place - 0.4 + (k + 0.5) * height for place, name in enumerate(names) if name in mine]
        share = [100 * mine[name]["limit_ns"] / mine[name]["ns"] for name in names if name in mine]
        axes.barh(at, share, height, label=precision)
        for place, name in zip(at, (name for name in names if name in mine)):
            row = mine[name]
            axes.text(1, place, f"{row['ns']:.1f} ns, {row['limited_by']}", va="center", fontsize=5.5)
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("share of the limit, % (the slowest resource alone)")
    saved(figure, f"layers, {where}", folder / "layers.png")


def draw(results: dict, folder: Path) -> None:
    machine = results["machine"]
    where = machine.get("gpu") or machine["cpu"]
    for name, pictures in (("sizes", (sizes, memory)), ("batches", (batches,)), ("layers", (layers,))):
        for picture in pictures if results.get(name) else ():
            if picture is not memory or any(row.get("bytes") for row in results[name]):
                picture(results[name], where, folder)
