"""Training losses, each with its equation, sign and reduction.

References
----------
Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019 (definition of SI-SNR; SI-SDR there).
Dolphin, arXiv 2509.23610, Eq. 21-22 (time-domain SI-SNR as the training objective).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-8  # keeps the logarithm finite where a target or an error is exactly silent


def si_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB; both signals are made zero-mean first.

    ``10 log10(|s_t|^2 / |e|^2)`` with ``s_t = <x, s> s / |s|^2`` and ``e = x - s_t``.
    The scale of the estimate does not matter, so a network trained on it may output any level.

    Shape: estimate (..., T), target (..., T) -> (...), dB.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    energy = target.square().sum(-1, keepdim=True)
    projection = (estimate * target).sum(-1, keepdim=True) * target / (energy + EPS)
    noise = estimate - projection
    return 10 * torch.log10((projection.square().sum(-1) + EPS) / (noise.square().sum(-1) + EPS))


def snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Plain signal-to-noise ratio in dB, ``10 log10(|s|^2 / |x - s|^2)``: the level of the voice counts.

    Shape: estimate (..., T), target (..., T) -> (...), dB.
    """
    noise = estimate - target
    return 10 * torch.log10((target.square().sum(-1) + EPS) / (noise.square().sum(-1) + EPS))


def negative_si_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean of ``-si_snr`` over batch and sources, dB; lower is better (Dolphin Eq. 21)."""
    return -si_snr(estimate, target).mean()


def negative_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean of ``-snr`` over batch and sources, dB; lower is better. Networks trained with it keep the voice's level."""
    return -snr(estimate, target).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"si_snr": negative_si_snr, "snr": negative_snr}
LEVEL_KEEPING_LOSSES = frozenset({"snr"})
