"""AV-ConvTasNet: Conv-TasNet that sees lips after its first stack of convolutions.

Jian Wu et al., "Time Domain Audio Visual Speech Separation", ASRU 2019, arXiv 1904.03760, in the re-implementation that
the papers compare with (JusperLee/AV-ConvTasNet), against whose golden output this file was checked.

In the papers: 25,014,530 parameters, 13,696,065 of them without the lip-reading encoder; 14.90 G MACs for 1 s;
LRS2-2Mix 12.5 dB SI-SNRi. 4.2 M parameters are never used: each block owns a convolution for skip connections, which
the published configuration leaves out (kept where `as_published` is set).

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import encoder_for, resnet18_3d
from lipsep.errors import ModelError
from lipsep.layers.afrcnn import StretchedLinear
from lipsep.layers.channels_last import BatchNorm, DepthwiseConv, GlobalNorm
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.packed_linear import PackedLinear
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, register_released, within


@dataclass(frozen=True)
class AVConvTasNetConfig:
    """Sizes of an AV-ConvTasNet. Defaults are the published model; letters are the paper's symbols."""

    audio_channels: int = 256  # N, filters of the encoder and decoder
    kernel: int = 40  # L, samples; the stride is half of it
    channels: int = 256  # B, between the blocks
    hidden: int = 512  # H, inside a block
    block_kernel: int = 3  # P, taps
    blocks_per_stack: int = 8  # X, with dilations 1, 2, 4, ...
    stacks_before: int = 1  # of audio alone
    stacks_after: int = 3  # of audio and video together
    video_channels: int = 256  # V
    video_blocks: int = 5  # D
    video_encoder: str = "resnet18_3d_256"  # a registered video encoder
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise
    as_published: bool = True  # keep the convolutions that are never used

    def __post_init__(self) -> None:
        if self.kernel % 2 or self.block_kernel % 2 == 0 or min(self.stacks_before, self.video_blocks) < 1:
            raise ModelError(
                "kernel must be even, block_kernel odd, stacks_before and video_blocks at least 1; got "
                f"{self.kernel}, {self.block_kernel}, {self.stacks_before}, {self.video_blocks}"
            )


class VideoBlock(nn.Module):
    """ReLU, batch norm, depthwise and pointwise convolution, added to the input; the first block has only those two.

    Shape: (B, F, C) -> (B, F, C').
    """

    def __init__(self, c_in: int, c_out: int, first: bool, as_published: bool) -> None:
        super().__init__()
        self.norm = None if first else BatchNorm(c_in)
        self.depthwise = DepthwiseConv(c_in, 3)
        self.pointwise = nn.Linear(c_in, c_out)
        self.unused_skip = nn.Linear(c_in, c_out) if as_published else None

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return self.pointwise(self.depthwise(x))
        return x + self.pointwise(self.depthwise(self.norm(F.relu(x))))


class DilatedConv(nn.Module):
    """One filter per channel whose taps lie `dilation` steps apart, zero padding. Shape: (B, T, C) -> (B, T, C).

    Written as a picture with `dilation` steps per row, the taps lie one above the other; oneDNN has a vectorised kernel
    for that and none for dilated depthwise convolutions.
    """

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, kernel, groups=channels)  # for PyTorch's own initialisation
        self.weight, self.bias = conv.weight, conv.bias
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        time, channels = x.shape[1:]
        rows = F.pad(x, (0, 0, 0, -time % self.dilation)).unflatten(1, (-1, self.dilation))  # (B, T / d, d, C)
        reach = self.weight.shape[-1] // 2
        y = F.conv2d(
            rows.permute(0, 3, 1, 2), self.weight.unsqueeze(3), self.bias, padding=(reach, 0), groups=channels
        )  # (B, C, T / d, d)
        return y.permute(0, 2, 3, 1).flatten(1, 2)[:, :time]


