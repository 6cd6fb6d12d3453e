#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Energy conservation of several NVE runs side by side: a line each, and a picture.

    python benchmarks/nve_drift.py PICTURE NAME=LOG [NAME=LOG ...]

The logs are LAMMPS's of the silicon example (`./examples/run.sh silicon --steps 20000 --precision single`, and so on).
Drift is the slope of a straight line through the total energy of the last run of the log, meV/atom/ns.
"""
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "silicon"))
from report import linear_drift, read_runs  # noqa: E402


def main() -> int:
    if len(sys.argv) < 3 or not all("=" in word for word in sys.argv[2:]):
        print(__doc__, file=sys.stderr)
        return 2
    figure, axes = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    for k, word in enumerate(sys.argv[2:]):
        name, path = word.split("=", 1)
        run = read_runs(path)[0][-1]
        time, energy = run.time - run.time[0], run.energy("TotEng")
        slope, error = linear_drift(time, energy)
        drift = f"{slope:+.3f} +- {error:.3f} meV/atom/ns"
        noise = 1e3 * np.std(energy - np.polyval(np.polyfit(time, energy, 1), time))
        print(f"{name:16s} {time[-1]:6.1f} ps  {run.column('Temp').mean():6.1f} K  {drift}  noise {noise:.4f} meV/atom")
        axes.plot(time, 1e3 * (energy - energy[0]) + 0.02 * k, linewidth=0.6, label=f"{name}: {drift}")
    axes.set_xlabel("time (ps)")
    axes.set_ylabel("total energy, shifted by 0.02 each (meV/atom)")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(sys.argv[1], dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
