"""Training losses against their equations: by hand, or by formulas in numpy that share nothing with the package."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lipsep.losses import LOSSES, magnitude_si_snr, si_snr, silence, snr, stft_distance


def test_known_ratio_in_decibels():
    """A noise of one tenth the amplitude, orthogonal to the target, is 20 dB below it."""
    t = torch.arange(16_000) / 16_000
    target, noise = torch.sin(2 * math.pi * 100 * t), 0.1 * torch.cos(2 * math.pi * 100 * t)
    assert si_snr(target + noise, target).item() == pytest.approx(20.0, abs=0.01)
    assert snr(target + noise, target).item() == pytest.approx(20.0, abs=0.01)


def test_scale_matters_to_snr_only():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 8_000, generator=generator)
    estimate = target + 0.3 * torch.randn(3, 8_000, generator=generator)
    torch.testing.assert_close(si_snr(5 * estimate, target), si_snr(estimate, target), atol=1e-3, rtol=0)
    assert (snr(5 * estimate, target) < snr(estimate, target) - 10).all()


def test_offset_does_not_matter_to_si_snr():
    target = torch.randn(8_000, generator=torch.Generator().manual_seed(1))
    estimate = target + 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(2))
    assert si_snr(estimate + 0.7, target).item() == pytest.approx(si_snr(estimate, target).item(), abs=1e-3)


@pytest.mark.parametrize("offset", [(0.0, 0.7), (0.5, -0.7)])
def test_si_snr_is_eq_21_and_22_of_signals_without_their_means(offset):
    """Dolphin: 10 log10 |w s|^2 / |x - w s|^2 with w = <x, s> / <s, s>; here freed of their means first."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=4_000)
    x = 0.6 * s + 0.2 * rng.normal(size=4_000)
    wanted = scale_invariant(x - x.mean(), s - s.mean())
    found = si_snr(torch.from_numpy(x + offset[0]), torch.from_numpy(s + offset[1]))
    assert float(found) == pytest.approx(wanted, abs=1e-4) and wanted == pytest.approx(9.5, abs=0.5)


def scale_invariant(x: np.ndarray, s: np.ndarray) -> float:
    w = (x @ s) / (s @ s)
    return 10 * np.log10(np.sum(np.square(w * s)) / np.sum(np.square(x - w * s)))


def magnitudes(x: np.ndarray, n_fft: int, hop: int, window: int) -> np.ndarray:
    """Of windows in the middle of n_fft points, the first centred on the first sample: (frames, n_fft / 2 + 1)."""
    shape = np.zeros(n_fft)
    start = (n_fft - window) // 2
    shape[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(x, n_fft // 2)
    frames = [padded[at : at + n_fft] * shape for at in range(0, len(padded) - n_fft + 1, hop)]
    return np.abs(np.fft.rfft(frames))


def test_magnitude_si_snr_is_eq_23_to_26():
    """The same ratio between vectors of magnitudes: phases do not count, and so do not means."""
    rng = np.random.default_rng(1)
    s = rng.normal(size=4_000) * np.linspace(0.1, 1, 4_000)
    for x in (0.5 * s + 0.3 * rng.normal(size=4_000), rng.normal(size=4_000)):
        m_hat, m = (magnitudes(each, 512, 128, 512).ravel() for each in (x, s))
        found = float(magnitude_si_snr(torch.from_numpy(x), torch.from_numpy(s)))
        assert found == pytest.approx(scale_invariant(m_hat, m), abs=0.01)
    assert float(magnitude_si_snr(torch.from_numpy(-s), torch.from_numpy(s))) > 60


def test_the_stft_loss_is_that_of_parallel_wavegan():
    """Spectral convergence |Y - X| / |Y| plus the mean of |log Y - log X|, averaged over its three resolutions."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=6_000)
    x = 0.5 * y + 0.2 * rng.normal(size=6_000)
    terms = []
    for n_fft, hop, window in ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200)):
        ours, theirs = magnitudes(x, n_fft, hop, window), magnitudes(y, n_fft, hop, window)
        terms.append(np.linalg.norm(theirs - ours) / np.linalg.norm(theirs) + np.abs(np.log(theirs / ours)).mean())
    found = float(stft_distance(torch.from_numpy(x), torch.from_numpy(y)))
    assert found == pytest.approx(np.mean(terms), rel=0.01) and found > 0.5


def test_what_should_be_silent_is_measured_against_the_mixture():
    """10 log10(|x|^2 / |m|^2 + 0.001): as loud as the mixture 0 dB, 20 dB below it -19.6 dB, silent -30 dB."""
    mixture = torch.randn(1_000, generator=torch.Generator().manual_seed(0))
    for gain, level in ((1.0, 0.0), (0.1, 10 * math.log10(0.011)), (0.0, -30.0)):
        assert float(silence(gain * mixture, mixture)) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_silence_is_finite_and_losses_fall_as_the_estimate_improves(name):
    loss = LOSSES[name]
    silent = torch.zeros(2, 1, 4_000, requires_grad=True)
    value = loss(silent, torch.zeros(2, 1, 4_000))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(silent.grad).all()
    target = torch.randn(2, 1, 4_000, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(2, 1, 4_000, generator=torch.Generator().manual_seed(4))
    assert loss(target + 0.1 * noise, target) < loss(target + noise, target)
