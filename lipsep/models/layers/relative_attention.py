"""Multi-head self-attention with learned relative positions, without an (L, L, d) tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.models.layers.channels_last import LayerScale

QUERIES_AT_ONCE = 64
"""Rows of the logits computed together: memory grows with L, not with L^2."""


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
        else:
            some = []
            for start in range(0, x.shape[1], QUERIES_AT_ONCE):
                rows = q[:, :, start : start + QUERIES_AT_ONCE]
                bias = position_logits(rows, relative * rows.shape[-1] ** -0.5, start, x.shape[1])
                some.append(F.scaled_dot_product_attention(rows, k, v, bias, dropout))
            y = torch.cat(some, dim=2)
        return self.scale(self.dropout(self.to_out(y.transpose(1, 2).flatten(2))))


def position_logits(q: Tensor, relative: Tensor, start: int, length: int) -> Tensor:
    """q_i . r(i - j) for the R queries i = start ... start + R - 1 and all `length` keys j.

    One matrix product with the vectors of all R + L - 1 distances; a view whose rows are shifted by one against each
    other then puts each distance under its key.

    Shape: q (B, heads, R, d), relative (2 M, d) -> (B, heads, R, L).
    """
    rows, reach = q.shape[2], len(relative) // 2
    distances = torch.arange(start + rows - 1, start - length, -1, device=q.device)
    logits = q @ relative[distances.clamp(-reach, reach - 1) + reach].t()  # (B, heads, R, R + L - 1)
    width = rows + length - 2
    if width == 0:
        return logits
    shifted = logits.flatten(2)[..., rows - 1 : rows - 1 + rows * width]  # row r now starts at distance start + r
    return shifted.unflatten(2, (rows, width))[..., :length]
