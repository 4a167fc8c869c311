"""Dropout (Srivastava et al. 2014): the plain form, one whose random numbers cost little on a processor, and a compiled
one that stores nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native


def plain_drop(x: Tensor, kept: Tensor, p: float) -> Tensor:
    """What is kept of x, 1 / (1 - p) times as large, so that its mean stays; kept: 1 with probability 1 - p, else 0.

    Shape: (...), (...) -> (...).
    """
    return x * kept / (1 - p)


def drop(x: Tensor, p: float) -> Tensor:
    """Zero with probability `p`, else 1 / (1 - p) times as large: (...) -> (...).

    On a processor compiled kernels find out by a hash of a seed and each number's place, once more in the backward
    pass; without them, the places of what is dropped are kept. Elsewhere it is PyTorch's own.
    """
    if p == 0:
        return x
    if p == 1 or x.device.type != "cpu":
        return F.dropout(x, p)
    if native.takes(x):
        return DropNatively.apply(x, p)
    return _Drop.apply(x, draw_dropped(x.numel(), p, x.device), 1 / (1 - p))


def draw_dropped(count: int, p: float, device: torch.device) -> Tensor:
    """Which of `count` numbers are dropped, each with probability p < 1 whatever becomes of the others.

    Only the gaps between them are drawn, whose lengths follow a geometric distribution: p random numbers for each.

    Shape: -> int64 (about p * count,), increasing.
    """
    n_gaps = math.ceil(p * count + 6 * math.sqrt(p * count))  # nearly always enough
    pieces, last = [], -1
    while last < count:
        gaps = torch.rand(n_gaps, device=device).neg_().log1p_().div_(math.log1p(-p)).long().add_(1)
        pieces.append(gaps.cumsum_(0).add_(last))
        last = int(pieces[-1][-1])
    places = torch.cat(pieces)
    return places[: int(torch.searchsorted(places, count))]


class DropNatively(torch.autograd.Function):
    """By native/dropout.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.dropout = native.draw_seed(p), p
        return _dropped_natively(x, *ctx.dropout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _dropped_natively(grad, *ctx.dropout), None


def _dropped_natively(x: Tensor, seed: int, p: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    native.run("drop", x, y, x.numel(), seed, p)
    return y


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(dropped)
        ctx.factor = factor
        return _without(x, dropped, factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (dropped,) = ctx.saved_tensors
        return _without(grad, dropped, ctx.factor), None, None


def _without(x: Tensor, dropped: Tensor, factor: float) -> Tensor:
    y = x.contiguous() * factor
    y.view(-1).index_fill_(0, dropped, 0.0)
    return y
