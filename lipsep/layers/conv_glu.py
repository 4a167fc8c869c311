"""A depthwise convolution, the gated linear unit behind it and dropout, in one step where compiled kernels take it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.layers.channels_last import DepthwiseConv
from lipsep.layers.dropout import Dropout


def conv_glu(conv: DepthwiseConv, dropout: Dropout, x: Tensor) -> Tensor:
    """Half of the channels after the convolution, gated by the sigmoids of the other half: (B, T, 2 H) -> (B, T, H)."""
    if conv.suits_kernels and dropout.p < 1 and native.takes(x, conv.weight, conv.bias):
        return ConvGLU.apply(x.contiguous(), conv.weight, conv.bias, float(dropout.p) if dropout.training else 0.0)
    return dropout(F.glu(conv(x), dim=2))


class ConvGLU(torch.autograd.Function):
    """By native/conv_glu.cpp; only the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
        batch, time, channels = x.shape
        ctx.save_for_backward(x, weight, bias)
        ctx.dropout = native.draw_seed(p), p
        y = x.new_empty(batch, time, channels // 2)
        native.run("conv_glu", x, weight, bias, y, *ctx.dropout, *y.shape)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in inputs]
        native.run("conv_glu_backward", grad.contiguous(), *inputs, *grads, *ctx.dropout, *grad.shape)
        return *grads, None
