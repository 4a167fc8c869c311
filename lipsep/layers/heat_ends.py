"""What stands before and behind the diffusion of a heat operator, by compiled kernels where they take it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.layers.channels_last import DepthwiseConv, duplicate_channels

NORM_EPS = 1e-5
"""What the kernels add to the variance, as `nn.LayerNorm` does unless it is told otherwise."""


def heat_and_gate(conv_in: DepthwiseConv, project: DepthwiseConv, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two convolutions, the second with two outputs from each channel: (B, T, C) -> heat and gate (B, T, C)."""
    inputs = x, conv_in.weight, conv_in.bias, project.weight, project.bias
    if conv_in.suits_kernels and project.suits_kernels and native.takes(*inputs):
        return HeatAndGate.apply(*inputs)
    return project(duplicate_channels(conv_in(x))).chunk(2, dim=-1)


def release_heat(norm: nn.LayerNorm, conv_out: DepthwiseConv, heat: Tensor, gate: Tensor) -> Tensor:
    """Norm, gate, convolution: (B, T, C), (B, T, C) -> (B, T, C)."""
    inputs = heat, gate, norm.weight, norm.bias, conv_out.weight, conv_out.bias
    if conv_out.suits_kernels and norm.eps == NORM_EPS and native.takes(*inputs):
        return ReleaseHeat.apply(*inputs)
    return conv_out(norm(heat) * F.silu(gate))


class HeatAndGate(torch.autograd.Function):
    """By native/heat_ends.cpp; only the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *filters: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        heat, gate = torch.empty_like(x), torch.empty_like(x)
        native.run("heat_and_gate", x, *filters, heat, gate, *x.shape)
        ctx.save_for_backward(x, *filters)
        return heat, gate

    @staticmethod
    def backward(ctx: Any, grad_heat: Tensor, grad_gate: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in inputs]
        shape = grad_heat.shape
        native.run("heat_and_gate_backward", grad_heat.contiguous(), grad_gate.contiguous(), *inputs, *grads, *shape)
        return tuple(grads)


class ReleaseHeat(torch.autograd.Function):
    """By native/heat_ends.cpp; only the inputs are kept."""

    @staticmethod
    def forward(ctx: Any, heat: Tensor, gate: Tensor, *weights: Tensor) -> Tensor:
        heat, gate = heat.contiguous(), gate.contiguous()
        y = torch.empty_like(heat)
        native.run("release_heat", heat, gate, *weights, y, *heat.shape)
        ctx.save_for_backward(heat, gate, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in inputs]
        native.run("release_heat_backward", grad.contiguous(), *inputs, *grads, *grad.shape)
        return tuple(grads)
