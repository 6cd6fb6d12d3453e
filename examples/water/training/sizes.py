#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Error against speed of model files that were trained on the same frames: a table, a plot, JSON.

    python sizes.py water_64x2.safetensors water_96x3.safetensors water.safetensors -o sizes --device cuda
    python sizes.py --results gpu.json cpu.json -o sizes

Errors are those on the held-out frames, which mlff-train keeps in the metadata; all models must have the same ones.
Speeds are measured here, by `mlff bench` on the device asked for, one model after the other. Writes OUT.md (table),
OUT.png (plot) and OUT.json (all numbers). --results puts side by side what earlier calls wrote, also of other machines.
"""
import argparse
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

from mlff import ModelFile
from tqdm import tqdm

_QUANTITY = re.compile(r"(force|energy|stress) MAE (\S+) RMSE (\S+) (\S+?)(?:,|$)")


def held_out(path: Path) -> dict:
    """{"force_mae": meV/A, "force_rmse", "energy_mae": meV/atom, "energy_rmse", "frames": which, "size": "128x3"}."""
    file = ModelFile.read(path)
    text, frames = file.info.get("errors_test"), file.info.get("test_frames")
    if not text or not frames:
        sys.exit(f"sizes: {path}: metadata without errors_test and test_frames, expected a model that mlff-train made "
                 "with test frames")
    out = {"frames": frames, "size": f"{file.features}x{file.interactions}", "cutoff": file.cutoff,
           "training": file.info.get("training", ""), "time": file.info.get("time", "")}
    for name, mae, rmse, _ in _QUANTITY.findall(text):
        out[f"{name}_mae"], out[f"{name}_rmse"] = float(mae), float(rmse)
    if "force_mae" not in out or "energy_mae" not in out:
        sys.exit(f"sizes: {path}: errors_test is '{text}', expected errors of forces and energies")
    return out


def bench(path: Path, args) -> dict:
    """What `mlff bench --json` says of a model at the number of atoms asked for."""
    command = [sys.executable, "-m", "mlff", "bench", str(path), "--sizes", str(args.atoms), "--device", args.device,
               "--precision", args.precision, "--seconds", str(args.seconds), "--json"]
    command += ["--structure", args.structure] if args.structure else []
    command += ["--threads", str(args.threads)] if args.threads else []
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"sizes: mlff bench failed: {result.stderr.strip()}")
    return json.loads(result.stdout)


def measure(args) -> list[dict]:
    """A row for each model, the smallest error last."""
    rows = []
    known = [(path, held_out(path)) for path in args.models]
    frames = {errors["frames"] for _, errors in known}
    if len(frames) > 1:
        sys.exit(f"sizes: the models were held against different frames ({'; '.join(sorted(frames))}), expected the "
                 "same")
    for path, errors in tqdm(known, unit="model", disable=None):
        report = bench(path, args)
        (size,) = report["sizes"]
        rows.append({"model": path.name, **errors, "parameters": report["parameters"], "device": report["device"],
                     "precision": report["precision"], "threads": report["threads"], "atoms": size["atoms"],
                     "neighbours": size["neighbours"], "atom_steps_per_second": size["atom_steps_per_second"],
                     "bytes_an_atom": size["memory_bytes"] / size["atoms"]})
    return sorted(rows, key=lambda row: -row["force_mae"])


def where(rows: list[dict]) -> str:
    """What a measurement was made on."""
    first = rows[0]
    return f"{first['device']}, {first['precision']}, {first['atoms']:,} atoms"


def table(measurements: list[dict]) -> str:
    """Markdown: a row for each size, a column of speeds for each measurement."""
    known = {row["model"]: row for m in reversed(measurements) for row in m["rows"]}
    speeds = [{row["model"]: row["atom_steps_per_second"] for row in m["rows"]} for m in measurements]
    columns = ["features x interactions", "parameters", "force MAE, RMSE (meV/A)", "energy MAE (meV/atom)"]
    columns += ["kB an atom", *(f"{where(m['rows'])}: atom-steps/s" for m in measurements)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in sorted(known.values(), key=lambda row: -row["force_mae"]):
        cells = [f"{row['size']}, {row['cutoff']:g} A", f"{row['parameters']:,}",
                 f"{row['force_mae']:.1f}, {row['force_rmse']:.1f}", f"{row['energy_mae']:.2f}",
                 f"{row['bytes_an_atom'] / 1e3:.1f}"]
        for speed in speeds:
            own = speed.get(row["model"])
            cells.append(f"{own:,.0f} ({max(speed.values()) / own:.1f})" if own else "not measured")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "In brackets: how many times slower than the fastest. Memory is that of the first speeds. Errors on "
              f"frames {next(iter(known.values()))['frames']} of the data."]
    lines += [f"{where(m['rows'])}: {m['rows'][0]['neighbours']:.0f} neighbours. {m['remark']}".strip()
              for m in measurements]
    return "\n".join(lines) + "\n"


def draw(measurements: list[dict], picture: Path) -> None:
    """Force error against time of an atom's step: further left is faster, further down better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, measurement in enumerate(measurements):
        rows = measurement["rows"]
        times = [1e9 / row["atom_steps_per_second"] for row in rows]
        axes.plot(times, [row["force_mae"] for row in rows], "o-", color=f"C{number}", label=where(rows))
        axes.plot(times, [row["force_rmse"] for row in rows], "s--", color=f"C{number}")
        # Precisions of one device lie close together: names to the right of the first, to the left of the second.
        side = -1 if number % 2 else 1
        for row, time in zip(rows, times):
            axes.annotate(row["size"], (time, row["force_mae"]), xytext=(7 * side, 5 * side), color=f"C{number}",
                          textcoords="offset points", ha="left" if side > 0 else "right", va="center", fontsize="small")
    axes.set(xlabel="time of a step, ns/atom",
             ylabel="held-out force error, meV/$\\mathrm{\\AA}$\n(MAE: circles, RMSE: squares)")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.08 * max(row["force_rmse"] for measurement in measurements for row in measurement["rows"]))
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small", loc="lower left")
    figure.savefig(picture, dpi=130, format="png")


