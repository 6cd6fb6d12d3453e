# SPDX-License-Identifier: MIT
"""The table of the comparison, and its pictures."""
from __future__ import annotations

from pathlib import Path

import numpy as np

NAMES = {"mlff": "mlff", "sw": "sw", "tersoff": "tersoff (1988, T2)", "tersoff-c": "tersoff (1988, T3)"}
COLOURS = {"mlff": "tab:red", "sw": "tab:blue", "tersoff": "tab:green", "tersoff-c": "tab:olive"}

# What the models are held against. Lattice constant, C11, C12 and clamped C44: from the frames of the mlearn Si set
# (PBE; Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020)), the ground state and the stresses at strains of +-2 per cent
# by central differences (tests/python/test_compare_silicon.py does that where the set is); B is (C11 + 2 C12)/3.
# The set has no shear with relaxed ions and no phonons: those are of A. P. Bartok et al., Phys. Rev. X 8, 041048
# (2018), DFT with PW91, which has C11 153.3, C12 56.3 and B 88.6. The liquid is that of I. Stich, R. Car and
# M. Parrinello, Phys. Rev. Lett. 63, 2240 (1989): DFT with LDA, 64 atoms, some 1800 K.
DFT = {"lattice_constant": 5.4685, "bulk_modulus": 88.5, "C11": 152.6, "C12": 56.5, "C44": 72.2, "C44_clamped": 99.0,
       "phonon": 15.08, "peak": 2.46, "neighbours": 6.5, "diffusion": 2.26e-4}

ROWS = [  # title, path in the results, format
    ("lattice constant (A)", ("lattice_constant",), ".3f"),
    ("bulk modulus (GPa)", ("bulk_modulus",), ".1f"),
    ("C11 (GPa)", ("C11",), ".1f"),
    ("C12 (GPa)", ("C12",), ".1f"),
    ("C44, ions relaxed (GPa)", ("C44",), ".1f"),
    ("C44, ions clamped (GPa)", ("C44_clamped",), ".1f"),
    ("optical phonon at Gamma (THz)", ("phonon",), ".2f"),
    ("melt: first peak of g(r) (A)", ("melt", "peak"), ".2f"),
    ("melt: neighbours within 3.1 A", ("melt", "neighbours"), ".1f"),
    ("melt: diffusion (1e-4 cm^2/s)", ("melt", "diffusion"), ".2f"),
]


def value(results: dict, path: tuple[str, ...]) -> float | None:
    """results["a"]["b"] for ("a", "b"); None where that was not measured."""
    for name in path:
        if not isinstance(results, dict) or name not in results:
            return None
        results = results[name]
    return results


def rounded(error: float) -> str:
    """Without decimals, except where those are all there is."""
    return f"{error:.0f}" if error >= 10 else f"{error:.1f}"


