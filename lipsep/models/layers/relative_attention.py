"""Multi-head self-attention with learned relative positions, without an (L, L, d) tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.models.layers.channels_last import LayerScale

QUERIES_AT_ONCE = 32
"""Rows of the logits computed together: memory grows with L, not with L^2."""
LOGITS_AT_ONCE = 2**17
"""Logits of several heads computed together without gradients: they stay in a processor's cache."""


class RelativeAttention(nn.Module):
    """Layer norm, self-attention, output map, LayerScale; the caller adds the residual, if any.

    A learned vector r(i - j) per distance adds q_i . r(i - j) to the logit of query i and key j, before the division by
    sqrt(d) (Shaw et al. 2018, keys only).

    Shape: x (B, L, C), relative (2 M, C / heads) or None -> (B, L, C). Distances beyond M count as M.
    """

    def __init__(self, channels: int, n_heads: int, layer_scale_init: float, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)
        self.scale = LayerScale(channels, layer_scale_init)
        self.n_heads = n_heads
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, relative: Tensor | None) -> Tensor:
        y = self.norm(x)
        q, k, v = (
            to(y).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, L, d)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        dropout = self.dropout.p if self.training else 0.0
        if relative is None:
            y = F.scaled_dot_product_attention(q, k, v, None, dropout)
        elif torch.is_grad_enabled():
            distances, some = by_distance(relative * q.shape[-1] ** -0.5, x.shape[1]), []
            for start in range(0, x.shape[1], QUERIES_AT_ONCE):
                rows = q[:, :, start : start + QUERIES_AT_ONCE]
                bias = position_logits(rows, distances, start, x.shape[1])
                some.append(F.scaled_dot_product_attention(rows, k, v, bias, dropout))
            y = torch.cat(some, dim=2)
        else:
            y = attend_in_cache(q, k, v, relative)
        return self.scale(self.dropout(self.to_out(y.transpose(1, 2).flatten(2))))


def by_distance(relative: Tensor, length: int) -> Tensor:
    """The vectors r(i - j) of all distances in `length` steps, the largest first: (2 M, d) -> (d, 2 L - 1)."""
    reach = len(relative) // 2
    distances = torch.arange(length - 1, -length, -1, device=relative.device)
    return relative[distances.clamp(-reach, reach - 1) + reach].t().contiguous()


def position_logits(q: Tensor, distances: Tensor, start: int, length: int) -> Tensor:
    """q_i . r(i - j) for the R queries i = start ... start + R - 1 and all `length` keys j.

    One matrix product with the vectors of all R + L - 1 distances; a view whose rows are shifted by one against each
    other then puts each distance under its key.

    Shape: q (..., R, d), distances (d, 2 L - 1) from `by_distance` -> (..., R, L).
    """
    rows = q.shape[-2]
    first = length - start - rows  # the column of the largest distance, start + R - 1
    logits = q @ distances[:, first : first + rows + length - 1]  # (..., R, R + L - 1)
    width = rows + length - 2
    if width == 0:
        return logits
    shifted = logits.flatten(-2)[..., rows - 1 : rows - 1 + rows * width]  # row r now starts at distance start + r
    return shifted.unflatten(-1, (rows, width))[..., :length]


def attend_in_cache(q: Tensor, k: Tensor, v: Tensor, relative: Tensor) -> Tensor:
    """The same attention without gradients and dropout, a few heads and rows at a time.

    The product of queries and keys is added to the positions' logits by the matrix product itself.

    Shape: q, k, v (B, heads, L, d), relative (2 M, d) -> (B, heads, L, d).
    """
    length, size = q.shape[2:]
    distances = by_distance(relative, length)
    rows_at_once = min(QUERIES_AT_ONCE, length)
    heads_at_once = max(1, LOGITS_AT_ONCE // (rows_at_once * length))
    y = torch.empty_like(q, memory_format=torch.contiguous_format)
    groups = (t.contiguous().flatten(0, 1).split(heads_at_once) for t in (q * size**-0.5, k, v, y))
    for q_some, k_some, v_some, y_some in zip(*groups, strict=True):  # (some heads, L, d)
        for start in range(0, length, rows_at_once):
            rows = q_some[:, start : start + rows_at_once]
            bias = position_logits(rows, distances, start, length)
            weights = torch.baddbmm(bias, rows, k_some.mT).softmax(-1)  # (some heads, R, L)
            torch.bmm(weights, v_some, out=y_some[:, start : start + rows_at_once])
    return y
