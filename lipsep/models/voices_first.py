"""Voices first: one network takes voices apart by their sound, another follows lips; together they are better. Ours.

The sound is separated without lips, into up to three voices and a rest, by a dual-path network in the time-frequency
domain: bands of the spectrum as in BSRNN (Luo and Yu 2023, arXiv 2209.15174), paths over frequency and over time in
turn as in DPRNN (Luo, Chen and Yoshioka 2020, arXiv 1910.06379), of simple recurrent units (Lei et al. 2018), which are
mostly matrix products. The follower, a small Dolphin (`dolphin_laptop_together`), estimates each visible person's voice
from lips and sound: coarsely, but it knows whose voice it is. Each face gets the voice that is nearest to its estimate
and loud when its lips are open, no voice twice, or none where silence is nearer; of several in proportion where it is
not sure. What is heard is a mean of the two. Their errors differ, so the mean is better than either. To separate first
and assign afterwards is how leading entries to audio-visual challenges on real recordings work; blocks, sizes and the
mean are our own. No paper's figures are to be met; MODELS.md says what the shipped weights reach.

Lips may be late or early by a few pictures. Voices that are apart tell: each is loud when its own lips are open, at the
true lag more than at another. The follower watches the lips at the likeliest of a few lags.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import ModelError
from lipsep.kernels.rms_norm import rms_norm
from lipsep.kernels.spectrogram import analyse_spectrum, multiply_spectra, synthesise_spectrum
from lipsep.layers.sru import SRULayer
from lipsep.models.base import SeparationModel
from lipsep.models.registry import create_model, register_model


@dataclass(frozen=True)
class VoicesFirstConfig:
    """Sizes of the network."""

    n_fft: int = 512  # samples, 32 ms
    hop: int = 256  # samples, 16 ms
    # bins of each band, from 0 Hz on: 31 bands
    bands: tuple[int, ...] = (2,) * 8 + (3,) * 6 + (6,) * 6 + (10,) * 4 + (20,) * 4 + (22, 22, 23)
    channels: int = 96
    n_blocks: int = 6  # of a path over frequency and one over time each
    n_voices: int = 3  # that are taken apart; beside them there is a rest
    follower: str = "dolphin_laptop_together"  # the registered network that follows the lips
    lip_size: int = 8  # pixels, as the follower wants them

    def __post_init__(self) -> None:
        if sum(self.bands) != self.n_fft // 2 + 1 or self.n_fft % self.hop or self.channels % 2:
            raise ModelError(
                f"bands must hold n_fft / 2 + 1 = {self.n_fft // 2 + 1} bins, n_fft be a multiple of hop, "
                "and channels even; "
                f"got {sum(self.bands)}, {self.n_fft} by {self.hop}, {self.channels}"
            )
        if self.n_voices < 1:
            raise ModelError(f"n_voices must be at least 1; got {self.n_voices}")


# --- Separation by sound ---------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """x over its root mean square over channels, times a gain. Shape: (..., C) -> (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, eps=1e-5)


class BandLinear(nn.Module):
    """A linear map of its own for every band. Shape: (T, B, K, C_in) -> (T, B, K, C_out)."""

    def __init__(self, n_bands: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_bands, c_in, c_out) / math.sqrt(c_in))
        self.bias = nn.Parameter(torch.zeros(n_bands, 1, c_out))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1).transpose(0, 1)  # (K, T B, C_in)
        return torch.baddbmm(self.bias, rows, self.weight).transpose(0, 1).unflatten(0, x.shape[:2])


