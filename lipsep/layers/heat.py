"""Dolphin's heat-diffusion operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipsep.kernels.heat import diffuse, kernels_of
from lipsep.kernels.heat_ends import heat_and_gate, release_heat
from lipsep.layers.channels_last import DepthwiseConv


class HeatDiffusion(nn.Module):
    """Heat-diffusion operator: project, let heat diffuse along time, gate (eq. 3-5).

    Shape: (B, T, C) -> (B, T, C). Cost: two FFTs per channel, or a depthwise convolution; the published form is two
    T x T matrix products.
    """

    kernels: Tensor | None
    by_fft: Tensor | None

    def __init__(self, channels: int, as_published: bool) -> None:
        super().__init__()
        self.conv_in = DepthwiseConv(channels, 3)
        self.project = DepthwiseConv(2 * channels, 3)  # two outputs from each input channel
        self.k = nn.Parameter(torch.ones(channels))  # diffusivity times duration, unconstrained
        self.norm = nn.LayerNorm(channels)
        self.conv_out = DepthwiseConv(channels, 3)
        self.unused_k_conv = DepthwiseConv(channels, 3) if as_published else None
        self.register_buffer("kernels", None, persistent=False)  # (C, 1, 1, 2 reach + 1)
        self.register_buffer("by_fft", None, persistent=False)  # the channels whose kernel is not short

    def prepare_for_inference(self) -> None:
        """Compute the kernels, and which of them are too long; from here on weights must stay fixed."""
        self.kernels, self.by_fft = kernels_of(self.k.detach())

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.conv_in, self.project, self.conv_out
        heat, gate = heat_and_gate(x, first.weight, first.bias, second.weight, second.bias)  # (B, T, C) each
        heat = self.diffuse(heat)
        return release_heat(heat, gate, self.norm.weight, self.norm.bias, last.weight, last.bias, self.norm.eps)

    def diffuse(self, x: Tensor) -> Tensor:
        """Each channel diffuses for its own k: (B, T, C) -> (B, T, C)."""
        return diffuse(x, self.k, self.kernels, self.by_fft)
