"""Depthwise convolution: one filter per channel, along sequences that are stored (B, T, C).

A (B, T, C) tensor seen as (B, C, 1, T) is a channels-last picture of height 1. PyTorch hands such a picture to oneDNN's
vectorised kernels as it is, which makes a depthwise convolution with 65 taps 25 times faster on a CPU than `conv1d` on
(B, C, T), and leaves the result in (B, T, C) again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.exporting import is_exporting
from lipsep.kernels.precision import full_precision

MIDDLE_KERNEL, LONG_KERNEL = 5, 17
"""Taps from which the gradient of a depthwise filter is computed lag by lag, and from which all lags at once."""
MOST_PRODUCTS, CACHED_PRODUCTS = 2**25, 2**19
"""Numbers that lag by lag are made before they are summed: at most, and on a processor, in whose cache they stay."""
STEPS_PER_FILTER = 128
"""Length of the pieces that take the place of the filter where all lags are computed at once."""


def plain_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """The definition; see `depthwise`."""
    return F.conv1d(x.mT, weight, bias, stride, weight.shape[2] // 2, groups=len(weight)).mT


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """One filter per channel, odd kernel, zero padding that keeps the length (before the stride).

    As a picture; where gradients are wanted, with filters that are not between one tap and `MIDDLE_KERNEL`, also with
    gradients of its own. Compiled kernels have it together with what follows it (conv_glu, heat_ends, global_norm).

    Shape: x (B, T, C), weight (C, 1, k), bias (C,) or None -> (B, ceil(T / stride), C).
    """
    if 1 < weight.shape[2] < MIDDLE_KERNEL or not torch.is_grad_enabled() or is_exporting():
        return _as_a_picture(x, weight, bias, stride)
    with full_precision(x):  # in the precision of the weights, forth and back
        return _Depthwise.apply(x.to(weight.dtype), weight, bias, stride)


def suits_native(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether native/depthwise.h knows such filters of stride 1: three taps, a bias, whole vectors in half of them."""
    channels, _, kernel = weight.shape
    return kernel == 3 and bias is not None and channels % (2 * native.MULTIPLE) == 0


# --- As a picture ----------------------------------------------------------------------------------------------------


def as_picture(x: Tensor) -> Tensor:
    """A view as a channels-last picture of height 1: (B, T, C) -> (B, C, 1, T)."""
    return x.transpose(1, 2).unsqueeze(2)


def as_sequence(picture: Tensor) -> Tensor:
    """The inverse view: (B, C, 1, T) -> (B, T, C)."""
    return picture.squeeze(2).transpose(1, 2)


def _as_a_picture(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    channels, _, kernel = weight.shape
    if kernel == stride == 1:  # oneDNN has no kernel for it
        return x * weight.flatten() if bias is None else torch.addcmul(bias, x, weight.flatten())
    y = F.conv2d(as_picture(x), weight.unsqueeze(2), bias, (1, stride), (0, kernel // 2), groups=channels)
    return as_sequence(y)


# --- With gradients of its own ---------------------------------------------------------------------------------------


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose weight gradient, a correlation at a few lags, is not left to oneDNN.

    That one takes six times as long for it as for the forward pass when the kernel has 65 taps, 50 times when it has 5.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.stride = bias is not None, stride
        return _as_a_picture(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad, kernel = grad.contiguous(), weight.shape[2]
        if ctx.stride == 1:
            grad_x = _as_a_picture(grad, weight.flip(2), None)
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
