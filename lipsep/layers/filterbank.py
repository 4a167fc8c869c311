"""Learned filter banks with padding between waveforms and sequences of features (B, T, C)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.filterbank import analyse, synthesise


class FilterbankEncoder(nn.Module):
    """Learned filters on overlapping windows.

    Shape: (B, n) -> (B, T, C) with T = (n + 2 padding - kernel) // stride + 1.
    """

    def __init__(self, channels: int, kernel: int, stride: int, padding: int = 0, bias: bool = False) -> None:
        super().__init__()
        conv = nn.Conv1d(1, channels, kernel, bias=bias)  # for PyTorch's own initialisation
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = stride, padding

    def forward(self, mixture: Tensor) -> Tensor:
        return analyse(mixture, self.weight, self.bias, self.stride, self.padding)


class FilterbankDecoder(nn.Module):
    """Overlap-add of learned waveforms, the transposed convolution.

    Shape: (..., T, C) -> (..., (T - 1) * stride + kernel - 2 padding + more), where `more` is the output padding.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, padding: int = 0, more: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        conv = nn.ConvTranspose1d(channels, 1, kernel, bias=bias)  # for PyTorch's own initialisation
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.more = stride, padding, more

    def forward(self, x: Tensor) -> Tensor:
        signal = F.pad(synthesise(x, self.weight, self.stride), (-self.padding, self.more - self.padding))
        return signal if self.bias is None else signal + self.bias
