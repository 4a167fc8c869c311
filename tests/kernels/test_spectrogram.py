"""Spectrograms: all forms say what PyTorch's Fourier transforms say, and the way back gives what went in."""

from __future__ import annotations

import torch
from agreement import assert_close, assert_forms_agree
from torch import Tensor

from lipsep.kernels.spectrogram import (
    analyse_spectrum,
    as_complex,
    as_pairs,
    multiply_spectra,
    synthesise_spectrum,
)

N_FFT, WINDOW, HOP = 64, 48, 16


def test_all_forms_agree(form) -> None:
    window = torch.hann_window(WINDOW)
    sound, mask = torch.randn(2, 320), torch.randn(2, 2, 33, 21)

    def ours(sound: Tensor, mask: Tensor) -> Tensor:
        spectrum = analyse_spectrum(sound, window, N_FFT, HOP)
        return synthesise_spectrum(multiply_spectra(spectrum, mask), window, N_FFT, HOP, 320)

    def plain(sound: Tensor, mask: Tensor) -> Tensor:
        given = N_FFT, HOP, WINDOW, window.double()
        spectrum = torch.stft(sound, *given, pad_mode="constant", return_complex=True)
        return torch.istft(spectrum * torch.complex(*mask.unbind(1)), *given, length=320)

    assert_forms_agree(ours, plain, [sound, mask], 1e-5)


def test_there_and_back_is_what_went_in(form) -> None:
    window, sound = torch.hann_window(WINDOW), torch.randn(2, 320)
    spectrum = analyse_spectrum(sound, window, N_FFT, HOP)
    assert spectrum.shape == (2, 2, 33, 21)
    assert_close(synthesise_spectrum(spectrum, window, N_FFT, HOP, 320), sound.double(), 1e-5)


def test_pairs_are_complex_numbers_in_another_order() -> None:
    pairs = torch.randn(2, 2, 5, 3)
    assert torch.equal(as_pairs(as_complex(pairs)), pairs)
    spectrum = torch.randn(2, 5, 3, dtype=torch.complex64)
    assert as_complex(as_pairs(spectrum)).data_ptr() == spectrum.data_ptr()
