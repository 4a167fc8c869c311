"""AV-TDANet: TDANet in the place of Dolphin's separator, the efficient baseline of Dolphin's table 8.

TDANet: Kai Li, Runxuan Yang and Xiaolin Hu, "An Efficient Encoder-Decoder Architecture with Top-Down Attention for
Speech Separation", ICLR 2023, arXiv 2209.15200. Its audio-visual form is described in Dolphin's paper (arXiv
2509.23610) and no code of it is released: this file keeps Dolphin's video encoder, visual feature fusion and
audio-visual fusion, and follows TDANet's code for the rest.

Figures of table 8 for 1, 8 and 16 rounds with shared weights: 3.89 M parameters each; 2.99, 7.04 and 11.68 G MACs for
1 s; LRS2-2Mix 6.4, 12.4 and 12.8 dB SI-SNRi. The cost of a round there, 0.579 G, is twice that of TDANet's published
windows of 4 ms, so windows are 2 ms here.

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import encoder_for
from lipsep.errors import ModelError
from lipsep.layers.afrcnn import Adapt
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.masks import ReLUMasks
from lipsep.layers.top_down import BottomUp, ConvNorm, TopDown
from lipsep.layers.visual_fusion import AVFusion, VideoProjection, VisualFusion
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model


@dataclass(frozen=True)
class AVTDANetConfig:
    """Sizes of an AV-TDANet. Defaults are Dolphin's table 8 with 16 rounds."""

    rounds: int = 16  # through the one block
    audio_kernel: int = 32  # samples; the stride is a quarter, the filters are half of it and one
    channels: int = 128  # outside the block
    hidden: int = 512  # inside the block
    n_scales: int = 5  # time resolutions
    n_heads: int = 8
    ffn_expansion: int = 2
    dropout: float = 0.1
    video_encoder: str = "dp_lipcoder"  # a registered video encoder
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise
    visual_channels: int = 64
    visual_scales: int = 3
    as_published: bool = True  # Dolphin's visual fusion with its two slips

    def __post_init__(self) -> None:
        if self.audio_kernel % 4 or self.hidden % self.n_heads or self.channels % self.visual_channels:
            raise ModelError(
                "audio_kernel must be a multiple of 4, hidden of n_heads, channels of visual_channels; got "
                f"{self.audio_kernel}, {self.hidden} and {self.n_heads}, {self.channels} and {self.visual_channels}"
            )


class GlobalAttention(nn.Module):
    """Self-attention with sinusoidal positions and a feed-forward network at the coarsest resolution.

    Shape: (B, L, C) -> (B, L, C).
    """

    def __init__(self, channels: int, n_heads: int, ffn_expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.norm_out = nn.LayerNorm(channels)
        self.expand = ConvNorm(nn.Linear(channels, ffn_expansion * channels, bias=False), ffn_expansion * channels)
        self.depthwise = DepthwiseConv(ffn_expansion * channels, 5)
        self.contract = ConvNorm(nn.Linear(ffn_expansion * channels, channels, bias=False), channels)
        self.dropout = nn.Dropout(dropout)
        self.n_heads = n_heads

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x)
        y = self.dropout(F.relu(self.depthwise(self.expand(x))))  # (B, L, expansion C)
        return x + self.dropout(self.contract(y))

    def _attend(self, x: Tensor) -> Tensor:
        y = self.norm_in(x)
        y = y + positions(x.shape[1], x.shape[2], x.device, x.dtype)
        q, k, v = self.to_qkv(y).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, d) each
        attended = F.scaled_dot_product_attention(q, k, v, None, self.dropout.p if self.training else 0.0)
        return self.dropout(self.norm_out(y + self.dropout(self.to_out(attended.transpose(1, 2).flatten(2)))))


def positions(length: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of the step's number (Vaswani et al. 2017, section 3.5): (length, channels)."""
    steps = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10_000.0) / channels))
    return torch.stack([torch.sin(steps * rates), torch.cos(steps * rates)], dim=-1).flatten(1).to(dtype)


class TDABlock(TopDown):
    """The block of all rounds: bottom-up to a global view, top-down with gates; a residual around it.

    Shape: (B, T, C) -> (B, T, C).
    """

    def __init__(self, config: AVTDANetConfig) -> None:
        super().__init__(config.channels, config.hidden, config.n_scales)
        c = config
        self.up = BottomUp(c.channels, c.hidden, 5, c.n_scales, nn.PReLU())
        self.top = GlobalAttention(c.hidden, c.n_heads, c.ffn_expansion, c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        maps, top = self.up(x)
        top = self.top(top)  # (B, T / 2^(S-1), H)
        return x + self.descend([fusion(local, top) for fusion, local in zip(self.fusions, maps, strict=True)])


class AVTDANet(SeparationModel):
    """Mixture and one person's lips to that person's voice.

    References: arXiv 2209.15200 and 2509.23610 (table 8); TDANet's code https://github.com/JusperLee/TDANet.
    """

    dead_parameters: ClassVar[tuple[str, ...]] = ("*.unused_k_conv.*", "visual_fusion.fusions.2.*")

    def __init__(self, config: AVTDANetConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c, n_filters, stride = config, config.audio_kernel // 2 + 1, config.audio_kernel // 4
        self.video_encoder = video_encoder
        self.video_projection = VideoProjection(video_encoder.feature_dim, c.visual_channels, kernel=3)
        self.visual_fusion = VisualFusion(c.visual_channels, c.visual_scales, c.dropout, c.as_published)
        self.audio_encoder = FilterbankEncoder(n_filters, c.audio_kernel, stride, c.audio_kernel // 2)
        self.audio_norm = GlobalNorm(n_filters, eps=1e-8)
        self.audio_projection = nn.Linear(n_filters, c.channels)
        self.av_fusion = AVFusion(c.channels, c.visual_channels)
        self.block = TDABlock(c)
        self.adapt = Adapt(c.channels) if c.rounds > 1 else None
        self.masks = ReLUMasks(c.channels, n_filters, n_src=1)
        self.audio_decoder = FilterbankDecoder(n_filters, c.audio_kernel, stride, c.audio_kernel // 2, more=stride - 1)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        video = self.visual_fusion(self.video_projection(self.video_encoder(lips)))  # (B, F, C_v)
        encoded = self.audio_encoder(mixture)  # (B, T', N)
        fused = self.av_fusion(self.audio_projection(self.audio_norm(encoded)), video)  # (B, T', C)
        features = self.block(fused)
        for _ in range(self.config.rounds - 1):
            features = self.block(self.adapt(fused + features))
        estimates = self.audio_decoder(self.masks(features, encoded))  # (B, 1, n)
        return self.fit_length(estimates, mixture.shape[1])


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(AVTDANet)
def av_tdanet_16() -> AVTDANetConfig:
    """The largest of Dolphin's table 8."""
    return AVTDANetConfig()


@register_model(AVTDANet)
def av_tdanet_8() -> AVTDANetConfig:
    """8 rounds."""
    return AVTDANetConfig(rounds=8)


@register_model(AVTDANet)
def av_tdanet_1() -> AVTDANetConfig:
    """1 round."""
    return AVTDANetConfig(rounds=1)


@register_model(AVTDANet)
def av_tdanet_test() -> AVTDANetConfig:
    """Everything that the larger ones have, tiny, for tests."""
    return AVTDANetConfig(
        rounds=2, channels=16, hidden=16, n_scales=3, n_heads=2, video_encoder="autoencoder", lip_size=32,
        lip_recipe="mesh_32", visual_channels=8, as_published=False,
    )  # fmt: skip
