"""Filter banks: filters on overlapping windows of a waveform, and the sum of overlapping pieces, their transpose.

Windows and pieces are views; what is left is a matrix product. Exported, both are convolutions: ONNX has neither
`unfold` nor, for frames of unknown number, `fold`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels.exporting import is_exporting


def plain_analyse(sound: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int = 0) -> Tensor:
    """The definition; see `analyse`."""
    return F.conv1d(sound.unsqueeze(1), weight, bias, stride, padding).transpose(1, 2)


def analyse(sound: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int = 0) -> Tensor:
    """Filters on overlapping windows.

    Shape: sound (B, n), weight (C, 1, k), bias (C,) or None -> (B, T, C) with T = (n + 2 padding - k) // stride + 1.
    """
    if is_exporting():
        return plain_analyse(sound, weight, bias, stride, padding)
    padded = F.pad(sound, (padding, padding)) if padding else sound
    return F.linear(padded.unfold(1, weight.shape[-1], stride), weight.flatten(1), bias)


def plain_synthesise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The definition; see `synthesise`."""
    sequences = x.reshape(math.prod(x.shape[: x.ndim - 2]), x.shape[x.ndim - 2], x.shape[x.ndim - 1])  # (N, T, C)
    y = F.conv_transpose1d(sequences.transpose(1, 2), weight, None, stride)  # (N, 1, n)
    return y.reshape(*x.shape[: x.ndim - 2], y.shape[2])


def synthesise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Overlap-add of waveforms, the transposed convolution.

    Shape: x (..., T, C), weight (C, 1, k) -> (..., (T - 1) * stride + k).
    """
    if is_exporting():
        return plain_synthesise(x, weight, stride)
    pieces = F.linear(x, weight.flatten(1).t()).flatten(0, -3)  # (N, T, k)
    return overlap_add(pieces, stride).unflatten(0, x.shape[:-2])


def overlap_add(pieces: Tensor, stride: int) -> Tensor:
    """Sum of pieces that begin `stride` samples after each other: (B, T, n) -> (B, (T - 1) * stride + n)."""
    n_pieces, kernel = pieces.shape[1], pieces.shape[2]
    columns = pieces.transpose(1, 2)  # (B, n, T)
    if is_exporting():
        return F.conv_transpose1d(columns, torch.eye(int(kernel))[:, None], stride=stride).squeeze(1)
    n_samples = (n_pieces - 1) * stride + kernel
    return F.fold(columns, (1, n_samples), (1, kernel), stride=(1, stride)).flatten(1)
