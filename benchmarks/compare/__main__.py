#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""mlff beside its peers: the same weights, the same neighbour lists, the same outputs, one machine, one run.

    python benchmarks/compare [--quick] [--sections steps,sizes,batches,kernels,lammps,layers] [--output FOLDER]
    python benchmarks/compare --draw FOLDER          table and pictures again, from FOLDER/compare.json

Writes compare.json, compare.md and pictures into FOLDER. What is measured: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("mlff") is None:  # not installed: this checkout's, whose library MLFF_LIBRARY names
    sys.path.insert(0, str(ROOT / "weights_tools"))

import torch  # noqa: E402

import candidates  # noqa: E402
import kernels  # noqa: E402
import lammps_step  # noqa: E402
import layers  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import systems  # noqa: E402
from mlff import MlffError, _library  # noqa: E402
from mlff.model_file import ModelFile  # noqa: E402

SECTIONS = ("steps", "sizes", "batches", "kernels", "lammps", "layers")
BATCHES = (1, 2, 4, 8, 16, 256)
LAMMPS_ATOMS = (9, 512, 1000, 10648, 110592, 1000000)
DOUBLE_ATOMS = 20_000  # of LAMMPS runs in double, which is for validation
REFERENCE_ATOMS = 3000  # up to here PyTorch in double is the reference, beyond it mlff in double


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda words: [int(float(w)) for w in words.split(",")]  # noqa: E731
    parser.add_argument(
        "model", nargs="?", help="model file in eV (default: random weights, 128 features, 3 interactions)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of %(default)s")
    parser.add_argument(
        "--sizes", type=numbers, help=f"default {','.join(map(str, systems.SIZES))}; on the CPU to 1000"
    )
    parser.add_argument("--batches", type=numbers, help=f"default {','.join(map(str, BATCHES))}")
    parser.add_argument("--lammps-atoms", type=numbers, help=f"default {','.join(map(str, LAMMPS_ATOMS))}")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few sizes, few samples")
    parser.add_argument("--seconds", type=float, help="of samples for each figure (default 0.3, quick 0.1)")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default: all)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--lmp", default=shutil.which("lmp"), help="LAMMPS (default: the one on the path)")
    parser.add_argument(
        "--layers-program",
        default=shutil.which("mlff_layers") or str(ROOT / "build/benchmarks/mlff_layers"),
        help="mlff_layers (default %(default)s)",
    )
    parser.add_argument("--layers-side", type=int, help="atoms a side (default: GPU 48, CPU 12)")
    parser.add_argument("--commit", help="of the checkout, where git is not at hand")
    parser.add_argument("--cuda-version", help="that mlff was built with (default: nvcc's on the path)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", metavar="FOLDER")
    parser.add_argument(
        "--keep", action="store_true", help="keep what is not measured now of the output folder's compare.json, marked"
    )
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only table and pictures, from FOLDER/compare.json")
    options = parser.parse_args()
    options.sections = options.sections.split(",")
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"section {unknown.pop()}: expected some of {','.join(SECTIONS)}")
    small, quick = options.device == "cpu", options.quick
    options.sizes = options.sizes or (
        [9, 1000]
        if quick and small
        else [9, 60, 10648]
        if quick
        else [9, 21, 60, 1000]
        if small
        else list(systems.SIZES)
    )
    options.batches = options.batches or ([1, 16] if quick else list(BATCHES))
    options.lammps_atoms = options.lammps_atoms or (
        [9, 512] if quick and small else [9, 10648] if quick else [9, 512, 1000] if small else list(LAMMPS_ATOMS)
    )
    options.seconds = options.seconds or (0.1 if quick else 0.3)
    options.layers_side = options.layers_side or (12 if small else 48)
    return options


def random_model(folder: str) -> str:
    """Weights from a fixed seed, 128 features, 3 interactions, 20 radial functions, 5 A."""
    from mlff.train_model import Hyperparameters, PaiNN, to_model_file

    torch.manual_seed(1)
    model = PaiNN(Hyperparameters(), ["H", "C", "O"], 1.0, np.zeros(3))
    path = Path(folder) / "random.safetensors"
    to_model_file(model, model.state_dict(), "random weights", "MIT", {}).write(path)
    return str(path)


