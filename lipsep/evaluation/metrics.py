"""Metrics of one utterance. Kept libraries do the work; this file says which variant, and what silence does to each.

SI-SNR: `lipsep.losses` (zero-mean, as the field's programs have it; Dolphin's Eq. 21 is written without). SDR: BSS Eval
with a 512-tap distortion filter (torchmetrics). PESQ: ITU-T P.862.2, wide band, 16 kHz (pesq). STOI and ESTOI:
short-time objective intelligibility, plain and extended (pystoi). An `i` at the end: improvement over the mixture.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from pesq import NoUtterancesError, pesq
from pystoi import stoi
from torchmetrics.functional.audio import signal_distortion_ratio

from lipsep.constants import SAMPLE_RATE
from lipsep.losses import si_snr

METRICS = ("si_snri", "sdri", "pesq", "estoi", "stoi", "si_snr", "sdr")


def score(estimate: np.ndarray, reference: np.ndarray, mixture: np.ndarray) -> dict[str, float]:
    """SI-SNR and SDR of the estimate in dB and their improvement over the mixture, PESQ (1..4.6), STOI, ESTOI (0..1).

    A metric that is undefined here (PESQ and SDR of silence, STOI of less than 0.4 s) is NaN, never 0, so that the
    caller can count it; means must leave it out.

    Args:
        estimate, reference, mixture: (T,) float, 16 kHz.
    """
    if not (np.any(reference) and np.any(estimate) and np.isfinite(estimate).all()):
        return dict.fromkeys(METRICS, math.nan)
    estimate_t, reference_t, mixture_t = (
        torch.from_numpy(np.array(x, np.float64)) for x in (estimate, reference, mixture)
    )
    # One signal per call: the batched 512 x 512 solve fails in the MKL of torch 2.13 on two threads.
    sdr, mixture_sdr = (float(signal_distortion_ratio(x, reference_t)) for x in (estimate_t, mixture_t))
    snr, mixture_snr = (float(si_snr(x, reference_t)) for x in (estimate_t, mixture_t))
    values = {
        "si_snri": snr - mixture_snr,
        "sdri": sdr - mixture_sdr,
        "pesq": _pesq(reference, estimate),
        "estoi": _stoi(reference, estimate, extended=True),
        "stoi": _stoi(reference, estimate, extended=False),
        "si_snr": snr,
        "sdr": sdr,
    }
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}


def _pesq(reference: np.ndarray, estimate: np.ndarray) -> float:
    if len(reference) < SAMPLE_RATE // 4:
        return math.nan
    try:
        return float(pesq(SAMPLE_RATE, reference, estimate, "wb"))
    except NoUtterancesError:  # no speech was detected in one of the two
        return math.nan


def _stoi(reference: np.ndarray, estimate: np.ndarray, extended: bool) -> float:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = float(stoi(reference, estimate, SAMPLE_RATE, extended=extended))
    return math.nan if caught else value  # pystoi warns, and returns 1e-5, when too little speech is left
