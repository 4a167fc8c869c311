"""Dolphin: discrete lip semantics and global-local attention for audio-visual speech separation.

Kai Li et al., "Efficient Audio-Visual Speech Separation with Discrete Lip Semantics and Multi-Scale Global-Local
Attention", arXiv 2509.23610. Checked against golden tensors of the published code (JusperLee/Dolphin, commit 5a4e5e8).

In the papers: 7,000,448 parameters, 781,818 of them in the video encoder; 10.89 G MACs for 1 s (the paper's count
leaves out the cosine transforms: executed as published 52.8 G, as here about 11 G); LRS2-2Mix 16.8 dB SI-SNRi.

Where paper and code differ, this file follows the code, because the released weights need it:
- direct mapping (the code's default); attention heads have C / 8 dimensions; every sub-block has a LayerScale;
- coarse self-attention: average pooling down, nearest up, a sigmoid gate on the branch, learned relative positions;
- the top level pools to T / 2^(Q-1), and its attention replaces its input instead of being added to it;
- heat-diffusion attention: no norm before it, a layer norm after the diffusion, followed by a depthwise convolution of
  65 taps; its input projection is grouped, so that the diffused half comes from the first half of the channels;
- top-down attention: all embeddings are heat-diffusion operators; visual fusion has no self-attention;
- audio-visual fusion uses K = 1.
Two slips of the code are kept where `as_published` is set: a `k` branch in every heat operator that is never used, and
in the visual fusion a step that takes the finer map in place of the coarsest one, which is computed and thrown away.

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import create_encoder
from lipsep.encoders.dp_lipcoder import DP_LIPCODERS, PAPER_LAYERS
from lipsep.errors import ModelError
from lipsep.kernels.arranged import Arranged
from lipsep.kernels.conv_glu import conv_glu
from lipsep.kernels.linear import linear, packed_matrix
from lipsep.kernels.memory_saving import in_pieces
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm, LayerScale, pool_to
from lipsep.layers.dropout import Dropout
from lipsep.layers.heat import HeatDiffusion
from lipsep.layers.packed_linear import PackedLinear
from lipsep.layers.relative_attention import RelativeAttention
from lipsep.layers.visual_fusion import AVFusion, TopDownAttention, VideoProjection, VisualFusion
from lipsep.layers.waveform import AudioDecoder, AudioEncoder
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model


@dataclass(frozen=True)
class DolphinConfig:
    """Sizes of a Dolphin. Defaults are the published model; letters are the paper's symbols."""

    audio_channels: int = 256  # filters of the audio encoder and decoder, N_a outside the separator
    audio_kernel: int = 16  # samples
    audio_stride: int = 4  # samples
    channels: int = 128  # inside the separator
    n_stages: int = 4  # Q, halvings of the time resolution
    encoder_blocks: int = 2  # GLA blocks per encoder layer
    decoder_blocks: int = 3  # GLA blocks per decoder layer
    global_attention: bool = True  # False: blocks without GA, the coarse self-attention and its feed-forward (Table 5)
    local_attention: bool = True  # False: blocks without LA, the heat diffusion and its feed-forward (Table 5)
    local_kernel: int | None = None  # taps of a depthwise convolution in blocks' LA; None: heat diffusion (Table 6)
    fusion_stage: int = 0  # after so many encoder layers the video joins the audio (Table 11)
    n_heads: int = 8
    ffn_expansion: int = 3  # the feed-forward width before its gate, as a multiple of `channels`
    large_kernel: int = 65  # taps of the depthwise convolution after heat diffusion
    max_relative_position: int = 2000  # steps at the coarsest resolution; farther apart counts as this far
    layer_scale_init: float = 1e-5
    dropout: float = 0.05
    masking: bool = False  # True: the output is a ReLU mask on the encoded mixture; False: direct mapping
    video_encoder: str = "dp_lipcoder"  # a registered one (Table 1); "lipcoder" is the semantic path alone
    lip_size: int = 88  # pixels
    lip_recipe: str = "mouth_88"  # how lip pictures are made (lipsep.lips.reading)
    video_layers: tuple[str, ...] = PAPER_LAYERS
    video_init_channels: int = 4
    video_max_channels: int = 32
    gate_bias: float = -10.0  # where the squeeze-excite gates start, before the sigmoid
    n_codes: int = 256
    code_dim: int = 64
    visual_channels: int = 64  # of the visual feature fusion, N_v
    visual_scales: int = 3  # time resolutions in it
    visual_dropout: float = 0.1
    as_published: bool = True  # keep the two slips of the published code (see the module docstring)

    def __post_init__(self) -> None:
        if self.channels % (2 * self.n_heads) or self.channels % self.visual_channels:
            raise ModelError(
                f"channels={self.channels} must be a multiple of 2 * n_heads={2 * self.n_heads} "
                f"and of visual_channels={self.visual_channels}"
            )
        if self.audio_kernel % self.audio_stride or self.n_stages < 1 or self.visual_scales < 2:
            raise ModelError(
                "audio_kernel must be a multiple of audio_stride, n_stages at least 1, visual_scales at least 2; got "
                f"{self.audio_kernel}, {self.audio_stride}, {self.n_stages}, {self.visual_scales}"
            )
        if not 0 <= self.fusion_stage < self.n_stages:
            raise ModelError(
                f"fusion_stage must be 0 to {self.n_stages - 1}, less than n_stages; got {self.fusion_stage}"
            )
        if self.local_kernel is not None and (self.local_kernel < 1 or self.local_kernel % 2 == 0):
            raise ModelError(f"local_kernel must be odd, or None for heat diffusion; got {self.local_kernel}")


