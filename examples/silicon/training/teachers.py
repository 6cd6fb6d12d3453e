#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains the teachers on the training frames of mlearn_Si_PBE, chosen by its validation part.

    python teachers.py mlearn_Si_PBE.extxyz.xz FOLDER [--only 0 3] [--epochs N]

writes FOLDER/teacher0.pt ... teacher7.pt and says their validation errors. Test frames are dropped when read.
"""
import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from tensor2 import Tensor2

from mlff import train_data, train_fit, train_model

CUTOFF = 5.0  # angstrom
VALIDATION, VALIDATION_SEED = 0.1, 1000  # the same frames for teachers and student
BASE = train_model.Hyperparameters(features=64, readout_features=32, cutoff=CUTOFF)
OPTIONS = train_fit.Options(epochs=240)
# Different in size, radial functions and options, so that their errors differ too: (hyperparameters, options).
VARIANTS = [
    ({}, {}),
    ({}, dict(weight_decay=0.2)),
    (dict(radial="bessel", radial_functions=10), {}),
    (dict(radial="bessel", radial_functions=10), dict(learning_rate=2e-3, weight_decay=0.2)),
    (dict(features=96, readout_features=48), dict(weight_decay=0.1)),
    (dict(interactions=2), dict(weight_decay=0.1)),
    ({}, dict(energy_weight=6.0, stress_weight=0.5)),
    (dict(radial_functions=12), dict(batch_size=2, learning_rate=5e-4, ema=0.9995)),
]


def read_training(path: str) -> tuple[list, list]:
    """Training and validation frames; the set's test frames are left out."""
    frames, _ = train_data.split_by_key(train_data.read_frames(path, CUTOFF), "split", "test")
    return train_data.split_by_seed(frames, VALIDATION, VALIDATION_SEED)


def load_teacher(path: Path, device: torch.device) -> Tensor2:
    saved = torch.load(path, map_location=device, weights_only=True)
    model = Tensor2(train_model.Hyperparameters(**saved["hyperparameters"]), saved["elements"], saved["scale"],
                    np.array(saved["element_energies"]))
    model.load_state_dict(saved["state"])
    return model.to(device).eval().requires_grad_(False)


def train_teacher(number: int, training: list, validation: list, epochs: int, device: torch.device) -> dict:
    sizes, options = VARIANTS[number]
    h = dataclasses.replace(BASE, **sizes)
    o = dataclasses.replace(OPTIONS, seed=number, epochs=epochs, **options)
    energies = train_data.fit_element_energies(training, ["Si"])
    torch.manual_seed(number)
    model = Tensor2(h, ["Si"], train_data.force_rms(training), energies).to(device)
    sets = [train_data.GraphSet(f, ["Si"], energies, CUTOFF, device, torch.float32) for f in (training, validation)]
    trainer = train_fit.Trainer(model, sets[0], o)
    train_fit.fit(trainer, sets[1])
    trainer.averaged.load_state_dict(trainer.best["state"])
    print(f"teacher {number}: epoch {trainer.best['epoch']}, validation "
          f"{train_fit.describe(train_fit.errors(trainer.averaged, sets[1], o))}", flush=True)
    return {"hyperparameters": dataclasses.asdict(h), "elements": ["Si"], "scale": model.scale,
            "element_energies": energies.tolist(), "state": trainer.best["state"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=int, nargs="+", default=range(len(VARIANTS)), help="numbers of the teachers")
    parser.add_argument("--epochs", type=int, default=OPTIONS.epochs)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, validation = read_training(args.frames)
    args.folder.mkdir(exist_ok=True)
    for number in args.only:
        saved = train_teacher(number, training, validation, args.epochs, device)
        torch.save(saved, args.folder / f"teacher{number}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
