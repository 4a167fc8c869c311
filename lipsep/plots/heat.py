"""Heat diffusion against Gaussian convolution on tones and an impulse (Dolphin, Fig. 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipsep.kernels.heat import diffuse
from lipsep.plots.style import PAGE_IN, figure

DIFFUSIVITY, DURATION = 0.8, 1.2  # the paper's alpha and t; their product is k in Eq. 4
KERNEL = 21  # the paper's K, steps
SIGMA = KERNEL / 6  # of the Gaussian in it, steps; the paper does not say: so its taps end at 3 sigma
N_STEPS = 200
IMPULSE_AT = 130


def tones_and_impulse() -> np.ndarray:
    """Three tones, periods of 100, 25 and 8 steps, and an impulse: (T,). The paper does not give its signal."""
    step = np.arange(N_STEPS)
    tones = sum(size * np.sin(2 * np.pi * step / period) for size, period in ((1.0, 100), (0.5, 25), (0.25, 8)))
    return tones + 2.0 * (step == IMPULSE_AT)


def heat(x: np.ndarray) -> np.ndarray:
    """As the model does it: frequency p of a cosine transform times exp(-alpha t (p pi / T)^2). (T,) -> (T,)."""
    column = torch.from_numpy(x.astype(np.float64))[None, :, None]
    return diffuse(column, torch.tensor([DIFFUSIVITY * DURATION], dtype=torch.float64))[0, :, 0].numpy()


def gaussian(x: np.ndarray) -> np.ndarray:
    """Convolution with a Gaussian of `KERNEL` taps, zeros beyond the ends: (T,) -> (T,)."""
    taps = np.exp(-0.5 * np.square((np.arange(KERNEL) - KERNEL // 2) / SIGMA))
    return np.convolve(x, taps / taps.sum(), mode="same")


def draw_heat(path: Path) -> list[Path]:
    """The signal and what both make of it, with the impulse magnified: diffusion keeps more of it and of the tones."""
    x = tones_and_impulse()
    lines: tuple[tuple[np.ndarray, str, dict[str, Any]], ...] = (
        (x, "signal", {"color": "0.6", "linestyle": ":"}),
        (heat(x), f"heat diffusion, alpha = {DIFFUSIVITY}, t = {DURATION}", {"color": "0", "linestyle": "--"}),
        (gaussian(x), f"Gaussian convolution, K = {KERNEL}", {"color": "0.35", "linestyle": "-"}),
    )
    written: list[Path] = []
    with figure(path, PAGE_IN, 2.6, written) as drawn:
        axes = drawn.subplots()
        inset = axes.inset_axes((0.73, 0.55, 0.26, 0.43))
        for values, title, style in lines:
            axes.plot(values, label=title, **style)
            inset.plot(values, **style)
        axes.set(xlabel="step", xlim=(0, N_STEPS - 1), ylim=(x.min() - 0.2, x.max() + 1.6))
        axes.legend(frameon=False, loc="upper left")
        inset.set(
            xlim=(IMPULSE_AT - 8, IMPULSE_AT + 8), ylim=(x[IMPULSE_AT - 8] - 1.2, x.max() + 0.2), xticks=[], yticks=[]
        )
        axes.indicate_inset_zoom(inset, edgecolor="0.5")
    return written
