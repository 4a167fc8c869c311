"""Multi-head self-attention with learned relative positions, without an (L, L, d) tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.models.layers.channels_last import LayerScale


class RelativeAttention(nn.Module):
    """Layer norm, self-attention, output map, LayerScale; the caller adds the residual, if any.

    A learned vector r(i - j) per distance adds q_i . r(i - j) to the logit of query i and key j, before the division by
    sqrt(d) (Shaw et al. 2018, keys only). q R^T over all 2 L - 1 distances is one matrix product, and a shifted view of
    its rows puts each distance under its key.

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
        bias = None if relative is None else position_logits(q, relative) * q.shape[-1] ** -0.5
        y = F.scaled_dot_product_attention(q, k, v, bias, self.dropout.p if self.training else 0.0)
        return self.scale(self.dropout(self.to_out(y.transpose(1, 2).flatten(2))))


def position_logits(q: Tensor, relative: Tensor) -> Tensor:
    """q_i . r(i - j) for all i, j: q (B, heads, L, d), relative (2 M, d) -> (B, heads, L, L)."""
    length, reach = q.shape[2], len(relative) // 2
    distances = torch.arange(length - 1, -length, -1, device=q.device).clamp(-reach, reach - 1) + reach
    logits = q @ relative[distances].t()  # (B, heads, L, 2 L - 1), column c is distance L - 1 - c
    width = 2 * length - 2
    shifted = logits.flatten(2)[..., length - 1 : length - 1 + length * width]  # row i now starts at distance i
    return shifted.unflatten(2, (length, width))[..., :length] if length > 1 else logits
