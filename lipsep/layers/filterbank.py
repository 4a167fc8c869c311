"""Learned filter banks with padding between waveforms and sequences of features (B, T, C)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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
        padded = F.pad(mixture, (self.padding, self.padding))
        return F.linear(padded.unfold(1, self.weight.shape[-1], self.stride), self.weight.flatten(1), self.bias)


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
        kernel = self.weight.shape[-1]
        pieces = F.linear(x, self.weight.flatten(1).t()).flatten(0, -3)  # (N, T, kernel)
        whole = (x.shape[-2] - 1) * self.stride + kernel
        signal = F.fold(pieces.transpose(1, 2), (1, whole), (1, kernel), stride=(1, self.stride)).flatten(1)
        signal = F.pad(signal, (-self.padding, self.more - self.padding))
        signal = signal if self.bias is None else signal + self.bias
        return signal.unflatten(0, x.shape[:-2])
