# SPDX-License-Identifier: MIT
"""What a training leaves: the model file with its metadata, and the picture beside it."""
from __future__ import annotations

import math
import os
from pathlib import Path

from . import __version__
from .files import file_hash


def write(args, trainer, sets: dict, frames: dict) -> None:
    """The best weights as a model file with their errors on all sets, checked against the C library, and the picture.

    sets: GraphSet or None by the names training, validation, test; frames: the same as lists of Frame.
    """
    from . import short_range, train_fit, train_pictures
    from .train_check import check_written_file
    from .train_model import to_model_file

    model, best = trainer.averaged, trainer.best
    model.load_state_dict(best["state"])
    distances = short_range.distances_of_frames(frames["training"], model.elements)
    info = describe(args, trainer, frames, short_range.format_distances(distances))
    for name, data in sets.items():
        if data:
            info[f"errors_{name}"] = train_fit.describe(train_fit.errors(model, data, trainer.o))
            print(f"{name:10s} {info[f'errors_{name}']}")
    file = to_model_file(model, best["state"], provenance(args, frames["training"]), args.licence, info)
    file.short_range = short_range.of_training(distances, file, args.start)
    file.write(args.output)
    print(f"{args.output}: written; {check_written_file(args.output, frames['training'])}")
    if not args.no_picture:
        picture = args.output.with_suffix(".png")
        predicted = {name: train_fit.predictions(model, data) for name, data in sets.items() if data}
        train_pictures.draw(picture, args.output.name, trainer.history, best["epoch"], predicted)
        print(f"{picture}: learning curves, predicted against reference")


def describe(args, trainer, frames: dict, distances: str) -> dict[str, str]:
    """The info.* keys of the metadata but for the errors: data, split, options, what the model has seen.

    distances: the shortest of the training frames, as short_range.format_distances gives them.
    """
    import torch

    from .train_data import ranges

    elsewhere = ("epochs", "seed", "graph", "compile", "fused", "time_limit")
    told = {k: v for k, v in vars(trainer.o).items() if k not in elsewhere and v is not None}
    options = " ".join(f"{k}={v}" for k, v in told.items())
    device = torch.cuda.get_device_name(trainer.data.device) if trainer.data.device.type == "cuda" else "CPU"
    epochs = str(args.epochs)
    if math.isfinite(args.time_limit):
        epochs = f"{trainer.epochs_done} (time limit {args.time_limit:g} s)"
    info = {
        "software": f"mlff-train {__version__}, PyTorch {torch.__version__}",
        "data": f"{os.path.basename(args.frames)}, sha256 {file_hash(args.frames)}",
        "data_licence": args.data_licence,
        "frames": ", ".join(f"{len(part)} {name}" for name, part in frames.items()),
        "split": _split(args),
        "training": f"epoch {trainer.best['epoch']} of {epochs}, seed {args.seed}, options {options}",
        "time": f"{trainer.seconds / 60:.1f} minutes, {device}",
        "shortest_distances": distances or "none",
    }
    # numbers of frames in the file of --frames, from 0, so that held-out errors can be measured again
    own = {"validation": frames["validation"], "test": frames["test"]}
    if args.test:
        info["test_data"] = f"{os.path.basename(args.test)}, sha256 {file_hash(args.test)}"
        own["test"] = [f for f in frames["test"] if f.source == args.frames]
    for name, part in own.items():
        if part:
            info[f"{name}_frames"] = ranges(sorted(f.number for f in part))
    if args.start:
        info["start"] = start_of(args)
    return info


def start_of(args) -> str:
    """Where the first weights come from."""
    if not args.start:
        return f"seed {args.seed}"
    refitted = ", element energies fitted anew" if args.refit_energies else ""
    return f"{Path(args.start).name}, sha256 {file_hash(args.start)}{refitted}"


def _split(args) -> str:
    """How the frames were divided, in the order in which it was done."""
    steps = []
    if args.split_key:
        steps.append(f"by '{args.split_key}': test '{args.test_name}', validation '{args.validation_name}'")
    if args.test_last:
        steps.append(f"test: the last {args.test_last}")
    if args.test_fraction:
        steps.append(f"test: {args.test_fraction:g} of the rest by seed {args.seed}")
    if args.test:
        steps.append("test: a file of its own")
    steps.append(f"validation, if not yet there: {args.validation:g} of the rest by seed {args.seed}")
    return "; ".join(steps)


def provenance(args, training: list) -> str:
    """--provenance, or else the frames' file and, where mlff-label made their labels, with what."""
    if args.provenance:
        return args.provenance
    labels = sorted({str(f.info["label_calculator"]) for f in training if "label_calculator" in f.info})
    return f"mlff-train on {os.path.basename(args.frames)}" + (f", labelled by {', '.join(labels)}" if labels else "")
