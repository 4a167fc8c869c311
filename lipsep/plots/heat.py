"""Heat diffusion against Gaussian convolution (Dolphin, Fig. 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lipsep.layers.heat import diffuse
from lipsep.plots.style import PAGE_IN, figure, line_style

N_STEPS = 128
DURATIONS = (4.0, 32.0, 256.0)  # diffusivity times duration, steps^2


def gaussian_blur(x: np.ndarray, variance: float) -> np.ndarray:
    """Convolution with a sampled Gaussian of this variance in steps^2, zeros beyond the ends: (T,) -> (T,)."""
    reach = len(x) - 1
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * variance))
    return np.convolve(x, kernel / kernel.sum())[reach : reach + len(x)]


def heat(x: np.ndarray, duration: float) -> np.ndarray:
    """Diffusion with insulated ends, as the model does it: (T,) -> (T,)."""
    column = torch.from_numpy(x.astype(np.float64))[None, :, None]
    return diffuse(column, torch.tensor([duration], dtype=torch.float64))[0, :, 0].numpy()


def two_events() -> np.ndarray:
    """A short event in the middle and a longer one at the very beginning: (T,)."""
    x = np.zeros(N_STEPS)
    x[:12] = 1.0
    x[N_STEPS // 2] = 4.0
    return x


def draw_heat(path: Path) -> list[Path]:
    """What both make of two events, one of them at the edge, and how much of the signal's sum each keeps.

    Inside, diffusion for a duration k is a Gaussian of variance 2 k. At the ends the convolution loses what flows over
    them; diffusion keeps the sum, whatever the duration, and costs the same for any width.
    """
    x = two_events()
    blurs = {"heat diffusion": heat, "Gaussian convolution": lambda y, k: gaussian_blur(y, 2 * k)}
    written: list[Path] = []
    with figure(path, PAGE_IN, 2.3, written) as drawn:
        panels = drawn.subplots(1, 3)
        durations = np.geomspace(1, 1000, 25)
        for number, (axes, (title, blur)) in enumerate(zip(panels, blurs.items(), strict=False)):
            for line, duration in enumerate(DURATIONS):
                axes.plot(blur(x, duration), label=f"k = {duration:g}", **{**line_style(line), "marker": ""})
            axes.set(title=title, xlabel="step", ylim=(0, 1.05))
            axes.legend(frameon=False)
            kept = [100 * blur(x, k).sum() / x.sum() for k in durations]
            panels[2].plot(durations, kept, label=title, markevery=4, **line_style(2 * number))
        panels[2].set(title="sum that is kept, %", xlabel="k", xscale="log", ylim=(0, 105))
        panels[2].legend(frameon=False, loc="lower left")
    return written
