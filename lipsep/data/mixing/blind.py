"""Mixtures for separation by sound alone: one to three voices of different talkers, noise, a room.

Half of the pairs should be hard: talkers are sorted by the pitch of their voices, and a good part of the mixtures holds
voices of one side only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import butter, fftconvolve, sosfilt
from torch import Tensor
from torch.utils.data import Dataset

from lipsep.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsep.data.clips.clips import TalkingClips
from lipsep.data.clips.pace import draw_stretch
from lipsep.data.clips.stored import Sliced
from lipsep.errors import ModelError

HIGH_VOICE_HZ = 158.0  # median pitch above which a talker is sorted among the high voices
MOST_VOICES = 3
LEAST_RMS = 1e-3  # of full scale


@dataclass(frozen=True)
class BlindConfig:
    """How mixtures are drawn once training is at its hardest; shares of all mixtures."""

    segment_s: float = 3.0
    spread_db: float = 2.5  # every voice lies within -spread_db..spread_db of a common level
    third: float = 0.15  # three voices
    single: float = 0.06  # one voice
    alike: float = 0.55  # voices on one side of `HIGH_VOICE_HZ`
    alike_at_first: float = 0.42
    noise: float = 0.35
    noise_snr_db: tuple[float, float] = (2.0, 20.0)
    room: float = 0.3
    paced: float = 0.6  # of the voices: played slower or faster
    pace: tuple[float, float] = (0.85, 1.2)
    pauses: float = 0.15  # of the voices: silent for a part of the time


class BlindMixtures(Dataset):
    """Endless mixtures; item `i` of epoch `e` depends on the seed, `e` and `i` only.

    Item: mixture (T,) at 0.1 RMS, parts (4, T): three voices, absent ones silent, and what is no voice.
    """

    def __init__(
        self,
        voices: TalkingClips,
        noises: Sliced | None,
        rooms: np.ndarray | None,
        config: BlindConfig,
        n_items: int,
        seed: int,
        harder_until: int = 0,
        epoch: int = 0,
    ):
        """
        Args:
            voices: clips of at least four talkers, whose mouths do not matter.
            noises: (T,) int16, all noises end to end, or None.
            rooms: (n, 3, L) from `rooms.draw_rooms`, or None.
            harder_until: the epoch from which on mixtures are as the configuration says; before, there are fewer third
                voices, noises, rooms and pairs of voices alike.

        Raises:
            ModelError: too few talkers.
        """
        self.voices, self.noises, self.rooms, self.config = voices, noises, rooms, config
        self.n_items, self.seed, self.harder_until, self.epoch = n_items, seed, harder_until, epoch
        self.n_frames = round(config.segment_s * SAMPLE_RATE / SAMPLES_PER_FRAME)
        self.clips_of: dict[str, list[int]] = {}
        for index, talker in enumerate(voices.talkers):
            self.clips_of.setdefault(talker, []).append(index)
        if len(self.clips_of) <= MOST_VOICES:
            raise ModelError(f"blind separation needs {MOST_VOICES + 1} talkers; these clips have {len(self.clips_of)}")
        high = {talker: self._pitch_hz(clips) > HIGH_VOICE_HZ for talker, clips in self.clips_of.items()}
        self.sides = [[talker for talker in self.clips_of if high[talker] == side] for side in (False, True)]
        if min(map(len, self.sides)) < MOST_VOICES:  # too few high or too few low voices to tell them apart by it
            self.sides = [list(self.clips_of)] * 2

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.n_items:
            raise IndexError(index)
        rng, c = np.random.default_rng((self.seed, self.epoch, index)), self.config
        hardness = min(1.0, self.epoch / self.harder_until) if self.harder_until else 1.0
        kind = rng.random()
        n_voices = 1 if kind < c.single else 3 if kind < c.single + c.third * hardness else 2
        room = None
        if self.rooms is not None and rng.random() < c.room * hardness:
            room = self.rooms[int(rng.integers(len(self.rooms)))]
        n_samples = self.n_frames * SAMPLES_PER_FRAME
        parts = np.zeros((MOST_VOICES + 1, n_samples), np.float32)
        for k, talker in enumerate(self._talkers(n_voices, hardness, rng)):
            voice = self._voice(talker, rng)
            if room is not None:
                voice = fftconvolve(voice, room[k])[:n_samples]
            parts[k] = voice / _rms(voice) * 10 ** (rng.uniform(-c.spread_db, c.spread_db) / 20)
        level = _rms(parts.sum(0))
        parts[-1] = rng.normal(0, level * 10 ** (-rng.uniform(35, 60) / 20), n_samples)  # no recording is without
        if self.noises is not None and rng.random() < c.noise * hardness:
            start = int(rng.integers(len(self.noises) - n_samples))
            noise = self.noises[start : start + n_samples].astype(np.float32)
            if np.abs(noise).max() > 50:  # of 32768: silence would be blown up
                parts[-1] += noise / _rms(noise) * level * 10 ** (-rng.uniform(*c.noise_snr_db) / 20)
        parts *= 0.1 / _rms(parts.sum(0))
        return torch.from_numpy(parts.sum(0)), torch.from_numpy(parts)

    def _talkers(self, n_voices: int, hardness: float, rng: np.random.Generator) -> list[str]:
        """Different ones: all of one side, or of both in turn."""
        side = int(rng.integers(2))
        alike = rng.random() < self.config.alike_at_first + hardness * (self.config.alike - self.config.alike_at_first)
        chosen: list[str] = []
        while len(chosen) < n_voices:
            choice = self.sides[side if alike else (side + len(chosen)) % 2]
            talker = choice[int(rng.integers(len(choice)))]
            if talker not in chosen:
                chosen.append(talker)
        return chosen

    def _voice(self, talker: str, rng: np.random.Generator) -> np.ndarray:
        clips = self.clips_of[talker]
        pace = rng.uniform(*self.config.pace) if rng.random() < self.config.paced else 1.0
        for _ in range(10):  # until it speaks: a stretch may lie in a pause
            voice, _ = draw_stretch(self.voices[clips[int(rng.integers(len(clips)))]], pace, self.n_frames, rng)
            if _rms(voice) > LEAST_RMS:
                break
        if rng.random() < self.config.pauses:
            start, stop = sorted(rng.integers(0, len(voice), 2))
            voice[start : min(stop, start + len(voice) // 2)] = 0
        return voice

    def _pitch_hz(self, clips: list[int]) -> float:
        return float(np.median([pitch_hz(self.voices[index].voice[: 8 * SAMPLE_RATE]) for index in clips[:4]]))


def pitch_hz(voice: np.ndarray) -> float:
    """Median pitch of a voice (T,) by the autocorrelation's peak, 70 to 400 Hz; `HIGH_VOICE_HZ` where none is heard."""
    heard = sosfilt(butter(4, (70, 900), "band", fs=SAMPLE_RATE, output="sos"), voice)
    window, found = np.hanning(1024), []
    for start in range(0, len(heard) - 1024, 800):
        frame = heard[start : start + 1024] * window
        if _rms(frame) < 0.3 * _rms(heard):
            continue
        power = np.fft.irfft(np.abs(np.fft.rfft(frame, 2048)) ** 2)[: SAMPLE_RATE // 70]
        lags = power[SAMPLE_RATE // 400 :] / (power[0] + 1e-9)
        if lags.max() > 0.4:
            found.append(SAMPLE_RATE / (SAMPLE_RATE // 400 + int(lags.argmax())))
    return float(np.median(found)) if found else HIGH_VOICE_HZ


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound)))) + 1e-5