class BandSplit(nn.Module):
    """Cuts a spectrum into bands, each filled up to the widest, and joins them again.

    Shape: split (T, B, bins, P) -> (T, B, K, W P); join (T, B, K, W, P) -> (T, B, bins, P).
    """

    def __init__(self, bands: tuple[int, ...]) -> None:
        super().__init__()
        self.n_bands, self.width = len(bands), max(bands)
        n_bins, place = sum(bands), torch.arange(self.width)
        first = torch.tensor([0, *itertools.accumulate(bands)][:-1])
        widths = torch.tensor(bands)[:, None]
        bins = torch.where(place < widths, first[:, None] + place, n_bins)  # (K, W); n_bins: nothing
        self.register_buffer("bins", bins.flatten(), persistent=False)
        places = [k * self.width + bin_ for k, n in enumerate(bands) for bin_ in range(n)]
        self.register_buffer("places", torch.tensor(places), persistent=False)  # (bins,)

    def split(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 1)).index_select(2, self.bins).unflatten(2, (self.n_bands, self.width)).flatten(3)

    def join(self, x: Tensor) -> Tensor:
        return x.flatten(2, 3).index_select(2, self.places)


class RecurrentPath(nn.Module):
    """Norm, simple recurrent units both ways along one axis, a linear map; added to the input.

    Shape: (T, B, K, C) -> (T, B, K, C).

    Args:
        axis: 0 for time, 2 for the bands.
    """

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.norm = RMSNorm(channels)
        self.rnn = SRULayer(channels, channels // 2, bidirectional=True)
        self.linear = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        lines = self.norm(x).movedim(self.axis, 0)  # (L, ..., C)
        y = self.rnn(lines.flatten(1, 2))[0].view(lines.shape)
        return x + self.linear(y.movedim(0, self.axis))


class DualPathBlock(nn.Module):
    """A path over the bands of each frame, then one over the frames of each band.

    Shape: (T, B, K, C) -> (T, B, K, C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.over_bands = RecurrentPath(channels, axis=2)
        self.over_time = RecurrentPath(channels, axis=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.over_time(self.over_bands(x))


class VoiceMasks(nn.Module):
    """Complex masks of the voices and of a rest, which add up to one everywhere.

    Shape: (T, B, K, C) -> pairs (B, n_voices + 1, 2, bins, T).
    """

    def __init__(self, channels: int, split: BandSplit, n_masks: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.hidden = BandLinear(split.n_bands, channels, 2 * channels)
        self.output = BandLinear(split.n_bands, channels, 2 * n_masks * split.width)
        self.split, self.n_masks = split, n_masks

    def forward(self, x: Tensor) -> Tensor:
        split = self.split
        values = self.output(F.glu(self.hidden(self.norm(x)), -1))
        values = split.join(values.unflatten(-1, (split.width, -1))).unflatten(-1, (self.n_masks, 2)).float()
        excess = values.sum(3, keepdim=True) - values.new_tensor([1.0, 0.0])  # (T, B, bins, 1, 2)
        return (values - excess / self.n_masks).permute(1, 3, 4, 2, 0)  # (B, n, 2, bins, T)


class VoiceSeparator(nn.Module):
    """Up to `n_voices` voices and a rest, in no particular order but that the rest is last; they add up to the mixture.

    Shape: mixture (B, T) -> (B, n_voices + 1, T).
    """

    def __init__(self, config: VoicesFirstConfig) -> None:
        super().__init__()
        self.config = config
        self.split = BandSplit(config.bands)
        self.input = BandLinear(self.split.n_bands, 3 * self.split.width, config.channels)
        self.blocks = nn.Sequential(*(DualPathBlock(config.channels) for _ in range(config.n_blocks)))
        self.masks = VoiceMasks(config.channels, self.split, config.n_voices + 1)
        self.register_buffer("window", torch.hann_window(config.n_fft).sqrt(), persistent=False)

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum, level = self.analyse(mixture)
        return self.waveforms(self.masks(self.hidden(spectrum)), spectrum, level, mixture.shape[1])

    def analyse(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum of the mixture brought to a level of 1, (B, 2, bins, T'), and the level that it had, (B, 1)."""
        level = mixture.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-5)  # RMS
        return self._transform(mixture / level), level

    def hidden(self, spectrum: Tensor) -> Tensor:
        """What the masks are made of: (B, 2, bins, T') -> (T', B, K, C)."""
        return self.blocks(self._features(spectrum))

    def band_powers(self, sound: Tensor) -> Tensor:
        """Power of each band and frame: (B, T) -> (B, T', K)."""
        bins = self._transform(sound).square().sum(1)  # (B, bins, T')
        values = self.split.split(bins.permute(2, 0, 1).unsqueeze(-1))  # (T', B, K, W)
        return values.sum(-1).transpose(0, 1)

    def loudness(self, voices: Tensor, mixture: Tensor, n_frames: int) -> Tensor:
        """Logarithm of the power where lips tell most, its floor 30 dB below the mixture: (B, V, T) -> (B, V, F)."""
        low, high = (round(hz * self.config.n_fft / SAMPLE_RATE) for hz in SPEECH_HZ)
        heard = torch.cat([voices, mixture.unsqueeze(1)], 1).flatten(0, 1)
        power = self._transform(heard)[:, :, low:high].square().sum((1, 2))  # (B (V + 1), T')
        power = F.avg_pool1d(power.unsqueeze(1), 3, 1, 1, count_include_pad=False)  # 2.5 spectra a picture
        power = F.interpolate(power, n_frames, mode="linear").squeeze(1).unflatten(0, (-1, voices.shape[1] + 1))
        floor = 1e-3 * power[:, -1:].mean(-1, keepdim=True) + 1e-12
        return (power[:, :-1] + floor).log()

    def waveforms(self, masks: Tensor, spectrum: Tensor, level: Tensor, n_samples: int) -> Tensor:
        """(B, n, 2, bins, T'), (B, 2, bins, T'), (B, 1) -> (B, n, n_samples)"""
        c, n = self.config, masks.shape[1]
        spectra = multiply_spectra(masks.flatten(0, 1), spectrum.repeat_interleave(n, 0)) * math.sqrt(c.n_fft / 2)
        sound = synthesise_spectrum(spectra, self.window, c.n_fft, c.hop, n_samples)  # (B n, n_samples)
        return sound.unflatten(0, (-1, n)) * level.unsqueeze(1)

    def _transform(self, sound: Tensor) -> Tensor:
        """(B, n) -> (B, 2, bins, T')"""
        c = self.config
        whole = F.pad(sound, (0, max(-sound.shape[1] % c.hop, c.n_fft - sound.shape[1])))
        return analyse_spectrum(whole, self.window, c.n_fft, c.hop) / math.sqrt(c.n_fft / 2)

    def _features(self, spectrum: Tensor) -> Tensor:
        """Square roots of the magnitudes, with and without their phases: (B, 2, bins, T') -> (T', B, K, C)."""
        magnitude = spectrum.square().sum(1, keepdim=True).sqrt().clamp(min=1e-4)
        values = torch.cat([spectrum, magnitude], 1) * magnitude.rsqrt()  # (B, 3, bins, T')
        return self.input(self.split.split(values.permute(3, 0, 2, 1)))