class TemporalBlock(nn.Module):
    """One dilated block of Conv-TasNet, added to its input. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: AVConvTasNetConfig, dilation: int) -> None:
        super().__init__()
        c = config
        self.expand = PackedLinear(c.channels, c.hidden)
        self.act_in = nn.PReLU()
        self.norm_in = GlobalNorm(c.hidden, eps=1e-5)
        self.depthwise = DilatedConv(c.hidden, c.block_kernel, dilation)
        self.norm_out = GlobalNorm(c.hidden, eps=1e-5)
        self.act_out = nn.PReLU()
        self.contract = PackedLinear(c.hidden, c.channels)
        self.unused_skip = nn.Linear(c.hidden, c.channels) if c.as_published else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_in(self.act_in(self.expand(x)))  # (B, T, H)
        y = self.act_out(self.norm_out(self.depthwise(y)))
        return self.contract(y, plus=x)


def stacks(config: AVConvTasNetConfig, n_stacks: int) -> nn.Sequential:
    """`n_stacks` times the same row of dilations."""
    return nn.Sequential(
        *(TemporalBlock(config, 2**i) for _ in range(n_stacks) for i in range(config.blocks_per_stack))
    )


class AVConvTasNet(SeparationModel):
    """Mixture and one person's lips to that person's voice.

    References: arXiv 1904.03760; code https://github.com/JusperLee/AV-ConvTasNet.
    """

    def __init__(self, config: AVConvTasNetConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c = config
        self.video_encoder = video_encoder
        self.video_blocks = nn.Sequential(
            *(
                VideoBlock(
                    c.video_channels if i else video_encoder.feature_dim, c.video_channels, i == 0, c.as_published
                )
                for i in range(c.video_blocks)
            )
        )
        self.audio_encoder = FilterbankEncoder(c.audio_channels, c.kernel, c.kernel // 2, bias=True)
        self.audio_norm = nn.LayerNorm(c.audio_channels)
        self.audio_projection = PackedLinear(c.audio_channels, c.channels)
        self.before = stacks(c, c.stacks_before)
        self.fusion = StretchedLinear((c.channels, c.video_channels), c.channels)
        self.after = stacks(c, c.stacks_after)
        self.mask = PackedLinear(c.channels, c.audio_channels)
        self.audio_decoder = FilterbankDecoder(c.audio_channels, c.kernel, c.kernel // 2, bias=True)
        self.dead_parameters = ("*.unused_skip.*",) if c.as_published else ()

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T).

        The filters' windows cover the input up to its last `(n - kernel) % stride` samples; there the estimate is zero.
        """
        self.check_inputs(mixture, lips, self.config.lip_size)
        video = self.video_blocks(self.video_encoder(lips))  # (B, F, C_v)
        shortest = max(self.config.kernel, mixture.shape[1])
        encoded = F.relu(self.audio_encoder(self.fit_length(mixture, shortest)))  # (B, T', N)
        audio = self.before(self.audio_projection(self.audio_norm(encoded)))  # (B, T', C)
        fused = self.fusion((audio, video), length=audio.shape[1])
        mask = F.relu(self.mask(self.after(fused)))  # (B, T', N)
        estimate = self.audio_decoder(mask * encoded)  # (B, n)
        return self.fit_length(estimate, mixture.shape[1]).unsqueeze(1)


# --- Released weights ------------------------------------------------------------------------------------------------

_VIDEO_BLOCK = {"norm": "bn", "depthwise": "dconv", "pointwise": "bconv", "unused_skip": "sconv"}
_TEMPORAL_BLOCK = {
    "expand": "conv1x1",
    "act_in": "prelu1",
    "norm_in": "norm1",
    "depthwise": "dconv",
    "norm_out": "norm2",
    "act_out": "prelu2",
    "contract": "B_conv",
    "unused_skip": "Sc_conv",
}


def released_key(name: str) -> str | None:
    """The released key of one of our state-dict keys; None for the video encoder, released in a file of its own."""
    part, _, rest = name.partition(".")
    if part == "video_encoder":
        return None
    if part in ("video_blocks", "before", "after"):
        index, layer, rest = rest.split(".", 2)
        if part == "video_blocks":
            return f"video.conv1d_list.{index}.{_VIDEO_BLOCK[layer]}.{rest}"
        stage = "audio_conv" if part == "before" else "feats_conv"
        return f"{stage}.lists.{index}.{_TEMPORAL_BLOCK[layer]}.{rest}"
    for ours, theirs in (
        ("audio_encoder", "encoder.conv"),
        ("audio_norm", "cln"),
        ("audio_projection", "conv1x1"),
        ("fusion", "concat.conv1d"),
        ("audio_decoder", "decoder"),
    ):
        name = re.sub("^" + ours, theirs, name)
    return name


register_released(
    "av_convtasnet",
    ReleasedFile("separator", released_key),
    ReleasedFile("lip-reading video encoder", within("video_encoder.", resnet18_3d.published_key_256)),
)


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(AVConvTasNet)
def av_convtasnet() -> AVConvTasNetConfig:
    """The published model."""
    return AVConvTasNetConfig()


@register_model(AVConvTasNet)
def av_convtasnet_test() -> AVConvTasNetConfig:
    """Everything that the published model has, tiny, for tests."""
    return AVConvTasNetConfig(
        audio_channels=16, channels=8, hidden=16, blocks_per_stack=2, stacks_after=1, video_channels=8,
        video_blocks=2, video_encoder="autoencoder", lip_size=32, lip_recipe="mesh_32", as_published=False,
    )  # fmt: skip
