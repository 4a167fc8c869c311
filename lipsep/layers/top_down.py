"""TDANet's way through the time resolutions: bottom-up to a global view, then top-down with gates.

Kai Li, Runxuan Yang and Xiaolin Hu, "An Efficient Encoder-Decoder Architecture with Top-Down Attention for Speech
Separation", ICLR 2023, arXiv 2209.15200. IIANet and AV-TDANet are built of it. Sequences are stored (B, T, C), see
layers/channels_last.py.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lipsep.kernels.stretching import stretch_to
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm, pool_to


class ConvNorm(nn.Module):
    """A convolution (pointwise, depthwise or dense) and a global norm. Shape: (B, T, C) -> (B, T', C')."""

    def __init__(self, conv: nn.Module, c_out: int) -> None:
        super().__init__()
        self.conv = conv
        self.norm = GlobalNorm(c_out, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class IntraAttention(nn.Module):
    """Global features gate local ones and are added to them: `local * sigmoid(gate) + offset`.

    TDANet's local attention, IIANet's IntraA.

    Gate and offset have few steps, so whatever can be done to them before they are stretched is done there: the gain
    and bias of the local features' norm too.

    Shape: local (B, T, C), coarse (B, L, C) -> (B, T, C).
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.local, self.offset, self.gate = (
            ConvNorm(DepthwiseConv(channels, kernel, bias=False), channels) for _ in range(3)
        )

    def forward(self, local: Tensor, coarse: Tensor) -> Tensor:
        return self._inject(local, torch.sigmoid(self.gate(coarse)), self.offset(coarse))

    def _inject(self, local: Tensor, gate: Tensor, offset: Tensor) -> Tensor:
        time, norm = local.shape[1], self.local.norm
        gain, bias = gate * norm.weight, torch.addcmul(offset, gate, norm.bias)  # (B, L, C)
        return torch.addcmul(stretch_to(bias, time), norm.standardise(self.local.conv(local)), stretch_to(gain, time))


class BottomUp(nn.Module):
    """From fine to coarse by strided depthwise convolutions.

    Shape: (B, T, C) -> maps, a list of (B, ceil(T / 2^k), H), and their sum at the coarsest resolution.
    """

    def __init__(self, channels: int, hidden: int, kernel: int, n_scales: int, activation: nn.Module) -> None:
        super().__init__()
        self.project = ConvNorm(nn.Linear(channels, hidden), hidden)
        self.activation = activation
        self.scales = nn.ModuleList(
            ConvNorm(DepthwiseConv(hidden, kernel, stride=1 if k == 0 else 2), hidden) for k in range(n_scales)
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        x, maps = self.activation(self.project(x)), []
        for scale in self.scales:
            x = scale(x)  # halves the time resolution, except the first
            maps.append(x)
        return maps, sum(pool_to(m, x.shape[1]) for m in maps)


class TopDown(nn.Module):
    """From coarse to fine: every scale is gated by the global features, then by the scale below it.

    Shape: maps [(B, T / 2^k, H)] as fused with the global features -> (B, T, C).
    """

    fusion_class: ClassVar[type[IntraAttention]] = IntraAttention

    def __init__(self, channels: int, hidden: int, n_scales: int) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(self.fusion_class(hidden, 1) for _ in range(n_scales))
        self.descent = nn.ModuleList(IntraAttention(hidden, 5) for _ in range(n_scales - 1))
        self.contract = nn.Linear(hidden, channels)

    def descend(self, fused: list[Tensor]) -> Tensor:
        x = fused[-1]
        for attention, finer in zip(reversed(self.descent), reversed(fused[:-1]), strict=True):
            x = attention(finer, x)
        return self.contract(x)