# --- Whose voice is it -----------------------------------------------------------------------------------------------


def assignments(n_faces: int, n_voices: int) -> Tensor:
    """All ways to give each face one voice or none, no voice twice; of a face's row the last entry is none.

    0 or 1, (A, n_faces, n_voices + 1).
    """
    ways = itertools.product(range(n_voices + 1), repeat=n_faces)  # n_voices: none
    apart = [way for way in ways if all(way.count(voice) < 2 for voice in range(n_voices))]
    return F.one_hot(torch.tensor(apart), n_voices + 1).float()


def squared_errors(estimates: Tensor, voices: Tensor, choices: Tensor) -> Tensor:
    """Between the estimates and what each assignment gives them.

    Shape: estimates (B, n, T), voices (B, V, T), choices (A, n, V + 1) -> (B, A).
    """
    candidates = torch.cat([voices, torch.zeros_like(voices[:, :1])], 1)  # (B, V + 1, T)
    error = (
        estimates.square().sum(-1).unsqueeze(2)
        + candidates.square().sum(-1).unsqueeze(1)
        - 2 * estimates @ candidates.mT
    )  # (B, n, V + 1)
    return torch.einsum("bnv,anv->ba", error, choices)


# --- When did the lips move ------------------------------------------------------------------------------------------

