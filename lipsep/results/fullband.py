"""Voices at the rate and with the channels of the recording, from voices that were separated at 16 kHz mono.

The model heard M, the sum of the channels X_c with weights w_c (`media.sound`; for stereo the mean). Up to
`CROSSOVER_HZ` a voice is its share of each channel, plus in every channel what makes those add up to the separated
voice V in the same way: Y_c = g X_c + (V - g M) / sum of w_c, with the soft mask g = |V|^2 / (sum of |V_j|^2 over all
voices and the residual) in a short-time Fourier transform. Above, where the model heard nothing, Y_c = g_high X_c with
one gain per moment: the share in the energy of the highest bands that the model did hear, `HIGH_BANDS_HZ`. The shares
of all voices and the residual add up to one, so they add up to the recording, and the channels of a voice, added up
like those of the recording, are the separated voice up to `CROSSOVER_HZ`. The residual is the recording minus all
voices, sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.media.reading import Resampler

CROSSOVER_HZ = (7_000.0, 7_500.0)  # from all of the separated voice to none; FFmpeg's resampler reaches 7.7 kHz
HIGH_BANDS_HZ = (4_000.0, 7_500.0)
SMOOTHING = np.array([0.25, 0.5, 0.25])  # of the gain above, over moments of 8 ms
HOP_S = 0.008
N_HOPS = 125  # that are computed at once: 1 s
_QUIET = 1e-12  # energy that is nobody's: the residual takes it

Read = Callable[[int, int], np.ndarray]  # read(start, stop) -> float32 (n,) at 16 kHz


def full_band(
    recording: Iterable[np.ndarray], rate: int, signals: Sequence[Read], weights: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Voices and residual of a recording in its own form; memory does not grow with its length.

    Args:
        recording: float32 (n_channels, n) pieces at `rate`.
        rate: Hz.
        signals: the voices at 16 kHz, and last the residual.
        weights: (n_channels,), with which the channels were added up to what was separated; None: their mean.

    Yields:
        float32 (n_signals, n_channels, n): the same signals, together as long as the recording.
    """
    hop = max(1, round(HOP_S * rate))
    for block, n_kept in _overlapping(_in_step(recording, rate, signals), N_HOPS * hop, 4 * hop):
        n_channels = len(block) - len(signals)
        weights = np.full(n_channels, 1 / n_channels) if weights is None else weights
        voices = _separate(block[:n_channels], block[n_channels:], weights, rate, hop)  # (n_voices, n_channels, n)
        original = block[:n_channels]  # (n_channels, n)
        both = np.concatenate([voices, (original - voices.sum(0))[None]])
        yield both[..., 4 * hop : 4 * hop + n_kept]


def _separate(original: np.ndarray, separated: np.ndarray, weights: np.ndarray, rate: int, hop: int) -> np.ndarray:
    """original (n_channels, n), separated (n_signals, n) at `rate` -> voices (n_voices, n_channels, n)."""
    spectra = _stft(original, hop)  # (n_channels, F, bins)
    parts = _stft(separated, hop)  # (n_signals, F, bins)
    energy = np.square(np.abs(parts))
    frequencies_hz = np.fft.rfftfreq(4 * hop, 1 / rate)
    low = np.clip((CROSSOVER_HZ[1] - frequencies_hz) / (CROSSOVER_HZ[1] - CROSSOVER_HZ[0]), 0, 1)  # (bins,)
    share = energy[:-1] / (energy.sum(0) + _QUIET)  # (n_voices, F, bins)
    heard = (frequencies_hz >= HIGH_BANDS_HZ[0]) & (frequencies_hz < HIGH_BANDS_HZ[1])
    high_energy = energy[..., heard].sum(-1)  # (n_signals, F)
    high_share = high_energy[:-1] / (high_energy.sum(0) + _QUIET)
    high_share = np.stack([np.convolve(gain, SMOOTHING, mode="same") for gain in high_share])  # (n_voices, F)
    heard_spectrum = np.tensordot(weights.astype(np.float32), spectra, 1)  # (F, bins)
    common = (parts[:-1] - share * heard_spectrum) / np.float32(weights.sum())  # (n_voices, F, bins)
    voices = low * (share[:, None] * spectra + common[:, None])  # (n_voices, n_channels, F, bins)
    voices += (1 - low) * high_share[:, None, :, None] * spectra
    return _inverse_stft(voices, hop, original.shape[1])


