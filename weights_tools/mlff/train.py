# SPDX-License-Identifier: MIT
"""mlff-train: trains a PaiNN model on frames with energies, forces and stress and writes a model file."""
from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from .errors import MlffError, require


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mlff-train", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Trains a PaiNN model on frames that ASE can read (extxyz, also .xz) with energies in eV, forces "
                    "in eV/angstrom and, where they have it, stress in eV/angstrom^3 with ASE's sign. The averaged "
                    "weights that are best on the validation part become the model file; test frames are looked at "
                    "once, at the end.")
    parser.add_argument("frames", help="training frames")
    parser.add_argument("-o", "--output", required=True, type=Path, help="model file to write")

    g = parser.add_argument_group("splits")
    g.add_argument("--validation", type=float, default=0.1, metavar="FRACTION",
                   help="part of the training frames that only chooses the weights; 0: none, the last ones are taken")
    g.add_argument("--test", default=None, metavar="FILE", help="test frames in a file of their own")
    g.add_argument("--test-fraction", type=float, default=0.0, metavar="FRACTION",
                   help="part of the frames, drawn by --seed, that is only for the test")
    g.add_argument("--test-last", type=int, default=0, metavar="N",
                   help="the last N frames are for the test: of a trajectory, where neighbouring frames are alike, a "
                   "block tells more than a random part")
    g.add_argument("--split-key", default=None, metavar="KEY",
                   help="key of the frames' info that tells test frames (and validation frames, if it says so)")
    g.add_argument("--test-name", default="test", help="value of the key on test frames")
    g.add_argument("--validation-name", default="validation", help="value of the key on validation frames")
    g.add_argument("--seed", type=int, default=0, help="of the split, the first weights and the order of the frames")

    g = parser.add_argument_group("model")
    g.add_argument("--features", type=int, default=128)
    g.add_argument("--interactions", type=int, default=3)
    g.add_argument("--cutoff", type=float, default=5.0, help="angstrom")
    g.add_argument("--radial", choices=("gaussian", "bessel"), default="gaussian")
    g.add_argument("--radial-functions", type=int, default=20)
    g.add_argument("--epsilon", type=float, default=1e-8,
                   help="in the norm of the vectors, sqrt(|V|^2 + epsilon), whose kink at V = 0 it rounds")
    g.add_argument("--readout-features", type=int, default=None, help="half of --features if not given")
    g.add_argument("--start", "--fine-tune", type=Path, default=None, metavar="MODEL",
                   help="begin with the weights of this model file; its sizes replace those above. A smaller "
                   "--learning-rate, such as 1e-4, keeps more of what it knows")
    g.add_argument("--refit-energies", action="store_true",
                   help="with --start: fit the element energies to the frames, whose energies come from another method "
                   "than the model's")

    g = parser.add_argument_group("training")
    g.add_argument("--epochs", type=int, default=1000)
    g.add_argument("--time-limit", type=float, default=math.inf, metavar="SECONDS",
                   help="train for so long, whatever --epochs is: the learning rate reaches zero exactly then. "
                   "Compiling and validation count, reading the frames and the report at the end do not")
    g.add_argument("--batch-size", type=int, default=4, help="frames")
    g.add_argument("--learning-rate", type=float, default=1e-3, help="at the start of its cosine")
    g.add_argument("--warmup-epochs", type=int, default=5)
    g.add_argument("--weight-decay", type=float, default=1e-2, help="of weight matrices")
    g.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights, a step")
    g.add_argument("--loss", choices=("mse", "huber", "norm"), default="norm",
                   help="of an error: its square, Huber's, or the length of the vector (good mean absolute errors)")
    g.add_argument("--energy-weight", type=float, default=2.0, help="of the energy an atom, eV")
    g.add_argument("--late-energy-weight", type=float, default=None, metavar="WEIGHT",
                   help="of the energy in the last part of the run, and in validation: a larger one helps energies "
                   "once forces are nearly learnt; --energy-weight if not given")
    g.add_argument("--late-from", type=float, default=0.75, metavar="FRACTION",
                   help="the part of the run after which --late-energy-weight counts")
    g.add_argument("--force-weight", type=float, default=1.0, help="of a force, eV/angstrom")
    g.add_argument("--stress-weight", type=float, default=0.2, help="of the virial an atom, eV")
    g.add_argument("--clip", type=float, default=10.0, help="longest gradient")
    g.add_argument("--evaluate-every", type=int, default=10, metavar="EPOCHS", help="how often validation is asked")
    g.add_argument("--patience", type=int, default=0, metavar="N",
                   help="stop after N evaluations without a better one; 0: go on to the last epoch")

    g = parser.add_argument_group("running")
    g.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes CUDA where there is one")
    g.add_argument("--dtype", choices=("float32", "float64"), default="float32",
                   help="of the training; files are float32")
    g.add_argument("--tf32", action="store_true", help="let the GPU round matrix products to TF32")
    g.add_argument("--no-graph", action="store_true",
                   help="launch each kernel by itself instead of one CUDA graph a step")
    g.add_argument("--compile", action="store_true",
                   help="torch.compile: takes up to some minutes first, worth it for long runs")
    g.add_argument("--fused", action="store_true",
                   help="forces' gradients by dual numbers instead of differentiating twice, on a GPU with fused "
                   "kernels (Triton) for messages; the features must be a multiple of 16. With --compile or without")
    g.add_argument("--threads", type=int, default=None, help="of the CPU")
    g.add_argument("--state", type=Path, default=None, metavar="FILE",
                   help="where to keep the state; OUTPUT.state if not given")
    g.add_argument("--resume", action="store_true", help="go on from the state file, with the same frames and options")
    g.add_argument("--stop-after", type=int, default=None, metavar="EPOCH", help="interrupt there; --resume goes on")
    g.add_argument("--max-minutes", type=float, default=math.inf, help="interrupt after this time")
    g.add_argument("--quiet", action="store_true", help="no progress bar")
    g.add_argument("--no-picture", action="store_true",
                   help="no OUTPUT.png (learning curves, predicted against reference) beside the model")

    g = parser.add_argument_group("metadata")
    g.add_argument("--provenance", default=None,
                   help="where the weights come from; made from the data set if not given")
    g.add_argument("--licence", default="unspecified", help="of the weights")
    g.add_argument("--data-licence", default="unspecified", help="of the frames")
    args = parser.parse_args(arguments)
    for name, ok, expected in (
            ("epochs", args.epochs > 0, "1 or more"), ("batch_size", args.batch_size > 0, "1 or more"),
            ("evaluate_every", args.evaluate_every > 0, "1 or more"),
            ("cutoff", args.cutoff > 0, "more than 0 angstrom"),
            ("epsilon", 0 < args.epsilon <= 1, "0 < epsilon <= 1"),
            ("learning_rate", args.learning_rate > 0, "more than 0"), ("ema", 0 <= args.ema < 1, "0 <= decay < 1"),
            ("validation", 0 <= args.validation < 1, "0 <= fraction < 1"),
            ("test_fraction", 0 <= args.test_fraction < 1, "0 <= fraction < 1"),
            ("test_last", args.test_last >= 0, "0 or more"), ("time_limit", args.time_limit > 0, "more than 0 seconds"),
            ("late_from", 0 <= args.late_from <= 1, "0 <= fraction <= 1")):
        if not ok:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected {expected}")
    if args.refit_energies and not args.start:
        parser.error("--refit-energies is of a model that --start names, and there is none")
    return args


