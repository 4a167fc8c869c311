"""Layers on sequences that are stored as (B, T, C): norms and depthwise convolutions without a transpose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.depthwise import as_picture, as_sequence, depthwise
from lipsep.kernels.global_norm import global_norm, norm_prelu, standardise
from lipsep.layers.prelu import PReLU


class DepthwiseConv(nn.Module):
    """One filter per channel, odd kernel, zero padding that keeps the length (before the stride).

    Shape: (B, T, C) -> (B, ceil(T / stride), C).
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, kernel, groups=channels, bias=bias)  # for PyTorch's own initialisation
        self.weight, self.bias = conv.weight, conv.bias
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight, self.bias, self.stride)


class GlobalNorm(nn.Module):
    """Normalise over time and channels together, then one gain and bias per channel (global layer norm).

    Shape: (B, T, C) -> (B, T, C). The published separators use `eps` 1e-8 or 1e-5, so it is stated at each use.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, scale: LayerScale | None = None, act: PReLU | None = None) -> Tensor:
        """scale, act: what comes behind the norm; the scale becomes part of its gain and bias."""
        gain, bias = (self.weight, self.bias) if scale is None else (self.weight * scale.gain, self.bias * scale.gain)
        if act is None:
            return global_norm(x, gain, bias, self.eps)
        return norm_prelu(x, gain, bias, self.eps, act.weight)

    def standardise(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance, without gain and bias."""
        return standardise(x, self.eps)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each channel. Shape: (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor, act: PReLU | None = None) -> Tensor:
        """act: what comes behind the norm."""
        y = super().forward(x.flatten(0, 1)).view_as(x)
        return y if act is None else act(y)


class LayerScale(nn.Module):
    """A learned gain per channel that starts small, so that a residual branch starts nearly closed (CaiT, 2021).

    Never applied by itself: it becomes part of the linear map or the norm before it, which is the same for less.
    """

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels,), init))

    def into(self, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weight and bias of the map followed by the gain."""
        return self.gain[:, None] * linear.weight, self.gain * linear.bias


def pool_to(x: Tensor, length: int) -> Tensor:
    """Adaptive average pooling over time: (B, T, C) -> (B, length, C); lengthens by repetition where length > T."""
    batch, time, channels = x.shape
    if time == length:
        return x
    if time % length == 0:
        return x.reshape(batch, length, time // length, channels).mean(2)
    if length % time == 0:
        return x.repeat_interleave(length // time, dim=1)
    return as_sequence(F.adaptive_avg_pool2d(as_picture(x), (1, length)))
