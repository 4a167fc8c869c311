"""A learned slope for negative values."""

from __future__ import annotations

from torch import Tensor, nn

from lipsep.kernels.prelu import prelu


class PReLU(nn.PReLU):
    """`nn.PReLU` with one slope. Shape kept."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return prelu(x, self.weight)
