# SPDX-License-Identifier: MIT
"""What is compared: mlff through its C interface, PaiNN in PyTorch in several ways, and SchNetPack's where it is there.

A candidate opens a problem, makes steps and closes. A step is one evaluation of energy, forces and virial that has
ended when `step` returns. mlff's begins with positions and ends with results in the host's memory; PyTorch's
positions, edges and results stay on the device, which favours it by the copies.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch

from mlff import MlffError, _library
from mlff.errors import LibraryError
from mlff.model_file import ModelFile
from mlff.train_model import energy_forces_virial, from_model_file
from systems import Problem

PRECISIONS = ("double", "single", "mixed")
GRAPH_ATOMS = 3000  # CUDA graphs of PyTorch are for small sizes, where launches are the time


class Refused(Exception):
    """The sentence stands in the table instead of a figure."""


def refusal(error: RuntimeError) -> Refused:
    """PyTorch's failures: out of memory, or the first line of what its compiler said."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error):
        return Refused("out of memory")
    return Refused((str(error).strip().splitlines() or [type(error).__name__])[0])


@dataclass
class Result:
    energy: np.ndarray  # [S] eV, element energies included
    forces: np.ndarray  # [N][3] eV/angstrom
    virial: np.ndarray  # [S][3][3] eV


# ------------------------------------------------------------------------------------------------- mlff


class _NeighbourList(ctypes.Structure):
    """mlff_neighbour_list of mlff.h."""

    _fields_ = [
        ("rebuilt", ctypes.c_int),
        ("n_listed", ctypes.c_int32),
        ("ilist", ctypes.POINTER(ctypes.c_int32)),
        ("numneigh", ctypes.POINTER(ctypes.c_int32)),
        ("firstneigh", ctypes.c_void_p),
        ("index_mask", ctypes.c_int32),
        ("owner", ctypes.POINTER(ctypes.c_int32)),
    ]


class Mlff:
    """Arrays are laid out once, so that a step is one call of mlff_evaluate.

    "list": neighbours as an MD engine gives them, with skin, read again only when they were rebuilt.
    "structures": the library finds the neighbours in every call.
    """

    def __init__(self, model: _library.Model, device: str, precision: str, neighbours: str, threads: int):
        self.model, self.device, self.precision, self.threads = model, device, precision, threads
        self.neighbours = neighbours
        self.name = f"mlff {precision}" + (", finds neighbours" if neighbours == "structures" else "")
        self.evaluator: _library.Evaluator | None = None

    def open(self, problem: Problem) -> None:
        if self.neighbours == "list" and problem.lists is None:
            raise Refused("a list is for one structure")
        if self.device == "cuda":
            torch.cuda.empty_cache()  # what PyTorch keeps back is mlff's to take
        try:
            self.evaluator = _library.Evaluator(self.model, self.device, self.precision, self.threads)
        except MlffError as error:
            raise Refused(str(error)) from None
        self.open_again(problem)

    def open_again(self, problem: Problem) -> None:
        """Another problem, the same evaluator."""
        self.list = self.batch = None
        if self.neighbours == "list":
            self._lay_out_list(problem)
        else:
            self._lay_out_structures(problem)
        n, n_all, frames = problem.atoms, len(self.x), len(problem.systems)
        self.out = Result(np.empty(frames), np.empty((n_all, 3)), np.empty((frames, 3, 3)))
        self.n = n
        self.input = _library._Input(
            n,
            n_all,
            _library._doubles(self.x),
            _library._ints(self.species),
            ctypes.addressof(self.list) if self.list else None,
            ctypes.pointer(self.batch) if self.batch else None,
            None,
        )
        self.output = _library._Output(
            _library._doubles(self.out.energy),
            None,
            _library._doubles(self.out.forces),
            _library._doubles(self.out.virial),
            None,
        )
        self.error = _library._Error()
        self.arguments = (
            self.evaluator._handle,
            ctypes.byref(self.input),
            ctypes.byref(self.output),
            ctypes.byref(self.error),
        )
        self.call = self.model._library.mlff_evaluate

    def _lay_out_list(self, problem: Problem) -> None:
        lists, n = problem.lists, problem.atoms
        self.x = lists.x.cpu().numpy()
        self.owner = lists.owner.int().cpu().numpy()
        self.species = problem.species[self.owner]
        self.flat = lists.j.int().cpu().numpy()
        count = torch.bincount(lists.i, minlength=len(self.x))
        self.numneigh = count.int().cpu().numpy()
        first = (count.cumsum(0) - count).cpu().numpy().astype(np.uintp)
        self.firstneigh = first * np.uintp(4) + np.uintp(self.flat.ctypes.data)
        self.ilist = np.arange(n, dtype=np.int32)
        self.list = _NeighbourList(
            1,
            n,
            _library._ints(self.ilist),
            _library._ints(self.numneigh),
            self.firstneigh.ctypes.data,
            0x1FFFFFFF,
            _library._ints(self.owner),
        )

    def _lay_out_structures(self, problem: Problem) -> None:
        systems = problem.systems
        self.x = np.ascontiguousarray(np.concatenate([s.positions for s in systems]))
        self.species = problem.species
        self.first_atom = np.concatenate([[0], np.cumsum([len(s) for s in systems])]).astype(np.int32)
        self.cell = np.stack([np.eye(3) * (s.box or 0.0) for s in systems])
        self.periodic = np.stack([np.full(3, s.box is not None) for s in systems]).astype(np.int32)
        periodic = bool(self.periodic.any())
        self.batch = _library._Structures(
            len(systems),
            _library._ints(self.first_atom),
            _library._doubles(self.cell if periodic else None),
            _library._ints(self.periodic if periodic else None),
        )

    def step(self) -> None:
        status = self.call(*self.arguments)
        if status:
            try:
                _library._check(self.model._library, status, self.error)
            except LibraryError as error:
                raise Refused("out of memory" if error.status == "out of memory" else str(error)) from None
        if self.list:
            self.list.rebuilt = 0

    def rebuilt(self) -> None:
        """The next step reads the list again."""
        self.list.rebuilt = 1

    def result(self) -> Result:
        return Result(self.out.energy, self.out.forces[: self.n], self.out.virial)

    def bytes(self) -> int:
        return self.evaluator.memory()

    def close(self) -> None:
        self.evaluator = self.list = self.batch = None


