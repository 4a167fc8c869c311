"""Dolphin's top-down attention, its fusion of lip features over time resolutions, and how they meet the audio.

Kai Li et al., arXiv 2509.23610; AV-TDANet of its table 8 has the same video side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.convolution import convolve_exactly
from lipsep.kernels.stretching import stretch_to
from lipsep.layers.channels_last import BatchNorm, DepthwiseConv, GlobalNorm, pool_to
from lipsep.layers.heat import HeatDiffusion


class TopDownAttention(nn.Module):
    """A coarse map gates and shifts a finer one (TDA, section 3.4.2): h(fine) * up(sigmoid(h(coarse))) + up(h(coarse)).

    Shape: fine (B, T, C), coarse (B, T', C) -> (B, T, C).
    """

    def __init__(self, channels: int, as_published: bool, batch_norm: bool = False) -> None:
        super().__init__()

        def embedding() -> nn.Sequential:
            norm = BatchNorm(channels) if batch_norm else GlobalNorm(channels, eps=1e-8)
            return nn.Sequential(HeatDiffusion(channels, as_published), norm)

        self.fine = embedding()
        self.coarse_gate = embedding()
        self.coarse = embedding()

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        time = fine.shape[1]
        gate = stretch_to(torch.sigmoid(self.coarse_gate(coarse)), time)
        return self.fine(fine) * gate + stretch_to(self.coarse(coarse), time)


class VideoProjection(nn.Module):
    """Features of the video encoder to few channels. Shape: (B, F, feature_dim) -> (B, F, C).

    Each result is a sum of more than ten thousand products: added up exactly (`kernels.convolution.convolve_exactly`).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2)
        self.norm = BatchNorm(c_out)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = convolve_exactly(x.transpose(1, 2), self.conv.weight, self.conv.bias, *self.conv.padding)  # (B, C, F)
        return self.act(self.norm(y.transpose(1, 2)))


class VisualScale(nn.Module):
    """One time resolution of the visual pyramid. Shape: (B, F, C) -> (B, ceil(F / stride), C)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = DepthwiseConv(channels, 5, stride)
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class VisualGlobal(nn.Module):
    """The network at the top of the visual pyramid. Shape: (B, F, C) -> (B, F, C)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.linear_in = nn.Linear(channels, channels, bias=False)
        self.norm_in = GlobalNorm(channels, eps=1e-8)
        self.conv = DepthwiseConv(channels, 5)
        self.linear_out = nn.Linear(channels, channels, bias=False)
        self.norm_out = GlobalNorm(channels, eps=1e-8)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.conv(self.norm_in(self.linear_in(x)))))
        return self.dropout(self.norm_out(self.linear_out(x)))


class VisualFusion(nn.Module):
    """Fuse lip features of several time resolutions, top-down, added to the input. Shape: (B, F, C) -> (B, F, C)."""

    def __init__(self, channels: int, n_scales: int, dropout: float, as_published: bool) -> None:
        """as_published: with a slip of Dolphin's code, which takes the finer map in place of the coarsest one."""
        super().__init__()
        self.project = VideoProjection(channels, channels, kernel=1)
        self.scales = nn.ModuleList(VisualScale(channels, stride=1 if i == 0 else 2) for i in range(n_scales))
        self.top = VisualGlobal(channels, dropout)
        attentions = [TopDownAttention(channels, as_published, batch_norm=True) for _ in range(2 * n_scales - 1)]
        self.fusions = nn.ModuleList(attentions[:n_scales])
        self.descent = nn.ModuleList(attentions[n_scales:])
        self.linear_out = nn.Linear(channels, channels)
        self.as_published = as_published

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.project(x)]
        for i, scale in enumerate(self.scales):
            maps.append(scale(maps[-1])) if i else maps.append(scale(maps.pop()))
        top = self.top(sum(pool_to(m, maps[-1].shape[1]) for m in maps))
        if self.as_published:  # the slip: the first step down starts from the map above, not from the coarsest
            fused = [fusion(m, top) for fusion, m in zip(self.fusions[:-1], maps, strict=False)]
            state = fused[len(fused) - 2]
        else:
            fused = [fusion(m, top) for fusion, m in zip(self.fusions, maps, strict=True)]
            state = fused.pop()
        for step, m in zip(reversed(self.descent), reversed(fused), strict=True):
            state = step(m, state)
        return x + self.linear_out(state)


class Embed(nn.Module):
    """Pointwise convolution with `groups`, global norm, PReLU. Shape: (B, T, C) -> (B, T, C')."""

    def __init__(self, c_in: int, c_out: int, full: bool) -> None:
        super().__init__()
        conv = nn.Linear(c_in, c_out) if full else nn.Conv1d(c_in, c_out, 1, groups=c_in)
        self.weight, self.bias = nn.Parameter(conv.weight.detach().flatten(1)), conv.bias
        self.norm = GlobalNorm(c_out, eps=1e-8)
        self.act = nn.PReLU()
        self.copies = 0 if full else c_out // c_in

    def forward(self, x: Tensor) -> Tensor:
        if self.copies:
            x = x.repeat_interleave(self.copies, dim=2) if self.copies > 1 else x
            x = x * self.weight[:, 0] + self.bias
        else:
            x = F.linear(x, self.weight, self.bias)
        return self.act(self.norm(x))


class AVFusion(nn.Module):
    """Video attends to and gates audio (AVF, eq. 19-20 with K = 1); both act at video rate and are stretched.

    Shape: audio (B, T, C), video (B, F, C_v) -> (B, T, C).
    """

    def __init__(self, channels: int, visual_channels: int) -> None:
        super().__init__()
        self.audio_key = Embed(channels, channels, full=False)
        self.audio_value = Embed(channels, channels, full=False)
        self.video_gate = Embed(visual_channels, channels, full=True)
        self.video_attention = Embed(visual_channels, channels, full=False)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        attention = self.video_attention(video).softmax(dim=1)  # over time, at video rate
        gate = self.video_gate(video)
        time = audio.shape[1]
        return self.audio_value(audio) * stretch_to(attention, time) + self.audio_key(audio) * stretch_to(gate, time)
