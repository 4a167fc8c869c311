"""AVLIT: audio-visual separation by A-FRCNN blocks that are used again and again.

Hector Martel, Julius Richter, Kai Li, Xiaolin Hu and Timo Gerkmann, "Audio-Visual Speech Separation in Noisy
Environments with a Lightweight Iterative Model", Interspeech 2023, arXiv 2306.00160. Checked against golden outputs of
the published code (hmartelb/avlit) with one and with two voices.

In the papers, AVLIT-8 for one voice: 5,548,486 parameters (Dolphin's table 4: 5.57 M), 17.55 G MACs for 1 s by
the count of the papers; LRS2-2Mix 12.8 dB SI-SNRi. Coarse maps are mapped before they are stretched here, which gives
the same output for fewer operations (see layers/afrcnn.py).

Two settings of AVLIT-8 are published: its configs/avlit_8.yaml has the video join before the first audio pass
(`fusion_pass` 0, the default here and in the golden tensors), its constructor's defaults, which its README calls
AVLIT-8, before the fifth (`fusion_pass` 4). Weights do not tell which they were trained with, and load into either; so
released ones are asked for as `avlit_8_fusion_0` or `avlit_8_fusion_4`.

The variants differ in the number of passes: audio 8, 4, 2 with video 4, 2, 1. The published code separates `n_src`
voices at once; with one, as in Dolphin's comparison, it takes any number of people one by one. Two quirks of the code
are kept where `as_published` is set: its autoencoder gives 2,048 numbers per frame where the video branch expects
1,024, which it reads as 1,024 features for twice as many frames, contents mixed; and some parts are never used (the
autoencoder's decoder while separating, the video branch's `fusion`).

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import autoencoder, encoder_for
from lipsep.errors import ModelError
from lipsep.kernels.stretching import stretch_to
from lipsep.layers.afrcnn import AFRCNN, Adapt, released_afrcnn_key, released_global_norm_key
from lipsep.layers.channels_last import GlobalNorm
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.masks import ReLUMasks
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, refuse_released, register_released


@dataclass(frozen=True)
class AVLITConfig:
    """Sizes of an AVLIT. Defaults are the published AVLIT-8 for one voice."""

    n_src: int = 1  # voices at once, one picture stream for each
    audio_channels: int = 512  # filters of the encoder and decoder
    kernel: int = 40  # samples; the stride is half of it
    channels: int = 128  # between the blocks, both branches
    audio_hidden: int = 512  # inside the audio block
    audio_passes: int = 8
    fusion_pass: int = 0  # the video joins the audio before this pass, counted from 0
    video_hidden: int = 128  # inside the video block
    video_passes: int = 4
    n_scales: int = 5  # time resolutions in either block
    video_encoder: str = "autoencoder"  # a registered video encoder
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise
    as_published: bool = True  # keep the two quirks of the published code (see the module docstring)

    def __post_init__(self) -> None:
        if not 0 <= self.fusion_pass < self.audio_passes:
            raise ModelError(
                f"fusion_pass must be 0 to {self.audio_passes - 1}, less than audio_passes; got {self.fusion_pass}"
            )
        if min(self.n_src, self.audio_passes, self.video_passes, self.n_scales - 1) < 1 or self.kernel % 2:
            raise ModelError(
                "n_src, audio_passes and video_passes must be at least 1, n_scales at least 2, kernel even; got "
                f"{self.n_src}, {self.audio_passes}, {self.video_passes}, {self.n_scales}, {self.kernel}"
            )


RELEASED_FEATURES = 1024
"""What the published code believes that its autoencoder gives per frame and voice."""


class Branch(nn.Module):
    """One A-FRCNN block with a residual, used several times: R_0 = A(x), R_i = A(adapt(R_{i-1} + x)).

    Where another branch's output is given, it joins before pass `fusion_pass`: its input p becomes fusion(p + other).

    Shape: x (B, T, C), other (B, T, C) or None -> (B, T, C).
    """

    def __init__(
        self, channels: int, hidden: int, n_scales: int, n_passes: int, fuses: bool, fusion_pass: int = 0
    ) -> None:
        super().__init__()
        self.block = AFRCNN(channels, hidden, channels, n_scales)
        self.adapt = Adapt(channels)
        self.fusion = Adapt(channels) if fuses else None
        self.n_passes, self.fusion_pass = n_passes, fusion_pass

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        state = x
        for index in range(self.n_passes):
            state = self.adapt(state + x) if index else state
            if other is not None and index == self.fusion_pass:
                state = self.fusion(state + other)
            state = state + self.block(state)
        return state


class AVLIT(SeparationModel):
    """Mixture and lips to voices: one person's, or `n_src` people's at once.

    References: arXiv 2306.00160; code https://github.com/hmartelb/avlit (MIT).
    """

    def __init__(self, config: AVLITConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c = config
        self.faces_at_once = c.n_src > 1
        published = c.as_published and video_encoder.feature_dim % RELEASED_FEATURES == 0
        self.n_features = RELEASED_FEATURES if published else video_encoder.feature_dim
        self.video_encoder = video_encoder
        self.video_bottleneck = nn.Linear(c.n_src * self.n_features, c.channels)
        self.video_branch = Branch(c.channels, c.video_hidden, c.n_scales, c.video_passes, fuses=c.as_published)
        self.audio_encoder = FilterbankEncoder(c.audio_channels, c.kernel, c.kernel // 2, c.kernel // 2)
        self.audio_norm = GlobalNorm(c.audio_channels, eps=1e-8)
        self.audio_bottleneck = nn.Linear(c.audio_channels, c.channels)
        self.audio_branch = Branch(c.channels, c.audio_hidden, c.n_scales, c.audio_passes, True, c.fusion_pass)
        self.masks = ReLUMasks(c.channels, c.audio_channels, c.n_src)
        self.audio_decoder = FilterbankDecoder(
            c.audio_channels, c.kernel, c.kernel // 2, c.kernel // 2, more=c.kernel // 2 - 1
        )
        for bank in (self.audio_encoder, self.audio_decoder):
            nn.init.xavier_uniform_(bank.weight)
        self.dead_parameters = ("video_encoder.decoder.*", "video_branch.fusion.*") if c.as_published else ()

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S), or (B, n_src, F, S, S) where n_src > 1 -> (B, n_src, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        multiple = math.lcm(self.config.kernel // 2, 2**self.config.n_scales)
        encoded = self.audio_encoder(F.pad(mixture, (0, -mixture.shape[1] % multiple)))  # (B, T', N)
        video = self.video_branch(self._video(lips))  # (B, F', C)
        audio = self.audio_bottleneck(self.audio_norm(encoded))  # (B, T', C)
        features = self.audio_branch(audio, stretch_to(video, audio.shape[1]))  # (B, T', C)
        estimates = self.audio_decoder(self.masks(features, encoded))  # (B, n_src, n)
        return self.fit_length(estimates, mixture.shape[1])

    def _video(self, lips: Tensor) -> Tensor:
        """All voices' features side by side: (B[, n_src], F, S, S) -> (B, F', C)."""
        faces = lips if self.faces_at_once else lips.unsqueeze(1)
        features = self.video_encoder(faces.flatten(0, 1)).mT  # (B * n_src, dim, F)
        features = features.reshape(len(lips), self.config.n_src * self.n_features, -1)  # mixes where dim is a multiple
        return self.video_bottleneck(features.mT)


# --- Released weights ------------------------------------------------------------------------------------------------


def released_key(name: str) -> str:
    """The released key of one of our state-dict keys."""
    part, _, rest = name.partition(".")
    if part == "video_encoder":
        return f"{part}.{autoencoder.released_key(rest)}"
    if part in ("audio_branch", "video_branch"):
        layer, _, rest = rest.partition(".")
        if layer == "block":
            return f"{part}.afrcnn_block.{released_global_norm_key(released_afrcnn_key(rest))}"
        return f"{part}.{'adapt_audio' if layer == 'adapt' else 'adapt_fusion'}.{rest}"
    if part == "masks":
        return re.sub(r"^act", "mask_net.0", re.sub(r"^linear", "mask_net.1", rest))
    return released_global_norm_key(name)


def _released_settings(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Their mask network tells for how many voices the weights are."""
    rows = [tensor.shape[0] for key, tensor in state.items() if key.endswith("mask_net.1.weight")]
    return {"n_src": rows[0] // AVLITConfig.audio_channels} if rows else {}


def _fused_at(fusion_pass: int) -> Callable[[Mapping[str, Tensor]], dict[str, int]]:
    return lambda state: {**_released_settings(state), "fusion_pass": fusion_pass}


WEIGHTS = ReleasedFile("weights", released_key)
for _name in ("avlit_4", "avlit_2"):
    register_released(_name, WEIGHTS, settings=_released_settings)
for _pass in (0, 4):
    register_released(f"avlit_8_fusion_{_pass}", WEIGHTS, settings=_fused_at(_pass), model="avlit_8")
refuse_released(
    "avlit_8",
    "weights of AVLIT-8 fit two networks and do not say which: ask for 'avlit_8_fusion_0' if they were trained by "
    "configs/avlit_8.yaml (the video joins before the first pass), for 'avlit_8_fusion_4' if by the defaults of the "
    "authors' constructor, as in their README (before the fifth)",
)


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(AVLIT)
def avlit_8() -> AVLITConfig:
    """The published model that the papers compare with."""
    return AVLITConfig()


@register_model(AVLIT)
def avlit_4() -> AVLITConfig:
    """Half as many passes."""
    return AVLITConfig(audio_passes=4, video_passes=2)


@register_model(AVLIT)
def avlit_2() -> AVLITConfig:
    """A quarter as many passes."""
    return AVLITConfig(audio_passes=2, video_passes=1)


@register_model(AVLIT)
def avlit_test() -> AVLITConfig:
    """Two voices at once, tiny, for tests."""
    return AVLITConfig(
        n_src=2, audio_channels=16, channels=8, audio_hidden=16, audio_passes=2, video_hidden=8, video_passes=2,
        n_scales=3, lip_size=32, lip_recipe="mesh_32", as_published=False,
    )  # fmt: skip
