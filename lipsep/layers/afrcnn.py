"""A-FRCNN: one block that sees a sequence at several time resolutions and lets neighbouring resolutions talk.

Xiaolin Hu et al., "Speech Separation Using an Asynchronous Fully Recurrent Convolutional Neural Network", NeurIPS 2021.
CTCNet, AVLIT and BIN are built of it. Sequences are stored (B, T, C), see layers/channels_last.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from lipsep.layers.channels_last import BatchNorm, DepthwiseConv, GlobalNorm, stretch_to
from lipsep.layers.fused_norm import adapt, convolve_and_normalise, normalise
from lipsep.layers.packed_linear import PackedLinear, linear, packed_matrix
from lipsep.layers.picture_conv import onednn_takes
from lipsep.layers.prelu import PReLU
from lipsep.layers.stretching import add_stretched, unstretch_all

Shares = Sequence[Tensor]
"""The weights of each part, as they are or packed."""


def stretched_linear(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None, length: int) -> Tensor:
    """Bring sequences to one length (nearest neighbour), put their channels side by side, map them linearly.

    A map of single steps and the repetition of steps commute, so a coarse sequence is mapped before it is stretched:
    the same result for fewer operations, sum_i min(T_i, length) C_i C multiplications instead of length sum_i C_i C.
    Programs that count operations as the literature does meet this function by its name (lipsep.profiling).

    Shape: parts (B, T_i, C_i), weight (C, sum C_i), bias (C,) or None -> (B, length, C).
    """
    if has_torch_function(parts):
        return handle_torch_function(stretched_linear, parts, parts, weight, bias, length)
    shares = weight.split([part.shape[-1] for part in parts], dim=1)
    if _trains_on_onednn(weight):
        shares = [share.detach() for share in shares]
        return _StretchedLinear.apply(length, shares, [share.t() for share in shares], weight, bias, *parts)
    return _mixed(parts, shares, bias, length)


def _trains_on_onednn(weight: Tensor) -> bool:
    return torch.is_grad_enabled() and onednn_takes(weight) and not torch.is_autocast_enabled("cpu")


class _StretchedLinear(torch.autograd.Function):
    """For training: the weights' shares and their transposes may be packed; their gradients are written into place."""

    @staticmethod
    def forward(
        ctx: Any, length: int, shares: Shares, transposed: Shares, weight: Tensor, bias: Tensor | None, *parts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight, *parts)
        ctx.transposed, ctx.has_bias = transposed, bias is not None
        return _mixed(parts, shares, bias, length)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *parts = ctx.saved_tensors
        grad_weight, grad_parts = torch.empty_like(weight), []
        places = grad_weight.split([part.shape[-1] for part in parts], dim=1)
        grads = unstretch_all(grad, [part.shape[1] for part in parts])  # (B, T_i, C)
        for coarse, part, share, place in zip(grads, parts, ctx.transposed, places, strict=True):
            torch.mm(coarse.flatten(0, 1).t(), part.flatten(0, 1), out=place)
            grad_parts.append(linear(coarse, share, None))  # (B, T_i, C_i)
        return None, None, None, grad_weight, grad.sum((0, 1)) if ctx.has_bias else None, *grad_parts


def _mixed(parts: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor | None, length: int) -> Tensor:
    mixed, coarse = None, []
    for part, share in sorted(zip(parts, weights, strict=True), key=lambda pair: -pair[0].shape[1]):
        part = stretch_to(part, length) if part.shape[1] > length else part
        if mixed is None:
            mixed = stretch_to(linear(part, share, bias), length)
        elif part.shape[1] == length:
            mixed = linear(part, share, None, plus=mixed)
        else:
            coarse.append(linear(part, share, None))  # (B, T_i, C)
    return add_stretched(mixed, coarse)


class StretchedLinear(PackedLinear):
    """The layer of `stretched_linear`. Shape: parts (B, T_i, C_i) with C_i = sizes[i] -> (B, length, C)."""

    def __init__(self, sizes: Sequence[int], c_out: int) -> None:
        super().__init__(sum(sizes), c_out)
        self.sizes = tuple(sizes)
        self._packed: tuple[Shares, Shares] | None = None

    def pack(self) -> None:
        """Pack the weights, and their transposes for the backward pass, for training passes until `unpack`."""
        if _trains_on_onednn(self.weight):
            shares = [share.contiguous() for share in self.weight.detach().split(self.sizes, dim=1)]  # turned sooner
            self._packed = [packed_matrix(w) for w in shares], [packed_matrix(w.t()) for w in shares]

    def unpack(self) -> None:
        """Use the weights as they are from here on."""
        self._packed = None

    def arrange(self) -> tuple[Tensor, ...]:
        """Each part's share of the weights."""
        return tuple(packed_matrix(share.contiguous()) for share in self.weight.split(self.sizes, dim=1))

    def forward(self, parts: Sequence[Tensor], length: int) -> Tensor:
        if self.is_arranged:
            return _mixed(parts, self.arranged(), self.bias, length)
        if self._packed is not None:
            return _StretchedLinear.apply(length, *self._packed, self.weight, self.bias, *parts)
        return stretched_linear(parts, self.weight, self.bias, length)


