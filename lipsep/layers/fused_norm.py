"""Global norms with what stands before or behind them, in one step where compiled kernels take it.

What a training step costs beside its matrix products is mostly memory, so the kernels (native/global_norm.cpp) read and
write as little as they can: a PReLU costs nothing on its way, and neither the output of a depthwise convolution nor
what stands before a PReLU is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lipsep.kernels import native
from lipsep.kernels.norm_prelu import NormPReLU
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm
from lipsep.layers.prelu import PReLU

TAPS = 5
"""Of the filters that the kernels know."""


def normalise(x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """The norm, then the PReLU or nothing (`nn.Identity`). Shape: (B, T, C) -> (B, T, C)."""
    if isinstance(act, PReLU) and type(norm) is GlobalNorm and native.takes_sequences(x, norm.weight, act.weight):
        return NormPReLU.apply(x, norm.weight, norm.bias, act.weight, norm.eps)
    return act(norm(x))


def adapt(x: Tensor, gain: DepthwiseConv, act: PReLU) -> Tensor:
    """Gain and bias per channel (a convolution of one tap), then the PReLU. Shape: (B, T, C) -> (B, T, C)."""
    if native.takes_sequences(x, gain.weight, act.weight):
        return NormPReLU.apply(x, gain.weight.flatten(), gain.bias, act.weight, None)
    return act(gain(x))


def convolve_and_normalise(x: Tensor, *layers: tuple[DepthwiseConv, nn.Module]) -> tuple[Tensor, ...]:
    """What several convolutions of one stride make of the same sequence, each with the norm behind it.

    Shape: (B, T, C) -> (B, ceil(T / stride), C) from each.
    """
    strides = {conv.stride for conv, _ in layers}
    fitting = all(conv.weight.shape[2] == TAPS and type(norm) is GlobalNorm for conv, norm in layers)
    if fitting and len(strides) == 1 and native.takes_sequences(x, *(conv.weight for conv, _ in layers)):
        weights = [w for conv, norm in layers for w in (conv.weight, conv.bias, norm.weight, norm.bias)]
        return _ConvNorms.apply(x, strides.pop(), [norm.eps for _, norm in layers], *weights)
    return tuple(norm(conv(x)) for conv, norm in layers)


class _ConvNorms(torch.autograd.Function):
    """Several depthwise convolutions of the same sequence, and their norms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, eps: Sequence[float], *weights: Tensor) -> tuple[Tensor, ...]:
        x = x.contiguous()
        batch, time, channels = x.shape
        n_steps, outputs, moments = -(-time // stride), [], []
        for own, start in zip(eps, range(0, len(weights), 4), strict=True):
            outputs.append(x.new_empty(batch, n_steps, channels))
            moments.append(x.new_empty(batch, 2))
            arrays = *weights[start : start + 4], outputs[-1], moments[-1]
            native.run("conv_norm", x, *arrays, own, batch, time, n_steps, channels, stride)
        ctx.save_for_backward(x, *weights, *moments)
        ctx.stride = stride
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        weights, moments = weights[: 4 * len(grads)], weights[4 * len(grads) :]
        grad_x, found = torch.empty_like(x), [torch.empty_like(w) for w in weights]
        for i, (grad, own) in enumerate(zip(grads, moments, strict=True)):
            arrays = *weights[4 * i : 4 * i + 4], own, grad_x, *found[4 * i : 4 * i + 4]
            sizes = x.shape[0], x.shape[1], grad.shape[1], x.shape[2]
            native.run("conv_norm_backward", grad.contiguous(), x, *arrays, int(i > 0), *sizes, ctx.stride)
        return grad_x, None, None, *found
