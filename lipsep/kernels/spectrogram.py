"""Spectrograms, there and back, as pairs of real numbers: plain by Fourier transforms, exported by convolutions.

The exporter knows no complex numbers, so real and imaginary parts stand beside each other, (B, 2, rows, columns); in
memory they may lie next to each other all the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels.exporting import is_exporting


def analyse_spectrum(sound: Tensor, window: Tensor, n_fft: int, hop: int) -> Tensor:
    """Short-time Fourier transform under a window in the middle of `n_fft` samples, silence beyond both ends.

    Shape: sound (B, n), window (w,) with w <= n_fft -> (B, 2, n_fft / 2 + 1, 1 + n // hop).
    """
    if is_exporting():
        waves, _, _ = _waves(window, n_fft)
        filled = F.pad(sound, (n_fft // 2, n_fft // 2))
        return F.conv1d(filled.unsqueeze(1), waves, stride=hop).unflatten(1, (2, n_fft // 2 + 1))
    spectrum = torch.stft(sound, n_fft, hop, len(window), window, pad_mode="constant", return_complex=True)
    return as_pairs(spectrum)


def synthesise_spectrum(pairs: Tensor, window: Tensor, n_fft: int, hop: int, n_samples: int) -> Tensor:
    """The inverse of `analyse_spectrum`, in the sense of least squares.

    Shape: (B, 2, n_fft / 2 + 1, T), window (w,) -> (B, n_samples).
    """
    if is_exporting():
        _, waves, energy = _waves(window, n_fft)
        sound = F.conv_transpose1d(pairs.flatten(1, 2), waves, stride=hop)  # (B, 1, (T - 1) hop + n_fft)
        overlap = F.conv_transpose1d(torch.ones_like(pairs[:1, 0, :1]), energy, stride=hop)
        return (sound / overlap.clamp(min=1e-11))[:, 0, n_fft // 2 : n_fft // 2 + n_samples]
    return torch.istft(as_complex(pairs), n_fft, hop, len(window), window, length=n_samples)


def multiply_spectra(x: Tensor, y: Tensor) -> Tensor:
    """Complex product: (B, 2, rows, T) both -> (B, 2, rows, T)."""
    if is_exporting():
        (a, b), (c, d) = x.unbind(1), y.unbind(1)
        return torch.stack([a * c - b * d, a * d + b * c], dim=1)
    return as_pairs(as_complex(x) * as_complex(y))


def as_pairs(spectrum: Tensor) -> Tensor:
    """A view: complex (B, rows, T) -> (B, 2, rows, T)."""
    return torch.view_as_real(spectrum).permute(0, 3, 1, 2)


def as_complex(pairs: Tensor) -> Tensor:
    """The inverse, a view where it can be one: (B, 2, rows, T) -> complex (B, rows, T)."""
    if pairs.stride(1) == 1:
        return torch.view_as_complex(pairs.permute(0, 2, 3, 1))
    return torch.complex(*pairs.unbind(1))


def _waves(window: Tensor, n_fft: int) -> tuple[Tensor, Tensor, Tensor]:
    """What makes the real and the imaginary parts of a spectrogram, what makes its sound, what overlaps are divided by.

    Shape: filters (2 rows, 1, n_fft) both, the window's energy (1, 1, n_fft).
    """
    left, rows = (n_fft - window.shape[0]) // 2, n_fft // 2 + 1
    window = F.pad(window.double(), (left, n_fft - window.shape[0] - left))
    turns = torch.arange(rows)[:, None] * torch.arange(n_fft) % n_fft
    angle = 2 * math.pi / n_fft * turns.double()
    waves = window * torch.cat([angle.cos(), -angle.sin()])
    twice = torch.full((rows, 1), 2.0)  # for the conjugate, which only the lowest and the highest row have not
    twice[0] = twice[-1] = 1.0
    energy = window.square()[None, None]
    return waves.float()[:, None], (torch.cat([twice, twice]) * waves / n_fft).float()[:, None], energy.float()
