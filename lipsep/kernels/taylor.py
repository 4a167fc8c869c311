"""Attention that is linear in the number of pixels, by a second-order expansion of the exponential."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.exporting import is_exporting

NATIVE_HEAD_DIM = 8
"""The dimensions per head that native/taylor.cpp was written for."""


def plain_taylor_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, with an N x N matrix; see `taylor_attention`."""
    q, k, v = (x.permute(0, 2, 3, 1) for x in (q, k, v))  # (heads, frames, N, d)
    scores = q @ k.mT
    weights = 1 + scores + scores.square() / 2
    return (weights @ v / weights.sum(-1, keepdim=True)).permute(0, 3, 1, 2)


def taylor_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with exp(s_ij) replaced by 1 + s_ij + s_ij^2 / 2, s_ij = q_i . k_j, without an N x N matrix.

    Compiled where the kernel takes it, else in PyTorch one frame at a time; exported, all frames at once.

    Shape: q, k, v (heads, d, frames, N) -> (heads, d, frames, N).
    """
    return _all_frames(q, k, v) if is_exporting() else TaylorAttention.apply(q, k, v)


class TaylorAttention(torch.autograd.Function):
    """One frame at a time, whose expansions stay in the cache; they are not kept but made again in the backward pass.

    Shape: q, k, v (heads, d, frames, N) -> (heads, d, frames, N).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, sums = q.new_empty(q.shape), q.new_empty(len(q), 1, *q.shape[2:])
        if _natively(q, k, v):
            native.run("taylor_attend", q, k, v, y, sums, len(q), *q.shape[2:])
            ctx.save_for_backward(q, k, v, y, sums)
            return y
        counts, room = _counts(q), _expansion_room(q)
        for i in range(q.shape[2]):
            values = F.pad(v[:, :, i], (0, 0, 0, 1), value=1.0)  # (heads, d + 1, N): the ones give the sum of weights
            totals = values @ _expansion(k[:, :, i], room).mT * counts  # (heads, d + 1, 1 + d + d (d + 1) / 2)
            out = totals @ _expansion(q[:, :, i], room)  # (heads, d + 1, N)
            torch.clamp(out[:, -1:], min=1e-5, out=sums[:, :, i])
            torch.div(out[:, :-1], sums[:, :, i], out=y[:, :, i])
        ctx.save_for_backward(q, k, v, y, sums)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, y, sums = ctx.saved_tensors
        grad_q, grad_k, grad_v = (q.new_empty(q.shape) for _ in range(3))
        if _natively(grad, q, k, v):
            inputs = grad.contiguous(), q, k, v, y, sums
            native.run("taylor_attend_backward", *inputs, grad_q, grad_k, grad_v, len(q), *q.shape[2:])
            return grad_q, grad_k, grad_v
        counts, of_q, of_k = _counts(q), _expansion_room(q), _expansion_room(q)
        terms = q.new_empty(len(q), q.shape[1] + 1, q.shape[1] + 1, q.shape[3])
        for i in range(q.shape[2]):
            frame = (slice(None), slice(None), i)
            _expansion(q[frame], of_q), _expansion(k[frame], of_k)
            values = F.pad(v[frame], (0, 0, 0, 1), value=1.0)
            shares = grad[frame] / sums[frame]
            of_sum = (shares * y[frame]).sum(1, keepdim=True).neg_().masked_fill_(sums[frame] <= 1e-5, 0.0)
            grad_out = torch.cat([shares, of_sum], dim=1)  # (heads, d + 1, N)
            totals, grad_totals = values @ of_k.mT * counts, grad_out @ of_q.mT * counts
            grad_q[frame] = _to_numbers(totals, grad_out, q[frame], terms)
            grad_k[frame] = _to_numbers(grad_totals, values, k[frame], terms)
            grad_v[frame] = grad_totals[:, :-1] @ of_k
        return grad_q, grad_k, grad_v


def _natively(*tensors: Tensor) -> bool:
    """Whether native/taylor.cpp takes these."""
    fitting = tensors[-1].shape[1] == NATIVE_HEAD_DIM and all(x.is_contiguous() for x in tensors[-3:])
    return fitting and native.takes(*tensors)


def _expansion_room(x: Tensor) -> Tensor:
    """Uninitialised, for `_expansion`: x (heads, d, frames, N) -> (heads, 1 + d + d (d + 1) / 2, N)."""
    heads, d, _, length = x.shape
    return x.new_empty(heads, 1 + d + d * (d + 1) // 2, length)


def _expansion(x: Tensor, room: Tensor) -> Tensor:
    """1, the d numbers, and their products x_i x_j with j >= i: (heads, d, N) -> (heads, 1 + d + d (d + 1) / 2, N)."""
    d = x.shape[1]
    room[:, 0], room[:, 1 : 1 + d], row = 1.0, x, 1 + d
    for i in range(d):
        torch.mul(x[:, i : i + 1], x[:, i:], out=room[:, row : row + d - i])
        row += d - i
    return room


def _counts(x: Tensor) -> Tensor:
    """How often each number of the expansion counts in 1 + s + s^2 / 2: 1, but 1 / 2 for squares."""
    d = x.shape[1]
    first, second = torch.triu_indices(d, d, device=x.device)
    return torch.cat([x.new_ones(1 + d), torch.where(first == second, 0.5, 1.0).to(x.dtype)])


def _to_numbers(totals: Tensor, other: Tensor, x: Tensor, terms: Tensor) -> Tensor:
    """The gradient of the sum of totals[e, m] other[e] expansion(x)[m] by x.

    With each row of `totals` as a matrix A_e it is sum_e sum_j (A_e)_ij other_e (1, x)_j, where what stands for x_i x_j
    is in A_e at ij and at ji: one matrix product.

    Shape: totals (heads, e, 1 + d + d (d + 1) / 2), other (heads, e, N), x (heads, d, N), terms, which need not be
    initialised, (heads, e, 1 + d, N) -> (heads, d, N).
    """
    (heads, d, _), e = x.shape, other.shape[1]
    first, second = torch.triu_indices(d, d, device=x.device)
    matrices = totals.new_zeros(heads, e, d, 1 + d)
    matrices[..., 0] = totals[..., 1 : 1 + d]
    matrices[:, :, first, 1 + second] = totals[..., 1 + d :]
    matrices[:, :, second, 1 + first] += totals[..., 1 + d :]  # squares twice
    terms[:, :, 0] = other
    torch.mul(other.unsqueeze(2), x.unsqueeze(1), out=terms[:, :, 1:])
    return matrices.transpose(1, 2).reshape(heads, d, -1) @ terms.flatten(1, 2)


def _all_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same expansion as matrix products over all heads and frames."""
    q, k, v = (x.permute(0, 2, 1, 3) for x in (q, k, v))  # (heads, frames, d, N)
    d = int(q.shape[2])
    first, second = torch.triu_indices(d, d, device=q.device)  # the products x_i x_j with j >= i
    counts = torch.where(first == second, 0.5, 1.0)  # in s^2 / 2
    of_q, of_k = (x.index_select(2, first) * x.index_select(2, second) for x in (q, k))
    v = torch.cat([v, torch.ones_like(v[:, :, :1])], dim=2)  # (heads, frames, d + 1, N): the ones give the sums
    out = v.sum(3, keepdim=True) + (v @ k.mT) @ q + (v @ of_k.mT * counts) @ of_q
    return (out[:, :, :-1] / out[:, :, -1:].clamp(min=1e-5)).permute(0, 2, 1, 3)
