# SPDX-License-Identifier: MIT
"""The teachers' network: PaiNN with symmetric traceless tensors of rank 2 beside scalars and vectors.

It takes what mlff-train's PaiNN takes and is trained by the same loop, but it is no model file: it only labels frames.
Shapes: A atoms, E edges, F features; s [A, F], v [A, 3, F], t [A, 3, 3, F].
"""
import math

import torch
from torch import nn
from torch.nn.functional import silu

from mlff.train_model import Hyperparameters, Radial, linear

FILTER_WIDTH = 64
PATHS = 9  # of a message; the first has 3, as v and t are still zero


def traceless(m: torch.Tensor) -> torch.Tensor:
    """Symmetric traceless part of m [n, 3, 3, F]."""
    m = 0.5 * (m + m.transpose(1, 2))
    third = m.diagonal(dim1=1, dim2=2).sum(-1) / 3.0
    return m - torch.eye(3, dtype=m.dtype, device=m.device)[None, :, :, None] * third[:, None, None, :]


class Message(nn.Module):
    def __init__(self, F: int, K: int, first: bool):
        super().__init__()
        self.n = 3 if first else PATHS
        self.filter = nn.ModuleList([linear(K, FILTER_WIDTH), linear(FILTER_WIDTH, self.n * F)])
        self.context = nn.ModuleList([linear(F, F), linear(F, self.n * F)])
        self.scale = 1.0 / math.sqrt(10.0)  # about the number of neighbours that matter

    def forward(self, s, v, t, rbf, fc, u, uu, i, j):
        x = self.context[1](silu(self.context[0](s)))
        W = self.filter[1](silu(self.filter[0](rbf))) * fc[:, None]
        w = (W * x.index_select(0, j) * self.scale).chunk(self.n, dim=1)
        ds, dv, dt = w[0], w[1][:, None] * u[:, :, None], w[2][:, None, None] * uu[:, :, :, None]
        if v is None:
            A, F = s.shape
            v = torch.zeros(A, 3, F, dtype=s.dtype, device=s.device)
            t = torch.zeros(A, 3, 3, F, dtype=s.dtype, device=s.device)
        else:
            v_j, t_j = v.index_select(0, j), t.index_select(0, j)
            vu = (v_j * u[:, :, None]).sum(1)
            tu = (t_j * u[:, None, :, None]).sum(2)
            utu = (tu * u[:, :, None]).sum(1)
            ds = ds + w[3] * vu + w[4] * utu
            dv = dv + w[5][:, None] * v_j + w[6][:, None] * tu
            dt = dt + w[7][:, None, None] * t_j + traceless(u[:, :, None, None] * (w[8][:, None] * v_j)[:, None])
        return s.index_add(0, i, ds), v.index_add(0, i, dv), t.index_add(0, i, dt)


class Update(nn.Module):
    def __init__(self, F: int):
        super().__init__()
        self.V, self.T = linear(F, 2 * F, bias=False), linear(F, 2 * F, bias=False)
        self.dense = nn.ModuleList([linear(7 * F, F), linear(F, 6 * F)])

    def forward(self, s, v, t):
        V, U = self.V(v).chunk(2, dim=2)
        T, R = self.T(t).chunk(2, dim=3)
        TV, TR = (T * V[:, None]).sum(2), torch.einsum("aijf,ajkf->aikf", T, R)
        invariants = [(V * V).sum(1), (U * V).sum(1), (T * T).sum((1, 2)), (T * R).sum((1, 2)), (TV * U).sum(1),
                      (TR * T).sum((1, 2))]
        invariants = [x / torch.sqrt(1.0 + x.abs()) for x in invariants]  # they grow as squares and cubes
        y = self.dense[1](silu(self.dense[0](torch.cat([s, *invariants], 1)))).chunk(6, dim=1)
        s = s + y[0]
        v = v + y[1][:, None] * U + y[2][:, None] * TV
        t = (t + y[3][:, None, None] * R + y[4][:, None, None] * traceless(V[:, :, None] * U[:, None])
             + y[5][:, None, None] * traceless(TR))
        return s, v, t


class Tensor2(nn.Module):
    def __init__(self, h: Hyperparameters, elements: list[str], scale: float, element_energies):
        super().__init__()
        self.h, self.elements, self.scale, self.element_energies = h, list(elements), float(scale), element_energies
        self.embedding = nn.Embedding(len(elements), h.features)
        self.radial = Radial(h.radial, h.radial_functions, h.cutoff)
        self.message = nn.ModuleList(
            Message(h.features, h.radial_functions, first=layer == 0) for layer in range(h.interactions))
        self.update = nn.ModuleList(Update(h.features) for _ in range(h.interactions))
        self.readout = nn.ModuleList([linear(h.features, h.readout_features), linear(h.readout_features, 1)])

    def forward(self, species, r, i, j):
        """species [A], r [E, 3] = r_j - r_i + shift, atom i [E] receives from atom j [E]; energies [A] eV."""
        d = torch.sqrt((r * r).sum(1))
        u = r / d[:, None]
        uu = u[:, :, None] * u[:, None, :] - torch.eye(3, dtype=r.dtype, device=r.device) / 3.0
        fc = torch.where(d < self.h.cutoff, 0.5 * (torch.cos(d * (math.pi / self.h.cutoff)) + 1.0), 0.0)
        rbf = self.radial(d)
        s, v, t = self.embedding(species), None, None
        for message, update in zip(self.message, self.update):
            s, v, t = message(s, v, t, rbf, fc, u, uu, i, j)
            s, v, t = update(s, v, t)
        return self.readout[1](silu(self.readout[0](s)))[:, 0] * self.scale