# --- Blocks ----------------------------------------------------------------------------------------------------------


class FeedForward(Arranged):
    """Gated feed-forward network with a depthwise convolution, added to its input. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.ffn_expansion * config.channels
        self.norm = nn.LayerNorm(channels)
        self.expand = PackedLinear(channels, hidden)
        self.conv = DepthwiseConv(hidden, 3)
        self.contract = nn.Linear(hidden // 2, channels)
        self.scale = LayerScale(channels, config.layer_scale_init)
        self.dropout = Dropout(config.dropout)

    def arrange(self) -> tuple[Tensor, ...]:
        """Weight and bias of the last map with the gain behind it."""
        return self.scale.into(self.contract)

    def pack(self, *arranged: Tensor) -> tuple[Tensor, ...]:
        """The weight in oneDNN's own order where it has one."""
        weight, bias = arranged
        return packed_matrix(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        return in_pieces(self._hidden, self._contracted, x, whole=self.training)

    def _hidden(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, hidden / 2)"""
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        return conv_glu(self.expand(self.norm(x)), weight, bias, self.dropout.rate)

    def _contracted(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(B, T, hidden / 2), (B, T, C) -> (B, T, C)"""
        weight, bias = self.arranged()
        return linear(hidden, weight, bias, plus=x, dropout=self.dropout.rate)


class CoarseSelfAttention(nn.Module):
    """Self-attention at the coarsest time resolution, gated and added to the input (CSA, section 3.4.1; no equation).

    Shape: x (B, T, C), relative (2 M, C / heads) -> (B, T, C). `coarse_length` is T / 2^Q of the whole separator.
    """

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config.channels, config.n_heads, config.layer_scale_init, config.dropout)
        self.gate_norm = nn.LayerNorm(config.channels)
        self.gate = PackedLinear(config.channels, config.channels)

    def forward(self, x: Tensor, relative: Tensor, coarse_length: int) -> Tensor:
        coarse = self.attention(pool_to(x, coarse_length), relative)  # (B, L, C)
        gate = torch.sigmoid(self.gate(self.gate_norm(x)))  # (B, T, C)
        return x + (gate.unflatten(1, (coarse_length, -1)) * coarse.unsqueeze(2)).flatten(1, 2)


