"""Stem of a lip encoder: a convolution over 7 frames, rows and columns of grey pictures, for several paths at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.convolution import frames_around

STEM_KERNEL = 7
"""Taps along each axis of the filters that the compiled kernel knows."""


def plain_stems(lips: Tensor, weight: Tensor, bias: Tensor, n_paths: int) -> list[Tensor]:
    """The definition; see `stems`."""
    y = F.conv3d(lips.unsqueeze(1), weight, bias, padding=weight.shape[-1] // 2)  # (B, n_paths C, F, H, W)
    return list(y.movedim(1, -1).chunk(n_paths, dim=-1))


def stems(lips: Tensor, weight: Tensor, bias: Tensor, n_paths: int) -> list[Tensor]:
    """The first convolutions of all paths, which see the same pictures; each keeps the size.

    Compiled where the kernel takes it (square pictures that need no gradients, 7 taps), else by PyTorch's convolution
    of pictures.

    Shape: lips (B, F, H, W), weight (n_paths C, 1, k, k, k), bias (n_paths C,) -> n_paths times (B, F, H, W, C).
    """
    square = lips.shape[2] == lips.shape[3] and not lips.requires_grad
    if square and weight.shape[-1] == STEM_KERNEL and native.takes(lips, weight, bias):
        return list(Stem.apply(lips.contiguous(), weight, bias, n_paths))
    return [x.contiguous() for x in stem_convolution(lips, weight, bias).chunk(n_paths, dim=-1)]


def stem_convolution(lips: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution over frames, rows and columns that keeps the size; the k frames become input channels of a 2-D one.

    The products of the first and of the last frames are added up apart: sums of 343 at once were the largest source of
    rounding in the whole network.

    Shape: lips (B, F, H, W), weight (C, 1, k, k, k), bias (C,) -> (B, F, H, W, C).
    """
    reach, half = weight.shape[-1] // 2, weight.shape[-1] // 2 + 1
    frames, weight = frames_around(lips, weight.shape[-1]), weight[:, 0]  # (B * F, k, H, W), (C, k, k, k)
    y = F.conv2d(frames[:, :half], weight[:, :half], bias, padding=reach)
    y = y + F.conv2d(frames[:, half:], weight[:, half:], padding=reach)
    return y.movedim(1, -1).unflatten(0, lips.shape[:2])


class Stem(torch.autograd.Function):
    """By native/stem.cpp, each of `n_paths` shares of the channels by itself.

    Shape: lips (B, F, S, S), weight (C, 1, 7, 7, 7), bias (C,) -> (n_paths, B, F, S, S, C / n_paths).
    """

    @staticmethod
    def forward(ctx: Any, lips: Tensor, weight: Tensor, bias: Tensor, n_paths: int) -> Tensor:
        channels = len(weight) // n_paths
        y = lips.new_empty(n_paths, *lips.shape, channels)
        native.run("stem", lips, weight, bias, y, *lips.shape[:3], len(weight), channels)
        ctx.save_for_backward(lips, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lips, weight = ctx.saved_tensors
        grad = grad.movedim(0, 4).flatten(4).flatten(0, 1).movedim(-1, 1)  # (B * F, C, S, S)
        frames, reach = frames_around(lips, STEM_KERNEL), [STEM_KERNEL // 2] * 2
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, frames, weight[:, 0], [len(weight)], [1, 1], reach, [1, 1], False, [0, 0], 1, [False, True, True]
        )
        return None, grad_weight.unsqueeze(1), grad_bias, None
