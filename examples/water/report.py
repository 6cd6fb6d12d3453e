# SPDX-License-Identifier: MIT
"""Report and picture of the water example: `report.py LOG PICTURE` reads LAMMPS's log and, beside it, rdf.txt.

The picture shows the O-O radial distribution with that of the training data, and temperature and potential energy
against time. Where reference/log.lammps is a log of the same model, the energy of the start is held against it.
"""
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lammps_log import Run, log_and_picture, read_runs, speed_of  # noqa: E402

REFERENCE_DISTRIBUTION = HERE / "reference" / "rdf_data.json"
REFERENCE_LOG = HERE / "reference" / "log.lammps"
LARGEST_DEVIATION = 1e-4  # eV an atom: single precision is far below, another model far above


def read_distribution(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(r [n] angstrom, g [n]) of what fix ave/time wrote last; None where it wrote nothing."""
    if not path.is_file():
        return None
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    if len(rows) < 2 or len(rows[0]) != 2 or len(rows) - 1 != int(rows[0][1]):
        sys.exit(f"report: {path}: {max(len(rows) - 1, 0)} rows, expected a line with step "
                 "and number of rows, and those")
    table = np.array(rows[1:], dtype=float)
    return table[:, 1], table[:, 2]


def first_peak(r: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """(r, g) of the highest point, a parabola through it and its two neighbours."""
    k = min(max(int(g.argmax()), 1), len(g) - 2)
    a, b, c = g[k - 1:k + 2]
    bend = a - 2.0 * b + c
    shift = 0.0 if bend == 0.0 else 0.5 * (a - c) / bend
    return float(r[k] + shift * (r[1] - r[0])), float(b - 0.25 * (a - c) * shift)


def draw(runs: list[Run], distribution, data: dict, picture: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(7, 9), layout="constrained",
                                                 gridspec_kw={"height_ratios": [2, 1, 1]})
    top.plot(data["r"], data["g"], color="0.5", linewidth=3, label=f"data: {data['source']}")
    if distribution:
        top.plot(*distribution, color="tab:red", label=f"this run, {runs[-1].atoms} atoms")
    top.set(xlabel="O-O distance (angstrom)", ylabel="g(r)", xlim=(2.0, 6.2))
    top.legend(fontsize="small")
    for run in runs[-2:]:  # without the minimisation
        middle.plot(run.time, run.column("Temp"), color="tab:red")
        bottom.plot(run.time, run.energy("PotEng") - runs[-1].energy("PotEng").mean(), color="tab:blue")
    for axes in (middle, bottom):
        axes.axvline(runs[-1].time[0], color="grey", linewidth=0.8, linestyle=":")
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    middle.text(runs[-1].time[0], 0.02, " g(r) from here", transform=middle.get_xaxis_transform(), color="grey")
    middle.set_ylabel("temperature (K)")
    bottom.set(xlabel="time (ps)", ylabel="potential energy\n(eV/atom, less its mean)")
    figure.savefig(picture, dpi=130)


def held_against_reference(log: str, banner: str) -> str | None:
    """What the reference log says of the energy of the start; None without one, or for another model."""
    if not REFERENCE_LOG.is_file() or Path(log).resolve() == REFERENCE_LOG:
        return None
    (first, *_), reference_banner = read_runs(str(REFERENCE_LOG))
    name = [text.split(",")[0].split("/")[-1] for text in (banner, reference_banner)]
    if name[0] != name[1]:
        return None
    own = read_runs(log)[0][0]
    deviation = float(own.energy("PotEng")[0] - first.energy("PotEng")[0])
    verdict = "as" if abs(deviation) < LARGEST_DEVIATION else "NOT as"
    return f"start        {verdict} in the reference log: {1e3 * deviation:+.4f} meV/atom from its potential energy"


def report(log: str, runs: list[Run], banner: str, distribution, data: dict) -> str:
    """A few lines for people."""
    settle, sampled = runs[-2], runs[-1]
    temperature = sampled.column("Temp")
    lines = [banner] if banner else []
    lines += [
        f"settle       {settle.steps} steps of {settle.timestep * 1e3:g} fs, from {settle.column('Temp')[0]:.0f} to "
        f"{settle.column('Temp')[-1]:.0f} K",
        f"NVT          {sampled.steps} steps, {temperature.mean():.1f} K on average, standard deviation "
        f"{temperature.std():.1f} K",
    ]
    if distribution:
        lines.append("O-O          first peak {:.2f} at {:.3f} angstrom; data {:.2f} at {:.3f}".format(
            *first_peak(*distribution)[::-1], *first_peak(np.array(data["r"]), np.array(data["g"]))[::-1]))
    else:
        lines.append("O-O          no rdf.txt beside the log: the run was too short for a sample")
    against = held_against_reference(log, banner)
    lines += [against] if against else []
    lines.append(f"speed        {speed_of([settle, sampled])}")
    return "\n".join(lines)


def main() -> int:
    arguments = log_and_picture(__doc__)
    runs, banner = read_runs(arguments.log)
    if len(runs) < 3:
        sys.exit(f"report: {arguments.log}: {len(runs)} finished runs, expected three: minimisation, settling, NVT")
    if len(runs[-1].rows) < 3:
        sys.exit(f"report: {arguments.log}: {len(runs[-1].rows)} lines of thermo output in the last run, "
                 "expected three or more: run it for more --steps")
    distribution = read_distribution(Path(arguments.log).with_name("rdf.txt"))
    data = json.loads(REFERENCE_DISTRIBUTION.read_text())
    draw(runs, distribution, data, arguments.picture)
    print(report(arguments.log, runs, banner, distribution, data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
