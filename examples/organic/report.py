# SPDX-License-Identifier: MIT
"""Report and picture of the organic example: `report.py LOG PICTURE` reads LAMMPS's log.

What the total energy does is held against the kinetic energy, which does not depend on where zero is.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lammps_log import Run, counted, finish_panels, log_and_picture, read_runs, speed_of  # noqa: E402

KELVIN = 300.0  # of the input
MOST_DRIFT, MOST_FLUCTUATION, MOST_DIFFERENCE = 1.0, 0.5, 20.0  # %, %, K


def conservation(run: Run) -> tuple[float, float]:
    """(drift over the run, fluctuation about it) of the total energy, % of the mean kinetic energy: the ends of a
    straight line, and the standard deviation from it."""
    time, total, kinetic = run.time - run.time[0], run.energy("TotEng"), run.energy("KinEng").mean()
    slope, start = np.polyfit(time, total, 1)
    rest = total - start - slope * time
    return float(100.0 * slope * time[-1] / kinetic), float(100.0 * rest.std() / kinetic)


def draw(runs: list[Run], picture: str) -> None:
    """Temperature, energies and the total energy's deviation in NVE against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    nve = runs[-1]
    kinetic, zero = nve.energy("KinEng").mean(), nve.energy("TotEng")[0]
    _, (top, middle, bottom) = plt.subplots(3, 1, figsize=(7, 8), sharex=True, layout="constrained")
    for run in runs[-2:]:
        top.plot(run.time, run.column("Temp"), color="tab:red", linewidth=0.6)
        middle.plot(run.time, 1e3 * (run.energy("PotEng") - zero), color="tab:blue", linewidth=0.6,
                    label="potential" if run is nve else None)
        middle.plot(run.time, 1e3 * (run.energy("TotEng") - zero), color="black", label="total" if run is nve else None)
    top.axhline(nve.column("Temp").mean(), color="black", linewidth=0.8)
    bottom.plot(nve.time, 100.0 * (nve.energy("TotEng") - zero) / kinetic, color="black", linewidth=0.6)
    finish_panels((top, middle, bottom), nve, "total energy in NVE\n(% of the kinetic energy)", picture)


def verdict(kept: bool) -> str:
    return "" if kept else "  <- NOT KEPT"


def report(runs: list[Run], banner: str) -> str:
    """A few lines for people."""
    settle, nve = runs[-2], runs[-1]
    drift, fluctuation = conservation(nve)
    temperature, broken = nve.column("Temp"), int(nve.column("c_broken").max())
    length = nve.time[-1] - nve.time[0]
    lines = [banner] if banner else []
    lines += [
        f"NVE          {counted(nve.atoms // 12, 'molecule')} of benzene, {nve.steps} steps of "
        f"{nve.timestep * 1e3:g} fs, {length:.4g} ps",
        f"temperature  {temperature.mean():.1f} K on average, expected {KELVIN:g} +- {MOST_DIFFERENCE:g}"
        + verdict(abs(temperature.mean() - KELVIN) <= MOST_DIFFERENCE),
        f"drift        {drift:+.4f} % of the kinetic energy in {length:.4g} ps, "
        f"expected below {MOST_DRIFT:g} %"
        + verdict(abs(drift) < MOST_DRIFT),
        f"fluctuation  {fluctuation:.4f} % of the kinetic energy, expected below {MOST_FLUCTUATION:g} %"
        + verdict(fluctuation < MOST_FLUCTUATION),
        f"molecules    {'none is broken' if broken == 0 else f'{broken} atoms with a broken bond, or one too many'}"
        + verdict(broken == 0),
        f"speed        {speed_of([settle, nve])}",
    ]
    return "\n".join(lines)


def main() -> int:
    arguments = log_and_picture(__doc__)
    runs, banner = read_runs(arguments.log)
    if len(runs) < 3 or runs[-1].ensemble != "NVE":
        sys.exit(f"report: {arguments.log}: {len(runs)} finished runs, expected three: minimisation, settling, NVE")
    if len(runs[-1].rows) < 3:
        sys.exit(f"report: {arguments.log}: {len(runs[-1].rows)} lines of thermo output in the last run, "
                 "expected three or more: run it for more --steps")
    draw(runs, arguments.picture)
    print(report(runs, banner))
    return 0


if __name__ == "__main__":
    sys.exit(main())
