"""Attention, with learned relative positions or without, in memory that grows with the length alone.

A learned vector r(i - j) per distance adds q_i . r(i - j) to the logit of query i and key j, before the division by
sqrt(d) (Shaw et al. 2018, keys only). The definition has an (L, L, d) tensor for it; the other forms have not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.dropout import draw_dropped
from lipsep.kernels.exporting import is_exporting

LARGEST_HEAD = 32
"""The most dimensions per head that the compiled kernels take on every processor."""
QUERIES_AT_ONCE = 32
"""Rows of the logits computed together: memory grows with L, not with L^2."""
LOGITS_AT_ONCE = 2**17
"""Logits of several heads computed together on a processor: they stay in its cache."""


def plain_relative_attention(q: Tensor, k: Tensor, v: Tensor, relative: Tensor | None) -> Tensor:
    """The definition, with an (L, L, d) tensor, without dropout; see `relative_attention`."""
    logits = q @ k.mT
    if relative is not None:
        steps, reach = torch.arange(q.shape[2], device=q.device), len(relative) // 2
        positions = relative[(steps[:, None] - steps).clamp(-reach, reach - 1) + reach]  # (L, L, d)
        logits = logits + torch.einsum("bhid,ijd->bhij", q, positions)
    return (logits * q.shape[-1] ** -0.5).softmax(-1) @ v


def relative_attention(q: Tensor, k: Tensor, v: Tensor, relative: Tensor | None, dropout: float) -> Tensor:
    """softmax((q k' + positions) / sqrt(d)) v; weights are dropped with probability `dropout`.

    Compiled where kernels take it; where gradients are wanted, or numbers dropped, a few heads and rows at a time, with
    weights that are made again in the backward pass; at inference the same without those, or PyTorch's own attention
    where there are no positions; exported, the whole matrix at once.

    Shape: q, k, v (B, heads, L, d), relative (2 M, d) or None -> (B, heads, L, d). Distances beyond M count as M.
    """
    if is_exporting():
        return _exported(q, k, v, relative)
    shape = q.shape
    q, k, v = (t.contiguous().flatten(0, 1) for t in (q, k, v))  # (B * heads, L, d)
    distances = None if relative is None else by_distance(relative, q.shape[1])
    return attention(q * q.shape[-1] ** -0.5, k, v, distances, dropout).view(shape)


def attention(q: Tensor, k: Tensor, v: Tensor, distances: Tensor | None, dropout: float) -> Tensor:
    """The form that is the fastest where these tensors are.

    Shape: q, already divided by sqrt(d), k, v (N, L, d), distances (d, 2 L - 1) or None -> (N, L, d).
    """
    if kernels_take(q, k, v, distances):
        return AttendNatively.apply(q, k, v, distances, dropout)
    if torch.is_grad_enabled() or dropout:
        return AttendAgain.apply(q, k, v, distances, dropout)
    return F.scaled_dot_product_attention(q, k, v, scale=1.0) if distances is None else attend(q, k, v, distances)


def scaled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v of any number of keys: compiled where kernels take it, else PyTorch's own.

    Shape: q (B, heads, N, d), k, v (B, heads, M, d) -> (B, heads, N, d).
    """
    if is_exporting():
        return _exported(q, k, v, None)
    if not kernels_take(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)
    heads = [x.contiguous().flatten(0, 1) for x in (q * q.shape[-1] ** -0.5, k, v)]
    return AttendNatively.apply(*heads, None, 0.0).view(q.shape)


def kernels_take(q: Tensor, *others: Tensor | None) -> bool:
    """Whether `AttendNatively` may be used with these."""
    return q.shape[-1] <= LARGEST_HEAD and native.takes(q, *others)


def by_distance(relative: Tensor, length: int) -> Tensor:
    """The vectors r(i - j) of all distances in `length` steps, the largest first: (2 M, d) -> (d, 2 L - 1)."""
    reach = len(relative) // 2
    distances = torch.arange(length - 1, -length, -1, device=relative.device)
    return relative[distances.clamp(-reach, reach - 1) + reach].t().contiguous()


# --- Compiled --------------------------------------------------------------------------------------------------------


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


# --- A few heads and rows at a time ----------------------------------------------------------------------------------


def position_logits(q: Tensor, distances: Tensor, start: int, length: int, room: _Room) -> Tensor:
    """q_i . r(i - j) for the R queries i = start ... start + R - 1 and all `length` keys j.

    One matrix product with the vectors of all R + L - 1 distances; a view whose rows are shifted by one against each
    other then puts each distance under its key.

    Shape: q (N, R, d), distances (d, 2 L - 1) from `by_distance` -> (N, R, L).
    """
    n_heads, n_rows, _ = q.shape
    logits = room.tensor(2, n_heads * n_rows, n_rows + length - 1)
    torch.mm(q.flatten(0, 1), distances[:, _some_distances(n_rows, start, length)], out=logits)
    return _under_keys(logits.unflatten(0, (n_heads, n_rows)), length)


def _some_distances(rows: int, start: int, length: int) -> slice:
    """The columns from the largest distance, start + rows - 1, to the smallest."""
    first = length - start - rows
    return slice(first, first + rows + length - 1)


def _under_keys(by_distance: Tensor, length: int) -> Tensor:
    """The view that puts each distance under its key: (N, R, R + L - 1) -> (N, R, L)."""
    rows, width = by_distance.shape[1], by_distance.shape[2] - 1
    if rows == 1:
        return by_distance
    shifted = by_distance.flatten(1)[:, rows - 1 : rows - 1 + rows * width]  # row r begins at distance start + r
    return shifted.unflatten(1, (rows, width))[..., :length]


def attend(q: Tensor, k: Tensor, v: Tensor, distances: Tensor | None, dropped: list[Tensor] | None = None) -> Tensor:
    """Attention a few heads and rows at a time, so that memory grows with L.

    The product of queries and keys is added to the positions' logits by the matrix product itself.

    Args:
        q: already divided by sqrt(d).
        dropped: for each piece, which of its weights do not count.

    Shape: q, k, v (N, L, d), distances (d, 2 L - 1) or None -> (N, L, d).
    """
    y, room = torch.empty_like(q), _Room(q)
    for i, (heads, rows) in enumerate(_pieces(q)):
        weights = _weights(q, k, distances, heads, rows, room)
        if dropped is not None:
            weights.view(-1).index_fill_(0, dropped[i], 0.0)
        torch.bmm(weights, v[heads], out=y[heads, rows])
    return y


def _pieces(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which heads and which rows are computed together; none are larger than the first."""
    n_heads, length, _ = q.shape
    n_rows = min(QUERIES_AT_ONCE, length)
    n_some = max(1, LOGITS_AT_ONCE // (n_rows * length)) if q.device.type == "cpu" else n_heads
    for head in range(0, n_heads, n_some):
        for row in range(0, length, n_rows):
            yield slice(head, min(head + n_some, n_heads)), slice(row, min(row + n_rows, length))


class _Room:
    """Three tensors for one piece of logits after another: new memory for each would cost as much as the arithmetic."""

    def __init__(self, q: Tensor) -> None:
        heads, rows = next(_pieces(q))
        self._flat = q.new_empty(3, heads.stop * rows.stop * (rows.stop + q.shape[1] - 1))

    def tensor(self, i: int, *shape: int) -> Tensor:
        """The i-th of them, uninitialised."""
        return self._flat[i, : math.prod(shape)].view(shape)


def _weights(q: Tensor, k: Tensor, distances: Tensor | None, heads: slice, rows: slice, room: _Room) -> Tensor:
    """The attention of some heads and rows to all keys: (n, R, L), rows add up to 1. Takes the first three tensors."""
    some, length = q[heads, rows], q.shape[1]
    logits, weights = (room.tensor(i, *some.shape[:2], length) for i in (0, 1))
    if distances is None:
        torch.bmm(some, k[heads].mT, out=logits)
    else:
        positions = position_logits(some, distances, rows.start, length, room)
        torch.baddbmm(positions, some, k[heads].mT, out=logits)
    return torch.softmax(logits, -1, out=weights)


class AttendAgain(torch.autograd.Function):
    """`attend` with dropout and gradients; the weights are not kept but made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, distances: Tensor | None, dropout: float) -> Tensor:
        ctx.dropped, ctx.factor = None, 1 / (1 - dropout)
        if dropout:
            sizes = [q[heads, rows, 0].numel() * q.shape[1] for heads, rows in _pieces(q)]
            ctx.dropped = [draw_dropped(size, dropout, q.device) for size in sizes]
        ctx.save_for_backward(q, k, v, distances)
        y = attend(q, k, v, distances, ctx.dropped)
        return y.mul_(ctx.factor) if dropout else y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, distances = ctx.saved_tensors
        length = q.shape[1]
        grad = grad.contiguous() * ctx.factor
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad_distances = None if distances is None else torch.zeros_like(distances)
        room = _Room(q)
        for i, (heads, rows) in enumerate(_pieces(q)):
            weights = _weights(q, k, distances, heads, rows, room)
            grad_some, q_some = grad[heads, rows], q[heads, rows]
            grad_weights = torch.bmm(grad_some, v[heads].mT, out=room.tensor(0, *weights.shape))
            counted = weights
            if ctx.dropped is not None:
                counted = room.tensor(2, *weights.shape).copy_(weights)
                counted.view(-1).index_fill_(0, ctx.dropped[i], 0.0)
            grad_v[heads].baddbmm_(counted.mT, grad_some)
            grad_weights *= counted
            grad_logits = grad_weights.addcmul_(weights, grad_weights.sum(-1, keepdim=True), value=-1)
            grad_k[heads].baddbmm_(grad_logits.mT, q_some)
            torch.bmm(grad_logits, k[heads], out=grad_q[heads, rows])
            if grad_distances is not None:
                n_rows = q_some.shape[1]
                columns = _some_distances(n_rows, rows.start, length)
                spread = room.tensor(2, len(q_some), n_rows, n_rows + length - 1).zero_()
                _under_keys(spread, length).copy_(grad_logits)
                grad_q[heads, rows] += spread @ distances[:, columns].mT
                grad_distances[:, columns] += q_some.flatten(0, 1).mT @ spread.flatten(0, 1)
        return grad_q, grad_k, grad_v, grad_distances, None


# --- Exported --------------------------------------------------------------------------------------------------------


def _exported(q: Tensor, k: Tensor, v: Tensor, relative: Tensor | None) -> Tensor:
    """The whole matrix of logits; positions by one product with the vectors of all distances."""
    q = q * q.shape[3] ** -0.5
    logits = q @ k.mT  # (B, heads, L, M)
    if relative is not None:
        logits = logits + _all_position_logits(q, relative)
    return logits.softmax(3) @ v


def _all_position_logits(q: Tensor, relative: Tensor) -> Tensor:
    """q_i . r(i - j), each row shifted by one against the one above: (B, heads, L, d), (2 M, d) -> (B, heads, L, L)."""
    length, reach = q.shape[2], len(relative) // 2
    distances = (length - 1 - torch.arange(2 * length - 1, device=q.device)).clamp(-reach, reach - 1) + reach
    logits = q @ relative.index_select(0, distances).t()  # (B, heads, L, 2 L - 1), the largest distance first
    width, first = 2 * length - 1, length - 1  # of what stands under one query's keys: rows are 2 L long with the pad
    shifted = F.pad(logits, (0, 1)).flatten(2)[..., first : first + length * width]
    return shifted.unflatten(2, (length, width))[..., :length]
