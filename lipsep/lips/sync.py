"""How much the sound comes later than the lips, told from the whole file, and lips shifted to meet it.

The classic observation (Yehia, Rubin and Vatikiotis-Bateson 1998, Speech Communication 26): how far the lips are open
goes with how loud the voice is. Both are freed of what changes more slowly than SLOW_S and correlated at every lag; the
people who are visible are taken together, since they share one sound track. No weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.ndimage import uniform_filter1d

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.lips.pictures import Lips
from lipsep.lips.shape import normalise_mouth

if TYPE_CHECKING:
    from lipsep.faces.tracks import FaceTrack

RATE = 100  # Hz, of the curves that are compared
SLOW_S = 2.0
SEARCH_MS, CORRECT_MS = 400, 200  # looked for within, and corrected within, either way
PEAK_MS = 120  # lags so near the best belong to its peak
INDEPENDENT_PER_S = 8  # points of these curves that tell something new: they move below 4 Hz
CONFIDENT = 3.0  # see docs/real_life.md, "Lips and sound apart"
LEAST_MS = 60.0  # smaller offsets are left alone: people differ by as much, and one picture lasts 40 ms

_HOP, _N_FFT = SAMPLE_RATE // RATE, 512  # samples
_BANDS_HZ = ((300, 1000), (1000, 2500), (2500, 5000))  # louder with open lips
_PIECE = 300 * FPS  # frames of lips at a time
_BLOCK = 1000  # points of the envelope at a time

Read = Callable[[int, int], np.ndarray]  # read(start, stop) -> float32 (n,)


@dataclass(frozen=True)
class Offset:
    """What was found, and what is done about it.

    Attributes:
        found_ms: how much later the sound comes than the lips, as estimated; None: not looked for, or not
            within SEARCH_MS.
        confidence: how far the best lag stands out from those that are not its neighbours, in standard deviations of
            chance; from CONFIDENT on it is believed.
        corrected_ms: by how much the lips are shifted, in whole pictures; 0: they are not.
    """

    found_ms: float | None = None
    confidence: float = 0.0
    corrected_ms: int = 0

    @property
    def n_frames(self) -> int:
        """By how many pictures the lips are to be shown later."""
        return self.corrected_ms * FPS // 1000


def asked_offset(sync: float | Literal["auto", "off"]) -> Offset | None:
    """What "off" or a number of milliseconds means; None for "auto": it is to be found out."""
    if sync == "auto":
        return None
    return Offset(corrected_ms=_whole_frames(0.0 if sync == "off" else sync))


def find_offset(tracks: Sequence[FaceTrack], read: Read, n_samples: int) -> Offset:
    """How much later the sound comes than the lips of those who are visible.

    Args:
        read: the mixture at 16 kHz, `n_samples` long.
    """
    openings = [_opening_of(track.landmarks, track.present) for track in tracks]
    return offset_of(openings, [track.present for track in tracks], envelope(read, n_samples))


def offset_of(openings: Sequence[np.ndarray], present: Sequence[np.ndarray], loudness: np.ndarray) -> Offset:
    """The lag at which lips and loudness agree best.

    Args:
        openings: (F,) each, of the people's lips at 25 fps; present: (F,) bool each, where they are known.
        loudness: (N,) log energy at RATE, see `envelope`.
    """
    loudness = without_slow_changes(loudness)
    lags = np.arange(-SEARCH_MS * RATE // 1000, SEARCH_MS * RATE // 1000 + 1)
    agreement = np.zeros(len(lags))  # in standard deviations of chance
    for opening, known in zip(openings, present, strict=True):
        times_s = np.arange(len(loudness)) / RATE + _N_FFT / 2 / SAMPLE_RATE  # the middle of what is heard
        lips = without_slow_changes(np.interp(times_s, np.arange(len(opening)) / FPS, opening))
        seen = np.interp(times_s, np.arange(len(known)) / FPS, known.astype(float), right=0.0) >= 1
        n_independent = INDEPENDENT_PER_S * np.count_nonzero(seen) / RATE
        agreement += _correlation(loudness, lips * seen, seen, lags) * np.sqrt(n_independent / len(openings))
    best = int(agreement.argmax())
    elsewhere = np.abs(lags - lags[best]) > PEAK_MS * RATE // 1000
    if best in (0, len(lags) - 1):  # a slope towards something further away
        return Offset()
    found_ms, confidence = float(lags[best]) * 1000 / RATE, float(agreement[best] - agreement[elsewhere].max())
    believed = confidence >= CONFIDENT and LEAST_MS <= abs(found_ms) <= CORRECT_MS
    return Offset(found_ms, round(confidence, 2), _whole_frames(found_ms) if believed else 0)


def lip_opening(mouth: np.ndarray) -> np.ndarray:
    """How far the lips are apart, inner and outer edges together: (F, 20, 2) mouth points -> (F,)."""
    return sum(np.linalg.norm(mouth[:, upper] - mouth[:, lower], axis=-1) for upper, lower in ((14, 18), (3, 9)))


def envelope(read: Read, n_samples: int) -> np.ndarray:
    """Log energy, the mean of three bands, RATE times a second: (n_samples // 160,)."""
    window, frequencies_hz = np.hanning(_N_FFT), np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
    bands = [(frequencies_hz >= low) & (frequencies_hz < high) for low, high in _BANDS_HZ]
    n_points, pieces = n_samples // _HOP, [np.zeros(0)]
    for first in range(0, n_points, _BLOCK):
        n = min(_BLOCK, n_points - first)
        start, length = first * _HOP, (n - 1) * _HOP + _N_FFT
        sound = read(start, min(start + length, n_samples))
        sound = np.pad(sound, (0, length - len(sound)))
        frames = np.lib.stride_tricks.sliding_window_view(sound, _N_FFT)[::_HOP]  # (n, 512)
        power = np.abs(np.fft.rfft(frames * window)) ** 2  # (n, 257)
        pieces.append(np.mean([np.log(power[:, band].mean(1) + 1e-7) for band in bands], axis=0))
    return np.concatenate(pieces)


class ShiftedLips:
    """The lips of one person, shown so many pictures later (or, below zero, earlier)."""

    def __init__(self, lips: Lips, n_later: int) -> None:
        self._lips, self._n_later, self.n_frames = lips, n_later, lips.n_frames
        self.valid = np.zeros(self.n_frames, bool)
        inside = np.arange(self.n_frames) - n_later
        known = (inside >= 0) & (inside < self.n_frames)
        self.valid[known] = lips.valid[inside[known]]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Pictures of frames start..stop-1 as float32 (stop - start, S, S); zeros where there is none."""
        first, last = (min(max(k - self._n_later, 0), self.n_frames) for k in (start, stop))
        pictures = self._lips.read(first, last)
        before = min(max(self._n_later - start, 0), stop - start)
        after = stop - start - before - len(pictures)
        return np.pad(pictures, ((before, after), (0, 0), (0, 0)))


def _opening_of(landmarks: np.ndarray, present: np.ndarray) -> np.ndarray:
    """`lip_opening` of a track, piece by piece, so that hours of it need no more memory: (F,); 0 where nobody is."""
    opening = np.zeros(len(present))
    for start in range(0, len(present), _PIECE):
        piece = slice(start, start + _PIECE)
        if present[piece].any():
            opening[piece] = lip_opening(normalise_mouth(landmarks[piece], present[piece]))
    return opening


def _whole_frames(offset_ms: float) -> int:
    return round(offset_ms * FPS / 1000) * 1000 // FPS


def without_slow_changes(curve: np.ndarray) -> np.ndarray:
    """Without what changes slowly."""
    return curve - uniform_filter1d(curve, round(SLOW_S * RATE), mode="nearest") if len(curve) else curve


def _correlation(loudness: np.ndarray, lips: np.ndarray, seen: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Of lips now with loudness `lag` later, over where the lips are seen."""
    n, found = len(loudness), []
    for lag in lags:
        heard = loudness[max(0, lag) : max(0, n + min(0, lag))]
        now = slice(max(0, -lag), max(0, n - max(0, lag)))
        energy = np.sum(heard**2 * seen[now]) * np.sum(lips[now] ** 2)
        found.append(np.sum(heard * lips[now]) / np.sqrt(energy) if energy > 1e-9 else 0.0)
    return np.array(found)
