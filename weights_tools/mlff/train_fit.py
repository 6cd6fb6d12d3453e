# SPDX-License-Identifier: MIT
"""The training loop: loss, optimiser, averaged weights, choice by validation, checkpoints, errors."""
from __future__ import annotations

import copy
import dataclasses
import math
import os
import time

import numpy as np
import torch
from torch.nn.functional import huber_loss

from . import train_dual
from .errors import MlffError
from .train_data import GraphSet, count_elements
from .train_model import energy_forces_virial


@dataclasses.dataclass
class Options:
    epochs: int = 1000
    batch_size: int = 4
    learning_rate: float = 1e-3
    warmup_epochs: int = 5
    weight_decay: float = 1e-2
    ema: float = 0.999
    loss: str = "norm"  # mse, huber or norm
    energy_weight: float = 2.0
    force_weight: float = 1.0
    stress_weight: float = 0.2
    clip: float = 10.0
    evaluate_every: int = 10  # epochs
    patience: int = 0  # evaluations without a better one until the training stops; 0: never
    seed: int = 0
    graph: bool = True  # one CUDA graph a step, on CUDA only
    compile: bool = False  # torch.compile
    fused: bool = False  # dual numbers and, on CUDA, fused kernels (train_dual.py) instead of differentiating twice
    time_limit: float = math.inf  # seconds of training; finite: they and not the epochs shape the schedule
    late_energy_weight: float | None = None  # instead of energy_weight in the last part of the run
    late_from: float = 0.75  # the part of the run after which the late weight counts


# ------------------------------------------------------------------------------------------------- loss

def penalty(error: torch.Tensor, kind: str) -> torch.Tensor:
    """What each row [n, c] of errors costs [n]: mse, their mean square; norm, their length; huber, square near 0."""
    if kind == "mse":
        return (error * error).mean(1)
    if kind == "huber":  # quadratic below 0.05
        return 20.0 * huber_loss(error, torch.zeros_like(error), reduction="none", delta=0.05).mean(1)
    return torch.sqrt((error * error).sum(1) + 1e-8)


def final_energy_weight(o: Options) -> float:
    """The weight of energies at the end of the run, by which validation judges all of it."""
    return o.energy_weight if o.late_energy_weight is None else o.late_energy_weight


def loss_of_batch(predicted, batch: dict, o: Options,
                  energy_weight: torch.Tensor | float | None = None) -> torch.Tensor:
    """Energy and virial count per atom, eV; forces in eV/angstrom. Labels that are nan do not count.

    energy_weight: instead of that of the end; a tensor may change under a CUDA graph.
    """
    energy, forces, virial = predicted
    n = batch["n_atoms"]
    if energy_weight is None:
        energy_weight = final_energy_weight(o)
    terms = ((energy_weight, ((energy - batch["energy"]) / n)[:, None]),
             (o.force_weight, forces - batch["forces"]),
             (o.stress_weight, ((virial - batch["virial"]).reshape(-1, 9) / n[:, None])))
    total = torch.zeros((), dtype=energy.dtype, device=energy.device)
    for weight, error in terms:
        if torch.is_tensor(weight) or weight:
            known = torch.isfinite(error).all(1)
            cost = penalty(torch.where(known[:, None], error, 0.0), o.loss) * known
            total = total + weight * cost.sum() / known.sum().clamp(min=1)
    return total


def errors(model, data: GraphSet, o: Options, chunk: int = 16) -> dict[str, float]:
    """Loss of a set and its MAE and RMSE of force components (meV/angstrom), energy (meV/atom), stress (meV/A^3)."""
    parts = {"energy": [], "force": [], "stress": []}
    loss, device = 0.0, data.device
    for first in range(0, data.n_frames, chunk):
        chosen = torch.arange(first, min(first + chunk, data.n_frames), device=device)
        batch = data.batch(chosen)
        predicted = energy_forces_virial(model, batch, len(chosen), training=False)
        loss += float(loss_of_batch(predicted, batch, o)) * len(chosen) / data.n_frames
        energy, forces, virial = predicted
        volume = data.volume[first:first + chunk]
        volume = torch.as_tensor(np.where(volume > 0, volume, 1.0), device=device)
        parts["energy"].append((energy - batch["energy"]) / batch["n_atoms"])
        parts["force"].append((forces - batch["forces"]).reshape(-1))
        parts["stress"].append(((virial - batch["virial"]) / volume[:, None, None].to(virial.dtype)).reshape(-1))
    out = {"loss": loss}
    for name, list_of_errors in parts.items():
        e = torch.cat(list_of_errors).double()
        e = e[torch.isfinite(e)]
        if len(e):
            out[name + "_mae"] = 1e3 * float(e.abs().mean())
            out[name + "_rmse"] = 1e3 * float((e * e).mean().sqrt())
    return out


