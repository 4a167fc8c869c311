"""Linear maps whose fixed weights are kept in the order in which oneDNN reads them.

On the processors that were measured (AVX-512, one thread) that is a tenth faster than what PyTorch does by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.layers.arranged import Arranged
from lipsep.layers.picture_conv import onednn_takes


class PackedLinear(Arranged, nn.Linear):
    """`nn.Linear` with its weights packed once inference is prepared. Shape: (..., C) -> (..., C')."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Linear.__init__(self, *args, **kwargs)
        self._kept = None

    def arrange(self) -> tuple[Tensor, ...]:
        """The weights in oneDNN's own order where it has one."""
        return (packed_matrix(self.weight),)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """plus: (..., C'), added to the result."""
        return linear(x, self.arranged()[0] if self.is_arranged else self.weight, self.bias, plus)


def packed_matrix(weight: Tensor) -> Tensor:
    """Weights (C', C) in oneDNN's own order, or as they are on a GPU, in other precisions, without oneDNN."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach()) if onednn_takes(weight) else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None = None) -> Tensor:
    """A linear map with weights as they are or from `packed_matrix`, and `plus` added. Shape: (..., C) -> (..., C')."""
    if not weight.is_mkldnn:
        y = F.linear(x, weight, bias)
        return y if plus is None else plus + y
    if plus is None:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.ops.mkldnn._linear_pointwise.binary(x, plus, weight, bias, "add")
