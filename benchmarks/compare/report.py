# SPDX-License-Identifier: MIT
"""compare.json as a Markdown table and as pictures."""

from __future__ import annotations

from pathlib import Path

COMPILED = ("PyTorch compiled, TF32", "PyTorch compiled")  # what the ratio is taken to: the first that was measured


def say(row: dict) -> None:
    """A line of progress."""
    what = row.get("candidate") or f"lammps {row['precision']}, neigh {row['neigh']}"
    size = f"{row.get('structures', 1)} x " if row.get("structures", 1) > 1 else ""
    figure = row.get("median_s") or row.get("step_s") or row.get("late_s") or row.get("gpu_s")
    error = f", forces {row['force_error']:.1e}" if "force_error" in row else ""
    print(
        f"{what:40s} {size}{row.get('atoms', '')} atoms: {duration(figure) + error if figure else row['outcome']}",
        flush=True,
    )


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def speed(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e") if value >= 1e5 else f"{value:,.0f}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def unique(values):
    return list(dict.fromkeys(values))


def short(outcome: str) -> str:
    """An outcome for a cell; sentences go below the table."""
    return outcome if len(outcome) < 20 else "-"


def fastest_peer(rows: list[dict], key: str, value) -> dict | None:
    peers = [
        row for row in rows if row[key] == value and row["outcome"] == "measured" and row["candidate"][:4] != "mlff"
    ]
    return min(peers, key=lambda row: row["median_s"], default=None)


def over_peers(rows: list[dict], key: str, columns: list, head: list[str]) -> str:
    """mlff's speed over compiled PyTorch's, which takes any size, and over the fastest way that was measured."""

    def ratio(peer):
        return lambda row: f"{peer(row)['median_s'] / row['median_s']:.3g}" if peer(row) else "-"

    mine = [row for row in rows if row["candidate"].startswith("mlff")]
    text = "\nTimes the speed of compiled PyTorch (with TF32 where the device has it):\n\n"
    text += markdown_table(
        head, crossed(mine, lambda row: row[key], columns, ratio(lambda row: base_of(rows, key, row[key])))
    )
    fastest = [fastest_peer(rows, key, c) for c in columns]
    text += "\nTimes the speed of the fastest peer of the column:\n\n"
    lines = crossed(mine, lambda row: row[key], columns, ratio(lambda row: fastest_peer(rows, key, row[key])))
    return text + markdown_table(head, lines + [["which is"] + [row["candidate"] if row else "-" for row in fastest]])


def crossed(rows: list[dict], column, columns: list, cell) -> list[list[str]]:
    """A line a candidate, a column a size."""
    at = {(row["candidate"], column(row)): row for row in rows}
    lines = []
    for name in unique(row["candidate"] for row in rows):
        cells = [at.get((name, c)) for c in columns]
        if any(row and row["outcome"] == "measured" for row in cells):
            lines.append(
                [name]
                + [
                    cell(row) if row and row["outcome"] == "measured" else short(row["outcome"]) if row else ""
                    for row in cells
                ]
            )
    return lines


def sentence(row: dict) -> str:
    """What kept a row out of its table; a wrong one with its size and time."""
    said = f"{row.get('candidate') or row.get('precision', '')}: {row['outcome']}"
    if row["outcome"].startswith("wrong"):
        said += f" ({row['atoms']:,} atoms, {duration(row.get('median_s'))} a step)"
    return said


def refusals(rows: list[dict]) -> str:
    """Sentences that stand in no cell."""
    said = unique(
        sentence(row)
        for row in rows
        if row["outcome"] != "measured"
        and len(row["outcome"]) >= 20
        and not row["outcome"].startswith(("only up to", "a list is for"))
    )
    return "".join(f"* {line}\n" for line in said)


def base_of(rows: list[dict], key: str, value) -> dict | None:
    for name in COMPILED:
        for row in rows:
            if row["candidate"] == name and row[key] == value and row["outcome"] == "measured":
                return row
    return None


def sizes(rows: list[dict]) -> str:
    atoms = unique(row["atoms"] for row in rows)
    names = {row["atoms"]: row["system"] for row in rows}
    head = [""] + [f"{n:,} ({names[n]})" if names[n] != "box" else f"{n:,}" for n in atoms]
    by_atoms = lambda row: row["atoms"]  # noqa: E731

    text = "## Sizes\n\nA step (median), by atoms:\n\n"
    text += markdown_table(head, crossed(rows, by_atoms, atoms, lambda row: duration(row["median_s"])))
    text += "\nAtom-steps/s:\n\n"
    text += markdown_table(head, crossed(rows, by_atoms, atoms, lambda row: speed(row["atoms"] / row["median_s"])))
    text += over_peers(rows, "atoms", atoms, head)
    text += "\nA step in which the list is read again:\n\n"
    listed = [row for row in rows if "rebuilt_median_s" in row]
    text += markdown_table(head, crossed(listed, by_atoms, atoms, lambda row: duration(row["rebuilt_median_s"])))
    text += "\n" + refusals(rows)
    text += memory(rows, atoms, head) + agreement(rows, atoms, head)
    return text


def memory(rows: list[dict], atoms: list[int], head: list[str]) -> str:
    rows = [row for row in rows if row.get("bytes") or row["outcome"] == "out of memory"]
    cell = lambda row: f"{row['bytes'] / row['atoms'] / 1e3:,.1f}"  # noqa: E731
    text = "\n## Memory, kB an atom\n\nmlff: all that the evaluator holds; PyTorch: the largest sum of its tensors.\n\n"
    return text + markdown_table(head, crossed(rows, lambda row: row["atoms"], atoms, cell))


def agreement(rows: list[dict], atoms: list[int], head: list[str]) -> str:
    text = "\n## Agreement\n\nRelative RMS difference of the forces; reference: "
    text += "; ".join(unique(f"{n:,} atoms {row['reference']}" for n in atoms for row in rows if row["atoms"] == n))
    text += ".\n\n"
    rows = [row for row in rows if "force_error" in row]
    text += markdown_table(
        head, crossed(rows, lambda row: row["atoms"], atoms, lambda row: f"{row['force_error']:.1e}")
    )
    text += "\nLargest difference of the energy, eV an atom:\n\n"
    cell = lambda row: f"{row['energy_error_eV_per_atom']:.1e}"  # noqa: E731
    return text + markdown_table(head, crossed(rows, lambda row: row["atoms"], atoms, cell))


def batches(rows: list[dict]) -> str:
    counts = unique(row["structures"] for row in rows)
    text = "\n## Batches of ethanol (9 atoms)\n\nA step for so many molecules; mlff finds the neighbours in it:\n\n"
    head = [""] + [str(k) for k in counts]
    text += markdown_table(
        head, crossed(rows, lambda row: row["structures"], counts, lambda row: duration(row["median_s"]))
    )
    text += over_peers(rows, "structures", counts, head)
    one = {row["candidate"]: row["median_s"] for row in rows if row["structures"] == 1 and "median_s" in row}
    text += "\nTimes the step of one molecule:\n\n"

    def ratio(row):
        return f"{row['median_s'] / one[row['candidate']]:.2f}" if row["candidate"] in one else ""

    return (
        text + markdown_table(head, crossed(rows, lambda row: row["structures"], counts, ratio)) + "\n" + refusals(rows)
    )


def steps(rows: list[dict]) -> str:
    text = (
        "\n## Warm-up\n\nSteps of one evaluator, or one module, whose system changes from 9 to 21 to 1,000 atoms:\n\n"
    )
    lines = [
        [
            row["candidate"],
            f"{row['atoms']:,}",
            *[duration(t) for t in row["first_s"]],
            f"{duration(row['late_s'])} (step {row['late_step']})",
        ]
        for row in rows
        if row["outcome"] == "measured"
    ]
    return (
        text + markdown_table(["", "atoms", "step 1", "step 2", "step 3", "a late one"], lines) + "\n" + refusals(rows)
    )


def kernels(rows: list[dict]) -> str:
    measured = [row for row in rows if row["outcome"] == "measured"]
    text = "\n## The GPU's own time\n\nKernels and copies of one step with a list given, added up, and how many:\n\n"
    lines = [
        [row["candidate"], f"{row['atoms']:,}", duration(row["gpu_s"]), f"{row['launches']:.0f}"] for row in measured
    ]
    text += markdown_table(["", "atoms", "GPU busy", "kernels and copies"], lines) + "\n"
    shown = (min((row["atoms"] for row in measured), default=0), max((row["atoms"] for row in measured), default=0))
    for row in (row for row in measured if row["atoms"] in shown):
        text += f"{row['candidate']}, {row['atoms']:,} atoms, the longest:\n\n"
        lines = [
            [
                f"`{k['name']}`",
                f"{k['launches']:.0f}",
                duration(k["s"]),
                f"{1e9 * k['s'] / row['atoms']:.2f}",
                f"{k['s'] / row['gpu_s']:.0%}",
            ]
            for k in row["kernels"][:16]
        ]
        text += markdown_table(["kernel", "times", "a step", "ns an atom", "share"], lines) + "\n"
    return text + refusals(rows)


def lammps(rows: list[dict]) -> str:
    text = (
        "\n## LAMMPS, one rank\n\nA step end to end, a list rebuilt every 20 steps in it; parts by LAMMPS's own clock. "
        "Overhead: the share of the step that is not the evaluation alone, as measured above.\n\n"
    )
    lines = []
    for row in rows:
        if row["outcome"] != "measured":
            continue
        step, parts, alone = row["step_s"], row["parts_s"], row.get("evaluation_s")
        lines.append(
            [
                f"{row['precision']}, neigh {row['neigh']}",
                f"{row['atoms']:,}",
                duration(step),
                speed(row["atoms"] / step),
                f"{parts.get('pair', 0) / step:.0%}",
                f"{parts.get('neigh', 0) / step:.0%}",
                f"{parts.get('comm', 0) / step:.0%}",
                f"{max(0.0, 1 - alone / step):.0%}" if alone else "",
            ]
        )
    text += markdown_table(["", "atoms", "a step", "atom-steps/s", "Pair", "Neigh", "Comm", "overhead"], lines)
    said = unique(
        f"{row.get('precision', '')}, neigh {row.get('neigh', '')}: {row['outcome']}"
        for row in rows
        if row["outcome"] != "measured"
    )
    return text + "\n" + "".join(f"* {sentence}\n" for sentence in said)


def layers(rows: list[dict]) -> str:
    measured = [row for row in rows if row["outcome"] == "measured"]
    text = "\n## Layers\n\nns an atom, and the share of the limit that the layer's own work sets (layers.py).\n\n"
    for precision in unique(row["precision"] for row in measured):
        mine = [row for row in measured if row["precision"] == precision]
        text += f"{precision}, {mine[0]['atoms']:,} atoms, {mine[0]['neighbours']:.1f} neighbours:\n\n"
        lines = [
            [
                row["layer"],
                str(row["count"]),
                f"{row['ns']:.2f}",
                f"{row['limit_ns']:.2f}" if "limit_ns" in row else "",
                row.get("limited_by", ""),
                f"{row['limit_ns'] / row['ns']:.0%}" if "limit_ns" in row else "",
            ]
            for row in mine
        ]
        total = sum(row["count"] * row["ns"] for row in mine)
        least = sum(row["count"] * row.get("limit_ns", 0) for row in mine)
        lines.append(
            ["sum", "", f"{total:.1f}", f"{least:.1f}" if least else "", "", f"{least / total:.0%}" if least else ""]
        )
        text += markdown_table(["layer", "times", "ns", "limit, ns", "set by", "share"], lines) + "\n"
    return text + refusals(rows)


def head(results: dict) -> str:
    m, model = results["machine"], results["model"]
    where = (
        f"{m['gpu']}, driver {m['driver']}, mlff built with CUDA {m['mlff_cuda']}, PyTorch {m['torch']} (CUDA "
        f"{m['torch_cuda']}); {m['cpu']}"
        if m["device"] == "cuda"
        else f"{m['cpu']}, PyTorch {m['torch']}"
    )
    return (
        f"# mlff beside its peers\n\n{where}, {m['processors']} processors; {m['date']}, commit {m['commit'][:12]}. "
        f"PaiNN of {model['features']} features, {model['interactions']} interactions, {model['radial_functions']} "
        f"radial functions, {model['cutoff']:g} A ({model['file']}). Energy + forces + virial. Made by "
        f"`python benchmarks/compare` in {results['wall_s']:.0f} s; every figure: compare.json.\n\n"
        + "".join(f"* {note}\n" for note in results["notes"] + earlier(results))
        + "\n"
    )


def earlier(results: dict) -> list[str]:
    """Which sections other runs measured."""
    runs = {}
    for section, run in results.get("earlier", {}).items():
        where = f"{run.get('gpu') or run.get('cpu')}" + (f", driver {run['driver']}" if "driver" in run else "")
        runs.setdefault(f"{run['date']}, commit {run['commit'][:12]}, {where}", []).append(section)
    return [f"{', '.join(sections)}: of an earlier run, {run}" for run, sections in runs.items()]


def write(results: dict, folder: Path) -> None:
    parts = {"sizes": sizes, "batches": batches, "steps": steps, "kernels": kernels, "lammps": lammps, "layers": layers}
    text = head(results) + "".join(part(results[name]) for name, part in parts.items() if results.get(name))
    (folder / "compare.md").write_text(text)
    import pictures

    pictures.draw(results, folder)