def describe(e: dict[str, float]) -> str:
    units = {"force": "meV/A", "energy": "meV/atom", "stress": "meV/A^3"}
    known = [f"{k} MAE {e[k + '_mae']:.4g} RMSE {e[k + '_rmse']:.4g} {u}" for k, u in units.items() if k + "_mae" in e]
    return ", ".join(known)


def predictions(model, data: GraphSet, chunk: int = 16) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(reference, predicted) of the labels that are known: `energy` [frames] eV/atom without the element energies,
    `force` [components] eV/angstrom."""
    parts: dict[str, list] = {"energy": [], "force": []}
    for first in range(0, data.n_frames, chunk):
        chosen = torch.arange(first, min(first + chunk, data.n_frames), device=data.device)
        batch = data.batch(chosen)
        energy, forces, _ = energy_forces_virial(model, batch, len(chosen), training=False)
        n = batch["n_atoms"]
        parts["energy"].append(torch.stack([batch["energy"] / n, energy / n]))
        parts["force"].append(torch.stack([batch["forces"].reshape(-1), forces.reshape(-1)]))
    out = {}
    for name, pairs in parts.items():
        pair = torch.cat(pairs, dim=1).double().cpu().numpy()
        pair = pair[:, np.isfinite(pair[0])]
        out[name] = (pair[0], pair[1])
    return out


def refit_element_energies(model, data: GraphSet, frames: list) -> np.ndarray:
    """Energies [elements] eV by least squares of what the frames' energies are beyond those of the network. The
    shortest change from the model's own is taken, so that an element that the frames lack keeps its energy."""
    parts = []
    for first in range(0, data.n_frames, 16):
        chosen = torch.arange(first, min(first + 16, data.n_frames), device=data.device)
        batch = data.batch(chosen)
        parts.append((batch["energy"] - energy_forces_virial(model, batch, len(chosen), training=False)[0]).double())
    beyond = torch.cat(parts).cpu().numpy()  # data.energy has the element energies of the model taken off
    known = np.isfinite(beyond)
    if not known.any():
        raise MlffError("--refit-energies: no training frame has an energy, expected at least one")
    counts = count_elements(frames, model.elements)
    return model.element_energies + np.linalg.lstsq(counts[known], beyond[known], rcond=1e-8)[0]


# ------------------------------------------------------------------------------------------------- step

def plain(model, batch: dict, n_frames: int):
    return lambda parameters, batch: energy_forces_virial(model, batch, n_frames, training=True)


