"""A norm over time and channels together, gain and bias per channel, and a PReLU, in one step by compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipsep.kernels import native


class NormPReLU(torch.autograd.Function):
    """Norm (with an `eps`), gain and bias, PReLU (with a slope).

    Shape: x (B, T, C), gain, bias (C,), slope (1,) or None -> (B, T, C).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, slope: Tensor | None, eps: float | None) -> Tensor:
        x = x.contiguous()
        y, moments = torch.empty_like(x), None if eps is None else x.new_empty(len(x), 2)
        ctx.slope = 1.0 if slope is None else slope.item()
        native.run("norm_prelu", x, gain, bias, y, moments, ctx.slope, eps or 0.0, *x.shape)
        ctx.save_for_backward(x, gain, bias, moments)
        ctx.slope_shape = None if slope is None else slope.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, moments = ctx.saved_tensors
        grads = torch.empty_like(x), torch.empty_like(gain), torch.empty_like(bias), x.new_empty(1)
        native.run("norm_prelu_backward", grad.contiguous(), x, gain, bias, moments, *grads, ctx.slope, *x.shape)
        grad_slope = None if ctx.slope_shape is None else grads[3].view(ctx.slope_shape)
        return *grads[:3], grad_slope, None
