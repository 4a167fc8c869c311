"""Voices of more people than a model has learned to share a mixture among hold no more than the mixture."""

from __future__ import annotations

import numpy as np
import pytest

from lipsep.separation.levels import within_mixture


def energy_db(signal: np.ndarray, beside: np.ndarray) -> float:
    return 10 * np.log10(np.sum(signal**2) / np.sum(beside**2))


@pytest.mark.parametrize("n_people", [3, 9, 16])
@pytest.mark.parametrize("alike", [0.0, 0.9, 1.0])
def test_together_they_are_never_louder_than_the_mixture_and_neither_is_the_rest(n_people, alike):
    rng = np.random.default_rng(n_people)
    mixture = rng.normal(0, 0.1, 8_000).astype(np.float32)
    others = rng.normal(0, 0.1, (n_people, 8_000)).astype(np.float32)
    estimates = alike * mixture + (1 - alike) * others  # everybody has a share of the same sound
    assert energy_db(estimates.sum(0), mixture) > 3  # the fault
    voices = within_mixture(estimates, mixture)
    assert energy_db(voices.sum(0), mixture) <= 0.01
    assert energy_db(mixture - voices.sum(0), mixture) <= 0.01
    for before, after in zip(estimates, voices, strict=True):  # turned down, never up, never turned over
        gain = float(after @ before / (before @ before))
        assert -1e-6 <= gain <= 1 + 1e-6 and np.abs(after - gain * before).max() < 1e-5


def test_what_fits_into_the_mixture_is_left_as_it_is():
    rng = np.random.default_rng(0)
    estimates = rng.normal(0, 0.1, (4, 8_000)).astype(np.float32)
    mixture = estimates.sum(0) + rng.normal(0, 0.05, 8_000).astype(np.float32)
    assert within_mixture(estimates, mixture) is estimates
    assert not within_mixture(np.zeros((3, 100), np.float32), np.zeros(100, np.float32)).any()
