"""Training losses, each with its equation, sign and reduction.

References
----------
Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019 (definition of SI-SNR; SI-SDR there).
Dolphin, arXiv 2509.23610, Eq. 21-28 (time-domain SI-SNR as the training objective, magnitude SI-SNR beside it).
Shin et al., "Separate and Reconstruct", NeurIPS 2024 (magnitude SI-SNR of earlier decoder layers, weighted down late).
Yamamoto et al., "Parallel WaveGAN", ICASSP 2020 (multi-resolution STFT loss).
Hershey et al., "Deep clustering: discriminative embeddings for segmentation and separation", ICASSP 2016.
Kolbæk et al., "Multitalker speech separation with utterance-level permutation invariant training", TASLP 2017.
Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021 (loss of absent sources).
Gao and Grauman, "VisualVoice", CVPR 2021 (error of complex masks, triplets of embeddings).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-8  # keeps the logarithm finite where a target or an error is exactly silent
STFT_RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))  # points, hop, window in samples


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


def magnitude_si_snr(estimate: Tensor, target: Tensor) -> Tensor:
    """SI-SNR in dB between magnitude spectrograms (Hann windows of 32 ms every 8 ms), so that phases do not matter.

    Shape: estimate (..., T), target (..., T) -> (...), dB.
    """
    estimate, target = (_magnitudes(x, n_fft=512, hop=128, window=512).flatten(-2) for x in (estimate, target))
    projection = (estimate * target).sum(-1, keepdim=True) * target / (target.square().sum(-1, keepdim=True) + EPS)
    noise = estimate - projection
    return 10 * torch.log10((projection.square().sum(-1) + EPS) / (noise.square().sum(-1) + EPS))


def stft_distance(estimate: Tensor, target: Tensor) -> Tensor:
    """Multi-resolution STFT loss: spectral convergence plus L1 of log magnitudes, mean of three resolutions; >= 0.

    The level of the voice counts. Shape: estimate (..., T), target (..., T) -> (), no unit.
    """
    total = estimate.new_zeros(())
    for n_fft, hop, window in STFT_RESOLUTIONS:
        x, y = (_magnitudes(signal, n_fft, hop, window) for signal in (estimate, target))
        convergence = (y - x).square().sum((-2, -1)).add(EPS).sqrt() / y.square().sum((-2, -1)).add(EPS).sqrt()
        total = total + convergence.mean() + (torch.log(y + 1e-5) - torch.log(x + 1e-5)).abs().mean()
    return total / len(STFT_RESOLUTIONS)


def silence(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Level of an estimate that should be silent, against the mixture's, in dB: ``10 log10(|x|^2 / |m|^2 + 0.001)``.

    -30 dB is silent enough; below, nothing is gained. Shape: estimate (..., T), mixture (..., T) -> (...), dB.
    """
    ratio = estimate.square().sum(-1) / (mixture.square().sum(-1) + EPS)
    return 10 * torch.log10(ratio + 1e-3)


def mask_error(mask: Tensor, voice: Tensor, mixture: Tensor, limit: float) -> Tensor:
    """Mean square error of both parts of a complex mask, weighted by the mixture's loudness; >= 0, no unit.

    The true mask is ``voice / mixture``, its parts at most `limit` either way; the weight is ``log(1 + |mixture|)``,
    within 0.001 and 10. Shape: complex mask, voice and mixture, all (B, rows, columns) -> ().
    """
    true = voice * mixture.conj() / (mixture.abs().square() + 1e-30)
    error = torch.view_as_real(mask) - torch.view_as_real(true).clamp(-limit, limit)
    weight = torch.log1p(mixture.abs()).clamp(1e-3, 10)
    return (weight.unsqueeze(-1) * error.square()).mean()


def triplet(anchor: Tensor, same: Tensor, other: Tensor, margin: float = 0.5) -> Tensor:
    """How much `same` fails to be closer to the anchor than `other` by a margin; >= 0, no unit.

    Mean of ``max(0, cos(anchor, other) - cos(anchor, same) + margin)``. Shape: all (B, C) -> ().
    """
    near, far = (torch.nn.functional.cosine_similarity(anchor, each) for each in (same, other))
    return (far - near + margin).clamp(min=0).mean()


def _magnitudes(signal: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """(..., T) -> (..., n_fft // 2 + 1, frames); with a floor, because the root of zero has no gradient."""
    shape = torch.hann_window(window, device=signal.device, dtype=signal.dtype)
    flat = signal.reshape(-1, signal.shape[-1])
    spectrum = torch.stft(flat, n_fft, hop, window, shape, pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    return (power + EPS).sqrt().view(*signal.shape[:-1], *power.shape[-2:])


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"si_snr": negative_si_snr, "snr": negative_snr}
LEVEL_KEEPING_LOSSES = frozenset({"snr", "co_separation"})


def permutation_free(
    estimates: Tensor, sources: Tensor, mixture: Tensor, most_db: float = 30.0, silent_db: float = 20.0
) -> tuple[Tensor, Tensor]:
    """Negative SNR of each voice in the best order of the estimates, dB (Kolbæk et al. 2017, utterance-level PIT).

    More than `most_db` counts for nothing (Wisdom et al. 2021); where a source is silent, the estimate should be,
    down to `silent_db` below the mixture, at 0.3 of the weight.

    Shape: estimates, sources (B, V, T), mixture (B, T) -> (B,), sum over voices; order (B, V), of the estimate for each
    source.
    """
    error = (estimates[:, :, None] - sources[:, None]).square().sum(-1)  # (B, estimate, source)
    power, whole = sources.square().sum(-1)[:, None], mixture.square().sum(-1)[:, None, None]
    heard = 10 * torch.log10((error + 10 ** (-most_db / 10) * power + EPS) / (power + EPS))
    silent = 3 * torch.log10((error + 10 ** (-silent_db / 10) * whole + EPS) / (whole + EPS))
    cost = torch.where(power > 0, heard, silent)
    orders = torch.tensor(list(itertools.permutations(range(sources.shape[1]))), device=cost.device)  # (P, V)
    places = torch.arange(sources.shape[1], device=cost.device)
    best, which = cost[:, orders, places].sum(-1).min(1)
    return best, orders[which]


def clustering(embeddings: Tensor, members: Tensor, weights: Tensor) -> Tensor:
    """Squared distance of two affinities, of embeddings and of who is loudest (Hershey et al. 2016, "Deep clustering").

    ``|V V' - Y Y'|^2`` of points weighted by w, sum of w 1: 0 where points of one member share a direction and
    directions of different members are orthogonal. Shape: embeddings (B, N, D) of length 1, members (B, N, V) one-hot,
    weights (B, N) -> (), no unit.
    """
    root = (weights / weights.sum(-1, keepdim=True).clamp(min=EPS)).sqrt().unsqueeze(-1)
    v, y = embeddings * root, members * root
    within, across, wanted = (product.square().sum((1, 2)) for product in (v.mT @ v, v.mT @ y, y.mT @ y))  # (B,)
    return (within - 2 * across + wanted).mean()