def read_splits(args, cutoff: float, progress) -> tuple[list, list, list]:
    """Training, validation and test frames."""
    from .train_data import read_frames, require_labels, split_by_key, split_by_seed

    train, validation, test = read_frames(args.frames, cutoff, progress), [], []
    if args.split_key:
        train, test = split_by_key(train, args.split_key, args.test_name)
        train, validation = split_by_key(train, args.split_key, args.validation_name)
    if args.test_last:
        train, last = train[:-args.test_last], train[-args.test_last:]
        test = test + last
    train, drawn = split_by_seed(train, args.test_fraction, args.seed)
    test = test + drawn
    if args.test:
        test = test + read_frames(args.test, cutoff, progress)
    if not validation:
        train, validation = split_by_seed(train, args.validation, args.seed)
    if not train:
        raise MlffError(f"{args.frames}: no frame is left for training, expected at least one")
    require_labels(train, args.frames)
    known = {symbol for f in train for symbol in f.symbols}
    unknown = {symbol for f in validation + test for symbol in f.symbols} - known
    if unknown:
        raise MlffError(f"{args.frames}: no training frame has {' '.join(sorted(unknown))}, which other frames have")
    return train, validation, test


def make_model(args, frames: list):
    """The model to train, its first weights set by --seed or read from --start."""
    import torch

    from . import train_data, train_model
    from .model_file import ModelFile

    elements = sorted({symbol for f in frames for symbol in f.symbols})
    if args.start:
        try:
            model = train_model.from_model_file(ModelFile.read(args.start))
        except MlffError as error:
            raise MlffError(f"{args.start}: {error}") from None
        unknown = [e for e in elements if e not in model.elements]
        if unknown:
            raise MlffError(f"{args.start}: knows {' '.join(model.elements)}, but the frames have {' '.join(unknown)}")
        return model
    torch.manual_seed(args.seed)
    h = train_model.Hyperparameters(args.features, args.interactions, args.radial, args.radial_functions, args.cutoff,
                                    args.epsilon, readout_features=args.readout_features or max(1, args.features // 2))
    return train_model.PaiNN(h, elements, train_data.force_rms(frames),
                             train_data.fit_element_energies(frames, elements))


def train_options(args):
    from .train_fit import Options

    return Options(args.epochs, args.batch_size, args.learning_rate, args.warmup_epochs, args.weight_decay, args.ema,
                   args.loss, args.energy_weight, args.force_weight, args.stress_weight, args.clip, args.evaluate_every,
                   args.patience, args.seed, not args.no_graph, args.compile, args.fused, args.time_limit,
                   args.late_energy_weight, args.late_from)


def load_state(trainer, path: Path) -> None:
    """Goes on from a state file; every option that shapes the run must be the one it was begun with."""
    import dataclasses

    import torch

    if not path.is_file():
        raise MlffError(f"{path}: no such file, expected the state of an earlier run")
    try:
        state = torch.load(path, map_location=trainer.data.device, weights_only=True)
        given = {**state["options"], **state["identity"]}
    except Exception as error:  # torch raises whatever it trips over
        raise MlffError(f"{path}: is not a state of mlff-train: {type(error).__name__}") from None
    for name, value in trainer.identity.items():
        if given.get(name) != value:
            raise MlffError(f"{path}: begun with other {name} ({given.get(name)}), expected the same, found {value}")
    for name, value in dataclasses.asdict(trainer.o).items():
        if name not in ("graph", "compile", "fused") and given.get(name) != value:
            raise MlffError(f"{path}: begun with {name} = {given.get(name)}, expected the same, found {value}")
    trainer.load(state)


class Progress:
    """A bar on stderr over the epochs, or over the seconds of --time-limit, with the validation's errors; a line for
    each evaluation where it is no terminal. It says how many frames a second were trained on since the last one."""

    def __init__(self, args, trainer):
        from tqdm import tqdm

        self.quiet, self.trainer, self.limit = args.quiet, trainer, args.time_limit
        total, unit, done = args.epochs, "epoch", trainer.epochs_done
        if math.isfinite(self.limit):
            total, unit, done = round(self.limit), "s", int(trainer.seconds)
        self.bar = tqdm(total=total, initial=done, unit=unit, desc="train", file=sys.stderr,
                        disable=True if args.quiet else None)
        self.since = (trainer.epochs_done, time.monotonic())

    def speed(self, epoch: int) -> str:
        (before, then), now = self.since, time.monotonic()
        self.since = (epoch, now)
        return f"{(epoch - before) * self.trainer.data.n_frames / max(now - then, 1e-9):.4g} frames/s"

    def __call__(self, epoch: int, loss: float, validation) -> None:
        if validation:
            text = f"loss {loss:.4g}, validation {validation['loss']:.4g}"
            for key, unit in (("energy_mae", "meV/atom"), ("force_mae", "meV/A")):
                if key in validation:
                    text += f", {validation[key]:.3g} {unit}"
            text += f", {self.speed(epoch)}"
            self.bar.set_postfix_str(text)
            if self.bar.disable and not self.quiet:
                print(f"epoch {epoch} ({self.trainer.seconds:.0f} s): {text}", flush=True)
        if math.isfinite(self.limit):
            self.bar.update(min(int(self.trainer.seconds), round(self.limit)) - self.bar.n)
        else:
            self.bar.update(1)


def set_up_torch(args):
    """The device to train on; --threads and --tf32."""
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto"
                              else args.device)
    except RuntimeError:
        raise MlffError(f"--device {args.device}: unknown to PyTorch, expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MlffError(f"--device {args.device}: PyTorch finds no CUDA device; expected one, or --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    return device


def train(args) -> int:
    import torch
    from tqdm import tqdm

    from . import train_fit, train_pictures, train_result
    from .model_file import ModelFile
    from .train_data import GraphSet, fingerprint

    device = set_up_torch(args)
    if not args.output.parent.is_dir():
        raise MlffError(f"{args.output}: the folder is missing")
    if not args.no_picture:
        train_pictures.check_available()
    if args.start:
        args.cutoff = ModelFile.read(args.start).cutoff

    def bar(images):
        return tqdm(images, unit="frame", desc="neighbours", disable=True if args.quiet else None, file=sys.stderr)

    training, validation, test = read_splits(args, args.cutoff, bar)
    model = make_model(args, training)
    dtype = getattr(torch, args.dtype)
    model.to(device, dtype)

    def graphs(frames):
        return GraphSet(frames, model.elements, model.element_energies, args.cutoff, device, dtype) if frames else None

    sets = {"training": graphs(training), "validation": graphs(validation)}
    if args.refit_energies:
        model.element_energies = train_fit.refit_element_energies(model, sets["training"], training)
        sets = {"training": graphs(training), "validation": graphs(validation)}
    trainer = train_fit.Trainer(model, sets["training"], train_options(args))
    trainer.identity = {"frames": fingerprint(training + validation), "model": f"{model.h} {model.elements}",
                        "start": train_result.start_of(args), "dtype": args.dtype}
    state_path = args.state or args.output.with_name(args.output.name + ".state")
    if args.resume:
        load_state(trainer, state_path)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(training)} training, {len(validation)} validation, {len(test)} test frames; elements "
          f"{' '.join(model.elements)}; {n_parameters} parameters; {device}", flush=True)
    progress = Progress(args, trainer)
    if args.start and not trainer.epochs_done:
        train_fit.evaluate(trainer, sets["validation"])  # what is fine-tuned may be the best already
    done = train_fit.fit(trainer, sets["validation"], str(state_path), args.stop_after, 60.0 * args.max_minutes,
                         progress)
    progress.bar.close()
    if not done:
        print(f"interrupted after epoch {trainer.epochs_done}; --resume goes on from {state_path}", flush=True)
    elif not trainer.finished():
        print(f"stopped early, after epoch {trainer.epochs_done}: {args.patience} evaluations without a better one than "
              f"that of epoch {trainer.best['epoch']}, whose weights are kept", flush=True)
    if trainer.best["state"] is None:  # interrupted before the first evaluation
        trainer.consider(-trainer.epochs_done)
    sets["test"] = graphs(test)
    train_result.write(args, trainer, sets, {"training": training, "validation": validation, "test": test})
    return 0


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        require("torch", "mlff-train", "train")
        require("ase", "mlff-train", "train")
        return train(args)
    except (MlffError, OSError, ValueError, FloatingPointError) as error:
        print(f"mlff-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mlff-train: interrupted; --resume goes on from the state file", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