LAGS = ((-5, -4, -3, -2), (-1, 0, 1), (2, 3, 4, 5))
"""Pictures (40 ms) that lips may be late by: of each group the likeliest is tried."""
SPEECH_HZ = (300, 5000)  # louder with open lips
SLOW_FRAMES = 51  # 2 s: what changes more slowly tells nothing of a lag
UNLIKELY_S = 0.09  # over the seconds seen: how much better each picture of a lag must make the agreement,
RARE = 0.35  # and over their root: by how much more a lag of two pictures and more must
UNSURE = 0.16  # squared error, per power of the mixture, between assignments that are almost equally likely
AGREEING = 2.0  # per second: by what an assignment that agrees better by 1 is likelier, as a logarithm
CLEAR = 3.0  # what a clear choice of voices, per power of the mixture, weighs against agreement


def without_slow_changes(curves: Tensor) -> Tensor:
    """Curves less their mean over 2 s around. Shape: (B, n, F) -> (B, n, F)."""
    around = F.pad(curves, (SLOW_FRAMES // 2, SLOW_FRAMES // 2), mode="replicate")
    return curves - F.avg_pool1d(around, SLOW_FRAMES, 1)


def agreement(openings: Tensor, loudness: Tensor, lag: int) -> Tensor:
    """Correlation of each mouth's opening, `lag` pictures late, with each voice's loudness.

    Shape: (B, n, F), (B, V, F) -> (B, n, V), -1 to 1.
    """
    n_frames = openings.shape[-1]
    seen = openings[..., max(lag, 0) : n_frames + min(lag, 0)]
    heard = loudness[..., max(-lag, 0) : n_frames - max(lag, 0)]
    seen, heard = (curves - curves.mean(-1, keepdim=True) for curves in (seen, heard))
    return F.normalize(seen, dim=-1, eps=1e-6) @ F.normalize(heard, dim=-1, eps=1e-6).mT


def shown_later(lips: Tensor, lag: Tensor) -> Tensor:
    """Lips as they would be without their lag; the first or the last picture stands still at the end.

    Shape: lips (B, n, F, S, S), lag (B,) in pictures -> (B, n, F, S, S).
    """
    n_frames = lips.shape[2]
    frames = (torch.arange(n_frames, device=lips.device) + lag.unsqueeze(1)).clamp(0, n_frames - 1)  # (B, F)
    rows = torch.arange(lips.shape[0], device=lips.device).unsqueeze(1)  # (B, 1)
    return lips.transpose(1, 2)[rows, frames].transpose(1, 2)


SEPARATED = 0.85
"""Share of the separated voice in what is heard; the rest is what was followed. Chosen with the shipped weights."""


# --- The whole -------------------------------------------------------------------------------------------------------


class VoicesFirst(SeparationModel):
    """Mixture and lips of some people to their voices; what is nobody's is in none of them."""

    faces_at_once: ClassVar[bool] = True
    takes_empty_places: ClassVar[bool] = True  # as the follower does

    def __init__(self, config: VoicesFirstConfig) -> None:
        follower = create_model(config.follower)
        super().__init__(config, lip_recipe=follower.lip_recipe, keeps_level=True)
        self.separator = VoiceSeparator(config)
        self.follower = follower
        choices = assignments(self.n_faces, config.n_voices)
        self.register_buffer("choices", choices, persistent=False)  # (A, n, V + 1)

    @property
    def n_faces(self) -> int:
        """Faces that go through the network together: the follower's."""
        return self.follower.n_faces

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, n, F, S, S) -> (B, n, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        voices = self.separator(mixture)[:, :-1]  # (B, V, T)
        followed, chosen = self._teach(mixture, lips, voices) if self.training else self._follow(mixture, lips, voices)
        own = chosen[..., :-1] @ voices + chosen[..., -1:] * followed  # who is given none keeps what was followed
        return torch.lerp(followed, own, SEPARATED)

    def _teach(self, mixture: Tensor, lips: Tensor, voices: Tensor) -> tuple[Tensor, Tensor]:
        """As `_follow`, of lips in time; everybody is given a voice, so that both networks learn."""
        followed = self.follower(mixture, lips)
        without = self.choices[..., -1].sum(1)  # (A,): faces that are given none
        error = squared_errors(followed.detach(), voices.detach(), self.choices[without == without.min()])
        return followed, self.choices[without == without.min()][error.argmin(1)]

    def _follow(self, mixture: Tensor, lips: Tensor, voices: Tensor) -> tuple[Tensor, Tensor]:
        """What the follower hears, lips at their likeliest lag, (B, n, T); shares of the voices, (B, n, V + 1)."""
        lags, score, agreeing = self._likely_lags(mixture, lips, voices)  # (B, G), (B, G), (B, G, A)
        n_lags, batch = lags.shape[1], mixture.shape[0]
        tried = torch.cat([shown_later(lips, lag) for lag in lags.unbind(1)])  # (G B, n, F, S, S)
        followed = self.follower(mixture.repeat(n_lags, 1), tried).unflatten(0, (n_lags, batch)).transpose(0, 1)
        power = mixture.square().sum(-1).clamp(min=1e-8)[:, None, None]
        errors = torch.stack([squared_errors(each, voices, self.choices) for each in followed.unbind(1)], 1) / power
        best, second = errors.topk(2, dim=2, largest=False).values.unbind(2)  # (B, G)
        likeliest = (score + CLEAR * (second - best)).argmax(1)  # (B,)
        rows = torch.arange(batch, device=mixture.device)
        evidence = AGREEING * lips.shape[2] / FPS * agreeing - errors / UNSURE  # (B, G, A)
        sure = evidence[rows, likeliest].softmax(1)  # (B, A)
        return followed[rows, likeliest], torch.einsum("ba,anv->bnv", sure, self.choices)

    def _likely_lags(self, mixture: Tensor, lips: Tensor, voices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest lag of each group of LAGS, in pictures, how likely it is, and how well each assignment agrees
        with the lips then: (B, G), (B, G), (B, G, A)."""
        openings = self.follower.video_encoder.values(lips.flatten(0, 1))[..., 0].unflatten(0, lips.shape[:2])
        openings = without_slow_changes(openings)  # (B, n, F)
        loudness = without_slow_changes(self.separator.loudness(voices, mixture, lips.shape[2]))  # (B, V, F)
        seconds = lips.shape[2] / FPS
        rows = torch.arange(lips.shape[0], device=lips.device)
        lags, best, agreeing = [], [], []
        for group in LAGS:
            fits = torch.stack([agreement(openings, loudness, lag) for lag in group], 1)  # (B, lags, n, V)
            fits = torch.einsum("blnv,anv->bla", fits, self.choices[..., :-1])  # no voice, no agreement
            tried = torch.tensor(group, device=lips.device)
            score, place = (fits.amax(2) - UNLIKELY_S / seconds * tried.abs()).max(1)  # (B,)
            best.append(score if 0 in group else score - RARE / seconds**0.5)
            lags.append(tried[place])
            agreeing.append(fits[rows, place])
        return torch.stack(lags, 1), torch.stack(best, 1), torch.stack(agreeing, 1)

    def video_parts(self) -> tuple[nn.Module, ...]:
        """What the follower watches with."""
        return self.follower.video_parts()


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(VoicesFirst)
def voices_first() -> VoicesFirstConfig:
    """The size of the default weights."""
    return VoicesFirstConfig()


@register_model(VoicesFirst)
def voices_first_test() -> VoicesFirstConfig:
    """Everything it has, tiny, for tests."""
    return VoicesFirstConfig(
        n_fft=64, hop=32, bands=(1, 2, 2, 4, 8, 16), channels=8, n_blocks=1, follower="dolphin_laptop_together_test"
    )
