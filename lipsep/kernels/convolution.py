"""Convolutions: on pictures, plain and with fixed filters that oneDNN reads as they are; over frames; in 64 bits.

Packed filters spare PyTorch their reordering at every call, which takes longer than the convolution itself where
pictures are few and small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.arranged import onednn_takes
from lipsep.kernels.exporting import is_exporting

# --- Pictures --------------------------------------------------------------------------------------------------------


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """A convolution with filters as they are or from `packed`. Shape: (N, C, H, W) -> (N, C', H', W')."""
    if not weight.is_mkldnn:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, "none", [], "")


def packed(
    weight: Tensor,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Filters (C', C, k, k) in oneDNN's own order, or as they are on a GPU, in other precisions, without oneDNN."""
    if not onednn_takes(weight):
        return weight
    return torch._C._nn.mkldnn_reorder_conv2d_weight(
        weight.detach().to_mkldnn(), [*padding], [*stride], [*dilation], groups
    )


def folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d | None = None) -> tuple[Tensor, Tensor]:
    """Filters (C', ...) and offsets (C',) of a convolution that does what the norm in evaluation mode does too."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if norm is None:
        return weight, bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # every norm here keeps both
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), norm.bias + (bias - mean) * scale


# --- Pictures and their neighbours in time ---------------------------------------------------------------------------


def frames_around(lips: Tensor, kernel: int, wanted: slice = slice(None)) -> Tensor:
    """Each wanted picture with its neighbours as channels; before the first and behind the last there are zeros.

    Shape: (B, F, H, W) -> (B * F', k, H, W), channels-last in memory.
    """
    padded, n_frames = F.pad(lips, (0, 0, 0, 0, kernel // 2, kernel // 2)), lips.shape[1]
    if is_exporting():  # ONNX has no `unfold`
        return torch.stack([padded[:, i : i + n_frames][:, wanted] for i in range(kernel)], dim=2).flatten(0, 1)
    frames = padded.unfold(1, kernel, 1)[:, wanted]  # (B, F', H, W, k)
    return frames.contiguous().flatten(0, 1).movedim(-1, 1)


def plain_convolve_3d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition; see `convolve_3d`."""
    return F.conv3d(x.movedim(-1, 1), weight, bias, padding=1).movedim(1, -1)


def convolve_3d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 x 3 convolution that keeps the size.

    One 2-D convolution makes the three frames' shares of each result, which are then shifted and added: on a CPU 3 to
    28 times faster than PyTorch's 3-D convolution at few channels. Exported, nothing is added in place.

    Shape: x (B, F, H, W, C), weight (C', C, 3, 3, 3), bias (C',) -> (B, F, H, W, C').
    """
    weight = weight.movedim(2, 0).flatten(0, 1)  # (3 C', C, 3, 3)
    shares = F.conv2d(x.flatten(0, 1).movedim(-1, 1), weight, padding=1).movedim(1, -1).unflatten(0, x.shape[:2])
    if is_exporting():
        n_frames = x.shape[1]
        before, now, after = F.pad(shares, (0, 0, 0, 0, 0, 0, 1, 1)).chunk(3, dim=4)  # (B, F + 2, H, W, C')
        return before[:, :n_frames] + now[:, 1 : n_frames + 1] + after[:, 2:] + bias
    before, now, after = shares.chunk(3, dim=-1)
    y = now + bias
    y[:, 1:] += before[:, :-1]
    y[:, :-1] += after[:, 1:]
    return y


# --- Long sums -------------------------------------------------------------------------------------------------------


def convolve_exactly(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """A convolution over time whose products are added up in 64 bits at inference on a processor.

    For sums of so many products that their rounding would be heard of in the whole network, at so few steps that it
    costs nothing. Shape: x (B, C, F), weight (C', C, k), bias (C',) -> (B, C', F').
    """
    exact = not torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype == torch.float32
    if not exact or is_exporting():
        return F.conv1d(x, weight, bias, padding=padding)
    return F.conv1d(x.double(), weight.double(), bias.double(), padding=padding).float()
