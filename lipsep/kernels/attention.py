"""Attention by compiled kernels, in memory that grows with the length alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native

LARGEST_HEAD = 32
"""The most dimensions per head that the kernels take on every processor."""


def scaled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v in the form that is the fastest here.

    Shape: q (B, heads, N, d), k, v (B, heads, M, d) -> (B, heads, N, d).
    """
    if not kernels_take(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)
    heads = [x.contiguous().flatten(0, 1) for x in (q * q.shape[-1] ** -0.5, k, v)]
    return AttendNatively.apply(*heads, None, 0.0).view(q.shape)


def kernels_take(q: Tensor, *others: Tensor | None) -> bool:
    """Whether `AttendNatively` may be used with these."""
    return q.shape[-1] <= LARGEST_HEAD and native.takes(q, *others)


class AttendNatively(torch.autograd.Function):
    """Attention by native/attention.cpp, a few queries at a time from logits to gradients.

    With `distances`, q_i . distances[:, L - 1 - i + j] is added to the logit of query i and key j; then there are as
    many queries as keys.

    Shape: q, already divided by sqrt(d), (N, queries, d), k, v (N, L, d), distances (d, 2 L - 1) or None ->
    (N, queries, d). Weights are dropped with probability `dropout`.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, distances: Tensor | None, dropout: float) -> Tensor:
        ctx.dropout = native.draw_seed(dropout), dropout
        y = torch.empty_like(q)
        native.run("attend", q, k, v, distances, *ctx.dropout, y, *q.shape[:2], *k.shape[1:])
        ctx.save_for_backward(q, k, v, distances, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, distances, y = ctx.saved_tensors
        grads = [None if x is None else torch.empty_like(x) for x in (q, k, v, distances)]
        inputs = grad.contiguous(), q, k, v, distances, *ctx.dropout, y
        native.run("attend_backward", *inputs, *grads, *q.shape[:2], *k.shape[1:])
        return *grads, None
