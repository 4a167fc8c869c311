"""Convolutions on pictures with the batch norm behind them, as one operation at inference.

Fixed weights allow two things that training does not: the norm becomes part of the filters, and the filters are packed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lipsep.kernels.arranged import Arranged
from lipsep.kernels.convolution import convolve, folded, packed


class PictureConv(Arranged, nn.Conv2d):
    """`nn.Conv2d` that takes in the norm made of it once inference is prepared.

    Shape: (N, C, H, W) -> (N, C', H', W'), then channels-last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Conv2d.__init__(self, *args, **kwargs)
        self._kept = None
        self._norm: tuple[FoldedNorm, ...] = ()  # in a tuple, so that it is not a part of this layer

    def arrange(self) -> tuple[Tensor, ...]:
        """Filters and offsets with the norm in them."""
        return folded(self.weight, self.bias, *self._norm)

    def pack(self, *arranged: Tensor) -> tuple[Tensor, ...]:
        """The filters in oneDNN's own order where it has one."""
        weight, bias = arranged
        return packed(weight, self.stride, self.padding, self.dilation, self.groups), bias

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_arranged:
            return super().forward(x)
        return convolve(x, *self.arranged(), self.stride, self.padding, self.dilation, self.groups)


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
