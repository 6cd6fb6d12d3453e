# SPDX-License-Identifier: MIT
"""The gradient of a training step without differentiating twice: forces by one reverse pass, then one reverse pass of
dual numbers.

The loss L depends on the weights through the energies e of the atoms and g = dE/dr of the edges. With e' = dL/de and
w = dL/dg, which are numbers once e and g are known,

    dL/dweights = d/dweights [ sum e' e + sum w g ] = d/dweights [ sum e' e + D ]

where D is the derivative of the energy along the displacement w of the edges: the tangent part of one evaluation in
dual numbers (value, tangent). Nothing is differentiated with respect to r in it, so that all edge quantities are
constants.

Shapes: A atoms, E edges, F features, K radial functions; duals are stacked, [2, ...]. The edges are sorted by the atom
that receives; each has a reverse edge, -r from j to i, with the same radial functions, so that sums over what an atom
sent are sums over its own row (train_kernels.py). For that g and w must be antisymmetric, and they are: r enters
forces and virial in no other way.
"""
from __future__ import annotations

import dataclasses
import math

import torch
from torch.nn.functional import linear, silu

from .errors import MlffError, require
from .train_model import sums_of_frames


@dataclasses.dataclass
class Edges:
    """What messages need of the edges: constants, but for `d` and `u` in the pass that asks for forces."""

    rows: torch.Tensor  # [A + 1] int32; edges rows[a] to rows[a + 1] are received by atom a
    i: torch.Tensor  # [E] receives
    j: torch.Tensor  # [E] sends
    basis: torch.Tensor  # [E, P] radial functions times the cutoff function, then the latter (for the bias), then zeros
    slope: torch.Tensor  # [E, P] its derivative: by the distance; times w's part along u in duals, [E, P] again
    u: torch.Tensor  # [E, 3] unit vector from i to j
    u_slope: torch.Tensor | None = None  # [E, 3] its derivative along w, of duals only


def padded_size(K: int) -> int:
    """P: room for K functions and the bias, a power of two of at least 16, as matrix units want it."""
    return max(16, 1 << K.bit_length())


