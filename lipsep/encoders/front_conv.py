"""What all lip readers here begin with: one convolution over neighbouring frames, then half the size twice."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.arranged import Arranged
from lipsep.kernels.convolution import convolve, folded, frames_around, packed

FRONT_FRAMES = 5  # that the convolution sees together
_STRIDE, _PADDING = (2, 2), (3, 3)


class FrontConv(Arranged):
    """Convolution over 5 frames and 7 x 7 pixels, stride 2 in space, batch norm, activation, max pooling.

    The five neighbouring frames become the input channels of a 2-D convolution.

    Shape: (B, F, S, S) -> (B * F, C, S / 4, S / 4), channels-last.
    """

    def __init__(self, channels: int, act: nn.Module, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        conv = nn.Conv3d(1, channels, (FRONT_FRAMES, 7, 7), bias=False)  # for PyTorch's own initialisation
        self.weight = conv.weight
        self.norm = nn.BatchNorm2d(channels, eps, momentum)
        self.act = act

    def arrange(self) -> tuple[Tensor, ...]:
        """Filters and offsets with the norm in them."""
        return folded(self.weight.squeeze(1), None, self.norm)

    def pack(self, *arranged: Tensor) -> tuple[Tensor, ...]:
        """The filters in oneDNN's own order where it has one."""
        weight, bias = arranged
        return packed(weight, _STRIDE, _PADDING), bias

    def forward(self, lips: Tensor, wanted: slice = slice(None)) -> Tensor:
        """wanted: of which pictures; the others are context (in a stream)."""
        frames = frames_around(lips, FRONT_FRAMES, wanted)  # (B * F, 5, S, S)
        if self.is_arranged:
            x = convolve(frames, *self.arranged(), _STRIDE, _PADDING)  # (B * F, C, S / 2, S / 2)
        else:
            x = self.norm(F.conv2d(frames, self.weight.squeeze(1), None, _STRIDE, _PADDING))
        return F.max_pool2d(self.act(x), kernel_size=3, stride=2, padding=1)
