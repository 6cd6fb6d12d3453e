# SPDX-License-Identifier: MIT
"""PaiNN in PyTorch, for training: the canonical form of docs/equations.md, and how it becomes a model file.

Shapes: A atoms, E edges, B frames of a batch, F features, K radial functions, L interactions. Lengths in angstrom,
energies in eV. The names in the state dictionary are the tensor names of docs/model-file.md.
"""
from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu

from .errors import MlffError
from .model_file import EV_IN_KCAL_PER_MOL, ModelFile


@dataclasses.dataclass
class Hyperparameters:
    features: int = 128
    interactions: int = 3
    radial: str = "gaussian"
    radial_functions: int = 20
    cutoff: float = 5.0
    epsilon: float = 1e-8
    readout_features: int = 64


class Radial(nn.Module):
    """Radial functions of the distance, d [E] -> [E, K]."""

    def __init__(self, kind: str, size: int, cutoff: float):
        super().__init__()
        self.kind = kind
        if kind == "gaussian":
            offset = torch.linspace(0.0, cutoff, size)
            self.register_buffer("offset", offset)
            self.register_buffer("width", torch.full((size,), float(offset[1] - offset[0])))
        elif kind == "bessel":
            self.register_buffer("frequency", torch.arange(1, size + 1) * (math.pi / cutoff))
        else:
            raise ValueError(f"radial functions '{kind}': expected gaussian or bessel")

    def forward(self, d: torch.Tensor) -> torch.Tensor:
        if self.kind == "gaussian":
            return torch.exp(-0.5 * ((d[:, None] - self.offset) / self.width) ** 2)
        return torch.sin(d[:, None] * self.frequency) / d[:, None]


def linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Message(nn.Module):
    def __init__(self, F: int, K: int):
        super().__init__()
        self.filter = linear(K, 3 * F)
        self.context = nn.ModuleList([linear(F, F), linear(F, 3 * F)])

    def forward(self, s, v, rbf, fc, u, i, j):
        """s [A, F], v [A, 3, F] or None where it is still zero; adds what each atom receives from its neighbours."""
        x = self.context[1](silu(self.context[0](s)))
        m_s, m_R, m_v = (self.filter(rbf) * fc[:, None] * x.index_select(0, j)).chunk(3, dim=1)
        dv = m_R[:, None, :] * u[:, :, None]
        if v is not None:
            dv = dv + m_v[:, None, :] * v.index_select(0, j)
        s = s.index_add(0, i, m_s)
        v = v if v is not None else torch.zeros(s.shape[0], 3, s.shape[1], dtype=s.dtype, device=s.device)
        return s, v.index_add(0, i, dv)


class Update(nn.Module):
    def __init__(self, F: int, epsilon: float):
        super().__init__()
        self.V = linear(F, F, bias=False)
        self.U = linear(F, F, bias=False)
        self.dense = nn.ModuleList([linear(2 * F, F), linear(F, 3 * F)])
        self.epsilon = epsilon

    def forward(self, s, v):
        V, U = self.V(v), self.U(v)
        norm = torch.sqrt((V * V).sum(1) + self.epsilon)
        y_s, y_v, y_sv = self.dense[1](silu(self.dense[0](torch.cat([s, norm], dim=1)))).chunk(3, dim=1)
        return s + y_s + y_sv * (U * V).sum(1), v + y_v[:, None, :] * U


