"""Voices first: a network that takes voices apart by their sound, and lips that choose among them. Ours, for laptops.

The sound is separated blindly, into up to three voices and a rest, by a dual-path network in the time-frequency domain:
bands of the spectrum as in BSRNN (Luo and Yu 2023, "Music Source Separation with Band-Split RNN", arXiv 2209.15174),
paths over frequency and over time in turn as in DPRNN (Luo, Chen and Yoshioka 2020, arXiv 1910.06379), of simple
recurrent units (Lei et al. 2018), which are mostly matrix products. Then every pair of a face and a voice gets a score:
how much better than chance the opening of the lips goes with the voice's spectrum, summed over the window. What is
heard for a face is the voice that it gets in the likeliest assignment of voices to faces. To separate first and assign
afterwards is how leading entries to audio-visual challenges on real recordings work; blocks, sizes and the scores are
our own. No paper's figures are to be met; what the shipped weights reach stands in MODELS.md.

The mixture goes through the network once, however many faces there are: a face costs a few convolutions over 25 steps a
second. Lips that are late, hidden or wrong cannot spoil a voice: they can only choose another one, or none.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import create_encoder
from lipsep.encoders.mouth_points import DILATIONS, DilatedBlock
from lipsep.errors import ModelError
from lipsep.layers.sru import SRULayer
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model


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
    n_src: int = 2  # faces at once
    score_channels: int = 128  # of the networks that compare lips with voices
    score_dim: int = 64  # of the space in which they are compared
    max_lag: int = 4  # frames by which lips may be early or late
    video_encoder: str = "mouth_opening"
    lip_size: int = 8  # pixels
    lip_recipe: str = "points_8"  # how lip pictures are made (`lipsep.lips.reading`)

    def __post_init__(self) -> None:
        if sum(self.bands) != self.n_fft // 2 + 1 or self.n_fft % self.hop or self.channels % 2:
            raise ModelError(
                f"bands must hold n_fft / 2 + 1 = {self.n_fft // 2 + 1} bins, n_fft be a multiple of hop, "
                "and channels even; "
                f"got {sum(self.bands)}, {self.n_fft} by {self.hop}, {self.channels}"
            )
        if min(self.n_src, self.n_voices) < 1:
            raise ModelError(f"n_src and n_voices must be at least 1; got {self.n_src} and {self.n_voices}")


# --- Separation by sound ---------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """x over its root mean square over channels, times a gain. Shape: (..., C) -> (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


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
    """Norm, simple recurrent units both ways, a linear map; added to the input. Shape: (L, N, C) -> (L, N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.rnn = SRULayer(channels, channels // 2, bidirectional=True)
        self.linear = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.rnn.in_time(self.rnn(self.norm(x))[0]))


class DualPathBlock(nn.Module):
    """A path over the bands of each frame, then one over the frames of each band.

    Shape: (T, B, K, C) -> (T, B, K, C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.over_bands = RecurrentPath(channels)
        self.over_time = RecurrentPath(channels)

    def forward(self, x: Tensor) -> Tensor:
        n_frames, _, n_bands, _ = x.shape
        y = self.over_bands(x.flatten(0, 1).transpose(0, 1))  # (K, T B, C)
        y = y.transpose(0, 1).unflatten(0, (n_frames, -1))  # (T, B, K, C)
        return self.over_time(y.flatten(1, 2)).unflatten(1, (-1, n_bands))


class VoiceMasks(nn.Module):
    """Complex masks of the voices and of a rest, which add up to one everywhere.

    Shape: (T, B, K, C) -> complex (B, n_voices + 1, bins, T).
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
        values = values - excess / self.n_masks
        return torch.view_as_complex(values.contiguous()).permute(1, 3, 2, 0)  # (B, n, bins, T)


class BlindSeparator(nn.Module):
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
        spectra, level = self.spectra(mixture)
        return self.waveforms(spectra, level, mixture.shape[1])

    def spectra(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """Of the voices and the rest at a mixture level of 1, complex (B, n_voices + 1, bins, T'); the level (B, 1)."""
        level = mixture.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-5)  # RMS
        spectrum = self._analyse(mixture / level)  # (B, bins, T')
        return self.masks(self.blocks(self._features(spectrum))) * spectrum.unsqueeze(1), level

    def waveforms(self, spectra: Tensor, level: Tensor, n_samples: int) -> Tensor:
        """(B, n, bins, T'), (B, 1) -> (B, n, n_samples)"""
        c = self.config
        sound = torch.istft(
            spectra.flatten(0, 1) * math.sqrt(c.n_fft / 2), c.n_fft, c.hop, window=self.window, length=n_samples
        )
        return sound.unflatten(0, spectra.shape[:2]) * level.unsqueeze(1)

    def _analyse(self, sound: Tensor) -> Tensor:
        c = self.config
        whole = F.pad(sound, (0, max(-sound.shape[1] % c.hop, c.n_fft - sound.shape[1])))
        return torch.stft(whole, c.n_fft, c.hop, window=self.window, return_complex=True) / math.sqrt(c.n_fft / 2)

    def _features(self, spectrum: Tensor) -> Tensor:
        """Square roots of the magnitudes, with and without their phases: (B, bins, T') -> (T', B, K, C)."""
        magnitude = spectrum.abs().clamp(min=1e-4)
        root = magnitude.rsqrt()
        values = torch.stack([spectrum.real * root, spectrum.imag * root, magnitude * root], -1)
        return self.input(self.split.split(values.permute(2, 0, 1, 3)))


# --- Lips choose -----------------------------------------------------------------------------------------------------


class VoiceActivity(nn.Module):
    """What a voice does, at the pace of the video: from the loudness of its bands in dB.

    Shape: spectra, complex (N, bins, T') -> (N, D, F).
    """

    def __init__(self, bands: tuple[int, ...], channels: int, dim: int) -> None:
        super().__init__()
        edges = torch.tensor([0, *itertools.accumulate(bands)])
        place = torch.arange(sum(bands))
        member = (place >= edges[:-1, None]) & (place < edges[1:, None])
        self.register_buffer("member", member.float(), persistent=False)  # (K, bins)
        self.conv_in = nn.Conv1d(len(bands), channels, 5, padding=2)
        self.blocks = nn.Sequential(*(DilatedBlock(channels, dilation, 0.1) for dilation in DILATIONS))
        self.linear = nn.Conv1d(channels, dim, 1)

    def forward(self, spectra: Tensor, n_frames: int) -> Tensor:
        power = self.member @ spectra.abs().square()  # (N, K, T')
        power = F.adaptive_avg_pool1d(power, n_frames)  # (N, K, F)
        return self.linear(self.blocks(self.conv_in(torch.log10(power + 1e-4))))


class LipChoice(nn.Module):
    """How likely it is that a voice is a face's: over all ways to give each face one voice or none, no voice twice.

    Shape: lips (B, n, F, S, S), spectra of the voices, complex (B, V, bins, T') -> (B, n, V), rows sum to at most 1.
    """

    def __init__(self, config: VoicesFirstConfig) -> None:
        super().__init__()
        c = config
        self.video_encoder = create_encoder(
            c.video_encoder, lip_size=c.lip_size, lip_recipe=c.lip_recipe, feature_dim=c.score_channels
        )
        self.video_linear = nn.Linear(self.video_encoder.feature_dim, c.score_dim)
        self.activity = VoiceActivity(c.bands, c.score_channels, c.score_dim)
        self.lag_prior = nn.Parameter(torch.zeros(2 * c.max_lag + 1))
        self.certainty = nn.Parameter(torch.tensor(0.05))  # neighbouring frames say nearly the same
        self.max_lag = c.max_lag
        self.register_buffer("choices", assignments(c.n_src, c.n_voices), persistent=False)  # (A, n, V)

    def forward(self, lips: Tensor, spectra: Tensor) -> Tensor:
        return torch.einsum("ba,anv->bnv", self.log_likelihoods(lips, spectra).softmax(1), self.choices)

    def log_likelihoods(self, lips: Tensor, spectra: Tensor) -> Tensor:
        """Of each assignment, up to a constant: (B, A)."""
        return torch.einsum("bnv,anv->ba", self.scores(lips, spectra), self.choices)

    def scores(self, lips: Tensor, spectra: Tensor) -> Tensor:
        """Log-odds that a voice is a face's, summed over the window; lips may be up to `max_lag` frames early or late.
        (B, n, V)"""
        n_faces, n_frames = lips.shape[1:3]
        seen = self.video_linear(self.video_encoder(lips.flatten(0, 1))).unflatten(0, (-1, n_faces))  # (B, n, F, D)
        heard = self.activity(spectra.flatten(0, 1), n_frames).unflatten(0, spectra.shape[:2])  # (B, V, D, F)
        seen = F.pad(seen, (0, 0, self.max_lag, self.max_lag))  # (B, n, F + 2 lags, D)
        per_lag = [
            torch.einsum("bnfd,bvdf->bnv", seen[:, :, lag : lag + n_frames], heard)
            for lag in range(2 * self.max_lag + 1)
        ]
        evidence = self.certainty * torch.stack(per_lag, -1)  # (B, n, V, lags)
        return torch.logsumexp(evidence + self.lag_prior.log_softmax(0), -1)


def assignments(n_faces: int, n_voices: int) -> Tensor:
    """All ways to give each face one voice or none, no voice twice: 0 or 1, (A, n_faces, n_voices)."""
    ways = itertools.product(range(n_voices + 1), repeat=n_faces)  # n_voices: none
    apart = [way for way in ways if all(way.count(voice) < 2 for voice in range(n_voices))]
    return F.one_hot(torch.tensor(apart), n_voices + 1)[..., :-1].float()


# --- The whole -------------------------------------------------------------------------------------------------------


class VoicesFirst(SeparationModel):
    """Mixture and lips of `n_src` people to their voices; what nobody's lips choose is in none of them."""

    faces_at_once: ClassVar[bool] = True
    takes_empty_places: ClassVar[bool] = True  # training hides mouths, see the recipe

    def __init__(self, config: VoicesFirstConfig) -> None:
        super().__init__(config, lip_recipe=config.lip_recipe, keeps_level=True)
        self.blind = BlindSeparator(config)
        self.choice = LipChoice(config)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, n_src, F, S, S) -> (B, n_src, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        spectra, level = self.blind.spectra(mixture)  # (B, V + 1, bins, T')
        voices = spectra[:, :-1]
        chosen = self.choice(lips, voices)  # (B, n, V)
        mine = torch.einsum("bnv,bvft->bnft", chosen.to(voices.dtype), voices)
        return self.blind.waveforms(mine, level, mixture.shape[1])

    def video_parts(self) -> tuple[nn.Module, ...]:
        """What looks at lips."""
        return self.choice.video_encoder, self.choice.video_linear


# --- Variants --------------------------------------------------------------------------------------------------------


@register_model(VoicesFirst)
def voices_first() -> VoicesFirstConfig:
    """The size of the default weights."""
    return VoicesFirstConfig()


@register_model(VoicesFirst)
def voices_first_test() -> VoicesFirstConfig:
    """Everything it has, tiny, for tests."""
    return VoicesFirstConfig(
        n_fft=64, hop=32, bands=(1, 2, 2, 4, 8, 16), channels=8, n_blocks=1, score_channels=8, score_dim=4, max_lag=1
    )
