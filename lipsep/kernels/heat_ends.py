"""The ends of a heat-diffusion operator: what stands before and behind the diffusion (Dolphin, eq. 3-5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.depthwise import depthwise, plain_depthwise, suits_native
from lipsep.kernels.exporting import is_exporting

NORM_EPS = 1e-5
"""What the kernels add to the variance, as `nn.LayerNorm` does unless it is told otherwise."""


def plain_heat_and_gate(
    x: Tensor, weight_in: Tensor, bias_in: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition; see `heat_and_gate`."""
    twice = plain_depthwise(x, weight_in, bias_in).repeat_interleave(2, dim=-1)  # (B, T, 2 C)
    heat, gate = plain_depthwise(twice, weight, bias).chunk(2, dim=-1)
    return heat, gate


def plain_release_heat(
    heat: Tensor, gate: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The definition; see `release_heat`."""
    return plain_depthwise(F.layer_norm(heat, gain.shape, gain, offset) * F.silu(gate), weight, bias)


def heat_and_gate(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Two convolutions, the second with two outputs from each channel; in one step where compiled kernels take it.

    Shape: x (B, T, C), weight_in (C, 1, 3), bias_in (C,), weight (2 C, 1, 3), bias (2 C,) -> heat, gate (B, T, C).
    """
    inputs = x, weight_in, bias_in, weight, bias
    if suits_native(weight_in, bias_in) and suits_native(weight, bias) and native.takes(*inputs):
        return HeatAndGate.apply(*inputs)
    twice = duplicate_channels(depthwise(x, weight_in, bias_in))  # (B, T, 2 C)
    heat, gate = depthwise(twice, weight, bias).chunk(2, dim=2)
    return heat, gate


def release_heat(
    heat: Tensor, gate: Tensor, gain: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Layer norm, gate, convolution; in one step where compiled kernels take it.

    Shape: heat, gate (B, T, C), gain, offset, bias (C,), weight (C, 1, 3) -> (B, T, C).
    """
    inputs = heat, gate, gain, offset, weight, bias
    if suits_native(weight, bias) and eps == NORM_EPS and native.takes(*inputs):
        return ReleaseHeat.apply(*inputs)
    return depthwise(F.layer_norm(heat, gain.shape, gain, offset, eps) * F.silu(gate), weight, bias)


def duplicate_channels(x: Tensor) -> Tensor:
    """Each channel twice in a row, as `repeat_interleave(2, dim=-1)`: (B, T, C) -> (B, T, 2 C).

    A complex tensor with equal parts is that in memory, and is made seven times as fast on a CPU.
    """
    if is_exporting():
        return torch.stack([x, x], dim=3).flatten(2)
    if x.dtype not in (torch.float32, torch.float64):
        return x.repeat_interleave(2, dim=-1)
    return torch.view_as_real(torch.complex(x, x)).flatten(-2)


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
