# SPDX-License-Identifier: MIT
"""Report and picture of an MD run: `report.py LOG PICTURE` reads a LAMMPS log of NVT runs followed by one NVE run.

The log must be in units metal or real and its thermo_style must have Step, Temp, PotEng and TotEng.
"""
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
    with open(path, encoding="utf-8", errors="replace") as log:
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


def linear_drift(time: np.ndarray, energy: np.ndarray) -> tuple[float, float]:
    """Slope of a straight line through energy [n] (eV an atom) over time [n] (ps), and its standard error, both in
    meV an atom a ns. The error takes the points as independent."""
    x = time - time.mean()
    slope = float(x @ energy / (x @ x))
    residual = energy - energy.mean() - slope * x
    error = float(np.sqrt(residual @ residual / max(len(x) - 2, 1) / (x @ x)))
    return slope * 1e6, error * 1e6  # eV/ps = 1000 meV / 0.001 ns


def draw(runs: list[Run], picture: str) -> None:
    """Temperature, energies, and the total energy's deviation during NVE, against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    nve = runs[-1]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(7, 8), sharex=True, layout="constrained")
    zero = nve.energy("TotEng")[0]
    for run in runs:
        top.plot(run.time, run.column("Temp"), color="tab:red")
        middle.plot(run.time, 1e3 * (run.energy("TotEng") - zero), color="black",
                    label="total" if run is nve else None)
        middle.plot(run.time, 1e3 * (run.energy("PotEng") - zero), color="tab:blue",
                    label="potential" if run is nve else None)
    bottom.plot(nve.time, 1e3 * (nve.energy("TotEng") - zero), color="black")
    for axes in (top, middle, bottom):
        axes.axvline(nve.time[0], color="grey", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    top.text(nve.time[0], 0.02, " NVE from here", transform=top.get_xaxis_transform(), color="grey")
    top.set_ylabel("temperature (K)")
    middle.set_ylabel("energy (meV/atom)")
    middle.legend(loc="best")
    bottom.set_ylabel("total energy in NVE\n(meV/atom)")
    bottom.set_xlabel("time (ps)")
    figure.savefig(picture, dpi=130)


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def report(runs: list[Run], banner: str) -> str:
    """A few lines for people."""
    nve = runs[-1]
    seconds, steps = sum(run.seconds for run in runs), sum(run.steps for run in runs)
    speed = steps / seconds
    temperature = nve.column("Temp")
    slope, error = linear_drift(nve.time, nve.energy("TotEng"))
    lines = [banner] if banner else []
    for run in runs[:-1]:
        lines.append(f"{run.ensemble}          {run.steps} steps of {run.timestep * 1e3:g} fs, "
                     f"from {run.column('Temp')[0]:.0f} to {run.column('Temp')[-1]:.0f} K")
    lines += [
        f"NVE          {nve.steps} steps of {nve.timestep * 1e3:g} fs",
        f"temperature  {temperature.mean():.1f} K on average in NVE, standard deviation {temperature.std():.1f} K",
        f"drift        {slope:+.3f} +- {error:.3f} meV/atom/ns, a straight line through the total energy of "
        f"{nve.time[-1] - nve.time[0]:.3g} ps of NVE",
        f"speed        {speed * nve.atoms:.0f} atom-steps/s, {speed * nve.timestep * 86.4:.3f} ns/day "
        f"({nve.atoms} atoms, {counted(nve.ranks, 'rank')} with {counted(nve.threads, 'thread')}, {seconds:.0f} s)",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", help="log.lammps of the run")
    parser.add_argument("picture", help="PNG to write")
    arguments = parser.parse_args()
    runs, banner = read_runs(arguments.log)
    if not runs or runs[-1].ensemble != "NVE" or len(runs[-1].rows) < 3:
        sys.exit(f"report: {arguments.log}: no finished NVE run with three or more rows of thermo output")
    draw(runs, arguments.picture)
    print(report(runs, banner))
    return 0


if __name__ == "__main__":
    sys.exit(main())
