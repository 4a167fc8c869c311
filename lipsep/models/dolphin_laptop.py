"""Dolphins small enough for a laptop, ours: several faces at once, whose masks compete for the mixture.

The network is Dolphin's (`models.dolphin`, arXiv 2509.23610) at a size that trains on one processor core. What is added
here stands in no paper: each face is told what its rivals' lips make of the sound, the masks of all faces and of
a rest share out the mixture, and loud and quiet recordings are brought to one level first. docs/training.md has the
figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from lipsep.errors import ModelError
from lipsep.models.dolphin import Dolphin, DolphinConfig, OutputLayer
from lipsep.models.registry import register_model


@dataclass(frozen=True)
class DolphinLaptopConfig(DolphinConfig):
    """Dolphin's settings and ours."""

    n_src: int = 1  # faces at once; from 2 on they see each other's lips and their masks compete
    input_level: float | None = 0.1  # RMS to which mixtures are brought, and estimates back from it; None: as they are

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_src < 1 or (self.n_src > 1 and not self.masking):
            raise ModelError(
                f"n_src must be 1, or more with masking=True, since it is masks that compete; got {self.n_src}"
            )


class CompetingMasks(OutputLayer):
    """Masks that share out each coefficient of the mixture among the faces and a rest that is nobody's.

    Shape: x (B n_src, T, C), encoded (B, T, N) -> (B n_src, T, N).
    """

    def __init__(self, c_in: int, c_out: int, n_src: int) -> None:
        super().__init__(c_in, c_out, masking=True)
        self.rest = nn.Linear(c_in, c_out)
        self.n_src = n_src

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        claims = self.map(x).unflatten(0, (-1, self.n_src))  # (B, n_src, T, N)
        rest = self.rest(x.unflatten(0, (-1, self.n_src)).mean(1))  # (B, T, N)
        masks = torch.cat([claims, rest.unsqueeze(1)], 1).softmax(1)[:, :-1]
        return (masks * encoded.unsqueeze(1)).flatten(0, 1)


class Rivals(nn.Module):
    """Tells each face what its rivals' lips make of the sound, after the fusion with its own.

    Shape: (B n_src, T, C) -> (B n_src, T, C).
    """

    def __init__(self, channels: int, n_src: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.n_src = n_src

    def forward(self, x: Tensor) -> Tensor:
        faces = x.unflatten(0, (-1, self.n_src))  # (B, n_src, T, C)
        others = (faces.sum(1, keepdim=True) - faces) / (self.n_src - 1)
        return x + self.linear(others).flatten(0, 1)


class DolphinLaptop(Dolphin):
    """Mixture and lips to voices: one person's, or with `n_src` from 2 on those of so many people at once."""

    takes_empty_places: ClassVar[bool] = True  # see `hidden` in recipes/laptop/dolphin_laptop_together.yaml

    def __init__(self, config: DolphinLaptopConfig) -> None:
        super().__init__(config)
        c = config
        self.faces_at_once = c.n_src > 1
        self.rivals = Rivals(c.channels, c.n_src) if self.faces_at_once else nn.Identity()
        if self.faces_at_once:
            self.output_layer = CompetingMasks(c.channels, c.audio_channels, c.n_src)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S), or (B, n_src, F, S, S) where n_src > 1 -> (B, n_src, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        n_src = self.config.n_src
        video = self.watch(lips.flatten(0, 1) if self.faces_at_once else lips)  # (B n_src, F, C_v)
        level = self._level(mixture)  # (B, 1)
        shortest = max(self.config.audio_kernel, mixture.shape[1])
        encoded = self.audio_encoder(self.fit_length(mixture / level, shortest))  # (B, T', N)
        audio = self.audio_projection(encoded)  # (B, T', C)
        audio = audio.repeat_interleave(n_src, 0) if self.faces_at_once else audio  # (B n_src, T', C)
        audio = self.separator(audio, partial(self._fuse, video=video))
        estimates = self.audio_decoder(self.output_layer(audio, encoded))  # (B n_src, n)
        return level.unsqueeze(1) * self.fit_length(estimates, mixture.shape[1]).unflatten(0, (-1, n_src))

    def _fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        return self.rivals(self.av_fusion(audio, video))

    def _level(self, mixture: Tensor) -> Tensor:
        """What `input_level` divides by: 1 at that level, so that loud and quiet recordings are separated alike."""
        if self.config.input_level is None:
            return mixture.new_ones(1, 1)
        return mixture.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-5) / self.config.input_level


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(DolphinLaptop)
def dolphin_laptop() -> DolphinLaptopConfig:
    """A size that trains on one CPU core and runs far faster than real time on it: windows of 16 ms instead of 1 ms,
    two stages of one GLA block per layer, a mask instead of direct mapping, and for lips the mouth's landmarks."""
    return DolphinLaptopConfig(
        audio_channels=384, audio_kernel=256, audio_stride=128, channels=96, n_stages=2, n_heads=4, encoder_blocks=1,
        decoder_blocks=1, layer_scale_init=0.1, dropout=0.0, visual_dropout=0.0, masking=True,
        video_encoder="mouth_points", lip_size=8, lip_recipe="points_8", visual_channels=96, as_published=False,
    )  # fmt: skip


@register_model(DolphinLaptop)
def dolphin_laptop_pixels() -> DolphinLaptopConfig:
    """`dolphin_laptop` with a light lip reader on the field's mouth crops."""
    return replace(dolphin_laptop(), video_encoder="mouth_pixels", lip_size=88, lip_recipe="mouth_88")


@register_model(DolphinLaptop)
def dolphin_laptop_together() -> DolphinLaptopConfig:
    """`dolphin_laptop` for strangers: two faces at once, of which it sees how far the lips are open."""
    return replace(dolphin_laptop(), n_src=2, video_encoder="mouth_opening")


@register_model(DolphinLaptop)
def dolphin_laptop_together_test() -> DolphinLaptopConfig:
    """`dolphin_laptop_together`, tiny, for tests."""
    return replace(
        dolphin_laptop_together(), audio_channels=32, channels=32, n_heads=2, visual_channels=32, large_kernel=9
    )