def compiled(model, batch: dict, n_frames: int):
    """energy_forces_virial compiled for batches of the shapes of `batch`.

    torch.compile cannot differentiate twice, so the forces' derivative is traced out first: what is compiled is a plain
    function of parameters and batch, which it differentiates once.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    names = [name for name, _ in model.named_parameters()]

    def function(parameters, batch):
        def call(*inputs):
            return torch.func.functional_call(model, dict(zip(names, parameters)), inputs)
        return energy_forces_virial(call, batch, n_frames, training=True)

    parameters = [p.detach().clone().requires_grad_(True) for p in model.parameters()]
    return torch.compile(make_fx(function)(parameters, batch), dynamic=False)


class Trainer:
    """A model, its averaged twin, its optimiser and the step that moves them. Resumable: state() and load()."""

    def __init__(self, model, data: GraphSet, o: Options):
        self.model, self.data, self.o = model, data, o
        self.batch_size = min(o.batch_size, data.n_frames)
        self.averaged = copy.deepcopy(model)
        self.parameters = list(model.parameters())
        self.averaged_parameters = list(self.averaged.parameters())
        on_cuda = data.device.type == "cuda"
        matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith("embedding")]
        rest = [p for name, p in model.named_parameters() if p.ndim < 2 or name.startswith("embedding")]
        rate = torch.tensor(0.0, device=data.device) if on_cuda else 0.0  # a tensor can change under a CUDA graph
        self.optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": o.weight_decay},
                                            {"params": rest, "weight_decay": 0.0}],
                                           lr=rate, capturable=on_cuda, fused=on_cuda or None)
        self.mix = torch.tensor(0.0, device=data.device)  # the share of the new weights in the average
        self.energy_weight = torch.tensor(o.energy_weight, dtype=data.dtype, device=data.device)
        self.use_graph = on_cuda and o.graph
        self.size = data.largest(self.batch_size) if self.use_graph or o.compile else None
        self.steps = train_dual.make_steps(model, self.batch_size, data.device, o.compile) if o.fused else None
        self.graph, self.static, self.static_loss = None, None, None
        self.predict = None
        self.epochs_done, self.steps_done = 0, 0
        self.best = {"loss": math.inf, "epoch": 0, "state": None}
        self.evaluations_since_best = 0
        self.history: dict[str, list] = {"loss": [], "evaluations": []}  # loss an epoch; {"epoch": n, "loss": x, ...}
        self.seconds = 0.0  # of training, in all parts of an interrupted run, as of `ticked`
        self.ticked = time.monotonic()
        self.identity: dict[str, str] = {}  # what a state file must have been begun with, besides the options

    def tick(self) -> float:
        """Counts the seconds since the last tick as training; the seconds of the whole run."""
        now = time.monotonic()
        self.seconds, self.ticked = self.seconds + now - self.ticked, now
        return self.seconds

    def progress(self) -> float:
        """How much of the run is over, 0 to 1: of the time limit if there is one, else of the epochs."""
        if math.isfinite(self.o.time_limit):
            return min(1.0, (self.seconds + time.monotonic() - self.ticked) / self.o.time_limit)
        return min(1.0, self.steps_done / (-(-self.data.n_frames // self.batch_size) * self.o.epochs))

    def finished(self) -> bool:
        """Whether the run is over: nothing of its time or epochs is left."""
        return self.progress() >= 1.0

    def rate(self, progress: float) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        steps = -(-self.data.n_frames // self.batch_size)
        warm = min(1.0, (self.steps_done + 1.0) / steps / max(self.o.warmup_epochs, 1e-9))
        return self.o.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * progress))

    def compute(self, chosen: torch.Tensor) -> torch.Tensor:
        batch = self.data.batch(chosen, self.size)
        self.optimizer.zero_grad(set_to_none=True)
        if self.steps:
            loss = self.steps.backward(batch, loss_of_batch, self.o, self.energy_weight)
        else:
            if self.predict is None:
                self.predict = (compiled if self.o.compile else plain)(self.model, batch, self.batch_size)
            loss = loss_of_batch(self.predict(self.parameters, batch), batch, self.o, self.energy_weight)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.o.clip)
        self.optimizer.step()
        with torch.no_grad():
            change = torch._foreach_sub(self.parameters, self.averaged_parameters)
            torch._foreach_mul_(change, self.mix)
            torch._foreach_add_(self.averaged_parameters, change)
        return loss.detach()

    def step(self, chosen: torch.Tensor) -> torch.Tensor:
        progress = self.progress()
        for group in self.optimizer.param_groups:
            if torch.is_tensor(group["lr"]):
                group["lr"].fill_(self.rate(progress))
            else:
                group["lr"] = self.rate(progress)
        self.energy_weight.fill_(final_energy_weight(self.o) if progress >= self.o.late_from else self.o.energy_weight)
        self.mix.fill_(1.0 - min(self.o.ema, (1.0 + self.steps_done) / (10.0 + self.steps_done)))
        self.steps_done += 1
        if not self.use_graph:
            return self.compute(chosen)
        if self.graph is None:
            self.capture(chosen)
        self.static.copy_(chosen)
        self.graph.replay()
        return self.static_loss

    def capture(self, chosen: torch.Tensor) -> None:
        """Records one step as a CUDA graph: a step is some thousand small kernels, whose launches would dominate.

        The warm-up that capturing needs moves the weights; they are put back afterwards.
        """
        self.static = chosen.clone()
        tensors = [*self.parameters, *self.averaged_parameters]
        saved = [t.detach().clone() for t in tensors]
        saved_optimizer = copy.deepcopy(self.optimizer.state_dict()["state"])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.compute(self.static)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.static_loss = self.compute(self.static)
        with torch.no_grad():
            for t, s in zip(tensors, saved):
                t.copy_(s)
            ordered = [p for group in self.optimizer.param_groups for p in group["params"]]
            for number, p in enumerate(ordered):
                for name, t in self.optimizer.state[p].items():
                    if number in saved_optimizer:
                        t.copy_(saved_optimizer[number][name])
                    else:
                        t.zero_()

    def epoch(self) -> float:
        """One pass over the frames, or what of it the time limit leaves; the mean loss."""
        total, n = torch.zeros((), dtype=self.data.dtype, device=self.data.device), 0
        for chosen in self.data.epoch(self.batch_size, self.o.seed, self.epochs_done):
            total += self.step(chosen)
            n += 1
            if math.isfinite(self.o.time_limit) and self.finished():
                break
        self.epochs_done += 1
        return float(total) / n

    def consider(self, score: float) -> None:
        """Keeps the averaged weights if no earlier ones had a smaller score."""
        self.evaluations_since_best += 1
        if score < self.best["loss"]:
            state = {k: v.detach().clone() for k, v in self.averaged.state_dict().items()}
            self.best = {"loss": score, "epoch": self.epochs_done, "state": state}
            self.evaluations_since_best = 0

    def state(self) -> dict:
        return {"model": self.model.state_dict(), "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(), "epochs_done": self.epochs_done,
                "steps_done": self.steps_done, "best": self.best,
                "evaluations_since_best": self.evaluations_since_best, "options": dataclasses.asdict(self.o),
                "history": self.history, "seconds": self.seconds, "identity": self.identity}

    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("epochs_done", "steps_done", "best", "evaluations_since_best", "history", "seconds"):
            setattr(self, name, state[name])


# ------------------------------------------------------------------------------------------------- loop

STATE_SECONDS = 120.0  # the state is written after so long at the latest, and at each evaluation


def evaluate(trainer: Trainer, validation: GraphSet | None) -> dict[str, float] | None:
    """Asks validation, keeps the answer in the history and the averaged weights if they are the best so far."""
    found = errors(trainer.averaged, validation, trainer.o) if validation else None
    trainer.consider(found["loss"] if found else -trainer.epochs_done)
    if found:
        trainer.history["evaluations"].append({"epoch": trainer.epochs_done, **found})
    return found


def save(trainer: Trainer, path: str) -> None:
    """Writes the state under another name first: an interruption leaves the old one or the new one."""
    torch.save(trainer.state(), path + ".partial")
    os.replace(path + ".partial", path)


def fit(trainer: Trainer, validation: GraphSet | None, state_path: str | None = None, stop_after: int | None = None,
        max_seconds: float = math.inf, report=lambda epoch, loss, validation_errors: None) -> bool:
    """Trains to the last epoch, or the end of the time limit, and keeps the best averaged weights; False when
    interrupted before.

    Interrupted by `stop_after`, an epoch, or `max_seconds`. With a validation set the best weights are those with its
    smallest loss, else the last ones. `report` is called after each epoch; the state file is written at every
    evaluation, every two minutes and at the end. Without a time limit what a run does depends on its state alone, so
    that one in parts is the one in one.
    """
    o, start = trainer.o, time.monotonic()
    saved = trainer.ticked = start
    while not trainer.finished() and not (o.patience and trainer.evaluations_since_best >= o.patience):
        loss = trainer.epoch()
        trainer.history["loss"].append(loss)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {trainer.epochs_done}, expected a finite number; "
                                     "try a smaller --learning-rate")
        last = trainer.finished()
        interrupted = trainer.epochs_done == stop_after or time.monotonic() - start > max_seconds
        asked = last or trainer.epochs_done % o.evaluate_every == 0
        found = evaluate(trainer, validation) if asked else None
        trainer.tick()
        if state_path and (asked or interrupted or trainer.ticked - saved > STATE_SECONDS):
            save(trainer, state_path)
            saved = trainer.ticked
        report(trainer.epochs_done, loss, found)
        if interrupted and not last:
            return False
    evaluations = trainer.history["evaluations"]
    if math.isfinite(o.time_limit) and (not evaluations or evaluations[-1]["epoch"] != trainer.epochs_done):
        evaluate(trainer, validation)  # the time ran out between two epochs
        if state_path:
            save(trainer, state_path)
    return True
