"""RTFS-Net: recurrent time-frequency modelling for efficient audio-visual speech separation.

Samuel Pegg, Kai Li, Xiaolin Hu, "RTFS-Net: Recurrent Time-Frequency Modelling for Efficient Audio-Visual Speech
Separation", ICLR 2024, arXiv 2309.17189. Checked against golden outputs of the published code (spkgyk/RTFS-Net) with
4 and 12 rounds.

In the papers: LRS2-2Mix 14.9 dB SI-SNRi with 12 rounds. The code has 740,210 parameters without the video encoder,
which this file meets, and 36.25 G MACs for 1 s with it; Dolphin's Table 4 says 0.85 M and 41.51 G. With LSTMs in place
of simple recurrent units, as in the paper's ablation, it is 832,370 parameters and 40.52 G, near that row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import create_encoder, resnet18_3d
from lipsep.errors import ModelError
from lipsep.kernels.stretching import stretch_to
from lipsep.layers.channels_last import BatchNorm, DepthwiseConv, GlobalNorm, pool_to
from lipsep.layers.time_frequency import (
    DepthwiseConv2d,
    Gateway,
    RecurrentPath,
    TFAttention,
    VideoProjection,
    as_map,
    as_picture,
    complex_mask,
    spectrogram,
    waveform,
)
from lipsep.models.base import SeparationModel
from lipsep.models.keys.rtfsnet import separator_key
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, register_released, within

EPS = 1e-8  # of global norms


@dataclass(frozen=True)
class RTFSNetConfig:
    """Sizes of an RTFS-Net. Defaults are the published model with 12 rounds."""

    n_fft: int = 256  # samples
    hop: int = 128  # samples
    channels: int = 256  # of the time-frequency map between rounds, C_a
    hidden_channels: int = 64  # inside a round, D
    n_rounds: int = 12  # of the shared audio block, R; the first comes before the fusion
    kernel: int = 4  # of the audio block's convolutions
    n_scales: int = 2  # resolutions in the audio block, each half of the one before, q
    cell: str = "sru"  # of the recurrent paths: sru, or lstm
    rnn_hidden: int = 32  # per direction
    rnn_layers: int = 4
    rnn_window: int = 8  # steps that enter the recurrence together
    n_heads: int = 4  # of the attention over time
    qk_channels: int = 4  # per head and frequency
    video_channels: int = 512  # C_v
    video_hidden_channels: int = 64
    video_kernel: int = 3
    video_scales: int = 4
    video_heads: int = 8
    video_ffn_channels: int = 128
    fusion_heads: int = 4  # of the attention that lips pay to sound
    dropout: float = 0.1  # in the video block's attention
    video_encoder: str = "resnet18_3d"
    lip_size: int = 88  # px
    lip_recipe: str = "mouth_88"  # how lip pictures are made (lipsep.lips.reading)

    def __post_init__(self) -> None:
        if self.cell not in ("sru", "lstm"):
            raise ModelError(f"cell={self.cell!r} is unknown: choose sru or lstm")
        if self.n_fft % self.hop or self.channels % 2 or self.hidden_channels % self.n_heads:
            raise ModelError(
                "n_fft must be a multiple of hop, channels even, hidden_channels a multiple of n_heads; got "
                f"{self.n_fft}, {self.hop}, {self.channels}, {self.hidden_channels}, {self.n_heads}"
            )
        if self.video_channels % self.channels or self.n_scales < 2 or self.video_scales < 2 or self.n_rounds < 1:
            raise ModelError(
                "video_channels must be a multiple of channels, n_scales and video_scales at least 2, n_rounds at "
                f"least 1; got {self.video_channels}, {self.channels}, {self.n_scales}, {self.video_scales}, "
                f"{self.n_rounds}"
            )

    @property
    def n_freqs(self) -> int:
        """Frequencies at the coarsest scale, where the recurrent paths and the attention work."""
        n = self.n_fft // 2 + 1
        for _ in range(self.n_scales - 1):
            n = (n + 2 * ((self.kernel - 1) // 2) - self.kernel) // 2 + 1
        return n


# --- Blocks that work on sequences (B, T, C) and on maps (B, T, F, C) alike ------------------------------------------


class Norm(GlobalNorm):
    """Global layer norm of a sequence or a map. Shape: (B, ..., C) -> (B, ..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1, -2)).view_as(x)


def pool_like(x: Tensor, like: Tensor) -> Tensor:
    """Average `x` down to the steps of `like`."""
    if x.ndim == 3:
        return pool_to(x, like.shape[1])
    return as_map(F.adaptive_avg_pool2d(as_picture(x), like.shape[1:3]))


def stretch_like(x: Tensor, like: Tensor) -> Tensor:
    """Repeat the steps of `x` up to those of `like`."""
    if x.shape[1:-1] == like.shape[1:-1]:
        return x
    if x.ndim == 3:
        return stretch_to(x, like.shape[1])
    return as_map(F.interpolate(as_picture(x), like.shape[1:3]))


