"""Mixtures as BIN's authors make them, flaws included, for who wants to repeat their figures; recipes/bin/BIN.md lists
the flaws. Our own recipes draw their mixtures without this file."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.signal import resample_poly

from lipsep.constants import SAMPLE_RATE

LOADING_RATE = 22_050  # Hz, the default of the library that the authors load sound with
NOISE_GAIN_DB = (-6.0, 3.0)  # of WHAM! noise against voices, all with peaks of 1

BinCorpus = Literal["lrs3_wham", "ntcd_timit"]


def bin_mixture(
    voices: tuple[np.ndarray, np.ndarray],
    noise: np.ndarray,
    corpus: BinCorpus,
    gain_db: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One mixture and its targets.

    Voices are loaded at 22.05 kHz and brought to 16 kHz; voices, noise and then the mixture are each freed of their
    mean and divided by their peak, so that the targets have not the level they have in the mixture. "ntcd_timit": what
    the authors add as noise is a noisy recording of the first voice.

    Args:
        voices: (T,) each, 16 kHz. noise: (T,), at the level against the first voice that the recording has.
        gain_db: of "lrs3_wham": the first voice is up to so much louder, raised by half of it, the second lowered.

    Returns:
        mixture (T,) with a peak of 1, targets (2, T) with peaks of 1.
    """
    targets = np.stack([_peak_normalised(_loaded(voice)) for voice in voices])  # (2, T)
    if corpus == "ntcd_timit":
        gains_db, added = np.zeros(3), voices[0] + noise
    else:
        raised_db = rng.uniform(0, gain_db / 2)
        gains_db, added = np.array([raised_db, -raised_db, rng.uniform(*NOISE_GAIN_DB)]), noise
    mixture = (10 ** (gains_db / 20)) @ np.stack([*targets, _peak_normalised(added)])
    return _peak_normalised(mixture), targets


def _loaded(voice: np.ndarray) -> np.ndarray:
    """16 kHz -> 22.05 kHz -> 16 kHz: what is next to 8 kHz is weakened."""
    return resample_poly(resample_poly(voice, LOADING_RATE, SAMPLE_RATE), SAMPLE_RATE, LOADING_RATE)[: len(voice)]


def _peak_normalised(sound: np.ndarray) -> np.ndarray:
    sound = sound - sound.mean()
    return sound / (np.abs(sound).max() + 1e-8)
