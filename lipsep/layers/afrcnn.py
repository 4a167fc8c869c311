"""A-FRCNN: one block that sees a sequence at several time resolutions and lets neighbouring resolutions talk.

Xiaolin Hu et al., "Speech Separation Using an Asynchronous Fully Recurrent Convolutional Neural Network", NeurIPS 2021.
CTCNet, AVLIT and BIN are built of it. Sequences are stored (B, T, C), see layers/channels_last.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lipsep.kernels.global_norm import ConvAndNorm, conv_norms, gain_prelu
from lipsep.kernels.stretching import Shares, mix_stretched, packed_shares, stretched_linear
from lipsep.layers.channels_last import BatchNorm, DepthwiseConv, GlobalNorm
from lipsep.layers.packed_linear import PackedLinear
from lipsep.layers.prelu import PReLU


class StretchedLinear(PackedLinear):
    """Sequences of several lengths, brought to one, side by side, mapped linearly.

    Shape: parts (B, T_i, C_i) with C_i = sizes[i] -> (B, length, C).
    """

    def __init__(self, sizes: Sequence[int], c_out: int) -> None:
        super().__init__(sum(sizes), c_out)
        self.sizes = tuple(sizes)
        self._packed: tuple[Shares, Shares] | None = None

    def pack_for_training(self) -> None:
        """Pack the weights, and their transposes for the backward pass, for training passes until `unpack`."""
        self._packed = packed_shares(self.weight, self.sizes)

    def unpack(self) -> None:
        """Use the weights as they are from here on."""
        self._packed = None

    def arrange(self) -> tuple[Tensor, ...]:
        """Each part's share of the weights."""
        return self.weight.split(self.sizes, dim=1)

    def forward(self, parts: Sequence[Tensor], length: int) -> Tensor:
        if self.is_arranged:
            return mix_stretched(parts, self.arranged(), self.bias, length)
        return stretched_linear(parts, self.weight, self.bias, length, self._packed)


@contextmanager
def packed_once(network: nn.Module) -> Iterator[None]:
    """Within, weights do not change: training passes through the same layers share what was packed."""
    layers = [layer for layer in network.modules() if isinstance(layer, StretchedLinear)]
    for layer in layers:
        layer.pack_for_training()
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
        self.act = PReLU() if act else None

    def forward(self, *parts: Tensor, length: int) -> Tensor:
        return self.norm(self.linear(parts, length), act=self.act)


class DepthwiseNorm(nn.Module):
    """One filter per channel, norm. Shape: (B, T, C) -> (B, ceil(T / stride), C)."""

    def __init__(self, channels: int, kernel: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = DepthwiseConv(channels, kernel, stride)
        self.norm = BatchNorm(channels) if batch_norm else GlobalNorm(channels, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        return listen(x, self)[0]


def listen(x: Tensor, *layers: DepthwiseNorm) -> tuple[Tensor, ...]:
    """What several layers of one stride make of the same sequence: (B, T, C) -> (B, ceil(T / stride), C) from each."""
    if isinstance(layers[0].norm, BatchNorm):
        return tuple(layer.norm(layer.conv(x)) for layer in layers)
    parts = [(layer.conv, layer.norm) for layer in layers]
    return conv_norms(
        x,
        layers[0].conv.stride,
        *(ConvAndNorm(conv.weight, conv.bias, norm.weight, norm.bias, norm.eps) for conv, norm in parts),
    )


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
            own, heard = listen(maps[-1], scale, lower)
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
        gain, act = self
        return gain_prelu(x, gain.weight, gain.bias, act.weight)


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