class HeatDiffusionAttention(nn.Module):
    """Heat diffusion and a large depthwise convolution, added to the input (HDA). Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        channels = config.channels
        self.heat: nn.Module = HeatDiffusion(channels, config.as_published)
        if config.local_kernel is not None:
            self.heat = DepthwiseConv(channels, config.local_kernel)
        self.norm_in = GlobalNorm(channels, eps=1e-5)
        self.large_conv = DepthwiseConv(channels, config.large_kernel)
        self.small_conv = DepthwiseConv(channels, 3)
        self.dropout = Dropout(config.dropout)
        self.norm_out = GlobalNorm(channels, eps=1e-5)
        self.scale = LayerScale(channels, config.layer_scale_init)

    def forward(self, x: Tensor) -> Tensor:
        y = self.large_conv(self.norm_in(self.heat(x)))
        return x + self.norm_out(self.dropout(self.small_conv(F.gelu(y))), self.scale)


class GLABlock(nn.Module):
    """Global, then local attention, each followed by a feed-forward network. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.has_global, self.has_local = config.global_attention, config.local_attention
        if self.has_global:
            self.coarse_attention = CoarseSelfAttention(config)
            self.global_ffn = FeedForward(config)
        if self.has_local:
            self.heat_attention = HeatDiffusionAttention(config)
            self.local_ffn = FeedForward(config)

    def forward(self, x: Tensor, relative: Tensor, coarse_length: int) -> Tensor:
        if self.has_global:
            x = self.global_ffn(self.coarse_attention(x, relative, coarse_length))
        return self.local_ffn(self.heat_attention(x)) if self.has_local else x


