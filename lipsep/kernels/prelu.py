"""A learned slope for negative values: plain, and with gradients that are quick on a processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels.exporting import is_exporting


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PReLU with one slope (1,). Shape kept.

    Plain, but where gradients are wanted on a processor: PyTorch takes them number by number there, five to thirty
    times as long. Compiled kernels have it together with the norm before it (global_norm).
    """
    if torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype == slope.dtype and not is_exporting():
        return _PReLU.apply(x, slope)
    return F.prelu(x, slope)


class _PReLU(torch.autograd.Function):
    """A leaky ReLU whose slope is learned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, slope.item())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        grad_x = torch.ops.aten.leaky_relu_backward(grad, x, slope.item(), False)
        return grad_x, torch.dot(x.clamp_max(0).flatten(), grad.flatten()).view_as(slope)
