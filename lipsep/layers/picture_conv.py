"""Convolutions on pictures with the batch norm behind them, as one operation at inference.

Fixed weights allow two things that training does not: the norm becomes part of the filters, and the filters are kept in
the order in which oneDNN reads them. Without the second, PyTorch reorders them at every call, which takes longer than
the convolution itself where pictures are few and small.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.layers.arranged import Arranged


class PictureConv(Arranged, nn.Conv2d):
    """`nn.Conv2d` that takes in the norm made of it once inference is prepared.

    Shape: (N, C, H, W) -> (N, C', H', W'), then channels-last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Conv2d.__init__(self, *args, **kwargs)
        self._kept = None
        self._norm: tuple[FoldedNorm, ...] = ()  # in a tuple, so that it is not a part of this layer

    def arrange(self) -> tuple[Tensor, ...]:
        """Filters and offsets with the norm in them; the filters in oneDNN's own order where it has one."""
        weight, bias = folded(self.weight, self.bias, *self._norm)
        return packed(weight, self.stride, self.padding, self.dilation, self.groups), bias

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_arranged:
            return super().forward(x)
        return convolve(x, *self._kept, self.stride, self.padding, self.dilation, self.groups)


class FoldedNorm(nn.BatchNorm2d):
    """The batch norm of what `conv` gives; nothing at all where `conv` does it. Shape kept."""

    def __init__(self, conv: PictureConv, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(conv.out_channels, eps, momentum)
        self._conv = (conv,)
        conv._norm = (self,)

    def forward(self, x: Tensor) -> Tensor:
        return x if self._conv[0].is_arranged else super().forward(x)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._conv[0]._kept = None
        super()._load_from_state_dict(*args, **kwargs)


def conv_norm(
    c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = False
) -> list[nn.Module]:
    """A convolution and its batch norm, for `nn.Sequential`."""
    conv = PictureConv(c_in, c_out, kernel, stride, padding, groups=groups, bias=bias)
    return [conv, FoldedNorm(conv)]


def folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d | None = None) -> tuple[Tensor, Tensor]:
    """Filters (C', ...) and offsets (C',) of a convolution that does what the norm in evaluation mode does too."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if norm is None:
        return weight, bias
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), norm.bias + (bias - norm.running_mean) * scale


def packed(
    weight: Tensor,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Filters (C', C, k, k) in oneDNN's own order, or as they are on a GPU, in other precisions, without oneDNN."""
    if not onednn_takes(weight):
        return weight
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight.detach().to_mkldnn(), padding, stride, dilation, groups)


def onednn_takes(weight: Tensor) -> bool:
    """Whether oneDNN computes with such weights here."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """A convolution with filters as they are or from `packed`. Shape: (N, C, H, W) -> (N, C', H', W')."""
    if not weight.is_mkldnn:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, "none", [], "")
