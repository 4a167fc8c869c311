"""Multi-head self-attention with learned relative positions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.precision import full_precision
from lipsep.kernels.relative_attention import relative_attention
from lipsep.layers.channels_last import LayerScale
from lipsep.layers.dropout import Dropout
from lipsep.layers.packed_linear import PackedLinear


class RelativeAttention(nn.Module):
    """Layer norm, self-attention, output map, LayerScale; the caller adds the residual, if any.

    A learned vector r(i - j) per distance adds q_i . r(i - j) to the logit of query i and key j, before the division by
    sqrt(d) (Shaw et al. 2018, keys only).

    Shape: x (B, L, C), relative (2 M, C / heads) or None -> (B, L, C). Distances beyond M count as M.
    """

    def __init__(self, channels: int, n_heads: int, layer_scale_init: float, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.to_q = PackedLinear(channels, channels)
        self.to_k = PackedLinear(channels, channels)
        self.to_v = PackedLinear(channels, channels)
        self.to_out = nn.Linear(channels, channels)
        self.scale = LayerScale(channels, layer_scale_init)
        self.n_heads = n_heads
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, relative: Tensor | None) -> Tensor:
        y, dtype = self.norm(x), self.to_q.weight.dtype
        q, k, v = (
            to(y).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, L, d)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        with full_precision(x):  # forth and back
            y = relative_attention(q.to(dtype), k.to(dtype), v.to(dtype), relative, self.dropout.rate)
        return self.dropout(F.linear(y.transpose(1, 2).flatten(2), *self.scale.into(self.to_out)))