def keep(results: dict, before: dict, measured: list[str]) -> None:
    """Sections that an earlier run measured and this one does not, into `results`; `earlier` says which run."""
    told = ("date", "commit", "gpu", "cpu", "driver", "mlff_cuda", "torch")
    run = {name: before["machine"][name] for name in told if name in before["machine"]}
    for section in SECTIONS:
        if section not in measured and section in before:
            results[section] = before[section]
            results.setdefault("earlier", {})[section] = before.get("earlier", {}).get(section, run)


def output_of(*command: str) -> str:
    """What a program prints; nothing where it is not here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def machine(options) -> dict:
    head = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "processors": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": options.device,
        "commit": options.commit or output_of("git", "rev-parse", "HEAD") or "unknown",
    }
    if options.device == "cuda":
        compiler = output_of("nvcc", "--version")
        head |= {
            "gpu": torch.cuda.get_device_name(),
            "torch_cuda": torch.version.cuda,
            "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0],
            "mlff_cuda": options.cuda_version or compiler.partition("release ")[2].partition(",")[0] or "unknown",
        }
    return head


class Comparison:
    def __init__(self, options, folder: str):
        self.options = options
        self.path = options.model or random_model(folder)
        self.model, self.file = _library.Model(self.path), ModelFile.read(self.path)
        torch.set_num_threads(options.threads or os.cpu_count() or 1)
        self.candidates, missing = candidates.all_candidates(
            self.model, self.file, options.device, options.threads, not options.no_compile, schnetpack=True
        )
        self.double = candidates.reference(self.file, options.device)
        m = self.model
        self.results = {
            "machine": machine(options),
            "model": {
                "file": Path(self.path).name,
                "features": m.features,
                "interactions": m.interactions,
                "radial_functions": m.radial_functions,
                "cutoff": m.cutoff,
                "elements": m.elements,
            },
            "notes": missing,
            "seconds_a_figure": options.seconds,
        }

    def problem(self, found: list[systems.System]) -> systems.Problem:
        return systems.problem(found, self.model.elements, self.model.cutoff, self.options.device)

    def wanted(self, problem: systems.Problem):
        """Results of the reference and its name; None where no reference fits into memory."""
        if problem.atoms <= REFERENCE_ATOMS:
            candidate = self.double
        else:
            candidate = candidates.Mlff(self.model, self.options.device, "double", "structures", self.options.threads)
        try:
            candidate.open(problem)
            candidate.step()
            return candidate.result(), candidate.name
        except candidates.Refused:
            return None, "none: " + candidate.name + " out of memory"
        finally:
            candidate.close()

    def rows(self, found: list[systems.System]) -> list[dict]:
        problem = self.problem(found)
        wanted, name = self.wanted(problem)
        rows = []
        if self.options.device == "cuda":
            torch.cuda.empty_cache()
        for candidate in self.candidates + self.for_this_size(problem):
            row = measure.row_of(candidate, problem, self.options.seconds, wanted) | {"reference": name}
            rows.append(row)
            report.say(row)
        return rows

    def for_this_size(self, problem: systems.Problem) -> list:
        """torch.compile once more for fixed shapes, which MD does not have, where the comparison is decided."""
        o = self.options
        if o.device == "cpu" or o.no_compile or o.quick or not 50_000 < problem.atoms < 500_000:
            return []
        network = torch.compile(self.double_as_single(), dynamic=False)
        return [candidates.Torch("PyTorch compiled for this size, TF32", network, "single", o.device, True)]

    def double_as_single(self):
        return candidates.from_model_file(self.file).to(self.options.device).float().eval().requires_grad_(False)

    # ------------------------------------------------------------------------------------------- sections

    def steps(self) -> list[dict]:
        """Steps 1, 2, 3 and a late one, as the size changes under one evaluator or module: warm-up, compilation."""
        late = 20 if self.options.quick or self.options.device == "cpu" else 1000
        problems = [self.problem([systems.of_size(n)]) for n in (9, 21, 1000)]
        rows = []
        for candidate in self.candidates:
            if "TF32" in candidate.name or "graph" in candidate.name:
                continue
            for k, problem in enumerate(problems):
                row = {"candidate": candidate.name, "atoms": problem.atoms, "late_step": late, "outcome": "measured"}
                try:
                    (candidate.open_again if k else candidate.open)(problem)
                    count = late if k == 0 else 4
                    times = [measure.timed(candidate.step) for _ in range(count)]
                    row |= {"first_s": times[:3], "late_step": count, "late_s": times[-1]}
                except candidates.Refused as refusal:
                    row["outcome"] = str(refusal)
                rows.append(row)
                report.say(row)
                if row["outcome"] != "measured":
                    break
            candidate.close()
        return rows

    def sizes(self) -> list[dict]:
        return [row for n in self.options.sizes for row in self.rows([systems.of_size(n)])]

    def batches(self) -> list[dict]:
        return [
            row
            for k in self.options.batches
            for row in self.rows([systems.molecule(9)] * k)
            if row["candidate"] not in [f"mlff {p}" for p in candidates.PRECISIONS]
        ]  # a list is for one structure

    def kernels(self) -> list[dict]:
        """The GPU's own time of mlff's evaluations with a list given."""
        if self.options.device == "cpu":
            return []
        rows = []
        for n in (n for n in self.options.sizes if n < 500_000):
            problem = self.problem([systems.of_size(n)])
            for precision in candidates.PRECISIONS:
                candidate = candidates.Mlff(self.model, self.options.device, precision, "list", self.options.threads)
                rows.append(kernels.profile(candidate, problem))
                report.say(rows[-1])
        return rows

    def evaluation(self, atoms: int, precision: str) -> float | None:
        """The evaluation alone at that size: from the sizes measured before, or measured now."""
        for row in self.results.get("sizes", []):
            if row["atoms"] == atoms and row["candidate"] == f"mlff {precision}":
                return row.get("median_s")
        candidate = candidates.Mlff(self.model, self.options.device, precision, "list", self.options.threads)
        return measure.row_of(candidate, self.problem([systems.of_size(atoms)]), self.options.seconds, None).get(
            "median_s"
        )

    def lammps(self) -> list[dict]:
        o, rows = self.options, []
        try:
            plugin = str(_library.plugin_path())
        except MlffError as error:
            return [{"outcome": str(error)}]
        if not o.lmp:
            return [{"outcome": "no lmp on the path, and --lmp names none"}]
        for precision in candidates.PRECISIONS:
            for neigh in ("host", "device"):
                for atoms in o.lammps_atoms:
                    if precision == "double" and atoms > DOUBLE_ATOMS:
                        continue
                    alone = self.evaluation(atoms, precision)
                    steps = int(np.clip(2.0 * o.seconds / (alone or 1.0) / lammps_step.REBUILD, 1, 250))
                    row = lammps_step.run(
                        o.lmp,
                        plugin,
                        self.path,
                        self.model.elements,
                        o.device,
                        precision,
                        neigh,
                        atoms,
                        steps * lammps_step.REBUILD,
                        o.threads,
                    )
                    rows.append(row | {"evaluation_s": alone})
                    report.say(rows[-1])
                    if row["outcome"] != "measured":
                        break
        return rows

    def layers(self) -> list[dict]:
        o = self.options
        gpu = self.results["machine"].get("gpu", "")
        return [
            row
            for precision in candidates.PRECISIONS
            for row in layers.rows(
                o.layers_program, self.path, self.model, self.file, o.device, gpu, precision, o.layers_side, o.threads
            )
        ]


def main() -> int:
    options = arguments()
    if options.draw:
        report.write(json.loads((options.draw / "compare.json").read_text()), options.draw)
        return 0
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    begin = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            comparison = Comparison(options, folder)
        except MlffError as error:
            print(error, file=sys.stderr)
            return 1
        results = comparison.results
        if options.keep and (options.output / "compare.json").exists():
            keep(results, json.loads((options.output / "compare.json").read_text()), options.sections)
        for section in SECTIONS:
            if section in options.sections:
                print(f"--- {section}, after {time.perf_counter() - begin:.0f} s", flush=True)
                results[section] = getattr(comparison, section)()
                results["wall_s"] = time.perf_counter() - begin
                (options.output / "compare.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(results, options.output)
    print((options.output / "compare.md").read_text())
    wrong = [
        row
        for section in ("sizes", "batches")
        for row in results.get(section, [])
        if row["outcome"].startswith("wrong")
    ]
    for row in wrong:
        print(f"{row['candidate']}, {row['atoms']} atoms: {row['outcome']}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