# ---------------------------------------------------------------------------------------------- PyTorch


class Torch:
    """PaiNN of mlff-train on given edges; dE/dr of every edge by autograd gives forces and virial at once."""

    def __init__(
        self,
        name: str,
        network: Callable,
        precision: str,
        device: str,
        tf32: bool = False,
        graph: bool = False,
        energies: np.ndarray | None = None,
    ):
        self.name, self.network, self.precision, self.device = name, network, precision, device
        self.tf32, self.graph, self.energies = tf32, graph, energies

    def open(self, problem: Problem) -> None:
        if self.graph and problem.atoms > GRAPH_ATOMS:
            raise Refused(f"only up to {GRAPH_ATOMS} atoms")
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        try:
            self._lay_out(problem)
        except RuntimeError as error:
            raise refusal(error) from None

    open_again = open

    def _lay_out(self, problem: Problem) -> None:
        dtype = torch.float64 if self.precision == "double" else torch.float32
        self.x = problem.x.to(dtype)
        self.shift = problem.shift.to(dtype)
        self.batch = {
            "species": torch.tensor(problem.species, dtype=torch.long, device=self.device),
            "i": problem.i,
            "j": problem.j,
            "atom_frame": problem.frame,
        }
        self.frames, self.out = len(problem.systems), None
        self.shifts = self.energies_of(problem)
        self.replay = None
        if self.graph:
            self._capture()

    def energies_of(self, problem: Problem) -> np.ndarray:
        """Element energies of each structure, which the network leaves out."""
        of_atom = np.zeros(problem.atoms) if self.energies is None else self.energies[problem.species]
        return np.bincount(problem.frame.cpu().numpy(), of_atom, self.frames)

    def _evaluate(self) -> None:
        r = self.x.index_select(0, self.batch["j"]) + self.shift - self.x.index_select(0, self.batch["i"])
        self.out = energy_forces_virial(self.network, {**self.batch, "r": r}, self.frames, training=False)

    def _capture(self) -> None:
        """One CUDA graph of the whole step, forward and reverse."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._evaluate()
        torch.cuda.current_stream().wait_stream(stream)
        self.replay = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.replay):
            self._evaluate()

    def step(self) -> None:
        try:
            if self.replay:
                self.replay.replay()
            else:
                self._evaluate()
            if self.device == "cuda":
                torch.cuda.synchronize()
        except RuntimeError as error:
            raise refusal(error) from None

    def result(self) -> Result:
        energy, forces, virial = (t.double().cpu().numpy() for t in self.out)
        return Result(energy + self.shifts, forces, virial)

    def bytes(self) -> int | None:
        """The peak of tensors in use. A captured graph's are not counted apart from those of its warm-up."""
        return torch.cuda.max_memory_allocated() - self.before if self.device == "cuda" and not self.graph else None

    def close(self) -> None:
        self.x = self.shift = self.batch = self.out = self.replay = None
        if self.device == "cuda":
            torch.cuda.empty_cache()


