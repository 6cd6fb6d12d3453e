# SPDX-License-Identifier: MIT
"""The messages of train_dual.py as fused kernels (Triton): what an edge carries never leaves the registers.

In plain PyTorch each of the many operations on [E, 3 F] numbers reads and writes memory. Here an edge costs what its
gathers cost: values of x and v of the neighbour, in the reverse passes its adjoints.

Launch: a program is an atom (forward) or walks over every n-th atom (reverse) and has BLOCK of the F features; its
edges come EDGES at a time, the radial functions of which meet the filter's table in one product of matrices. The sums
here have a fixed order; there are no atomics.

Reverse: an atom's own row holds, for each message that it sent, the edge on which it received the answer: r of opposite
sign, the same radial functions. In terms of that edge (u', u_dot' as stored, u = -u', u_dot = -u_dot'), with adjoints G
of what the neighbour received and G_dot of its tangent:
    P = sum_c G_v[c] u[c]        P_dot = sum_c G_v_dot[c] u[c]        Q = sum_c G_v_dot[c] u_dot[c]
    R = sum_c G_v[c] v[c] + G_v_dot[c] v_dot[c]                       T = sum_c G_v_dot[c] v[c]
    x_s += w_s G_s + w_s_dot G_s_dot        x_s_dot += w_s G_s_dot
    x_R += w_R (P + Q) + w_R_dot P_dot      x_R_dot += w_R P_dot
    x_v += w_v R + w_v_dot T                x_v_dot += w_v T
    v   += x_v (w_v G_v + w_v_dot G_v_dot) + x_v_dot w_v G_v_dot      v_dot += x_v w_v G_v_dot
and the filter's table gets basis^T w_adj + slope^T w_dot_adj, with
    w_s_adj = x_s G_s + x_s_dot G_s_dot,  w_s_dot_adj = x_s G_s_dot,  and so on with P + Q, P_dot and R, T.
"""
from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 16  # features of a program
WARPS = 2  # of a program; compiled for sm_90 these keep nearly everything in registers (at most 32 bytes spilled)
EDGES = tl.constexpr(32)  # at a time
# of products of matrices: three products of TF32 give single precision; "tf32" is one of them
PRECISION = "tf32x3"


def suits(features: int) -> bool:
    """Whether the kernels can do a network of so many features."""
    return features % BLOCK == 0


@triton.jit
def _column(pointer, column, P: tl.constexpr, F: tl.constexpr, B: tl.constexpr):
    """[P, B] of a filter's table."""
    return tl.load(pointer + tl.arange(0, P)[:, None] * (3 * F) + (column + tl.arange(0, B))[None, :])


@triton.jit
def _gather(pointer, rows, stride: tl.constexpr, column, B: tl.constexpr):
    """[EDGES, B] of the rows of neighbours."""
    return tl.load(pointer + rows[:, None] * stride + (column + tl.arange(0, B))[None, :])


