#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Molecular dynamics with the last teacher from the training frames, labelled with the mean of all teachers.

    python label.py mlearn_Si_PBE.extxyz.xz FOLDER OUT.extxyz [--runs 2] [--steps 800] [--every 25]

OUT has what mlff-train needs for the student: the labelled frames and the training frames with their DFT labels
(split=train), the validation frames (split=validation) and the test frames (split=test). FOLDER has the teachers.

Every trajectory has its own temperature (150 to 4200 K, surfaces 150 to 1200 K) and most have a strain of their own.
Langevin, 2 fs, friction 1/60 fs; frames on which the teachers disagree are left out. eV, angstrom, fs.
"""
import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from teachers import CUTOFF, VALIDATION, VALIDATION_SEED, load_teacher

from mlff import train_data, train_model

STEP, FRICTION, SKIN, REBUILD = 2.0, 1.0 / 60.0, 0.4, 8  # fs, 1/fs, angstrom, steps
MASS = 28.085 * 103.64269  # amu in eV fs^2 / angstrom^2
RATTLES = (0.02, 0.06, 0.12)  # angstrom: displaced copies of the first frames
LARGEST_SPREAD, LARGEST_FORCE, SHORTEST = 0.3, 15.0, 1.6  # eV/angstrom between teachers, eV/angstrom, angstrom


class Ensemble:
    """Many cells at once: their atoms [N], neighbours and energies on the device."""

    def __init__(self, images: list[Atoms], device: torch.device):
        self.n = [len(a) for a in images]
        self.first = np.concatenate([[0], np.cumsum(self.n)])
        self.cells = [torch.tensor(a.cell.array, device=device) for a in images]
        self.frame = torch.repeat_interleave(torch.arange(len(images), device=device),
                                             torch.tensor(self.n, device=device))
        self.species = torch.zeros(self.first[-1], dtype=torch.long, device=device)
        self.device = device

    def neighbours(self, x: torch.Tensor, cutoff: float):
        """i, j, shift of all pairs of all cells within the cutoff, over images."""
        parts = []
        for k, cell in enumerate(self.cells):
            y, inverse = x[self.first[k]:self.first[k + 1]], torch.linalg.inv(cell)
            away = torch.floor(y @ inverse)
            wrapped = y - away @ cell
            reach = torch.ceil(cutoff * torch.linalg.norm(inverse, dim=0)).int().tolist()
            images = torch.cartesian_prod(*[torch.arange(-m - 1, m + 2, device=self.device) for m in reach]).double()
            d = wrapped[None, :, None] + (images @ cell)[None, None] - wrapped[:, None, None]
            square = (d * d).sum(-1)
            i, j, image = torch.nonzero((square < cutoff * cutoff) & (square > 1e-6), as_tuple=True)
            parts.append((i + int(self.first[k]), j + int(self.first[k]), (images[image] - away[j] + away[i]) @ cell))
        return tuple(torch.cat(p) for p in zip(*parts))

    def evaluate(self, model, x: torch.Tensor, neighbours):
        """Energies [frames], forces [N, 3], virials [frames, 3, 3] in double."""
        i, j, shift = neighbours
        batch = {"species": self.species, "r": (x[j] - x[i] + shift).float(), "i": i, "j": j, "atom_frame": self.frame}
        found = train_model.energy_forces_virial(model, batch, len(self.n), training=False)
        return tuple(t.double() for t in found)


def first_images(images: list[Atoms], rng) -> tuple[list[Atoms], np.ndarray]:
    """Copies, most of them strained, and a temperature (K) each."""
    started, kelvin = [], []
    for atoms in images:
        atoms, surface = atoms.copy(), atoms.info["group"] == "Surface"
        if not surface and rng.random() < 0.6:
            strain = rng.normal(0.0, 0.025, (3, 3))
            strain = 0.5 * (strain + strain.T) + np.eye(3) * rng.normal(0.0, 0.02)
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        started.append(atoms)
        kelvin.append(rng.uniform(150, 1200) if surface else math.exp(rng.uniform(math.log(150), math.log(4200))))
    return started, np.array(kelvin)


def dynamics(ensemble: Ensemble, model, x, kelvin, steps: int, every: int, random) -> list[torch.Tensor]:
    """Positions [N, 3] at the start and each `every` steps of Langevin dynamics."""
    def noise():
        return torch.randn(x.shape, generator=random, device=x.device, dtype=torch.float64)

    thermal = torch.sqrt(units.kB * kelvin / MASS)[:, None]
    v, keep = thermal * noise(), math.exp(-FRICTION * STEP)
    neighbours, snapshots = ensemble.neighbours(x, CUTOFF + SKIN), [x]
    f = ensemble.evaluate(model, x, neighbours)[1]
    for step in range(1, steps + 1):
        v = v + 0.5 * STEP * f / MASS
        x = x + 0.5 * STEP * v
        v = keep * v + math.sqrt(1.0 - keep * keep) * thermal * noise()
        x = x + 0.5 * STEP * v
        if step % REBUILD == 0:
            neighbours = ensemble.neighbours(x, CUTOFF + SKIN)
        f = ensemble.evaluate(model, x, neighbours)[1].clamp(-30.0, 30.0)
        v = v + 0.5 * STEP * f / MASS
        if step % every == 0:
            snapshots.append(x)
    return snapshots


def labelled(ensemble: Ensemble, models: list, x: torch.Tensor, element_energy: float) -> list[Atoms]:
    """The frames at x on which the teachers agree, with their mean energy, forces and stress."""
    neighbours = ensemble.neighbours(x, CUTOFF)
    energies, forces, virials = (torch.stack(p) for p in zip(*(ensemble.evaluate(m, x, neighbours) for m in models)))
    spread = ((forces - forces.mean(0)) ** 2).mean((0, 2))
    r = torch.linalg.norm(x[neighbours[1]] - x[neighbours[0]] + neighbours[2], dim=1)
    frame_of_pair, out = ensemble.frame[neighbours[0]], []
    for k, n in enumerate(ensemble.n):
        part = slice(int(ensemble.first[k]), int(ensemble.first[k + 1]))
        f, d = forces.mean(0)[part].cpu().numpy(), r[frame_of_pair == k]
        if (math.sqrt(float(spread[part].mean())) > LARGEST_SPREAD or np.abs(f).max() > LARGEST_FORCE
                or (len(d) and float(d.min()) < SHORTEST)):
            continue
        atoms = Atoms(["Si"] * n, positions=x[part].cpu().numpy(), cell=ensemble.cells[k].cpu().numpy(), pbc=True)
        w = -virials.mean(0)[k].cpu().numpy() / atoms.get_volume()
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(energies.mean(0)[k]) + n * element_energy, forces=f,
            stress=np.array([w[0, 0], w[1, 1], w[2, 2], w[1, 2], w[0, 2], w[0, 1]]))
        atoms.info["split"] = "train"
        out.append(atoms)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames")
    parser.add_argument("teachers", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--runs", type=int, default=2, help="trajectories from each training frame")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--parallel", type=int, default=50, help="cells at once")
    parser.add_argument("--repeat", type=int, default=2, help="copies of the training frames with their DFT labels")
    parser.add_argument("--limit", type=int, default=None, help="use only the first training frames, for a trial")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [load_teacher(path, device) for path in sorted(args.teachers.glob("teacher*.pt"))]

    images = read(args.frames, index=":", format="extxyz")
    test = [a for a in images if a.info["split"] == "test"]
    images, validation = train_data.split_by_seed([a for a in images if a.info["split"] != "test"], VALIDATION,
                                                  VALIDATION_SEED)
    images = images[:args.limit]
    for atoms in validation:
        atoms.info["split"] = "validation"
    write(args.output, images * args.repeat + validation + test, format="extxyz")

    rng, random, total = np.random.default_rng(100), torch.Generator(device=device), 0
    random.manual_seed(100)
    for first in [k for _ in range(args.runs) for k in range(0, len(images), args.parallel)]:
        started, kelvin = first_images(images[first:first + args.parallel], rng)
        ensemble = Ensemble(started, device)
        x = torch.tensor(np.concatenate([a.positions for a in started]), device=device)
        kelvin = torch.tensor(np.repeat(kelvin, ensemble.n), device=device)
        snapshots = dynamics(ensemble, models[-1], x, kelvin, args.steps, args.every, random)
        for size in RATTLES:
            snapshots.append(x + size * torch.randn(x.shape, generator=random, device=device, dtype=torch.float64))
        for y in snapshots:
            frames = labelled(ensemble, models, y, float(models[0].element_energies[0]))
            write(args.output, frames, format="extxyz", append=True)
            total += len(frames)
        print(f"{total} labelled frames", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
