"""Gated unit: a depthwise convolution of three taps, the gated linear unit behind it, dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.depthwise import depthwise, plain_depthwise, suits_native
from lipsep.kernels.dropout import drop


def plain_conv_glu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition, without dropout; see `conv_glu`."""
    return F.glu(plain_depthwise(x, weight, bias), dim=2)


def conv_glu(x: Tensor, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Half of the channels after the convolution, gated by the sigmoids of the other half; some of them dropped.

    In one step where compiled kernels take it, else one after the other.

    Shape: x (B, T, 2 H), weight (2 H, 1, 3), bias (2 H,) -> (B, T, H).
    """
    if suits_native(weight, bias) and dropout < 1 and native.takes(x, weight, bias):
        return ConvGLU.apply(x.contiguous(), weight, bias, dropout)
    return drop(F.glu(depthwise(x, weight, bias), dim=2), dropout)


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
