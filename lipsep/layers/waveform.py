"""Learned filter banks between waveforms and sequences of features (B, T, C)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.filterbank import analyse, synthesise


class AudioEncoder(nn.Module):
    """Learned filters with GELU. Shape: (B, n) -> (B, T, C) with T = (n - kernel) // stride + 1."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, channels, kernel, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        return F.gelu(analyse(mixture, self.conv.weight, None, self.conv.stride[0]))


class AudioDecoder(nn.Module):
    """Transposed convolution back to a waveform. Shape: (B, T, C) -> (B, (T - 1) * stride + kernel)."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, 1, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return synthesise(x, self.conv.weight, self.conv.stride[0])