class DownSample(nn.Module):
    """Halve the time resolution. Shape: (B, T, C) -> (B, T / 2, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DepthwiseConv(channels, 5, stride=2)
        self.norm = GlobalNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x)))


# --- Separator -------------------------------------------------------------------------------------------------------


class EncoderLayer(nn.Module):
    """GLA blocks, then half the time resolution. Shape: (B, T, C) -> (B, T / 2, C) and the skip (B, T, C)."""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(GLABlock(config) for _ in range(config.encoder_blocks))
        self.down = DownSample(config.channels)

    def forward(self, x: Tensor, relative: Tensor, coarse_length: int) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x, relative, coarse_length)
        return self.down(x), x


class DecoderLayer(nn.Module):
    """Top-down attention between skip and state, then GLA blocks. Shape: (B, T, C), (B, T / 2, C) -> (B, T, C)."""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.fusion = TopDownAttention(config.channels, config.as_published)
        self.blocks = nn.ModuleList(GLABlock(config) for _ in range(config.decoder_blocks))

    def forward(self, skip: Tensor, state: Tensor, relative: Tensor, coarse_length: int) -> Tensor:
        x = self.fusion(skip, state)
        for block in self.blocks:
            x = block(x, relative, coarse_length)
        return x


class DolphinSeparator(nn.Module):
    """Encoder, global map, top-down decoder. Shape: (B, T, C) -> (B, T, C); any T, zero-padded to a multiple of 2^Q.

    `fuse` adds the video, (B, T', C) -> (B, T', C), after `fusion_stage` encoder layers; at 0, before the padding.
    """

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.relative_positions = nn.Embedding(2 * config.max_relative_position, config.channels // config.n_heads)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_stages))
        self.global_attention = RelativeAttention(
            config.channels, config.n_heads, config.layer_scale_init, config.dropout
        )
        self.global_ffn = FeedForward(config)
        self.skip_fusions = nn.ModuleList(
            TopDownAttention(config.channels, config.as_published) for _ in range(config.n_stages)
        )
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_stages))
        self.fusion_stage = config.fusion_stage

    def forward(self, x: Tensor, fuse: Callable[[Tensor], Tensor]) -> Tensor:
        if self.fusion_stage == 0:
            x = fuse(x)
        time, ratio = x.shape[1], 2 ** len(self.encoder)
        x = F.pad(x, (0, 0, 0, -time % ratio))  # (B, T', C)
        coarse_length, relative = x.shape[1] // ratio, self.relative_positions.weight
        skips, maps = [], []
        for stage, layer in enumerate(self.encoder):
            if 0 < stage == self.fusion_stage:
                x = fuse(x)
            x, skip = layer(x, relative, coarse_length)
            skips.append(skip)
            maps.append(x)
        top = sum(pool_to(m, 2 * coarse_length) for m in maps)
        top = self.global_ffn(self.global_attention(top, None))  # (B, 2 T' / 2^Q, C)
        skips = [fusion(skip, top) for fusion, skip in zip(self.skip_fusions, skips, strict=True)]
        for layer in self.decoder:
            x = layer(skips.pop(), x, relative, coarse_length)
        return x[:, :time]


# --- The network -----------------------------------------------------------------------------------------------------


class AudioProjection(nn.Module):
    """Global norm and a pointwise map. Shape: (B, T, C) -> (B, T, C')."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm = GlobalNorm(c_in, eps=1e-8)
        self.linear = PackedLinear(c_in, c_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class OutputLayer(nn.Module):
    """Back to the encoder's channels: direct mapping, or a ReLU mask on the encoded mixture.

    Shape: x (B, T, C), encoded (B, T, N) -> (B, T, N).
    """

    def __init__(self, c_in: int, c_out: int, masking: bool) -> None:
        super().__init__()
        self.expand = PackedLinear(c_in, 2 * c_out)
        self.mix = PackedLinear(c_out, c_out)
        self.masking = masking

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        x = self.map(x)
        return F.relu(x) * encoded if self.masking else x

    def map(self, x: Tensor) -> Tensor:
        """Before the mask: (B, T, C) -> (B, T, N)."""
        return self.mix(F.glu(self.expand(x), dim=2))


class Dolphin(SeparationModel):
    """Mixture and one person's lips to that person's voice.

    References: arXiv 2509.23610; code https://github.com/JusperLee/Dolphin (Apache-2.0).

    The filters' windows cover the input up to its last `(n - kernel) % stride` samples (3 at most as published, none
    where n is a multiple of 640); the published output is that much shorter, here that tail is zero.
    """

    dead_parameters: ClassVar[tuple[str, ...]] = ("*.unused_k_conv.*", "visual_fusion.fusions.2.*")

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__(config, lip_recipe=config.lip_recipe)
        c = config
        sizes = {}
        if c.video_encoder in DP_LIPCODERS:
            sizes = {
                "layers": c.video_layers, "init_channels": c.video_init_channels, "max_channels": c.video_max_channels,
                "gate_bias": c.gate_bias, "n_codes": c.n_codes, "code_dim": c.code_dim,
            }  # fmt: skip
        self.video_encoder = create_encoder(c.video_encoder, lip_size=c.lip_size, lip_recipe=c.lip_recipe, **sizes)
        self.video_projection = VideoProjection(self.video_encoder.feature_dim, c.visual_channels, kernel=3)
        self.visual_fusion = VisualFusion(c.visual_channels, c.visual_scales, c.visual_dropout, c.as_published)
        self.audio_encoder = AudioEncoder(c.audio_channels, c.audio_kernel, c.audio_stride)
        self.audio_projection = AudioProjection(c.audio_channels, c.channels)
        self.av_fusion = AVFusion(c.channels, c.visual_channels)
        self.separator = DolphinSeparator(c)
        self.output_layer = OutputLayer(c.channels, c.audio_channels, c.masking)
        self.audio_decoder = AudioDecoder(c.audio_channels, c.audio_kernel, c.audio_stride)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        video = self.watch(lips)  # (B, F, C_v)
        shortest = max(self.config.audio_kernel, mixture.shape[1])
        encoded = self.audio_encoder(self.fit_length(mixture, shortest))  # (B, T', N)
        audio = self.audio_projection(encoded)  # (B, T', C)
        audio = self.separator(audio, partial(self.av_fusion, video=video))
        estimates = self.audio_decoder(self.output_layer(audio, encoded))  # (B, n)
        return self.fit_length(estimates, mixture.shape[1]).unsqueeze(1)  # (B, 1, T)

    def watch(self, lips: Tensor) -> Tensor:
        """What the separator gets to know of the lips: (B, F, S, S) -> (B, F, C_v)."""
        return self.visual_fusion(self.video_projection(self.video_encoder(lips)))

    def video_parts(self) -> tuple[nn.Module, ...]:
        """The modules behind `watch`, all of which the recipe's part `lip_reading` teaches."""
        return self.video_encoder, self.video_projection, self.visual_fusion


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(Dolphin)
def dolphin() -> DolphinConfig:
    """The published model."""
    return DolphinConfig()


@register_model(Dolphin)
def dolphin_test() -> DolphinConfig:
    """Everything that the published model has, tiny, for tests."""
    return DolphinConfig(
        audio_channels=16, audio_kernel=32, audio_stride=16, channels=16, n_stages=2, encoder_blocks=1,
        decoder_blocks=1, n_heads=2, large_kernel=9, max_relative_position=50, lip_size=32, lip_recipe="mesh_32",
        video_layers=("residual", "compress_space", "linear_attend_space", "compress_space", "attend_space"),
        video_max_channels=8, n_codes=8, code_dim=4, visual_channels=8, gate_bias=0.0, layer_scale_init=0.1,
    )  # fmt: skip