def radial_basis(radial, cutoff: float, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(basis, its derivative by d) [E, P] of distances d [E]; zero beyond the cutoff."""
    d, x = d[:, None], d[:, None] * (math.pi / cutoff)
    inside = d < cutoff
    fc = torch.where(inside, 0.5 * (torch.cos(x) + 1.0), 0.0)
    fc_slope = torch.where(inside, (-0.5 * math.pi / cutoff) * torch.sin(x), 0.0)
    if radial.kind == "gaussian":
        t = (d - radial.offset) / radial.width
        f = torch.exp(-0.5 * t * t)
        f_slope = -t / radial.width * f
    else:
        f = torch.sin(d * radial.frequency) / d
        f_slope = (radial.frequency * torch.cos(d * radial.frequency) - f) / d
    K = f.shape[1]
    rest = torch.zeros(len(d), padded_size(K) - K - 1, dtype=d.dtype, device=d.device)
    return (torch.cat([f * fc, fc, rest], 1), torch.cat([f_slope * fc + f * fc_slope, fc_slope, rest], 1))


def filter_table(weight, bias, P: int) -> torch.Tensor:
    """[P, 3 F]: weights and bias of a message's filter as a table that `basis` multiplies."""
    w = torch.cat([weight.t(), bias[None]])
    return torch.nn.functional.pad(w, (0, 0, 0, P - w.shape[0]))


# ------------------------------------------------------------------------------------------- messages

def messages(table, x, v, edges: Edges, d=None):
    """What each atom receives, (s [A, F], v [A, 3, F]), of context x [A, 3F] and vectors v [A, 3, F] or None.

    The plain form of train_kernels.messages, for CPUs and tests. With d [E], the filter is differentiable in it.
    """
    basis = edges.basis if d is None else _with_slope(edges.basis, edges.slope, d)
    x_s, x_R, x_v = ((basis @ table) * x.index_select(0, edges.j)).chunk(3, dim=1)
    m_v = x_R[:, None, :] * edges.u[:, :, None]
    if v is not None:
        m_v = m_v + x_v[:, None, :] * v.index_select(0, edges.j)
    A, F = len(x), x.shape[1] // 3
    s = torch.zeros(A, F, dtype=x.dtype, device=x.device).index_add(0, edges.i, x_s)
    return s, torch.zeros(A, 3, F, dtype=x.dtype, device=x.device).index_add(0, edges.i, m_v)


def _with_slope(basis, slope, d):
    """`basis` whose derivative by d is `slope`."""
    return basis + slope * (d - d.detach())[:, None]


def dual_messages(table, x, v, edges: Edges):
    """The same in duals: x [2, A, 3F], v [2, A, 3, F] or None -> (s [2, A, F], v [2, A, 3, F])."""
    A, F = x.shape[1], x.shape[2] // 3
    w, w_dot = edges.basis @ table, edges.slope @ table
    x_j = x.index_select(1, edges.j)
    m, m_dot = w * x_j[0], w_dot * x_j[0] + w * x_j[1]
    m_s, m_R, m_v = torch.stack([m, m_dot]).chunk(3, dim=2)
    u, u_dot = edges.u[:, :, None], edges.u_slope[:, :, None]
    dv = torch.stack([m_R[0][:, None] * u, m_R[1][:, None] * u + m_R[0][:, None] * u_dot])
    if v is not None:
        v_j = v.index_select(1, edges.j)
        dv = dv + torch.stack([m_v[0][:, None] * v_j[0], m_v[1][:, None] * v_j[0] + m_v[0][:, None] * v_j[1]])
    s = torch.zeros(2, A, F, dtype=x.dtype, device=x.device).index_add(1, edges.i, m_s)
    return s, torch.zeros(2, A, 3, F, dtype=x.dtype, device=x.device).index_add(1, edges.i, dv)


# ------------------------------------------------------------------------------------------- atoms
# Functions of tensors alone, so that torch.compile makes one program of each for all layers.

def _linear(x, weight, bias=None):
    """x [2, A, n]: the bias belongs to the value only."""
    y = linear(x, weight)
    return y if bias is None else y + torch.stack([bias, torch.zeros_like(bias)])[:, None]


def _silu(x):
    sigma = torch.sigmoid(x[0])
    return torch.stack([x[0] * sigma, x[1] * sigma * (1.0 + x[0] * (1.0 - sigma))])


def _product(a, b):
    return torch.stack([a[0] * b[0], a[0] * b[1] + a[1] * b[0]])


def context(s, w0, b0, w1, b1):
    return linear(silu(linear(s, w0, b0)), w1, b1)


def dual_context(s, w0, b0, w1, b1):
    return _linear(_silu(_linear(s, w0, b0)), w1, b1)


def update(s, ds, v, dv, wV, wU, w0, b0, w1, b1, epsilon: float):
    """Adds what the message brought, ds and dv, and mixes; v is None where it was still zero."""
    s, v = s + ds, dv if v is None else v + dv
    V, U = linear(v, wV), linear(v, wU)
    norm = torch.sqrt((V * V).sum(1) + epsilon)
    y_s, y_v, y_sv = linear(silu(linear(torch.cat([s, norm], 1), w0, b0)), w1, b1).chunk(3, dim=1)
    return s + y_s + y_sv * (U * V).sum(1), v + y_v[:, None, :] * U


def dual_update(s, ds, v, dv, wV, wU, w0, b0, w1, b1, epsilon: float):
    s, v = s + ds, dv if v is None else v + dv
    V, U = linear(v, wV), linear(v, wU)
    norm = torch.sqrt((V[0] * V[0]).sum(1) + epsilon)
    norm = torch.stack([norm, (V[0] * V[1]).sum(1) / norm])
    y_s, y_v, y_sv = _linear(_silu(_linear(torch.cat([s, norm], 2), w0, b0)), w1, b1).chunk(3, dim=2)
    UV = torch.stack([(U[0] * V[0]).sum(1), (U[0] * V[1] + U[1] * V[0]).sum(1)])
    return s + y_s + _product(y_sv, UV), v + _product(y_v[:, :, None, :], U)


def loss_of_slopes(e, g, batch: dict, n_frames: int, loss, *arguments):
    """The loss as a function of the atoms' energies e [A] and the edges' slopes g [E, 3]."""
    return loss(sums_of_frames(e, g, batch, n_frames), batch, *arguments)


# ------------------------------------------------------------------------------------------- the whole

def make_steps(model, n_frames: int, device: torch.device, compile: bool) -> Steps:
    """Steps with fused kernels on CUDA, with the plain form of the messages elsewhere.

    Raises MlffError where there is no Triton, or the kernels cannot do the network.
    """
    if device.type != "cuda":
        return Steps(model, n_frames, None, compile)
    require("triton", "mlff-train --fused on a GPU", "train")
    from . import train_kernels

    if not train_kernels.suits(model.h.features):
        raise MlffError(f"--fused: {model.h.features} features, expected a multiple of {train_kernels.BLOCK}")
    if next(model.parameters()).dtype != torch.float32:
        raise MlffError("--fused: --dtype float64, expected float32 on a GPU")
    return Steps(model, n_frames, train_kernels, compile)



class Steps:
    """Loss and gradients of one batch for a PaiNN of train_model.

    kernels: train_kernels, or None for the plain form of the messages; compile: torch.compile of what atoms do.
    """

    def __init__(self, model, n_frames: int, kernels=None, compile: bool = False):
        self.model, self.n_frames, self.kernels = model, n_frames, kernels
        functions = radial_basis, filter_table, context, dual_context, update, dual_update, loss_of_slopes
        if compile:
            functions = tuple(torch.compile(f, dynamic=False) for f in functions)
        (self.radial_basis, self.filter_table, self.context, self.dual_context, self.update, self.dual_update,
         self.loss) = functions

    def _atom_weights(self, message, update):
        c0, c1, d0, d1 = *message.context, *update.dense
        return ((c0.weight, c0.bias, c1.weight, c1.bias),
                (update.V.weight, update.U.weight, d0.weight, d0.bias, d1.weight, d1.bias))

    def edges(self, batch: dict) -> tuple[Edges, torch.Tensor]:
        """The edges of a batch and their distances [E]."""
        r, A = batch["r"], len(batch["species"])
        d = torch.sqrt((r * r).sum(1))
        basis, slope = self.radial_basis(self.model.radial, self.model.h.cutoff, d)
        # the last atom is padding, and what its edges carry is zero: its row is left empty
        rows = torch.searchsorted(batch["i"], torch.arange(A, device=r.device))
        rows = torch.cat([rows, rows[-1:]]).to(torch.int32)
        return Edges(rows, batch["i"], batch["j"], basis.contiguous(), slope.contiguous(), r / d[:, None]), d

    def energies_and_slopes(self, batch: dict, edges: Edges, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies e [A] without those of the elements, and g = dE/dr [E, 3]."""
        m = self.model
        d, u = d.detach().requires_grad_(True), edges.u.detach().requires_grad_(True)
        moving = dataclasses.replace(edges, u=u)
        with torch.enable_grad():
            s, v = m.embedding.weight.detach()[batch["species"]], None
            for message, update_ in zip(m.message, m.update):
                w_context, w_update = ([w.detach() for w in part] for part in self._atom_weights(message, update_))
                table = self.filter_table(message.filter.weight.detach(), message.filter.bias.detach(),
                                          edges.basis.shape[1])
                x = self.context(s, *w_context)
                ds, dv = (self.kernels.messages if self.kernels else messages)(table, x, v, moving, d)
                s, v = self.update(s, ds, v, dv, *w_update, m.h.epsilon)
            w0, b0, w1, b1 = (p.detach() for layer in m.readout for p in (layer.weight, layer.bias))
            e = self.context(s, w0, b0, w1, b1)[:, 0] * m.scale
            g_d, g_u = torch.autograd.grad(e.sum(), (d, u))
        along = (g_u * edges.u).sum(1, keepdim=True)
        return e.detach(), g_d[:, None] * edges.u + (g_u - along * edges.u) / d.detach()[:, None]

    def dual_energies(self, batch: dict, edges: Edges, d: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[2, A]: energies and their derivatives along the displacement w [E, 3] of the edges; differentiable by the
        weights."""
        m, d_dot = self.model, (edges.u * w).sum(1, keepdim=True)
        moved = dataclasses.replace(edges, slope=edges.slope * d_dot, u_slope=(w - edges.u * d_dot) / d[:, None])
        s = m.embedding(batch["species"])
        s, v = torch.stack([s, torch.zeros_like(s)]), None
        for message, update_ in zip(m.message, m.update):
            w_context, w_update = self._atom_weights(message, update_)
            table = self.filter_table(message.filter.weight, message.filter.bias, edges.basis.shape[1])
            x = self.dual_context(s, *w_context)
            ds, dv = (self.kernels.dual_messages if self.kernels else dual_messages)(table, x, v, moved)
            s, v = self.dual_update(s, ds, v, dv, *w_update, m.h.epsilon)
        r0, r1 = m.readout
        return self.dual_context(s, r0.weight, r0.bias, r1.weight, r1.bias)[:, :, 0] * m.scale

    def backward(self, batch: dict, loss, *arguments) -> torch.Tensor:
        """loss((energies [B], forces [A, 3], virials [B, 3, 3]), batch, *arguments) of a batch; its gradients are added
        to those of the model's parameters."""
        edges, d = self.edges(batch)
        e, g = self.energies_and_slopes(batch, edges, d)
        e.requires_grad_(True)
        g.requires_grad_(True)
        with torch.enable_grad():
            value = self.loss(e, g, batch, self.n_frames, loss, *arguments)
            e_adj, w = torch.autograd.grad(value, (e, g))
            energies = self.dual_energies(batch, edges, d, w)
            torch.autograd.backward(energies, torch.stack([e_adj, torch.ones_like(e_adj)]))
        return value.detach()
