"""How loud voices and noise are in BIN's own mixtures, from its authors' figures."""

from __future__ import annotations

import numpy as np

from lipsep.data.mixing.bin_pipeline import bin_mixture


def test_levels_are_those_of_bins_authors():
    """Of peaks of 1: one voice raised and the other lowered by g of 0..5 dB, the noise turned by -6..3 dB."""
    rng = np.random.default_rng(0)
    apart_db, noise_db = [], []
    for _ in range(30):
        first, second, noise = rng.normal(0, 0.1, (3, 400))
        mixture, targets = bin_mixture((first, second), noise, "lrs3_wham", 10.0, rng)
        noise = (noise - noise.mean()) / np.abs(noise - noise.mean()).max()
        columns = np.stack([*targets, noise, np.ones(400)], 1)
        share = np.linalg.lstsq(columns, mixture, rcond=None)[0]  # of each in the mixture
        apart_db.append(20 * np.log10(share[0] / share[1]))
        noise_db.append(20 * np.log10(share[2] / np.sqrt(share[0] * share[1])))  # +g and -g cancel
    assert -0.01 < min(apart_db) < 1 and 8.5 < max(apart_db) < 10.01
    assert -6.01 < min(noise_db) < -5 and 2 < max(noise_db) < 3.01