class PaiNN(nn.Module):
    """What the network gives for each atom; energy of an atom = scale * network + energy of its element."""

    def __init__(self, h: Hyperparameters, elements: list[str], scale: float, element_energies: np.ndarray):
        super().__init__()
        self.h, self.elements, self.scale = h, list(elements), float(scale)
        self.element_energies = np.asarray(element_energies, dtype=np.float64)  # eV, added in double
        self.embedding = nn.Embedding(len(elements), h.features)
        self.radial = Radial(h.radial, h.radial_functions, h.cutoff)
        self.message = nn.ModuleList(Message(h.features, h.radial_functions) for _ in range(h.interactions))
        self.update = nn.ModuleList(Update(h.features, h.epsilon) for _ in range(h.interactions))
        self.readout = nn.ModuleList([linear(h.features, h.readout_features), linear(h.readout_features, 1)])

    def forward(self, species, r, i, j):
        """species [A], r [E, 3] = r_j - r_i + shift, atom i [E] receives from atom j [E]; network energies [A]."""
        d = torch.sqrt((r * r).sum(1))
        u = r / d[:, None]
        fc = torch.where(d < self.h.cutoff, 0.5 * (torch.cos(d * (math.pi / self.h.cutoff)) + 1.0), 0.0)
        rbf = self.radial(d)
        s, v = self.embedding(species), None
        for message, update in zip(self.message, self.update):
            s, v = message(s, v, rbf, fc, u, i, j)
            s, v = update(s, v)
        return self.readout[1](silu(self.readout[0](s)))[:, 0] * self.scale


def energy_forces_virial(model: nn.Module, batch: dict, n_frames: int, training: bool):
    """Energies without the element energies [B] eV, forces [A, 3] eV/angstrom, virials [B, 3, 3] eV = -dE/dstrain.

    Everything follows from g = dE/dr of each edge: positions and cells do not enter. Atoms and edges that only pad
    the batch belong to frame B, which is cut off.
    """
    r, i, j = batch["r"].detach().requires_grad_(True), batch["i"], batch["j"]
    with torch.enable_grad():
        e = model(batch["species"], r, i, j)
        (g,) = torch.autograd.grad(e.sum(), r, create_graph=training)
    if not training:
        e = e.detach()
    return sums_of_frames(e, g, batch, n_frames)


def sums_of_frames(e: torch.Tensor, g: torch.Tensor, batch: dict, n_frames: int):
    """Energies [B] eV, forces [A, 3] eV/angstrom and virials [B, 3, 3] eV of e [A] and g = dE/dr [E, 3]."""
    r, i, j = batch["r"].detach(), batch["i"], batch["j"]
    energy = torch.zeros(n_frames + 1, dtype=e.dtype, device=e.device).index_add(0, batch["atom_frame"], e)
    zero = torch.zeros(len(e), 3, dtype=e.dtype, device=e.device)
    forces = zero.index_add(0, i, g) - zero.index_add(0, j, g)
    edge_virial = -(r[:, :, None] * g[:, None, :]).reshape(-1, 9)
    edge_frame = batch["atom_frame"].index_select(0, i)
    virial = torch.zeros(n_frames + 1, 9, dtype=e.dtype, device=e.device).index_add(0, edge_frame, edge_virial)
    return energy[:n_frames], forces, virial[:n_frames].view(-1, 3, 3)


def to_model_file(model: PaiNN, state: dict, provenance: str, licence: str, info: dict[str, str]) -> ModelFile:
    """`state`, a state dictionary of `model`, as docs/model-file.md has it, in float32; `info` becomes info.* keys."""
    h = model.h
    return ModelFile(
        features=h.features, interactions=h.interactions, radial=h.radial, radial_functions=h.radial_functions,
        cutoff=h.cutoff, epsilon=h.epsilon, vector_bias=False, readout_features=h.readout_features,
        elements=model.elements, energy_unit="eV", scale=model.scale, shift=0.0,
        element_energies=[float(e) for e in model.element_energies], provenance=provenance, licence=licence, info=info,
        tensors={name: tensor.detach().cpu().numpy().astype(np.float32) for name, tensor in state.items()},
    )


def from_model_file(file: ModelFile) -> PaiNN:
    """The trainable model of a file, for a start from its weights: in eV, the shift within the element energies.

    Raises MlffError for a model with vector biases, which the network here does not have.
    """
    if file.vector_bias:
        raise MlffError("the vector mixing of this model has a bias, expected a model without")
    unit = EV_IN_KCAL_PER_MOL if file.energy_unit == "kcal/mol" else 1.0
    h = Hyperparameters(file.features, file.interactions, file.radial, file.radial_functions, file.cutoff,
                        file.epsilon, file.readout_features)
    model = PaiNN(h, file.elements, file.scale / unit, (np.array(file.element_energies) + file.shift) / unit)
    model.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in file.tensors.items()})
    return model