Filter = Callable[[int, bool], nn.Module]
"""filter(stride, bias) -> a depthwise convolution with its norm."""


class Injection(nn.Module):
    """Coarse features into fine ones: fine * gate(coarse) + content(coarse), each filtered (TF-AR units, eq. 16).

    Shape: fine (B, T, ..., C), coarse (B, T', ..., C) -> (B, T, ..., C).
    """

    def __init__(self, make_filter: Filter) -> None:
        super().__init__()
        self.fine, self.content, self.gate = (make_filter(1, False) for _ in range(3))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        gate = stretch_like(torch.sigmoid(self.gate(coarse)), fine)
        return torch.addcmul(stretch_like(self.content(coarse), fine), self.fine(fine), gate)


class TopDownBlock(nn.Module):
    """Compress, mix everything at the coarsest scale, and bring what was found back up (paper, Section 3.2).

    Shape: (B, T, ..., C) -> (B, T, ..., C).
    """

    def __init__(
        self, channels: int, hidden: int, n_scales: int, norm: nn.Module, make_filter: Filter, mix: list[nn.Module]
    ) -> None:
        super().__init__()
        self.gateway = Gateway(channels)
        self.project = nn.Linear(channels, hidden)
        self.norm = norm
        self.act = nn.PReLU()
        self.scales = nn.ModuleList(make_filter(1 if i == 0 else 2, True) for i in range(n_scales))
        self.mix = nn.Sequential(*mix)
        self.injections = nn.ModuleList(Injection(make_filter) for _ in range(n_scales))
        self.ascent = nn.ModuleList(Injection(make_filter) for _ in range(n_scales - 1))
        self.out = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.gateway(x)
        scales = [self.act(self.norm(self.project(gated)))]  # (B, T, ..., C_hidden)
        for scale in self.scales:
            scales.append(scale(scales[-1]))  # each half as long as the one before, but the first
        scales = scales[1:]
        coarse = self.mix(torch.stack([pool_like(x, scales[-1]) for x in scales]).sum(0))
        fused = [inject(x, coarse) for inject, x in zip(self.injections, scales, strict=True)]
        y = fused[-1]
        for inject, fine, skip in zip(reversed(self.ascent), fused[-2::-1], scales[-2::-1], strict=True):
            y = inject(fine, y) + skip
        return self.out(y) + gated


# --- The video side --------------------------------------------------------------------------------------------------


class PositionalAttention(nn.Module):
    """Self-attention over all frames with sinusoidal positions; residual. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, channels: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, n_heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm_out = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_in(x) + sinusoids(x.shape[1], x.shape[2], x.device)
        y = y + self.dropout(self.attention(y, y, y, need_weights=False)[0])
        return x + self.norm_out(y)


def sinusoids(length: int, channels: int, device: torch.device) -> Tensor:
    """Positions as sines (even channels) and cosines (odd) of geometric wavelengths: (length, channels)."""
    rates = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10_000) / channels))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class FeedForward(nn.Module):
    """Expand, filter, contract; residual. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, channels: int, hidden: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden, bias=False)
        self.norm_in = Norm(hidden)
        self.conv = DepthwiseConv(hidden, kernel)
        self.contract = nn.Linear(hidden, channels, bias=False)
        self.norm_out = Norm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(F.relu(self.conv(self.norm_in(self.expand(x)))))
        return x + self.dropout(self.norm_out(self.contract(y)))


