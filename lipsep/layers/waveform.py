"""Learned filter banks between waveforms and sequences of features (B, T, C)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AudioEncoder(nn.Module):
    """Learned filters with GELU. Shape: (B, n) -> (B, T, C) with T = (n - kernel) // stride + 1."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, channels, kernel, stride, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        windows = mixture.unfold(1, self.conv.kernel_size[0], self.conv.stride[0])  # (B, T, kernel)
        return F.gelu(F.linear(windows, self.conv.weight.flatten(1)))


class AudioDecoder(nn.Module):
    """Transposed convolution back to a waveform. Shape: (B, T, C) -> (B, (T - 1) * stride + kernel)."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, 1, kernel, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return overlap_add(F.linear(x, self.conv.weight.flatten(1).t()), self.conv.stride[0])


def overlap_add(pieces: Tensor, stride: int) -> Tensor:
    """Sum of pieces that begin `stride` samples after each other: (B, T, n) -> (B, (T - 1) * stride + n)."""
    n_pieces, kernel = pieces.shape[1:]
    n_samples = (n_pieces - 1) * stride + kernel
    return F.fold(pieces.transpose(1, 2), (1, n_samples), (1, kernel), stride=(1, stride)).flatten(1)
