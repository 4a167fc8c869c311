"""A linear map that is packed for inference."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lipsep.kernels.arranged import Arranged
from lipsep.kernels.linear import linear, packed_matrix


class PackedLinear(Arranged, nn.Linear):
    """`nn.Linear` with its weights packed once inference is prepared. Shape: (..., C) -> (..., C')."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Linear.__init__(self, *args, **kwargs)
        self._kept = None

    def arrange(self) -> tuple[Tensor, ...]:
        """The weights as they are."""
        return (self.weight,)

    def pack(self, *arranged: Tensor) -> tuple[Tensor, ...]:
        """The weights in oneDNN's own order where it has one."""
        return tuple(packed_matrix(weight.contiguous()) for weight in arranged)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """plus: (..., C'), added to the result."""
        (weight,) = self.arranged()
        return linear(x, weight, self.bias, plus)
