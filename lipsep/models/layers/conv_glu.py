"""A depthwise convolution and the gated linear unit behind it, in one step where compiled kernels take it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep import native
from lipsep.models.layers.channels_last import DepthwiseConv


def conv_glu(conv: DepthwiseConv, x: Tensor) -> Tensor:
    """Half of the channels after the convolution, gated by the sigmoids of the other half: (B, T, 2 H) -> (B, T, H)."""
    channels, _, kernel = conv.weight.shape
    fitting = kernel == 3 and conv.stride == 1 and conv.bias is not None and channels % (2 * native.MULTIPLE) == 0
    if fitting and native.takes(x, conv.weight, conv.bias):
        return ConvGLU.apply(x.contiguous(), conv.weight, conv.bias)
    return F.glu(conv(x), dim=2)


class ConvGLU(torch.autograd.Function):
    """By native/conv_glu.cpp; only the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        batch, time, channels = x.shape
        ctx.save_for_backward(x, weight, bias)
        y = x.new_empty(batch, time, channels // 2)
        native.run("conv_glu", x, weight, bias, y, *y.shape)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (x, weight, bias)]
        native.run("conv_glu_backward", grad.contiguous(), x, weight, bias, *grads, *grad.shape)
        return tuple(grads)