@triton.jit
def _forward(table, x, v, basis, u, j, rows, s_out, v_out, F: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
             B: tl.constexpr, PREC: tl.constexpr):
    a, f = tl.program_id(0), tl.program_id(1) * B
    k, n = tl.arange(0, P), tl.arange(0, B)
    t_s, t_R = _column(table, f, P, F, B), _column(table, F + f, P, F, B)
    t_v = _column(table, 2 * F + f, P, F, B)
    first, last = tl.load(rows + a), tl.load(rows + a + 1)
    s = tl.zeros([B], tl.float32)
    v0, v1, v2 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    for start in range(first, last, EDGES):
        e = start + tl.arange(0, EDGES)
        real = e < last
        phi = tl.load(basis + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
        nb = tl.load(j + e, mask=real, other=0)
        u0 = tl.load(u + e * 3, mask=real, other=0.0)[:, None]
        u1 = tl.load(u + e * 3 + 1, mask=real, other=0.0)[:, None]
        u2 = tl.load(u + e * 3 + 2, mask=real, other=0.0)[:, None]
        s += tl.sum(tl.dot(phi, t_s, input_precision=PREC) * _gather(x, nb, 3 * F, f, B), 0)
        m = tl.dot(phi, t_R, input_precision=PREC) * _gather(x, nb, 3 * F, F + f, B)
        v0 += tl.sum(m * u0, 0)
        v1 += tl.sum(m * u1, 0)
        v2 += tl.sum(m * u2, 0)
        if V:
            m = tl.dot(phi, t_v, input_precision=PREC) * _gather(x, nb, 3 * F, 2 * F + f, B)
            v0 += tl.sum(m * _gather(v, nb, 3 * F, f, B), 0)
            v1 += tl.sum(m * _gather(v, nb, 3 * F, F + f, B), 0)
            v2 += tl.sum(m * _gather(v, nb, 3 * F, 2 * F + f, B), 0)
    tl.store(s_out + a * F + f + n, s)
    out = v_out + a * (3 * F) + f + n
    tl.store(out, v0)
    tl.store(out + F, v1)
    tl.store(out + 2 * F, v2)


@triton.jit
def _reverse(table, x, v, basis, slope, u, j, rows, G_s, G_v, x_adj, v_adj, d_adj, u_adj, A, E, F: tl.constexpr,
             P: tl.constexpr, PART: tl.constexpr, B: tl.constexpr, PREC: tl.constexpr):
    """One of the parts of x: 0, that of scalars; 1, of directions; 2, of vectors, which need few enough registers
    only one by one. x_adj [A, 3F], v_adj [A, 3, F]; by distance and direction, for each block of features:
    d_adj [3, F/B, E], u_adj [F/B, E, 3]."""
    f = tl.program_id(1) * B
    k, n = tl.arange(0, P), tl.arange(0, B)
    t = _column(table, PART * F + f, P, F, B)
    d_adj += (PART * tl.num_programs(1) + tl.program_id(1)) * E
    for a in range(tl.program_id(0), A, tl.num_programs(0)):
        first, last = tl.load(rows + a), tl.load(rows + a + 1)
        x_own = tl.load(x + a * (3 * F) + PART * F + f + n)[None, :]
        if PART == 2:
            own = v + a * (3 * F) + f + n
            c0, c1, c2 = tl.load(own)[None, :], tl.load(own + F)[None, :], tl.load(own + 2 * F)[None, :]
        sum_x = tl.zeros([B], tl.float32)
        sum0, sum1, sum2 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
        for start in range(first, last, EDGES):
            e = start + tl.arange(0, EDGES)
            real = e < last
            phi = tl.load(basis + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
            psi = tl.load(slope + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
            nb = tl.load(j + e, mask=real, other=0)
            w = tl.dot(phi, t, input_precision=PREC)
            if PART == 0:
                q = _gather(G_s, nb, F, f, B)
            else:
                g0, g1 = _gather(G_v, nb, 3 * F, f, B), _gather(G_v, nb, 3 * F, F + f, B)
                g2 = _gather(G_v, nb, 3 * F, 2 * F + f, B)
                if PART == 1:
                    c0 = -tl.load(u + e * 3, mask=real, other=0.0)[:, None]
                    c1 = -tl.load(u + e * 3 + 1, mask=real, other=0.0)[:, None]
                    c2 = -tl.load(u + e * 3 + 2, mask=real, other=0.0)[:, None]
                q = g0 * c0 + g1 * c1 + g2 * c2
            sum_x += tl.sum(w * q, 0)
            tl.store(d_adj + e, tl.sum(tl.dot(psi, t, input_precision=PREC) * x_own * q, 1), mask=real)
            if PART == 1:
                w = w * x_own
                out = u_adj + (tl.program_id(1) * E + e) * 3
                tl.store(out, -tl.sum(w * g0, 1), mask=real)
                tl.store(out + 1, -tl.sum(w * g1, 1), mask=real)
                tl.store(out + 2, -tl.sum(w * g2, 1), mask=real)
            if PART == 2:
                w = w * x_own
                sum0 += tl.sum(w * g0, 0)
                sum1 += tl.sum(w * g1, 0)
                sum2 += tl.sum(w * g2, 0)
        tl.store(x_adj + a * (3 * F) + PART * F + f + n, sum_x)
        if PART == 2:
            out = v_adj + a * (3 * F) + f + n
            tl.store(out, sum0)
            tl.store(out + F, sum1)
            tl.store(out + 2 * F, sum2)


@triton.jit
def _dual_forward(table, x, v, basis, slope, u, u_slope, j, rows, s_out, v_out, A, F: tl.constexpr, P: tl.constexpr,
                  V: tl.constexpr, B: tl.constexpr, PREC: tl.constexpr):
    a, f = tl.program_id(0), tl.program_id(1) * B
    k, n = tl.arange(0, P), tl.arange(0, B)
    t_s, t_R = _column(table, f, P, F, B), _column(table, F + f, P, F, B)
    t_v = _column(table, 2 * F + f, P, F, B)
    x_dot, v_dot = x + A * (3 * F), v + A * (3 * F)
    first, last = tl.load(rows + a), tl.load(rows + a + 1)
    s, sd = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    v0, v1, v2 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    d0, d1, d2 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    for start in range(first, last, EDGES):
        e = start + tl.arange(0, EDGES)
        real = e < last
        phi = tl.load(basis + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
        psi = tl.load(slope + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
        nb = tl.load(j + e, mask=real, other=0)
        w, wd = tl.dot(phi, t_s, input_precision=PREC), tl.dot(psi, t_s, input_precision=PREC)
        value = _gather(x, nb, 3 * F, f, B)
        s += tl.sum(w * value, 0)
        sd += tl.sum(wd * value + w * _gather(x_dot, nb, 3 * F, f, B), 0)
        w, wd = tl.dot(phi, t_R, input_precision=PREC), tl.dot(psi, t_R, input_precision=PREC)
        value = _gather(x, nb, 3 * F, F + f, B)
        m, md = w * value, wd * value + w * _gather(x_dot, nb, 3 * F, F + f, B)
        c = tl.load(u + e * 3, mask=real, other=0.0)[:, None]
        v0 += tl.sum(m * c, 0)
        d0 += tl.sum(md * c + m * tl.load(u_slope + e * 3, mask=real, other=0.0)[:, None], 0)
        c = tl.load(u + e * 3 + 1, mask=real, other=0.0)[:, None]
        v1 += tl.sum(m * c, 0)
        d1 += tl.sum(md * c + m * tl.load(u_slope + e * 3 + 1, mask=real, other=0.0)[:, None], 0)
        c = tl.load(u + e * 3 + 2, mask=real, other=0.0)[:, None]
        v2 += tl.sum(m * c, 0)
        d2 += tl.sum(md * c + m * tl.load(u_slope + e * 3 + 2, mask=real, other=0.0)[:, None], 0)
        if V:
            w, wd = tl.dot(phi, t_v, input_precision=PREC), tl.dot(psi, t_v, input_precision=PREC)
            value = _gather(x, nb, 3 * F, 2 * F + f, B)
            m, md = w * value, wd * value + w * _gather(x_dot, nb, 3 * F, 2 * F + f, B)
            value = _gather(v, nb, 3 * F, f, B)
            v0 += tl.sum(m * value, 0)
            d0 += tl.sum(md * value + m * _gather(v_dot, nb, 3 * F, f, B), 0)
            value = _gather(v, nb, 3 * F, F + f, B)
            v1 += tl.sum(m * value, 0)
            d1 += tl.sum(md * value + m * _gather(v_dot, nb, 3 * F, F + f, B), 0)
            value = _gather(v, nb, 3 * F, 2 * F + f, B)
            v2 += tl.sum(m * value, 0)
            d2 += tl.sum(md * value + m * _gather(v_dot, nb, 3 * F, 2 * F + f, B), 0)
    tl.store(s_out + a * F + f + n, s)
    tl.store(s_out + (A + a) * F + f + n, sd)
    out = v_out + a * (3 * F) + f + n
    tl.store(out, v0)
    tl.store(out + F, v1)
    tl.store(out + 2 * F, v2)
    out += A * (3 * F)
    tl.store(out, d0)
    tl.store(out + F, d1)
    tl.store(out + 2 * F, d2)


@triton.jit
def _dual_reverse(table, x, v, basis, slope, u, u_slope, j, rows, G_s, G_v, x_adj, v_adj, table_adj, A,
                  F: tl.constexpr, P: tl.constexpr, PART: tl.constexpr, B: tl.constexpr, PREC: tl.constexpr):
    """One of the parts of x, as in _reverse. x_adj [2, A, 3F], v_adj [2, A, 3, F]; table_adj [programs, P, 3F], still
    to be summed."""
    f = tl.program_id(1) * B
    k, n = tl.arange(0, P), tl.arange(0, B)
    t = _column(table, PART * F + f, P, F, B)
    t_adj = tl.zeros([P, B], tl.float32)
    tangents = A * (3 * F)
    for a in range(tl.program_id(0), A, tl.num_programs(0)):
        first, last = tl.load(rows + a), tl.load(rows + a + 1)
        own = x + a * (3 * F) + PART * F + f + n
        x_own, xd_own = tl.load(own)[None, :], tl.load(own + tangents)[None, :]
        if PART == 2:
            own = v + a * (3 * F) + f + n
            c0, c1, c2 = tl.load(own)[None, :], tl.load(own + F)[None, :], tl.load(own + 2 * F)[None, :]
            own += tangents
            d0, d1, d2 = tl.load(own)[None, :], tl.load(own + F)[None, :], tl.load(own + 2 * F)[None, :]
        sum_x, sum_xd = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
        # of w G_v + w_dot G_v_dot and of w G_v_dot, from which the adjoints of v follow
        sum0, sum1, sum2 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
        dot0, dot1, dot2 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
        for start in range(first, last, EDGES):
            e = start + tl.arange(0, EDGES)
            real = e < last
            phi = tl.load(basis + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
            psi = tl.load(slope + e[:, None] * P + k[None, :], mask=real[:, None], other=0.0)
            nb = tl.load(j + e, mask=real, other=0)
            w, wd = tl.dot(phi, t, input_precision=PREC), tl.dot(psi, t, input_precision=PREC)
            if PART == 0:
                q, qd = _gather(G_s, nb, F, f, B), _gather(G_s + A * F, nb, F, f, B)
            else:
                if PART == 1:
                    c0 = -tl.load(u + e * 3, mask=real, other=0.0)[:, None]
                    c1 = -tl.load(u + e * 3 + 1, mask=real, other=0.0)[:, None]
                    c2 = -tl.load(u + e * 3 + 2, mask=real, other=0.0)[:, None]
                    d0 = -tl.load(u_slope + e * 3, mask=real, other=0.0)[:, None]
                    d1 = -tl.load(u_slope + e * 3 + 1, mask=real, other=0.0)[:, None]
                    d2 = -tl.load(u_slope + e * 3 + 2, mask=real, other=0.0)[:, None]
                g, gd = _gather(G_v, nb, 3 * F, f, B), _gather(G_v + tangents, nb, 3 * F, f, B)
                q, qd = g * c0 + gd * d0, gd * c0
                if PART == 2:
                    sum0 += tl.sum(w * g + wd * gd, 0)
                    dot0 += tl.sum(w * gd, 0)
                g, gd = _gather(G_v, nb, 3 * F, F + f, B), _gather(G_v + tangents, nb, 3 * F, F + f, B)
                q += g * c1 + gd * d1
                qd += gd * c1
                if PART == 2:
                    sum1 += tl.sum(w * g + wd * gd, 0)
                    dot1 += tl.sum(w * gd, 0)
                g, gd = _gather(G_v, nb, 3 * F, 2 * F + f, B), _gather(G_v + tangents, nb, 3 * F, 2 * F + f, B)
                q += g * c2 + gd * d2
                qd += gd * c2
                if PART == 2:
                    sum2 += tl.sum(w * g + wd * gd, 0)
                    dot2 += tl.sum(w * gd, 0)
            sum_x += tl.sum(w * q + wd * qd, 0)
            sum_xd += tl.sum(w * qd, 0)
            t_adj += tl.dot(tl.trans(phi), x_own * q + xd_own * qd, input_precision=PREC)
            t_adj += tl.dot(tl.trans(psi), x_own * qd, input_precision=PREC)
        out = x_adj + a * (3 * F) + PART * F + f + n
        tl.store(out, sum_x)
        tl.store(out + tangents, sum_xd)
        if PART == 2:
            own = x + a * (3 * F) + 2 * F + f + n
            y, yd = tl.load(own), tl.load(own + tangents)
            out = v_adj + a * (3 * F) + f + n
            tl.store(out, y * sum0 + yd * dot0)
            tl.store(out + F, y * sum1 + yd * dot1)
            tl.store(out + 2 * F, y * sum2 + yd * dot2)
            out += tangents
            tl.store(out, y * dot0)
            tl.store(out + F, y * dot1)
            tl.store(out + 2 * F, y * dot2)
    out = table_adj + tl.program_id(0) * (3 * P * F) + k[:, None] * (3 * F) + (PART * F + f + n)[None, :]
    tl.store(out, t_adj)


# ------------------------------------------------------------------------------------------- launches

def _programs(tensor: torch.Tensor, atoms: int) -> int:
    """Programs that walk over atoms: one a multiprocessor for each block of features."""
    if not tensor.is_cuda:  # Triton's interpreter, in tests
        return min(2, atoms)
    return min(torch.cuda.get_device_properties(tensor.device).multi_processor_count, atoms)


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, x, v, d, u, basis, slope, j, rows):
        table, x = table.contiguous(), x.contiguous()
        v = None if v is None else v.contiguous()
        A, F, P = len(x), x.shape[1] // 3, basis.shape[1]
        s_out, v_out = x.new_empty(A, F), x.new_empty(A, 3, F)
        _forward[A, F // BLOCK](table, x, x if v is None else v, basis, u, j, rows, s_out, v_out, F, P, v is not None,
                                BLOCK, PRECISION, num_warps=WARPS)
        ctx.save_for_backward(table, x, v, u, basis, slope, j, rows)
        return s_out, v_out

    @staticmethod
    def backward(ctx, G_s, G_v):
        table, x, v, u, basis, slope, j, rows = ctx.saved_tensors
        A, E, F, P = len(x), len(u), x.shape[1] // 3, basis.shape[1]
        x_adj, v_adj = torch.zeros_like(x), None if v is None else torch.empty_like(v)
        d_adj, u_adj = x.new_zeros(3, F // BLOCK, E), x.new_zeros(F // BLOCK, E, 3)  # padding belongs to no row
        G_s, G_v = G_s.contiguous(), G_v.contiguous()
        for part in range(2 if v is None else 3):
            _reverse[_programs(x, A), F // BLOCK](
                table, x, x if v is None else v, basis, slope, u, j, rows, G_s, G_v, x_adj,
                x_adj if v is None else v_adj, d_adj, u_adj, A, E, F, P, part, BLOCK, PRECISION, num_warps=WARPS)
        return None, x_adj, v_adj, d_adj.sum((0, 1)), u_adj.sum(0), None, None, None, None


class _DualMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, x, v, basis, slope, u, u_slope, j, rows):
        table, x = table.contiguous(), x.contiguous()
        v = None if v is None else v.contiguous()
        A, F, P = x.shape[1], x.shape[2] // 3, basis.shape[1]
        s_out, v_out = x.new_empty(2, A, F), x.new_empty(2, A, 3, F)
        _dual_forward[A, F // BLOCK](table, x, x if v is None else v, basis, slope, u, u_slope, j, rows, s_out, v_out,
                                     A, F, P, v is not None, BLOCK, PRECISION, num_warps=WARPS)
        ctx.save_for_backward(table, x, v, basis, slope, u, u_slope, j, rows)
        return s_out, v_out

    @staticmethod
    def backward(ctx, G_s, G_v):
        table, x, v, basis, slope, u, u_slope, j, rows = ctx.saved_tensors
        A, F, P = x.shape[1], x.shape[2] // 3, basis.shape[1]
        x_adj, v_adj = torch.zeros_like(x), None if v is None else torch.empty_like(v)
        programs = _programs(x, A)
        table_adj = x.new_zeros(programs, *table.shape)
        G_s, G_v = G_s.contiguous(), G_v.contiguous()
        for part in range(2 if v is None else 3):
            _dual_reverse[programs, F // BLOCK](
                table, x, x if v is None else v, basis, slope, u, u_slope, j, rows, G_s, G_v, x_adj,
                x_adj if v is None else v_adj, table_adj, A, F, P, part, BLOCK, PRECISION, num_warps=WARPS)
        return table_adj.sum(0), x_adj, v_adj, None, None, None, None, None, None


def messages(table, x, v, edges, d):
    """train_dual.messages, differentiable in x, v, d and edges.u; g of an edge comes out on its reverse edge, with
    opposite sign, which gives the same forces and virial. float32."""
    return _Messages.apply(table, x, v, d, edges.u, edges.basis, edges.slope, edges.j, edges.rows)


def dual_messages(table, x, v, edges):
    """train_dual.dual_messages, differentiable in table, x and v. float32."""
    return _DualMessages.apply(table, x, v, edges.basis, edges.slope, edges.u, edges.u_slope, edges.j, edges.rows)
