"""Root mean square norm: plain, and compiled as one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipsep.kernels import native

CHUNK = 256  # rows whose gradients by the gain are one sum, as native/rms_norm.cpp has it


def plain_rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The definition; see `rms_norm`."""
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x over its root mean square over channels, times a gain. Shape: (..., C), (C,) -> (..., C)."""
    if native.takes(x, gain) and len(gain) % native.MULTIPLE == 0:
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x.contiguous(), gain, eps)
        return _normalised(x.contiguous(), gain, eps)[0]
    return plain_rms_norm(x, gain, eps)


def _normalised(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised rows and 1 / root mean square: (..., C) -> (..., C), (...)."""
    y, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
    native.run("rms_norm", x, gain, y, inverse, inverse.numel(), len(gain), eps)
    return y, inverse


class _RMSNorm(torch.autograd.Function):
    """By native/rms_norm.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        y, inverse = _normalised(x, gain, eps)
        ctx.save_for_backward(x, gain, inverse)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, inverse = ctx.saved_tensors
        grad_x, sums = torch.empty_like(x), x.new_zeros(-(-inverse.numel() // CHUNK), len(gain))
        native.run("rms_norm_back", x, gain, inverse, grad.contiguous(), grad_x, sums, inverse.numel(), len(gain))
        return grad_x, sums.sum(0), None
