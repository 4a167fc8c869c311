"""Layers on sequences that are stored as (B, T, C): linear maps, norms and depthwise convolutions without a transpose.

A (B, T, C) tensor seen as (B, C, 1, T) is a channels-last picture of height 1. PyTorch hands such a picture to oneDNN's
vectorised kernels as it is, which makes a depthwise convolution with 65 taps 25 times faster on a CPU than `Conv1d` on
(B, C, T), and leaves the result in (B, T, C) again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.norm_prelu import NormPReLU
from lipsep.kernels.precision import full_precision


def as_picture(x: Tensor) -> Tensor:
    """A view as a channels-last picture of height 1: (B, T, C) -> (B, C, 1, T)."""
    return x.transpose(1, 2).unsqueeze(2)


def as_sequence(picture: Tensor) -> Tensor:
    """The inverse view: (B, C, 1, T) -> (B, T, C)."""
    return picture.squeeze(2).transpose(1, 2)


class DepthwiseConv(nn.Module):
    """One filter per channel, odd kernel, zero padding that keeps the length (before the stride).

    Shape: (B, T, C) -> (B, ceil(T / stride), C).
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, kernel, groups=channels, bias=bias)  # for PyTorch's own initialisation
        self.weight, self.bias = conv.weight, conv.bias
        self.stride = stride

    @property
    def suits_kernels(self) -> bool:
        """Whether native/depthwise.h knows such filters: three taps, a bias, and whole vectors in half of them."""
        channels, _, kernel = self.weight.shape
        return kernel == 3 and self.stride == 1 and self.bias is not None and channels % (2 * native.MULTIPLE) == 0

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """With filters that were made from `self.weight`, of the same shape."""
        if 1 < weight.shape[2] < MIDDLE_KERNEL or not torch.is_grad_enabled():
            return depthwise(x, weight, self.bias, self.stride)
        with full_precision(x):  # in the precision of the weights, forth and back
            return _DepthwiseConv.apply(x.to(weight.dtype), weight, self.bias, self.stride)


