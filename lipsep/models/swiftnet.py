"""Swift-Net: a causal offspring of RTFS-Net, for separation while people speak.

Kai Li et al., "Swift-Net" (github.com/JusperLee/Swift-Net). In the papers: LRS2-2Mix 13.9 dB SI-SNRi. The code has
530,290 parameters without the video encoder, which this file meets, and 18.11 G MACs (6 rounds) or 25.90 G (12) for 1 s
with it; Dolphin's Table 4 says 1.47 M and 26.18 G.

The published code calls itself causal but is not: its norms take in the whole recording, its convolutions and its
pooling reach into the future, and the lips' features come from two pictures later. So there are two modes, with the
same parameters:

- `causal=True`, the registered models: no sample depends on sound more than one window (16 ms) later, nor on pictures
  later than its own. Norms run over the past, padding is in the past, and lips arrive late by what their encoder looks
  ahead. The recurrence over lips runs over time.
- `causal=False`: the published code to the digit, checked against golden outputs with 6 and 12 rounds; what the
  authors' weights load into. Its recurrence over lips takes each picture for a sequence of its own, and its estimates
  lag by one hop, which its training made up for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.encoders import create_encoder, resnet18_3d
from lipsep.errors import ModelError
from lipsep.kernels.stretching import stretch_to
from lipsep.layers.channels_last import BatchNorm
from lipsep.layers.memory import Memory, Totals, shares
from lipsep.layers.sru import SRU
from lipsep.layers.time_frequency import (
    Affine,
    DepthwiseConv2d,
    Gateway,
    RecurrentPath,
    TFAttention,
    VideoProjection,
    as_map,
    as_picture,
    complex_mask,
    past_and_present,
    spectrogram,
    waveform,
)
from lipsep.models.base import SeparationModel
from lipsep.models.keys.rtfsnet import ATTENTION, PATH, block_rules, injection_key
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, Rules, register_released, renamed, within

EPS = 1e-8  # of norms
MAGNITUDE_EPS = 1.1920929e-07  # of the magnitude's square
STRIDE = 2  # between the two scales in a round


@dataclass(frozen=True)
class SwiftNetConfig:
    """Sizes of a Swift-Net. Defaults are the published model with 12 rounds."""

    n_fft: int = 256  # samples
    hop: int = 128  # samples
    channels: int = 256  # of the time-frequency map between rounds
    hidden_channels: int = 64  # inside a round
    n_rounds: int = 12  # of the shared audio block; the first comes before the fusion
    kernel: int = 5  # of the audio block's convolutions
    rnn_layers: int = 4
    rnn_window: int = 8  # frequencies that enter the recurrence together; frames that one of its steps reaches
    rnn_groups: int = 2  # of channels in the audio block's recurrent paths
    n_heads: int = 4  # of the attention over time
    qk_channels: int = 4  # per head and frequency
    attention_span: int | None = 250  # frames of 16 ms that a frame attends to; None: the whole past, as published
    causal: bool = True  # False: the published code, which is not
    video_channels: int = 512
    video_hidden_channels: int = 64
    video_encoder: str = "resnet18_3d"
    lip_size: int = 88  # px
    lip_recipe: str = "mouth_88"  # how lip pictures are made (lipsep.lips.reading)

    def __post_init__(self) -> None:
        if SAMPLES_PER_FRAME % self.hop or self.n_fft != 2 * self.hop:
            raise ModelError(
                f"hop must divide {SAMPLES_PER_FRAME} and n_fft be twice hop; got {self.hop}, {self.n_fft}"
            )
        if self.channels % 2 or self.hidden_channels % (2 * self.rnn_groups) or self.hidden_channels % self.n_heads:
            raise ModelError(
                "channels must be even, hidden_channels a multiple of twice rnn_groups and of n_heads; got "
                f"{self.channels}, {self.hidden_channels}, {self.rnn_groups}, {self.n_heads}"
            )

    @property
    def n_freqs(self) -> int:
        """Frequencies at the coarse scale."""
        return (self.n_fft // 2) // STRIDE + 1


# --- Causal blocks on maps (B, T, F, C); what they need of the past is in the memory ----------------------------------


class CausalNorm(nn.Module):
    """Normalise over channels, frequencies and time, then each frequency over channels and time.

    Time is all frames so far; without a memory, the first of the two takes in the whole recording.

    Shape: (B, T, F, C) -> (B, T, F, C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gain = nn.Parameter(torch.ones(channels))  # of the second
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        if memory is None:
            x = torch.addcmul(self.bias, F.layer_norm(x, x.shape[1:], eps=EPS), self.weight)
        else:
            mean, scale = _statistics(x, (2, 3), memory)  # (B, T, 1, 1)
            weight = self.weight * scale  # (B, T, 1, C)
            x = torch.addcmul(torch.addcmul(self.bias, mean, weight, value=-1), x, weight)
        mean, scale = _statistics(x, (3,), memory)  # (B, T, F, 1)
        return torch.addcmul(self.offset, torch.addcmul(mean * -scale, x, scale), self.gain)


def _statistics(x: Tensor, dims: tuple[int, ...], memory: Memory | None) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation over `dims` and all time steps so far: (B, T, F, C) -> (B, T, F or 1, 1) each."""
    past = None if memory is None else memory.recall()
    n_before, n_new = 0 if past is None else past.n_steps, x.shape[1]
    n_values = math.prod(x.shape[d] for d in dims)
    energy = torch.linalg.vector_norm(x, dim=dims, keepdim=True).double().square() / n_values
    sums = torch.stack([x.mean(dims, keepdim=True).double(), energy]).cumsum(2)  # (2, B, T, ...)
    sums = sums if past is None else sums + past.sums
    if memory is not None:
        memory.keep(Totals(sums[:, :, -1:], n_before + n_new))
    mean, energy = (sums * shares(n_before, n_new, x.device)[:, None, None]).unbind(0)
    scale = torch.addcmul(energy, mean, mean, value=-1).clamp(min=0).add(EPS).rsqrt()
    return mean.to(x.dtype), scale.to(x.dtype)


class Filter(nn.Module):
    """A depthwise convolution with its norm. Shape: (B, T, F, C) -> (B, ceil(T / s), ceil(F / s), C)."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = DepthwiseConv2d(channels, kernel, stride, bias)
        self.norm = CausalNorm(channels)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        return self.norm(self.conv(x, memory), memory)


class Injection(nn.Module):
    """Coarse features into fine ones: fine * gate(coarse) + content(coarse), each filtered.

    Shape: fine (B, T, F, C), coarse (B, T', F', C) -> (B, T, F, C).
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.fine, self.content, self.gate = (Filter(channels, kernel) for _ in range(3))

    def forward(self, fine: Tensor, coarse: Tensor, memory: Memory | None) -> Tensor:
        content, gate = self.content(coarse, memory), torch.sigmoid(self.gate(coarse, memory))
        if coarse.shape != fine.shape:
            content, gate = (as_map(F.interpolate(as_picture(x), fine.shape[1:3])) for x in (content, gate))
        return torch.addcmul(content, self.fine(fine, memory), gate)


class AudioBlock(nn.Module):
    """One round: compress, mix frequencies, frames and both at half resolution, bring what was found back up.

    Shape: (B, T, F, C) -> (B, T, F, C) with T even.
    """

    def __init__(self, c: SwiftNetConfig) -> None:
        super().__init__()
        hidden, per_group = c.hidden_channels, c.hidden_channels // c.rnn_groups
        self.gateway = Gateway(c.channels)
        self.project = nn.Linear(c.channels, hidden)
        self.norm = CausalNorm(hidden)
        self.act = nn.PReLU()
        self.scales = nn.ModuleList(Filter(hidden, c.kernel, stride, bias=True) for stride in (1, STRIDE))
        shared = (c.rnn_layers, c.rnn_window, c.rnn_groups)
        self.over_frequency = RecurrentPath(2, hidden, per_group // 2, *shared)
        self.over_time = RecurrentPath(1, hidden, per_group, *shared, causal=True)
        self.attention = TFAttention(hidden, c.n_heads, c.qk_channels, c.n_freqs, c.attention_span)
        self.injections = nn.ModuleList(Injection(hidden, c.kernel) for _ in range(2))
        self.ascent = nn.ModuleList(Injection(hidden, c.kernel) for _ in range(2))
        self.out = nn.Linear(hidden, c.channels)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        gated = self.gateway(x)
        fine = self.scales[0](self.act(self.norm(self.project(gated), memory)), memory)  # (B, T, F, C')
        coarse = self.scales[1](fine, memory)  # (B, T / 2, F', C')
        mixed = self.over_frequency(coarse + self._pool(fine, coarse, memory))
        forwards = Memory() if memory is None else memory  # the published code lets these two hear the past alone
        mixed = self.attention(self.over_time(mixed, forwards), forwards)
        up, down = (inject(x, mixed, memory) for inject, x in zip(self.injections, (fine, coarse), strict=True))
        return self.out(self.ascent[1](up, down, memory) + fine) + gated

    def _pool(self, fine: Tensor, coarse: Tensor, memory: Memory | None) -> Tensor:
        """Averages of two frames: of the first of a pair and the one before, or, as published, of each pair."""
        if memory is not None:
            fine = past_and_present(fine, 1, memory)[:, :-1]
        return as_map(F.adaptive_avg_pool2d(as_picture(fine), coarse.shape[1:3]))


class VideoBlock(nn.Module):
    """LightVid: recurrent units over the pictures so far. Shape: (B, F, C_v) -> (B, F, C_v)."""

    def __init__(self, channels: int, hidden: int, n_layers: int) -> None:
        super().__init__()
        self.gateway = Gateway(channels)
        self.project = nn.Linear(channels, hidden)
        self.norm = BatchNorm(hidden)
        self.act = nn.PReLU()
        self.rnn = SRU(hidden, hidden, n_layers, bidirectional=False)
        self.out = nn.Linear(hidden, channels)

    def forward(self, features: Tensor, memory: Memory | None) -> Tensor:
        gated = self.gateway(features)
        x = self.act(self.norm(self.project(gated)))  # (B, F, hidden)
        if memory is None:
            x = self.rnn(x.flatten(0, 1).unsqueeze(0))[0].view_as(x)
        else:
            x, carry = self.rnn(x.transpose(0, 1), memory.recall())
            memory.keep(carry)
            x = x.transpose(0, 1)
        return self.out(x) + gated


# --- The network -----------------------------------------------------------------------------------------------------


class SwiftNet(SeparationModel):
    """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""

    dead_parameters: ClassVar[tuple[str, ...]] = ("audio_block.over_time.spread.*", "audio_block.ascent.0.*")

    def __init__(self, config: SwiftNetConfig) -> None:
        c = config
        super().__init__(config, lip_recipe=c.lip_recipe)
        self.video_encoder = create_encoder(c.video_encoder, lip_size=c.lip_size, lip_recipe=c.lip_recipe)
        fits = self.video_encoder.feature_dim == c.video_channels
        self.video_projection = (
            nn.Identity() if fits else VideoProjection(self.video_encoder.feature_dim, c.video_channels)
        )
        self.video_block = VideoBlock(c.video_channels, c.video_hidden_channels, c.rnn_layers)
        self.modulation = Affine(c.video_channels)
        self.encoder = nn.Conv2d(3, c.channels, 3, bias=False)
        self.bottleneck_norm = CausalNorm(c.channels)
        self.bottleneck = nn.Linear(c.channels, c.channels)
        self.audio_block = AudioBlock(c)
        self.mask_act = nn.PReLU()
        self.mask = nn.Linear(c.channels, c.channels)
        self.decoder = nn.ConvTranspose2d(c.channels, 2, 3, bias=False)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        c = self.config
        self.check_inputs(mixture, lips, c.lip_size)
        spectrum = spectrogram(self.fit_length(mixture, max(c.n_fft, mixture.shape[1])), c.n_fft, c.hop)  # (B, T', F)
        n_frames = spectrum.shape[1]
        spectrum = F.pad(spectrum, (0, 0, 0, n_frames % STRIDE if c.causal else 0))  # whole pairs
        estimate = self._published(spectrum, lips) if not c.causal else self._causal(spectrum, lips)
        return waveform(estimate[:, :n_frames], c.n_fft, c.hop, mixture.shape[1]).unsqueeze(1)

    def _published(self, spectrum: Tensor, lips: Tensor) -> Tensor:
        cues = self.modulate(self.video_encoder(lips), None)
        estimate = self.separate(spectrum, stretch_to(cues, spectrum.shape[1]), None)
        return F.pad(estimate, (0, 0, 1, 0))

    def _causal(self, spectrum: Tensor, lips: Tensor) -> Tensor:
        late = self.video_encoder.lookahead_frames or 0
        features = F.pad(self.video_encoder(lips), (0, 0, late, 0))[:, : lips.shape[1]]  # (B, F, C)
        pictures = self.picture_of(torch.arange(spectrum.shape[1], device=lips.device))
        cues = self.modulate(features, Memory())[:, pictures.clamp(max=lips.shape[1] - 1)]
        return self.separate(spectrum, cues, Memory())

    def picture_of(self, frames: Tensor) -> Tensor:
        """Which picture is shown when the sound of a frame begins; the first for the first frame."""
        return ((frames - 1) // (SAMPLES_PER_FRAME // self.config.hop)).clamp(min=0)

    def modulate(self, features: Tensor, memory: Memory | None) -> Tensor:
        """What lips do to sound: features (B, F, C) -> gains and offsets (B, F, C_v)."""
        return self.modulation(self.video_block(self.video_projection(features), memory))

    def separate(self, spectrum: Tensor, cues: Tensor, memory: Memory | None) -> Tensor:
        """A spectrum's next frames, an even number: complex (B, T', F), cues (B, T', C_v) -> complex (B, T', F)."""
        forwards = Memory() if memory is None else memory  # the published code lets these convolutions hear the past
        magnitude = (spectrum.abs().square() + MAGNITUDE_EPS).sqrt()
        planes = torch.stack([spectrum.real, spectrum.imag, magnitude], dim=-1)  # (B, T', F, 3)
        picture = as_picture(past_and_present(planes, 2, forwards))
        encoded = as_map(F.conv2d(picture, self.encoder.weight, padding=(0, 1)))  # (B, T', F, C)
        first = self.bottleneck(F.relu(self.bottleneck_norm(encoded, memory)))
        gain, offset = cues.unsqueeze(2).chunk(2, dim=-1)  # (B, T', 1, C)
        audio = torch.addcmul(offset, self.audio_block(first, memory), gain)
        for _ in range(self.config.n_rounds - 1):
            audio = self.audio_block(audio + first, memory)
        masks = F.relu(self.mask(self.mask_act(audio)))
        picture = as_picture(past_and_present(complex_mask(masks, encoded), 2, forwards))
        estimate = as_map(F.conv_transpose2d(picture, self.decoder.weight, padding=(2, 1)))  # (B, T', F, 2)
        return torch.view_as_complex(estimate.contiguous())


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(SwiftNet)
def swiftnet_12() -> SwiftNetConfig:
    """The published model with 12 rounds."""
    return SwiftNetConfig()


@register_model(SwiftNet)
def swiftnet_6() -> SwiftNetConfig:
    """6 rounds, as in all of the released configurations."""
    return SwiftNetConfig(n_rounds=6)


# --- The authors' weights --------------------------------------------------------------------------------------------

_BLOCK: Rules = (
    *block_rules("conv", "norm", "act"),
    (r"rnn\.layers\.(\d+)\.carry_weight\.0", r"rnn.rnn_lst.\1.weight_c"),
    (r"rnn\.layers\.(\d+)\.(weight|bias)\.0", r"rnn.rnn_lst.\1.\2"),
)
_PATH: Rules = (
    (r"rnn\.layers\.(\d+)\.carry_weight\.0", r"rnn.rnn1.rnn_lst.\1.weight_c"),
    (r"rnn\.layers\.(\d+)\.(weight|bias)\.0", r"rnn.rnn1.rnn_lst.\1.\2"),
    (r"rnn\.layers\.(\d+)\.carry_weight\.1", r"rnn.rnn2.rnn_lst.\1.weight_c"),
    (r"rnn\.layers\.(\d+)\.(weight|bias)\.1", r"rnn.rnn2.rnn_lst.\1.\2"),
    *PATH,
)
_OUTSIDE: Rules = (
    (r"encoder", "encoder.conv.conv"),
    (r"bottleneck_norm", "audio_bottleneck.pre_norm"),
    (r"bottleneck\.", "audio_bottleneck.conv."),
    (r"modulation", "separator.caf.fusion_module.audio_lstm.param_gen"),
    (r"mask_act", "mask_generator.mask_generator.0"),
    (r"mask\.", "mask_generator.mask_generator.1.conv."),
    (r"decoder", "decoder.decoder"),
)
_NORMS: Rules = (
    (r"(.*)norm\.(weight|bias)$", r"\1norm.global_layer_norm.norm.\2"),
    (r"(.*)norm\.gain$", r"\1norm.cumulate_ln.gain"),
    (r"(.*)norm\.offset$", r"\1norm.cumulate_ln.bias"),
)


def separator_key(name: str) -> str | None:
    """The released key of one of SwiftNet's state-dict keys; None for the video encoder's."""
    head, _, rest = name.partition(".")
    if head == "video_encoder":
        return None
    if head == "video_block":
        return "separator.video_net." + renamed(rest, _BLOCK)
    if head != "audio_block":
        return renamed(renamed(name, _OUTSIDE), _NORMS)
    part, _, inner = rest.partition(".")
    for ours, theirs, rules in (
        ("over_frequency", "process_f", _PATH),
        ("over_time", "process_t", _PATH),
        ("attention", "process_att", ATTENTION),
    ):
        if part == ours:
            return f"separator.audio_net.{theirs}.{renamed(inner, rules)}"
    return "separator.audio_net." + injection_key(renamed(renamed(rest, _BLOCK), _NORMS))


def _as_published(_: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"causal": False, "attention_span": None}


for _name in ("swiftnet_6", "swiftnet_12"):
    register_released(
        _name,
        ReleasedFile("separator", separator_key, ignored=("*.scale_x",)),
        ReleasedFile("video encoder", within("video_encoder.", resnet18_3d.released_key), ignored=("tcn.*",)),
        settings=_as_published,
    )