@contextmanager
def packed_once(network: nn.Module) -> Iterator[None]:
    """Within, weights do not change: training passes through the same layers share what was packed."""
    layers = [layer for layer in network.modules() if isinstance(layer, StretchedLinear)]
    for layer in layers:
        layer.pack()
    try:
        yield
    finally:
        for layer in layers:
            layer.unpack()


class PointwiseNorm(nn.Module):
    """`StretchedLinear`, norm, PReLU. Shape: parts (B, T_i, C_i) -> (B, length, C)."""

    def __init__(self, sizes: Sequence[int], c_out: int, batch_norm: bool, act: bool = True) -> None:
        super().__init__()
        self.linear = StretchedLinear(sizes, c_out)
        self.norm = BatchNorm(c_out) if batch_norm else GlobalNorm(c_out, eps=1e-8)
        self.act = PReLU() if act else nn.Identity()

    def forward(self, *parts: Tensor, length: int) -> Tensor:
        return normalise(self.linear(parts, length), self.norm, self.act)


class DepthwiseNorm(nn.Module):
    """One filter per channel, norm. Shape: (B, T, C) -> (B, ceil(T / stride), C)."""

    def __init__(self, channels: int, kernel: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = DepthwiseConv(channels, kernel, stride)
        self.norm = BatchNorm(channels) if batch_norm else GlobalNorm(channels, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_and_normalise(x, (self.conv, self.norm))[0]


class AFRCNN(nn.Module):
    """The block: expand, analyse at S resolutions, let each hear its neighbours, gather all, contract.

    Shape: (B, T, c_in) -> (B, T, c_out). No residual: the caller adds what its paper adds.
    """

    def __init__(
        self, c_in: int, hidden: int, c_out: int, n_scales: int = 5, kernel: int = 5, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.expand = PointwiseNorm([c_in], hidden, batch_norm)
        self.scales = nn.ModuleList(
            DepthwiseNorm(hidden, kernel, 1 if i == 0 else 2, batch_norm) for i in range(n_scales)
        )
        self.lower = nn.ModuleList(DepthwiseNorm(hidden, kernel, 2, batch_norm) for _ in range(n_scales - 1))
        self.merge = nn.ModuleList(
            PointwiseNorm([hidden] * (3 - (i == 0) - (i == n_scales - 1)), hidden, batch_norm) for i in range(n_scales)
        )
        self.gather = PointwiseNorm([hidden] * n_scales, hidden, batch_norm)
        self.contract = StretchedLinear([hidden], c_out)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        maps, finer = [self.scales[0](self.expand(x, length=time))], [()]  # (B, T, hidden)
        for scale, lower in zip(self.scales[1:], self.lower, strict=True):
            own, heard = convolve_and_normalise(maps[-1], (scale.conv, scale.norm), (lower.conv, lower.norm))
            maps.append(own)  # (B, T / 2^i, hidden)
            finer.append((heard,))
        merged = []
        for i, (merge, own) in enumerate(zip(self.merge, maps, strict=True)):
            merged.append(merge(*finer[i], own, *maps[i + 1 : i + 2], length=own.shape[1]))
        return self.contract([self.gather(*merged, length=time)], time)  # (B, T, c_out)


class Adapt(nn.Sequential):
    """Gain and bias per channel, PReLU: what stands between two passes through a shared block.

    Shape: (B, T, C) -> (B, T, C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(DepthwiseConv(channels, 1), PReLU())

    def forward(self, x: Tensor) -> Tensor:
        return adapt(x, *self)


def released_afrcnn_key(
    name: str, expand: str = "proj_1x1", gather: str = "last_layer.0", contract: str = "res_conv"
) -> str:
    """The key that the published code of CTCNet, AVLIT and BIN has for one of `AFRCNN`'s."""
    part, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    if part == "contract":
        return f"{contract}.{rest}"
    if part in ("expand", "gather"):
        stem, inner = {"expand": expand, "gather": gather}[part], rest
    elif part == "lower":
        stem = f"fuse_layers.{int(index) + 1}.0"
    else:
        stem = {"scales": "spp_dw", "merge": "concat_layer"}[part] + "." + index
    return f"{stem}.{re.sub('^linear', 'conv', inner)}"


def released_global_norm_key(name: str) -> str:
    """Published code calls the gain and bias of a global norm gamma and beta."""
    return name.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta")