def read_results(path: Path) -> list[dict]:
    """The measurements in a JSON file of this script."""
    try:
        measurements = json.loads(path.read_text())["measurements"]
        assert all(m["rows"] for m in measurements)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        sys.exit(f"sizes: {path}: expected a JSON file that sizes.py wrote")
    return measurements


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", help="model files of mlff-train")
    parser.add_argument("--results", type=Path, nargs="+", default=[], metavar="JSON",
                        help="what earlier calls wrote: goes into the same table and plot")
    parser.add_argument("-o", "--output", type=Path, default=Path("sizes"), help="OUT.md, OUT.png, OUT.json")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto, as mlff bench takes it")
    parser.add_argument("--precision", default="single", choices=("double", "single", "mixed"))
    parser.add_argument("--atoms", type=int, default=12288, help="about so many")
    parser.add_argument("--structure", default=None, metavar="FILE",
                        help="replicate this file's first frame (random atoms, 53 neighbours, without it)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, a model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--remark", default="", help="machine, driver, CUDA version, date: goes below the table")
    args = parser.parse_args()
    for path in args.models:
        if not path.is_file():
            sys.exit(f"sizes: {path}: no such file")
    measurements = [m for path in args.results for m in read_results(path)]
    if args.models:
        measurements.append({"machine": platform.processor() or platform.machine(), "remark": args.remark,
                             "rows": measure(args)})
    if not measurements:
        sys.exit("sizes: no model and no --results, expected at least one")
    frames = {row["frames"] for m in measurements for row in m["rows"]}
    if len(frames) > 1:
        sys.exit(f"sizes: errors on different frames ({'; '.join(sorted(frames))}), expected the same")
    text = table(measurements)
    args.output.with_suffix(".md").write_text(text)
    args.output.with_suffix(".json").write_text(json.dumps({"measurements": measurements}, indent=1) + "\n")
    draw(measurements, args.output.with_suffix(".png"))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