def line(title: str, cells: list[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def markdown(everything: dict) -> str:
    """The table, from what run.py puts into results.json."""
    potentials, results = everything["potentials"], everything["results"]
    lines = [line("", [NAMES[name] for name in potentials] + ["DFT"]), "|---" * (len(potentials) + 2) + "|"]
    for title, path, form in ROWS:
        scale = 1e4 if path[-1] == "diffusion" else 1.0
        found = [value(results[name], path) for name in potentials] + [DFT.get(path[-1])]
        lines.append(line(title, ["" if x is None else format(x * scale, form) for x in found]))
    for group in value(results[potentials[0]], ("forces",)) or ():
        first = results[potentials[0]]["forces"][group]
        errors = [results[name]["forces"][group] for name in potentials]
        cells = [f"{rounded(error['mae'])}, {rounded(error['rmse'])}" for error in errors]
        frames = f"{first['frames']} frame" + ("" if first["frames"] == 1 else "s")
        lines.append(line(f"forces, {group}, {frames}: MAE, RMSE (meV/A)",
                          cells + [f"size {first['size']:.0f}"]))
    for cores in value(results[potentials[0]], ("speed",)) or ():
        counted = "one core" if cores == "1" else f"{cores} cores"
        lines.append(line(f"speed, {counted} (atom-steps/s)",
                          [f"{results[name]['speed'][cores]:,.0f}" for name in potentials] + [""]))
    return "\n".join(lines) + "\n"


def axes_pair():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for one in axes:
        one.grid(alpha=0.3)
    return figure, axes


def draw_crystal(everything: dict, picture: Path) -> None:
    """Energy against volume, each from its own minimum; elastic constants beside those of DFT."""
    figure, (left, right) = axes_pair()
    potentials, results = everything["potentials"], everything["results"]
    for name in potentials:
        one = results[name]
        volume = np.array(one["constants"]) ** 3 / 8
        left.plot(volume, 1e3 * (np.array(one["energies"]) - one["energy"]), "o-", markersize=3, color=COLOURS[name],
                  label=NAMES[name])
    lowest = DFT["lattice_constant"] ** 3 / 8
    near = np.linspace(0.95, 1.05, 40) * lowest
    bulk = DFT["bulk_modulus"] / 160.21766208  # eV/angstrom^3
    left.plot(near, 1e3 * 0.5 * bulk * (near - lowest) ** 2 / lowest, "k--", label="PBE: minimum and curvature")
    left.set_xlabel("volume of an atom (angstrom$^3$)")
    left.set_ylabel("energy above the minimum (meV/atom)")
    left.legend(fontsize=8)
    keys = ["bulk_modulus", "C11", "C12", "C44", "C44_clamped"]
    width = 0.8 / (len(potentials) + 1)
    bars = [(NAMES[name], COLOURS[name], results[name]) for name in potentials] + [("DFT", "black", DFT)]
    for k, (label, colour, values) in enumerate(bars):
        right.bar(np.arange(len(keys)) + k * width, [values[key] for key in keys], width, color=colour, label=label)
    right.set_xticks(np.arange(len(keys)) + 0.4 - width / 2, ["B", "C11", "C12", "C44", "C44\nclamped"])
    right.set_ylabel("GPa")
    right.legend(fontsize=8)
    figure.savefig(picture, dpi=100)


def draw_melt(everything: dict, picture: Path) -> None:
    """Radial distribution and mean-square displacement of the short melt."""
    figure, (left, right) = axes_pair()
    for name in everything["potentials"]:
        one = everything["results"][name]["melt"]
        left.plot(one["r"], one["g"], color=COLOURS[name], label=NAMES[name])
        right.plot(one["time"], one["msd"], color=COLOURS[name], label=NAMES[name])
    left.axvline(DFT["peak"], color="black", linestyle=":", label="first peak, DFT (LDA)")
    left.set_xlim(1.5, 7.0)
    left.set_xlabel("r (A)")
    left.set_ylabel("g(r) at 1800 K")
    right.set_xlabel("time (ps)")
    right.set_ylabel("mean-square displacement (angstrom$^2$)")
    left.legend(fontsize=8)
    figure.savefig(picture, dpi=100)


def draw_forces(everything: dict, frames: list, forces: dict, picture: Path) -> None:
    """Forces of each potential on the held-out frames against those of DFT, one panel each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    potentials = everything["potentials"]
    figure, panels = plt.subplots(1, len(potentials), figsize=(3 * len(potentials), 3.2), sharex=True, sharey=True,
                                  layout="constrained", squeeze=False)
    reference = np.concatenate([frame.get_forces() for frame in frames]).ravel()
    reach = 1.05 * np.abs(reference).max()
    for axes, name in zip(panels[0], potentials):
        axes.plot(reference, np.concatenate(forces[name]).ravel(), ".", markersize=2, color=COLOURS[name])
        axes.plot([-reach, reach], [-reach, reach], "k-", linewidth=0.6)
        axes.set(title=NAMES[name], xlim=(-reach, reach), ylim=(-reach, reach), xlabel="PBE (eV/angstrom)")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("potential (eV/angstrom)")
    figure.savefig(picture, dpi=100)
