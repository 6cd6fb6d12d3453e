# SPDX-License-Identifier: MIT
"""Report and picture of an MD run: `report.py LOG PICTURE` reads a LAMMPS log of NVT runs followed by one NVE run.

The log must be in units metal or real and its thermo_style must have Step, Temp, PotEng and TotEng.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lammps_log import Run, finish_panels, log_and_picture, read_runs, speed_of  # noqa: E402


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
    _, (top, middle, bottom) = plt.subplots(3, 1, figsize=(7, 8), sharex=True, layout="constrained")
    zero = nve.energy("TotEng")[0]
    for run in runs:
        top.plot(run.time, run.column("Temp"), color="tab:red")
        middle.plot(run.time, 1e3 * (run.energy("TotEng") - zero), color="black",
                    label="total" if run is nve else None)
        middle.plot(run.time, 1e3 * (run.energy("PotEng") - zero), color="tab:blue",
                    label="potential" if run is nve else None)
    bottom.plot(nve.time, 1e3 * (nve.energy("TotEng") - zero), color="black")
    finish_panels((top, middle, bottom), nve, "total energy in NVE\n(meV/atom)", picture)


def report(runs: list[Run], banner: str) -> str:
    """A few lines for people."""
    nve = runs[-1]
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
        f"speed        {speed_of(runs)}",
    ]
    return "\n".join(lines)


def main() -> int:
    arguments = log_and_picture(__doc__)
    runs, banner = read_runs(arguments.log)
    if not runs or runs[-1].ensemble != "NVE":
        found = f"{len(runs)} finished, the last of them {runs[-1].ensemble}" if runs else "none that was finished"
        sys.exit(f"report: {arguments.log}: no finished NVE run at the end; runs found: {found}. "
                 "LAMMPS was stopped too early, or the input is another one")
    if len(runs[-1].rows) < 3:
        sys.exit(f"report: {arguments.log}: {len(runs[-1].rows)} lines of thermo output in the last run, "
                 "expected three or more: run it for more --steps")
    draw(runs, arguments.picture)
    print(report(runs, banner))
    return 0


if __name__ == "__main__":
    sys.exit(main())
