"""From features to masks on the encoded mixture."""

from __future__ import annotations

from torch import Tensor, nn

from lipsep.layers.packed_linear import PackedLinear
from lipsep.layers.prelu import PReLU


class ReLUMasks(nn.Module):
    """PReLU, pointwise map, ReLU, times the encoded mixture: one masked mixture per voice.

    Shape: features (B, T, C), encoded (B, T, N) -> (B, n_src, T, N).
    """

    def __init__(self, c_in: int, c_out: int, n_src: int) -> None:
        super().__init__()
        self.act = PReLU()
        self.linear = PackedLinear(c_in, n_src * c_out)
        self.n_src = n_src

    def forward(self, features: Tensor, encoded: Tensor) -> Tensor:
        return self.values(features) * encoded.unsqueeze(1)

    def values(self, features: Tensor) -> Tensor:
        """The masks alone, >= 0. Shape: (B, T, C) -> (B, n_src, T, N)."""
        return self.linear(self.act(features)).relu().unflatten(-1, (self.n_src, -1)).transpose(1, 2)
