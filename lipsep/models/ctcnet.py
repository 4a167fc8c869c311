"""CTCNet: audio and video exchange what they found, as cortex and thalamus do, then audio goes on alone.

Kai Li, Fenghua Xie, Hang Chen, Kexin Yuan and Xiaolin Hu, "An Audio-Visual Speech Separation Model Inspired by
Cortico-Thalamo-Cortical Circuits", TPAMI 2024, arXiv 2212.10744. Checked against the golden output of the published
code (JusperLee/CTCNet, its LRS2 configuration).

In the papers: the code has 7,147,357 parameters without the lip-reading encoder and 84.1 G MACs for 1 s (its own
paper: 7.0 M and 167 G for 2 s); Dolphin's table 4 says 6.87 M and 75.80 G, which is another configuration. LRS2-2Mix
14.3 dB SI-SNRi.

Table 2's row with DP-LipCoder, 7.65 M and 78.18 G, is that other configuration's sum with the encoder's 0.78 M and
2.38 G, with nothing in between. Here are 8.57 M: 7,147,357 + 781,818 + 645,120, the last because the projection takes
3,872 features instead of 512 (times 64 channels and 3 taps). What else was tried does not lead to 6.87 M: fewer audio
rounds leave 7.15 M (12 rounds: 79.0 G, 11: 73.9 G), two fusion rounds have 6.74 M, three or five video scales 7.10 M or
7.20 M.

Coarse maps are mapped before they are stretched here, which gives the same output for fewer operations (see
layers/afrcnn.py). The code pads recordings to a multiple of 4,096 samples before the one it needs; this is kept,
because zeros count in the global norms.

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import encoder_for, resnet18_3d
from lipsep.errors import ModelError
from lipsep.layers.afrcnn import AFRCNN, Adapt, PointwiseNorm, released_afrcnn_key, released_global_norm_key
from lipsep.layers.channels_last import GlobalNorm
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.masks import ReLUMasks
from lipsep.layers.packed_linear import PackedLinear
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, register_released, within


@dataclass(frozen=True)
class CTCNetConfig:
    """Sizes of a CTCNet. Defaults are the published configuration for LRS2."""

    audio_channels: int = 512  # filters of the encoder and decoder
    kernel: int = 21  # samples, odd
    stride: int = 10  # samples
    channels: int = 512  # of the audio subnetwork, outside and inside its block
    audio_scales: int = 5  # time resolutions of the auditory subnetwork
    video_channels: int = 64  # of the visual subnetwork, likewise
    video_scales: int = 4
    fusion_rounds: int = 3  # rounds with both subnetworks and the thalamic one
    audio_rounds: int = 13  # rounds of the auditory subnetwork alone, afterwards
    video_encoder: str = "resnet18_3d"  # a registered video encoder
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0 or min(self.fusion_rounds, self.audio_scales - 1, self.video_scales - 1) < 1:
            raise ModelError(
                "kernel must be odd, fusion_rounds at least 1, audio_scales and video_scales at least 2; got "
                f"{self.kernel}, {self.fusion_rounds}, {self.audio_scales}, {self.video_scales}"
            )


class ThalamicFusion(nn.Module):
    """The thalamic subnetwork: each modality is mapped together with the other, brought to its own rate (eq. 7-8).

    Shape: audio (B, T, C), video (B, F, C_v) -> the same.
    """

    def __init__(self, channels: int, video_channels: int) -> None:
        super().__init__()
        both = (channels, video_channels)
        self.to_audio = PointwiseNorm(both, channels, batch_norm=False, act=False)
        self.to_video = PointwiseNorm(both, video_channels, batch_norm=False, act=False)

    def forward(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.to_audio(audio, video, length=audio.shape[1]),
            self.to_video(audio, video, length=video.shape[1]),
        )


class CTCNetSeparator(nn.Module):
    """Rounds of both subnetworks with exchange, then rounds of the auditory one alone.

    The auditory block is one for all rounds; every round has a visual block and an exchange of its own.

    Shape: audio (B, T, C), video (B, F, C_v) -> (B, T, C).
    """

    def __init__(self, config: CTCNetConfig) -> None:
        super().__init__()
        c = config
        self.audio_block = AFRCNN(c.channels, c.channels, c.channels, c.audio_scales)
        self.audio_adapt = Adapt(c.channels)
        self.video_blocks = nn.ModuleList(
            AFRCNN(c.video_channels, c.video_channels, c.video_channels, c.video_scales, kernel=3, batch_norm=True)
            for _ in range(c.fusion_rounds)
        )
        self.video_adapts = nn.ModuleList(Adapt(c.video_channels) for _ in range(c.fusion_rounds - 1))
        self.fusions = nn.ModuleList(ThalamicFusion(c.channels, c.video_channels) for _ in range(c.fusion_rounds))
        self.audio_rounds = c.audio_rounds

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        a, v = audio, video
        for round_, (video_block, fusion) in enumerate(zip(self.video_blocks, self.fusions, strict=True)):
            if round_:
                a = self.audio_adapt(audio + a)
                v = self.video_adapts[round_ - 1](video + v)
            a, v = fusion(a + self.audio_block(a), v + video_block(v))
        for _ in range(self.audio_rounds):
            a = self.audio_adapt(audio + a)
            a = a + self.audio_block(a)
        return a


class CTCNet(SeparationModel):
    """Mixture and one person's lips to that person's voice.

    References: arXiv 2212.10744; code https://github.com/JusperLee/CTCNet.
    """

    def __init__(self, config: CTCNetConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c, padding = config, config.kernel // 2
        self.video_encoder = video_encoder
        self.video_projection = nn.Conv1d(video_encoder.feature_dim, c.video_channels, 3, padding=1)
        self.audio_encoder = FilterbankEncoder(c.audio_channels, c.kernel, c.stride, padding)
        self.audio_norm = GlobalNorm(c.audio_channels, eps=1e-8)
        self.audio_projection = PackedLinear(c.audio_channels, c.channels)
        self.separator = CTCNetSeparator(c)
        self.masks = ReLUMasks(c.channels, c.audio_channels, n_src=1)
        self.audio_decoder = FilterbankDecoder(c.audio_channels, c.kernel, c.stride, padding, more=c.stride - 1)
        # nobody looks at the video after the last exchange
        self.dead_parameters = (f"separator.fusions.{c.fusion_rounds - 1}.to_video.*",)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        encoded = self.audio_encoder(F.pad(mixture, (0, self._n_zeros(mixture.shape[1]))))  # (B, T', N)
        audio = self.audio_projection(self.audio_norm(encoded))  # (B, T', C)
        video = self.video_projection(self.video_encoder(lips).mT).mT  # (B, F, C_v)
        features = self.separator(audio, video)  # (B, T', C)
        estimates = self.audio_decoder(self.masks(features, encoded))  # (B, 1, n)
        return self.fit_length(estimates, mixture.shape[1])

    def _n_zeros(self, n_samples: int) -> int:
        """How many zeros the published code appends: first up to a multiple of 4,096 samples, then of 160."""
        c, steps = self.config, 2**self.config.audio_scales
        coarse = (c.audio_channels // 2 * steps) // math.gcd(c.kernel // 2, steps)
        padded = n_samples + -n_samples % coarse
        return padded + -padded % math.lcm(c.kernel // 2, steps) - n_samples


# --- Released weights ------------------------------------------------------------------------------------------------


def released_key(name: str) -> str | None:
    """The released key of one of our state-dict keys; None for the video encoder, released in a file of its own."""
    part, _, rest = name.partition(".")
    if part == "video_encoder":
        return None
    if part == "separator":
        return "masker." + _separator_key(rest)
    for ours, theirs in (
        ("audio_encoder.weight", "encoder.encoder.filterbank._filters"),
        ("audio_decoder.weight", "decoder.filterbank._filters"),
        ("audio_norm.weight", "masker.pre_a.0.gamma"),
        ("audio_norm.bias", "masker.pre_a.0.beta"),
        ("audio_projection", "masker.pre_a.1"),
        ("video_projection", "masker.pre_v"),
        ("masks.act", "masker.post.0"),
        ("masks.linear", "masker.post.1"),
    ):
        name = re.sub("^" + ours, theirs, name)
    return name


def _separator_key(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "audio_block":
        return f"audio_block.{released_global_norm_key(released_afrcnn_key(rest))}"
    if part == "audio_adapt":
        return f"audio_concat.{rest}"
    index, _, rest = rest.partition(".")
    if part == "video_blocks":
        key = released_afrcnn_key(rest, expand="proj", gather="last.0", contract="last.1")
        return f"video_block.video.{index}.{key}"
    if part == "video_adapts":
        return f"video_block.concat_block.{int(index) + 1}.{rest}"
    rest = rest.replace("to_audio", "W_wav").replace("to_video", "W_video").replace("linear", "conv")
    return f"crossmodal_fusion.{index}.{released_global_norm_key(rest)}"


register_released(
    "ctcnet",
    ReleasedFile("separator", released_key, ignored=("encoder.filterbank._filters",)),
    ReleasedFile("lip-reading video encoder", within("video_encoder.", resnet18_3d.released_key)),
)


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(CTCNet)
def ctcnet() -> CTCNetConfig:
    """The published model."""
    return CTCNetConfig()


@register_model(CTCNet)
def ctcnet_test() -> CTCNetConfig:
    """Everything that the published model has, tiny, for tests."""
    return CTCNetConfig(
        audio_channels=16, channels=16, audio_scales=3, video_channels=8, video_scales=2, fusion_rounds=2,
        audio_rounds=1, video_encoder="autoencoder", lip_size=32, lip_recipe="mesh_32",
    )  # fmt: skip