class SchNetPack(torch.nn.Module):
    """PaiNN of SchNetPack with this model's weights, called as `train_model.PaiNN` is."""

    def __init__(self, file: ModelFile):
        import schnetpack.nn
        import schnetpack.representation

        super().__init__()
        if file.radial != "gaussian" or file.vector_bias:
            raise Refused("written for Gaussians and no vector bias")
        radial = schnetpack.nn.GaussianRBF(file.radial_functions, file.cutoff)
        cutoff = schnetpack.nn.CosineCutoff(file.cutoff)
        self.painn = schnetpack.representation.PaiNN(
            file.features, file.interactions, radial, cutoff, epsilon=file.epsilon
        )
        self.outnet = torch.nn.ModuleList(
            [torch.nn.Linear(file.features, file.readout_features), torch.nn.Linear(file.readout_features, 1)]
        )
        self.scale = file.scale
        self.load_state_dict(schnetpack_weights(file, self.state_dict()))

    def forward(self, species, r, i, j):
        from schnetpack import properties

        inputs = {properties.Z: species, properties.Rij: r, properties.idx_i: i, properties.idx_j: j}
        s = self.painn(inputs)["scalar_representation"]
        return self.outnet[1](torch.nn.functional.silu(self.outnet[0](s)))[:, 0] * self.scale


def schnetpack_weights(file: ModelFile, state: dict) -> dict:
    """A state dictionary with SchNetPack's names. Species stand in for its nuclear charges."""
    t = {name: torch.from_numpy(np.array(tensor)) for name, tensor in file.tensors.items()}
    new = dict(state)
    embedding = torch.zeros_like(state["painn.embedding.weight"])
    embedding[: len(t["embedding.weight"])] = t["embedding.weight"]
    new["painn.embedding.weight"] = embedding
    layers = range(file.interactions)
    for kind in ("weight", "bias"):
        new[f"painn.filter_net.{kind}"] = torch.cat([t[f"message.{l}.filter.{kind}"] for l in layers])
        for l in layers:
            for k in (0, 1):
                new[f"painn.interactions.{l}.interatomic_context_net.{k}.{kind}"] = t[f"message.{l}.context.{k}.{kind}"]
                new[f"painn.mixing.{l}.intraatomic_context_net.{k}.{kind}"] = t[f"update.{l}.dense.{k}.{kind}"]
        for k in (0, 1):
            new[f"outnet.{k}.{kind}"] = t[f"readout.{k}.{kind}"]
    for l in layers:
        new[f"painn.mixing.{l}.mu_channel_mix.weight"] = torch.cat(
            [t[f"update.{l}.V.weight"], t[f"update.{l}.U.weight"]]
        )
    return new


# --------------------------------------------------------------------------------------------- all of them


def all_candidates(
    model: _library.Model, file: ModelFile, device: str, threads: int, compiled: bool, schnetpack: bool
) -> tuple[list, list[str]]:
    """Candidates in the order of the tables, and sentences about those that are not here."""
    found: list = [Mlff(model, device, p, way, threads) for way in ("list", "structures") for p in PRECISIONS]
    network = from_model_file(file).to(device).float().eval().requires_grad_(False)
    energies = np.asarray(file.element_energies) + file.shift
    kinds = [("PyTorch eager", network)]
    missing = []
    if compiled:
        kinds.append(("PyTorch compiled", torch.compile(network, dynamic=True)))
    if schnetpack:
        try:
            other = SchNetPack(file).to(device).eval().requires_grad_(False)
            kinds.append(("SchNetPack eager", other))
        except Exception as error:  # releases of SchNetPack and PyTorch that do not go together fail in many ways
            missing.append(f"SchNetPack's own module is not in this table: {str(error).strip()}")
    for name, net in kinds:
        for tf32 in (False, True) if device == "cuda" else (False,):
            words = name + (", TF32" if tf32 else "")
            found.append(Torch(words, net, "single", device, tf32, False, energies))
            if device == "cuda" and "SchNetPack" not in name:
                found.append(Torch(words + ", CUDA graph", net, "single", device, tf32, True, energies))
    return found, missing


def reference(file: ModelFile, device: str) -> Torch:
    """PyTorch in double: what all others are compared with."""
    network = from_model_file(file).to(device).double().eval().requires_grad_(False)
    return Torch(
        "PyTorch eager, double", network, "double", device, energies=np.asarray(file.element_energies) + file.shift
    )