MIDDLE_KERNEL, LONG_KERNEL = 5, 17
"""Taps from which the gradient of a depthwise filter is computed lag by lag, and from which all lags at once."""
MOST_PRODUCTS, CACHED_PRODUCTS = 2**25, 2**19
"""Numbers that lag by lag are made before they are summed: at most, and on a processor, in whose cache they stay."""
STEPS_PER_FILTER = 128
"""Length of the pieces that take the place of the filter where all lags are computed at once."""


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """One filter per channel, weight (C, 1, k): (B, T, C) -> (B, ceil(T / stride), C)."""
    channels, _, kernel = weight.shape
    if kernel == stride == 1:  # oneDNN has no kernel for it
        return x * weight.flatten() if bias is None else torch.addcmul(bias, x, weight.flatten())
    y = F.conv2d(as_picture(x), weight.unsqueeze(2), bias, (1, stride), (0, kernel // 2), groups=channels)
    return as_sequence(y)


class _DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution whose weight gradient, a correlation at a few lags, is not left to oneDNN.

    That one takes six times as long for it as for the forward pass when the kernel has 65 taps, 50 times when it has 5.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.stride = bias is not None, stride
        return depthwise(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad, kernel = grad.contiguous(), weight.shape[2]
        if ctx.stride == 1:
            grad_x = depthwise(grad, weight.flip(2), None)
        else:
            settings = ((1, ctx.stride), (0, kernel // 2), (1, 1), False, (0, 0), len(weight), (True, False, False))
            pictures = as_picture(grad), as_picture(x), weight.unsqueeze(2)
            grad_x = as_sequence(torch.ops.aten.convolution_backward(*pictures, None, *settings)[0])
        at_once = kernel >= LONG_KERNEL and ctx.stride == 1
        lags = _lags_at_once(x, grad, kernel) if at_once else _lags(x, grad, kernel, ctx.stride)  # (C, k)
        return grad_x, lags.unsqueeze(1), grad.sum((0, 1)) if ctx.has_bias else None, None


def _lags(x: Tensor, grad: Tensor, kernel: int, stride: int) -> Tensor:
    """sum_t x[stride t + lag] grad[t], lags from -(k // 2) to k // 2: (B, T, C), (B, T / stride, C) -> (C, k)."""
    batch, time, channels = x.shape
    reach, n_steps, sums = kernel // 2, grad.shape[1], grad.new_zeros(kernel, channels)
    n_products = CACHED_PRODUCTS if x.device.type == "cpu" else MOST_PRODUCTS
    at_once = max(16, n_products // (batch * kernel * channels))
    for start in range(0, n_steps, at_once):
        piece = grad[:, start : start + at_once].unsqueeze(2)  # (B, n, 1, C)
        first = stride * start - reach
        last = first + stride * (piece.shape[1] - 1) + kernel
        heard = x[:, max(first, 0) : last]
        if first < 0 or last > time:
            heard = F.pad(heard, (0, 0, max(-first, 0), max(last - time, 0)))
        sums += (heard.unfold(1, kernel, stride).mT * piece).sum((0, 1))  # (B, n, k, C) -> (k, C)
    return sums.t()


def _lags_at_once(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """The same for stride 1: a depthwise convolution of pieces of `x` with pieces of `grad` as its filters."""
    batch, time, channels = x.shape
    reach, n_steps = kernel // 2, min(STEPS_PER_FILTER, time)
    n_pieces = -(-time // n_steps)
    rest = n_pieces * n_steps - time
    pieces = F.pad(x, (0, 0, reach, reach + rest)).unfold(1, n_steps + 2 * reach, n_steps)  # (B, P, C, n + 2 reach)
    pieces = pieces.permute(3, 0, 1, 2).flatten(1).unsqueeze(0)  # (1, n + 2 reach, B P C)
    filters = F.pad(grad, (0, 0, 0, rest)).unflatten(1, (n_pieces, n_steps)).mT.reshape(-1, 1, 1, n_steps)
    lags = F.conv2d(as_picture(pieces), filters, groups=len(filters))  # (1, B P C, 1, k)
    return lags.view(batch * n_pieces, channels, kernel).sum(0)


class GlobalNorm(nn.Module):
    """Normalise over time and channels together, then one gain and bias per channel (global layer norm).

    Shape: (B, T, C) -> (B, T, C). The published separators use `eps` 1e-8 or 1e-5, so it is stated at each use.

    Without compiled kernels, training takes PyTorch's channels-last group norm, which is twice as fast as its layer
    norm; its plain sums cost a deep network about 10 dB of agreement with float64, so inference takes the layer norm.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, scale: LayerScale | None = None) -> Tensor:
        """scale: what comes behind the norm, and becomes part of its gain and bias."""
        weight, bias = (self.weight, self.bias) if scale is None else (self.weight * scale.gain, self.bias * scale.gain)
        if native.takes_sequences(x, weight):
            return NormPReLU.apply(x, weight, bias, None, self.eps)
        if torch.is_grad_enabled():
            return as_sequence(F.group_norm(as_picture(x), 1, weight, bias, self.eps))
        return torch.addcmul(bias, self.standardise(x), weight)

    def standardise(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance, without gain and bias."""
        if torch.is_grad_enabled():
            return as_sequence(F.group_norm(as_picture(x), 1, eps=self.eps))
        return F.layer_norm(x.flatten(1), (x[0].numel(),), eps=self.eps).view_as(x)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each channel. Shape: (B, T, C) -> (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


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


def duplicate_channels(x: Tensor) -> Tensor:
    """Each channel twice in a row, as `repeat_interleave(2, dim=-1)`: (B, T, C) -> (B, T, 2 C).

    A complex tensor with equal parts is that in memory, and is made seven times as fast on a CPU.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return x.repeat_interleave(2, dim=-1)
    return torch.view_as_real(torch.complex(x, x)).flatten(-2)


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


def stretch_to(x: Tensor, length: int) -> Tensor:
    """Nearest-neighbour stretching over time: (B, T, C) -> (B, length, C)."""
    time = x.shape[1]
    if time == length:
        return x
    if length % time == 0:
        return x.repeat_interleave(length // time, dim=1)
    if torch.jit.is_tracing():  # for graphs of any length
        return x.index_select(1, nearest_steps(time, length, x.device))
    return as_sequence(torch.ops.aten.upsample_nearest2d(as_picture(x), (1, length)))


def unstretch_to(x: Tensor, time: int) -> Tensor:
    """The transpose of `stretch_to`, which its gradient needs: sums of the steps that repeat one step.

    Shape: (B, length, C) -> (B, time, C).
    """
    length = x.shape[1]
    if time == length:
        return x
    if length % time == 0:
        return x.unflatten(1, (time, -1)).sum(2)
    shape = (len(x), x.shape[2], 1, time)
    return as_sequence(torch.ops.aten.upsample_nearest2d_backward(as_picture(x), (1, length), shape))


def nearest_steps(time: int, length: int, device: torch.device) -> Tensor:
    """Which of `time` steps each of `length` steps repeats: int64 (length,)."""
    steps = torch.arange(time, device=device, dtype=torch.float32)[None, None]
    return F.interpolate(steps, size=length, mode="nearest")[0, 0].long()