class CrossDimensionalFusion(nn.Module):
    """CAF: lips attend to the sound over time, and gate it (paper, Section 3.3).

    Shape: audio (B, T, F, C), video (B, T_v, C_v) -> (B, T, F, C).
    """

    def __init__(self, channels: int, video_channels: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.key, self.value = (nn.Sequential(Gain(channels), BatchNorm(channels)) for _ in range(2))
        self.attention = nn.Conv1d(video_channels, channels * n_heads, 1, groups=channels)
        self.attention_norm = Norm(channels * n_heads)
        self.gate = nn.Conv1d(video_channels, channels, 1, groups=channels)
        self.gate_norm = Norm(channels)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        time = audio.shape[1]
        lips = video.transpose(1, 2)  # (B, C_v, T_v)
        heads = self.attention_norm(self.attention(lips).transpose(1, 2))  # (B, T_v, C * heads)
        attention = heads.unflatten(-1, (-1, self.n_heads)).mean(-1).softmax(1)  # (B, T_v, C)
        gate = self.gate_norm(self.gate(lips).transpose(1, 2))  # (B, T_v, C)
        attention, gate = (stretch_to(x, time).unsqueeze(2) for x in (attention, gate))  # (B, T, 1, C)
        sound = audio.flatten(1, 2)  # (B, T * F, C)
        key, value = (branch(sound).view_as(audio) for branch in (self.key, self.value))
        return torch.addcmul(F.relu(key) * gate, value, attention)


class Gain(nn.Module):
    """One gain per channel. Shape: (..., C) -> (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


# --- The network -----------------------------------------------------------------------------------------------------


class RTFSNet(SeparationModel):
    """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""

    def __init__(self, config: RTFSNetConfig) -> None:
        c = config
        video_encoder = create_encoder(c.video_encoder, lip_size=c.lip_size, lip_recipe=c.lip_recipe)
        super().__init__(config, lip_recipe=c.lip_recipe)
        self.video_encoder = video_encoder
        fits = video_encoder.feature_dim == c.video_channels
        self.video_projection = nn.Identity() if fits else VideoProjection(video_encoder.feature_dim, c.video_channels)
        self.video_block = TopDownBlock(
            c.video_channels, c.video_hidden_channels, c.video_scales, BatchNorm(c.video_hidden_channels),
            lambda stride, bias: nn.Sequential(
                DepthwiseConv(c.video_hidden_channels, c.video_kernel, stride, bias), BatchNorm(c.video_hidden_channels)
            ),
            [
                PositionalAttention(c.video_hidden_channels, c.video_heads, c.dropout),
                FeedForward(c.video_hidden_channels, c.video_ffn_channels, c.video_kernel, c.dropout),
            ],
        )  # fmt: skip
        self.encoder = nn.Conv2d(2, c.channels, 3, padding=1, bias=False)
        self.bottleneck_norm = Norm(c.channels)
        self.bottleneck = nn.Linear(c.channels, c.channels)
        recurrent = (c.hidden_channels, c.rnn_hidden, c.rnn_layers, c.rnn_window)
        self.audio_block = TopDownBlock(
            c.channels, c.hidden_channels, c.n_scales, Norm(c.hidden_channels),
            lambda stride, bias: nn.Sequential(
                DepthwiseConv2d(c.hidden_channels, c.kernel, stride, bias), Norm(c.hidden_channels)
            ),
            [
                RecurrentPath(2, *recurrent, cell=c.cell),
                RecurrentPath(1, *recurrent, cell=c.cell),
                TFAttention(c.hidden_channels, c.n_heads, c.qk_channels, c.n_freqs),
            ],
        )  # fmt: skip
        self.fusion = CrossDimensionalFusion(c.channels, c.video_channels, c.fusion_heads)
        self.mask_act = nn.PReLU()
        self.mask = nn.Linear(c.channels, c.channels)
        self.decoder = nn.ConvTranspose2d(c.channels, 2, 3, padding=1, bias=False)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        video = self.video_block(self.video_projection(self.video_encoder(lips)))  # (B, F, C_v)
        encoded = self._encode(mixture)  # (B, T', F', C)
        first = self.bottleneck(F.relu(self.bottleneck_norm(encoded)))
        audio = self.fusion(self.audio_block(first), video)
        for _ in range(self.config.n_rounds - 1):
            audio = self.audio_block(audio + first)
        masks = F.relu(self.mask(self.mask_act(audio)))
        return self._decode(complex_mask(masks, encoded), mixture.shape[1]).unsqueeze(1)

    def _encode(self, mixture: Tensor) -> Tensor:
        c = self.config
        spectrum = spectrogram(self.fit_length(mixture, max(c.n_fft, mixture.shape[1])), c.n_fft, c.hop)
        return as_map(self.encoder(as_picture(torch.view_as_real(spectrum))))  # (B, T', F', C)

    def _decode(self, features: Tensor, n_samples: int) -> Tensor:
        c = self.config
        spectrum = as_map(self.decoder(as_picture(features))).contiguous()  # (B, T', F', 2)
        return waveform(torch.view_as_complex(spectrum), c.n_fft, c.hop, n_samples)


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(RTFSNet)
def rtfsnet_12() -> RTFSNetConfig:
    """The published model with 12 rounds."""
    return RTFSNetConfig()


@register_model(RTFSNet)
def rtfsnet_6() -> RTFSNetConfig:
    """6 rounds."""
    return RTFSNetConfig(n_rounds=6)


@register_model(RTFSNet)
def rtfsnet_4() -> RTFSNetConfig:
    """4 rounds."""
    return RTFSNetConfig(n_rounds=4)


@register_model(RTFSNet)
def rtfsnet_12_lstm() -> RTFSNetConfig:
    """12 rounds with LSTMs, the costlier row of the paper's ablation."""
    return RTFSNetConfig(cell="lstm")


# --- The authors' weights --------------------------------------------------------------------------------------------

for _name in ("rtfsnet_4", "rtfsnet_6", "rtfsnet_12", "rtfsnet_12_lstm"):
    register_released(
        _name,
        ReleasedFile("separator", separator_key, ignored=("*.scale_x", "*.pos_enc.pe")),
        ReleasedFile("video encoder", within("video_encoder.", resnet18_3d.released_key), ignored=("tcn.*",)),
    )
