"""Levels of neighbouring windows brought together."""

from __future__ import annotations

import numpy as np
from scipy.optimize import lsq_linear, nnls


def match_levels(estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Gains that bring estimates of arbitrary level back to their level in the mixture.

    A model trained with a scale-invariant loss gives the shape of a voice but not its loudness. All voices of a window
    are scaled at once: the non-negative gains g minimise |mixture - sum_k g_k estimate_k|^2. Nobody is normalised to a
    peak of their own, which would lift the leakage into a silent person's voice to full loudness.

    Shape: (n, T), (T,) -> float32 (n,).
    """
    norms = np.linalg.norm(estimates.astype(np.float64), axis=1)  # (n,)
    norms[norms == 0] = np.inf  # a silent estimate gets gain 0
    units = estimates / norms[:, None]  # (n, T)
    root = np.linalg.cholesky(units @ units.T + 1e-4 * np.eye(len(units)))  # two like voices share, none explodes
    gains, _ = nnls(root.T, np.linalg.solve(root, units @ mixture.astype(np.float64)))
    return (gains / norms).astype(np.float32)


def within_mixture(estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Estimates, some of them turned down, that together hold no more energy than the mixture, and leave no more over.

    Networks that hear a few faces at a time count what they are unsure of several times over when there are more faces.
    Where that makes the voices, or what is left beside them, louder than the mixture, the gains 0 <= g <= 1 minimise
    |mixture - sum_k g_k estimate_k|^2. At that minimum neither the voices nor the rest exceed the mixture.

    Shape: (n, T), (T,) -> (n, T).
    """
    together = estimates.sum(0)
    most = float(np.sum(mixture**2, dtype=np.float64))
    if max(float(np.sum(x**2, dtype=np.float64)) for x in (together, mixture - together)) <= most:
        return estimates
    double = estimates.astype(np.float64)
    gram = double @ double.T  # (n, n)
    root = np.linalg.cholesky(gram + (1e-9 * np.trace(gram) + 1e-20) * np.eye(len(gram)))
    gains = lsq_linear(root.T, np.linalg.solve(root, double @ mixture), (0.0, 1.0), method="bvls").x
    return estimates * gains.astype(np.float32)[:, None]


class Levels:
    """Levels and polarity of a model whose loss knew neither.

    A scale-invariant loss is as small for a voice turned upside down. Which way up is learned once for all voices, so
    it is told from the agreement of all estimates so far with the mixture: one sign for everybody and the whole file.
    """

    def __init__(self) -> None:
        self._agreement = 0.0

    def __call__(self, estimates: np.ndarray, mixture: np.ndarray) -> np.ndarray:
        """(n, T), (T,) -> estimates at their level in the mixture, (n, T)."""
        scale = np.linalg.norm(estimates, axis=1) * np.linalg.norm(mixture)
        self._agreement += float(np.sum(estimates @ mixture / np.maximum(scale, 1e-12)))
        upright = -estimates if self._agreement < 0 else estimates
        return upright * match_levels(upright, mixture)[:, None]
