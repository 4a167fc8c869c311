"""Global norm: over time and channels together, with what stands before or behind it.

Four forms of the same norm: the definition, which is the exported one too; compiled, in one step with a PReLU behind it
or a depthwise convolution before it; PyTorch's channels-last group norm, in training; PyTorch's layer norm, at
inference. The group norm is twice as fast as the layer norm; its plain sums cost a deep network about 10 dB of
agreement with float64.

What a training step costs beside its matrix products is mostly memory, so the compiled kernels (native/global_norm.cpp)
read and write as little as they can: a PReLU costs nothing on its way, and neither the output of a depthwise
convolution nor what stands before a PReLU is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from lipsep.kernels import native
from lipsep.kernels.depthwise import as_picture, as_sequence, depthwise
from lipsep.kernels.exporting import is_exporting
from lipsep.kernels.prelu import prelu

TAPS = 5
"""Of the filters that the kernels know."""


def plain_standardise(x: Tensor, eps: float) -> Tensor:
    """The definition; see `standardise`. Means over channels, then time, so that no long sum loses its small terms."""
    centred = x - x.mean(2, keepdim=True).mean(1, keepdim=True)
    return centred * (centred.square().mean(2, keepdim=True).mean(1, keepdim=True) + eps).rsqrt()


def plain_global_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The definition; see `global_norm`."""
    return plain_standardise(x, eps) * gain + bias


def standardise(x: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance over time and channels, without gain and bias: (B, T, C) -> (B, T, C)."""
    if is_exporting():
        return plain_standardise(x, eps)
    if torch.is_grad_enabled():
        return as_sequence(F.group_norm(as_picture(x), 1, eps=eps))
    return F.layer_norm(x.flatten(1), (x[0].numel(),), eps=eps).view_as(x)


def global_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise over time and channels together, then one gain and one bias per channel.

    Compiled where kernels take it. Programs that count operations as the literature does meet this function by its name
    (lipsep.profiling).

    Shape: x (B, T, C), gain, bias (C,) -> (B, T, C).
    """
    if is_exporting():
        return plain_global_norm(x, gain, bias, eps)
    if has_torch_function_unary(x):
        return handle_torch_function(global_norm, (x,), x, gain, bias, eps)
    if native.takes_sequences(x, gain):
        return NormPReLU.apply(x, gain, bias, None, eps)
    if torch.is_grad_enabled():
        return as_sequence(F.group_norm(as_picture(x), 1, gain, bias, eps))
    return torch.addcmul(bias, standardise(x, eps), gain)


def norm_prelu(x: Tensor, gain: Tensor, bias: Tensor, eps: float, slope: Tensor) -> Tensor:
    """`global_norm`, then `prelu`; in one step where compiled kernels take it. Shape: see there, slope (1,)."""
    if native.takes_sequences(x, gain, slope):
        return NormPReLU.apply(x, gain, bias, slope, eps)
    return prelu(global_norm(x, gain, bias, eps), slope)


def gain_prelu(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """Gain and bias per channel, a depthwise convolution of one tap, then `prelu`; in one step where kernels take it.

    Shape: x (B, T, C), weight (C, 1, 1), bias (C,), slope (1,) -> (B, T, C).
    """
    if native.takes_sequences(x, weight, slope):
        return NormPReLU.apply(x, weight.flatten(), bias, slope, None)
    return prelu(depthwise(x, weight, bias), slope)


class ConvAndNorm(NamedTuple):
    """Parameters of a depthwise convolution and of the global norm behind it."""

    weight: Tensor  # (C, 1, k)
    bias: Tensor | None  # (C,)
    norm_gain: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    eps: float


def conv_norms(x: Tensor, stride: int, *layers: ConvAndNorm) -> tuple[Tensor, ...]:
    """What several depthwise convolutions make of the same sequence, each with the norm behind it.

    In one step where compiled kernels take it: five taps.

    Shape: (B, T, C) -> (B, ceil(T / stride), C) from each.
    """
    fitting = all(layer.weight.shape[2] == TAPS and layer.bias is not None for layer in layers)
    if fitting and native.takes_sequences(x, *(layer.weight for layer in layers)):
        weights = [tensor for layer in layers for tensor in layer[:4]]
        return _ConvNorms.apply(x, stride, [layer.eps for layer in layers], *weights)
    return tuple(
        global_norm(depthwise(x, layer.weight, layer.bias, stride), layer.norm_gain, layer.norm_bias, layer.eps)
        for layer in layers
    )


# --- Compiled --------------------------------------------------------------------------------------------------------


class NormPReLU(torch.autograd.Function):
    """By native/global_norm.cpp: norm (with an `eps`), gain and bias, PReLU (with a slope).

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
