# SPDX-License-Identifier: MIT
"""Runs of a LAMMPS log in units metal or real, for the reports of the examples; the thermo_style must have Step and
what the report asks for."""
import argparse
import re
import sys
from dataclasses import dataclass, field

import numpy as np

EV_IN_KCAL_PER_MOL = 23.06054783061903
# of LAMMPS's unit styles: energy in eV, time in ps
UNITS = {"metal": (1.0, 1.0), "real": (1.0 / EV_IN_KCAL_PER_MOL, 1e-3)}
DEFAULT_TIMESTEP = {"metal": 0.001, "real": 1.0}  # of LAMMPS, in its own units
LOOP_TIME = re.compile(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms")
PROCESSORS = re.compile(r"\S+% CPU use with (\d+) MPI tasks x (\d+) OpenMP threads")


@dataclass
class Run:
    """One `run` command of the log."""

    ensemble: str  # "NVT" or "NVE", from the fixes that are on
    timestep: float  # ps
    energy_unit: float  # eV
    columns: list[str]
    rows: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    ranks: int = 0
    threads: int = 0
    steps: int = 0
    atoms: int = 0

    def column(self, name: str) -> np.ndarray:
        """[rows] of one thermo column, in the log's units."""
        if name not in self.columns:
            sys.exit(f"report: the log has no column {name}, found {' '.join(self.columns)}")
        return np.array(self.rows)[:, self.columns.index(name)]

    @property
    def time(self) -> np.ndarray:
        """[rows] ps since the first step of the log."""
        return self.column("Step") * self.timestep

    def energy(self, name: str) -> np.ndarray:
        """[rows] eV an atom."""
        return self.column(name) * self.energy_unit / self.atoms


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def start_run(path: str, units: str, timestep: float | None, fixes: dict[str, str], columns: list[str]) -> Run:
    """A run as the commands before it have set it up."""
    if units not in UNITS:
        sys.exit(f"report: {path}: units {units}, expected metal or real")
    energy, time = UNITS[units]
    return Run("NVE" if "nve" in fixes.values() else "NVT", energy_unit=energy, columns=columns,
               timestep=(DEFAULT_TIMESTEP[units] if timestep is None else timestep) * time)


def read_runs(path: str) -> tuple[list[Run], str]:
    """The runs of a log, and what pair_style mlff said of model, device and precision."""
    runs: list[Run] = []
    fixes: dict[str, str] = {}
    banner, units, timestep, run, in_table = "", "lj", None, None, False
    try:
        log = open(path, encoding="utf-8", errors="replace")
    except OSError as error:
        sys.exit(f"report: {path}: {error.strerror}; expected the log.lammps of a run")
    with log:
        for line in log:
            words = line.split()
            if words[:1] == ["units"] and len(words) > 1:
                units, timestep = words[1], None
            elif words[:1] == ["timestep"] and len(words) > 1 and is_number(words[1]):
                timestep = float(words[1])
            elif words[:1] == ["fix"] and len(words) > 3:
                fixes[words[1]] = words[3]
            elif words[:1] == ["unfix"] and len(words) == 2:
                fixes.pop(words[1], None)
            elif line.startswith("mlff"):
                banner = line.strip()
            elif line.startswith("ERROR"):
                sys.exit(f"report: {path}: LAMMPS stopped: {line.strip()}")
            elif words[:1] == ["Step"]:
                run, in_table = start_run(path, units, timestep, fixes, words), True
            elif run and (match := LOOP_TIME.match(line)):
                run.seconds, run.steps, run.atoms = float(match[1]), int(match[2]), int(match[3])
                if run.steps > 0:
                    runs.append(run)
                run, in_table = None, False
            elif runs and (match := PROCESSORS.match(line)):  # stands after the loop's time
                runs[-1].ranks, runs[-1].threads = int(match[1]), int(match[2])
            elif run and in_table and len(words) == len(run.columns) and all(map(is_number, words)):
                run.rows.append([float(word) for word in words])
    return runs, banner


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def finish_panels(panels, nve: Run, of_total: str, picture: str) -> None:
    """Labels temperature, energies (meV/atom) and, with `of_total`, the total energy, one above the other over time in
    ps; marks where NVE begins, and saves."""
    top, middle, bottom = panels
    for axes in panels:
        axes.axvline(nve.time[0], color="grey", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    top.text(nve.time[0], 0.02, " NVE from here", transform=top.get_xaxis_transform(), color="grey")
    top.set_ylabel("temperature (K)")
    middle.set_ylabel("energy (meV/atom)")
    middle.legend(loc="best")
    bottom.set_ylabel(of_total)
    bottom.set_xlabel("time (ps)")
    top.figure.savefig(picture, dpi=130)


def log_and_picture(documentation: str) -> argparse.Namespace:
    """The arguments of a report, `log` and `picture`; its first line says what it is."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("log", help="log.lammps of the run")
    parser.add_argument("picture", help="PNG to write")
    return parser.parse_args()


def speed_of(runs: list[Run]) -> str:
    """Of all these runs together, with the atoms, ranks and threads of the last."""
    seconds, steps, last = sum(run.seconds for run in runs), sum(run.steps for run in runs), runs[-1]
    return (f"{steps / seconds * last.atoms:.0f} atom-steps/s, {steps / seconds * last.timestep * 86.4:.3f} ns/day "
            f"({last.atoms} atoms, {counted(last.ranks, 'rank')} with {counted(last.threads, 'thread')}, "
            f"{seconds:.0f} s)")
