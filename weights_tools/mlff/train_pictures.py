# SPDX-License-Identifier: MIT
"""The picture beside a trained model: learning curves, and predicted against reference forces and energies."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import require

POINTS = 20000  # in one scatter plot; more are thinned out evenly
_COLOURS = {"training": "0.7", "validation": "tab:blue", "test": "tab:red"}


def check_available() -> None:
    """MissingDependencyError where matplotlib is not installed: to be known before the training, not after it."""
    require("matplotlib", "mlff-train's picture (or else --no-picture)", "train")


def draw(path: Path, title: str, history: dict, best_epoch: int, predicted: dict) -> None:
    """Writes a PNG.

    history     of a Trainer: `loss` of each epoch, `evaluations` of the validation part
    best_epoch  the one whose weights were kept
    predicted   set name -> {"energy", "force"} -> (reference, predicted), eV/atom and eV/angstrom
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")  # without pyplot: nothing global, no display
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    _losses(axes[0, 0], history, best_epoch)
    _errors(axes[0, 1], history, best_epoch)
    _parity(axes[1, 0], predicted, "force", "force component", "eV/$\\mathrm{\\AA}$", "meV/$\\mathrm{\\AA}$")
    _parity(axes[1, 1], predicted, "energy", "energy less that of the elements", "eV/atom", "meV/atom")
    figure.savefig(path, dpi=120, format="png")


def _losses(axis, history: dict, best_epoch: int) -> None:
    losses = history["loss"]
    axis.plot(np.arange(1, len(losses) + 1), losses, color=_COLOURS["training"], label="training, as it goes")
    rows = history["evaluations"]
    if rows:
        axis.plot([r["epoch"] for r in rows], [r["loss"] for r in rows], ".-", color=_COLOURS["validation"],
                  label="validation, averaged weights")
    _finish(axis, "loss", best_epoch)


def _errors(axis, history: dict, best_epoch: int) -> None:
    rows = history["evaluations"]
    for key, label, colour in (("force_mae", "forces, meV/$\\mathrm{\\AA}$", "tab:green"),
                               ("energy_mae", "energy, meV/atom", "tab:orange")):
        points = [(r["epoch"], r[key]) for r in rows if key in r]
        if points:
            axis.plot(*zip(*points), ".-", color=colour, label=label)
    if not rows:
        axis.text(0.5, 0.5, "no validation part", ha="center", transform=axis.transAxes)
    _finish(axis, "MAE on validation", best_epoch)


def _finish(axis, label: str, best_epoch: int) -> None:
    axis.set(xlabel="epoch", ylabel=label)
    if axis.lines:
        axis.set_yscale("log")
        axis.axvline(best_epoch, color="0.3", linestyle=":", linewidth=1, label=f"kept: epoch {best_epoch}")
        axis.legend()


def _parity(axis, predicted: dict, key: str, quantity: str, unit: str, small_unit: str) -> None:
    bounds = []
    for name, values in predicted.items():
        reference, found = values[key]
        if not len(reference):
            continue
        bounds += [reference.min(), reference.max()]
        errors = found - reference
        mae, rmse = 1e3 * np.abs(errors).mean(), 1e3 * np.sqrt((errors**2).mean())
        step = -(-len(reference) // POINTS)
        axis.plot(reference[::step], found[::step], ".", markersize=3, color=_COLOURS[name], rasterized=True,
                  label=f"{name}: MAE {mae:.3g}, RMSE {rmse:.3g} {small_unit}")
    axis.set(xlabel=f"{quantity}, reference, {unit}", ylabel=f"predicted, {unit}")
    if bounds:
        axis.axline((min(bounds), min(bounds)), slope=1.0, color="0.3", linewidth=0.8)
        axis.legend(fontsize="small", markerscale=3)
    else:
        axis.text(0.5, 0.5, "no labels", ha="center", transform=axis.transAxes)
