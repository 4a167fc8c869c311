"""Spectrogram grids: mixture, reference and estimates side by side (Dolphin, appendix H)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.plots.style import COLUMN_IN, PAGE_IN, figure
from lipsep.results.overview import RANGE_DB, spectrogram

COLUMNS_PER_PANEL = 400  # time steps drawn


def draw_spectrograms(sounds: Mapping[str, np.ndarray], path: Path, panels_per_row: int = 3) -> list[Path]:
    """One panel per sound, all on one scale: the loudest of the first is the darkest.

    Args:
        sounds: title -> (T,) float, 16 kHz; first the mixture, then the reference, then estimates.
        path: without suffix; ``.pdf`` and ``.png`` are written.
    """
    written: list[Path] = []
    n_columns = min(panels_per_row, len(sounds))
    n_rows = -(-len(sounds) // n_columns)
    with figure(path, PAGE_IN if n_columns > 1 else COLUMN_IN, 0.4 + 1.5 * n_rows, written) as drawn:
        grid = drawn.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
        loudest = None
        for number, (axes, (title, sound)) in enumerate(zip(grid.flat, sounds.items(), strict=False)):
            power = spectrogram(lambda a, b, s=sound: np.asarray(s[a:b], np.float32), len(sound), COLUMNS_PER_PANEL)
            loudest = float(np.percentile(power, 99.5)) if loudest is None else loudest
            axes.imshow(
                power, origin="lower", aspect="auto", cmap="Greys", vmin=loudest - RANGE_DB, vmax=loudest,
                extent=(0, len(sound) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000), interpolation="auto", rasterized=True,
            )  # fmt: skip
            axes.set_title(title.replace("$", r"\$"))
            if number % n_columns == 0:
                axes.set_ylabel("kHz")
            if number + n_columns >= len(sounds):
                axes.set_xlabel("s")
                axes.tick_params(labelbottom=True)
        for axes in list(grid.flat)[len(sounds) :]:
            axes.set_axis_off()
    return written
