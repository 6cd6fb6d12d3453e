# SPDX-License-Identifier: MIT
"""nff's PaiNN in PyTorch, written from the description of its layout (weights_tools/mlff/convert/nff.py): classes and
attributes have nff's names, so that torch.save writes what nff's torch.save writes. Molecules only."""

import sys
import types
from functools import partial

import torch
from torch import nn


def dense(n_in, n_out, activation=None, bias=True):
    layer = Dense(n_in, n_out, bias=bias)
    layer.weight_init, layer.bias_init = nn.init.xavier_uniform_, partial(nn.init.constant_, val=0.0)
    layer.activation, layer.dropout = activation, nn.Dropout(0.0)
    return layer


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Dense(nn.Linear):
    def forward(self, x):
        y = self.dropout(super().forward(x))
        return self.activation(y) if self.activation else y


def network(n_in, n_hidden, n_out):
    return nn.Sequential(dense(n_in, n_hidden, Swish()), dense(n_hidden, n_out))


class PainnRadialBasis(nn.Module):
    def __init__(self, n_rbf, cutoff):
        super().__init__()
        self.n, self.cutoff = torch.arange(1, n_rbf + 1).float(), cutoff

    def forward(self, d):
        return torch.sin(self.n.double() * torch.pi / self.cutoff * d[:, None]) / d[:, None]


class CosineEnvelope(nn.Module):
    def __init__(self, cutoff):
        super().__init__()
        self.cutoff = cutoff

    def forward(self, d):
        return torch.where(d < self.cutoff, 0.5 * (torch.cos(torch.pi * d / self.cutoff) + 1), 0.0)


class DistanceEmbed(nn.Module):
    def __init__(self, F, K, cutoff):
        super().__init__()
        self.block = nn.Sequential(PainnRadialBasis(K, cutoff), dense(K, 3 * F))
        self.f_cut = CosineEnvelope(cutoff)

    def forward(self, d):
        return self.block(d) * self.f_cut(d)[:, None]


class InvariantDense(nn.Module):
    def __init__(self, F):
        super().__init__()
        self.layers = network(F, F, 3 * F)


class InvariantMessage(nn.Module):
    def __init__(self, F, K, cutoff):
        super().__init__()
        self.inv_dense, self.dist_embed = InvariantDense(F), DistanceEmbed(F, K, cutoff)


class MessageBlock(nn.Module):
    def __init__(self, F, K, cutoff):
        super().__init__()
        self.inv_message = InvariantMessage(F, K, cutoff)

    def forward(self, s, v, r, i, j):
        d = length(r)
        parts = self.inv_message.inv_dense.layers(s)[j] * self.inv_message.dist_embed(d)
        old, scalar, edge = parts.chunk(3, dim=1)
        vectors = edge[:, :, None] * (r / d[:, None])[:, None, :] + old[:, :, None] * v[j]
        return torch.zeros_like(s).index_add(0, i, scalar), torch.zeros_like(v).index_add(0, i, vectors)


class UpdateBlock(nn.Module):
    def __init__(self, F):
        super().__init__()
        self.u_mat, self.v_mat = dense(F, F, bias=False), dense(F, F, bias=False)
        self.s_dense = network(2 * F, F, 3 * F)

    def forward(self, s, v):
        u, w = (mat(v.transpose(1, 2)).transpose(1, 2) for mat in (self.u_mat, self.v_mat))
        a_vv, a_sv, a_ss = self.s_dense(torch.cat([s, length(w)], dim=1)).chunk(3, dim=1)
        return (u * w).sum(-1) * a_sv + a_ss, u * a_vv[:, :, None]


class EmbeddingBlock(nn.Module):
    def __init__(self, F):
        super().__init__()
        self.atom_embed = nn.Embedding(100, F, padding_idx=0)


class ScaleShift(nn.Module):
    def __init__(self, means, stddevs):
        super().__init__()
        self.means, self.stddevs = means, stddevs


class ReadoutBlock(nn.Module):
    def __init__(self, F, means, stddevs):
        super().__init__()
        self.readoutdict = nn.ModuleDict({"energy": network(F, F // 2, 1)})
        self.scale_shift = ScaleShift(means, stddevs)


class SumPool(nn.Module):
    pass


class Painn(nn.Module):
    def __init__(self, F=8, L=3, K=6, cutoff=4.0, mean=-2.5, deviation=1.75):
        super().__init__()
        self.embed_block = EmbeddingBlock(F)
        self.message_blocks = nn.ModuleList([MessageBlock(F, K, cutoff) for _ in range(L)])
        self.update_blocks = nn.ModuleList([UpdateBlock(F) for _ in range(L)])
        self.readout_blocks = nn.ModuleList([ReadoutBlock(F, {"energy": mean}, {"energy": deviation})])
        self.grad_keys, self.output_keys, self.skip = ["energy_grad"], ["energy"], {"energy": False}
        self.pool_dic, self.cutoff, self.excl_vol, self.compute_delta = {"energy": SumPool()}, cutoff, False, False

    def forward(self, x, z):
        """The energy of a molecule: x [n][3] angstrom, z [n] atomic numbers."""
        i, j = torch.nonzero(~torch.eye(len(z), dtype=bool) & (torch.cdist(x, x) < self.cutoff), as_tuple=True)
        s = self.embed_block.atom_embed(z)
        v = torch.zeros(*s.shape, 3, dtype=x.dtype)
        for message, update in zip(self.message_blocks, self.update_blocks):
            ds, dv = message(s, v, x[j] - x[i], i, j)
            s, v = s + ds, v + dv
            ds, dv = update(s, v)
            s, v = s + ds, v + dv
        readout = self.readout_blocks[0]
        shift = readout.scale_shift
        return (readout.readoutdict["energy"](s) * shift.stddevs["energy"] + shift.means["energy"]).sum()


def length(vectors):
    return ((vectors**2 + 1e-15).sum(-1)) ** 0.5


_PLACES = {
    "nff.nn.models.painn": [Painn],
    "nff.nn.modules.painn": [EmbeddingBlock, MessageBlock, InvariantMessage, InvariantDense, DistanceEmbed,
                             UpdateBlock, ReadoutBlock],
    "nff.nn.modules.schnet": [ScaleShift, SumPool],
    "nff.nn.layers": [Dense, PainnRadialBasis, CosineEnvelope],
    "nff.nn.activations": [Swish],
}


def pretend_to_be_nff(monkeypatch):
    """Puts the classes where a pickle of nff's expects them."""
    for package in ("nff", "nff.nn", "nff.nn.models", "nff.nn.modules"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for place, classes in _PLACES.items():
        made = types.ModuleType(place)
        for kind in classes:
            monkeypatch.setattr(kind, "__module__", place)
            setattr(made, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, place, made)