def _window(hop: int) -> np.ndarray:
    """Root of a Hann window of four hops, scaled so that twice applied and added up it gives one."""
    return np.sqrt((0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4 * hop) / (4 * hop))) / 2).astype(np.float32)


def _stft(signals: np.ndarray, hop: int) -> np.ndarray:
    """(..., n) -> complex64 (..., n // hop - 3, 2 * hop + 1); n is a multiple of the hop."""
    frames = np.lib.stride_tricks.sliding_window_view(signals, 4 * hop, axis=-1)[..., ::hop, :]
    return np.fft.rfft(frames * _window(hop)).astype(np.complex64)


def _inverse_stft(spectra: np.ndarray, hop: int, n_samples: int) -> np.ndarray:
    """The inverse of `_stft`, but for the first and the last three hops, which too few windows reach."""
    frames = np.fft.irfft(spectra, 4 * hop).astype(np.float32) * _window(hop)  # (..., F, 4 * hop)
    n_frames = frames.shape[-2]
    signals = np.zeros((*frames.shape[:-2], n_samples // hop, hop), np.float32)
    for quarter in range(4):
        signals[..., quarter : quarter + n_frames, :] += frames[..., quarter * hop : (quarter + 1) * hop]
    return signals.reshape(*frames.shape[:-2], n_samples)


def _in_step(recording: Iterable[np.ndarray], rate: int, signals: Sequence[Read]) -> Iterator[np.ndarray]:
    """Each piece of the recording with the signals at its rate beside it: -> float32 (n_channels + n_signals, n)."""
    risen = [_Risen(read, rate) for read in signals]
    for piece in recording:
        yield np.concatenate([piece, [signal.take(piece.shape[1]) for signal in risen]], dtype=np.float32)


class _Risen:
    """A signal at 16 kHz, taken in pieces at another rate; silence after its end."""

    def __init__(self, read: Read, rate: int) -> None:
        self._pieces = self._resampled(read, rate)
        self._waiting = np.zeros(0, np.float32)

    def take(self, n: int) -> np.ndarray:
        """The next samples, float32 (n,)."""
        waiting = [self._waiting]
        missing = n - len(self._waiting)
        while missing > 0:
            piece = next(self._pieces, None)
            if piece is None:
                piece = np.zeros(missing, np.float32)
            waiting.append(piece)
            missing -= len(piece)
        joined = np.concatenate(waiting)
        self._waiting = joined[n:]
        return joined[:n]

    @staticmethod
    def _resampled(read: Read, rate: int) -> Iterator[np.ndarray]:
        resampler, start = Resampler(SAMPLE_RATE, rate), 0
        while len(block := read(start, start + SAMPLE_RATE)):
            yield resampler.add(block[None])[0]
            start += len(block)
        yield resampler.finish()[0]


def _overlapping(pieces: Iterable[np.ndarray], n: int, n_around: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks (rows, n_around + n + n_around) that begin every n samples, silence beyond both ends, and how many samples
    of the middle lie before the end."""
    kept: list[np.ndarray] = []
    n_kept = 0
    for piece in pieces:
        if not kept:
            kept, n_kept = [np.zeros((len(piece), n_around), np.float32)], n_around
        kept.append(piece)
        n_kept += piece.shape[1]
        while n_kept >= n + 2 * n_around:
            joined = np.concatenate(kept, axis=1)
            yield joined[:, : n + 2 * n_around], n
            kept, n_kept = [joined[:, n:]], n_kept - n
    while n_kept > n_around:
        joined = np.concatenate(kept, axis=1)[:, : n + 2 * n_around]
        yield np.pad(joined, ((0, 0), (0, n + 2 * n_around - joined.shape[1]))), min(n, n_kept - n_around)
        kept, n_kept = [np.concatenate(kept, axis=1)[:, n:]], n_kept - n
