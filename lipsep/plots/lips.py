"""Lip pictures and what an encoder makes of them (Dolphin, Fig. 8), one row per system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lipsep.errors import MediaError
from lipsep.plots.style import PAGE_IN, figure


def draw_lip_strips(strips: Mapping[str, np.ndarray], path: Path, n_shown: int = 10) -> list[Path]:
    """Some pictures of each strip, evenly over time, the same moments in every row.

    Args:
        strips: title -> (F, S, S) uint8, or float on one scale for all; first the original.

    Raises:
        MediaError: the strips do not have the same number of pictures.
    """
    lengths = {title: len(pictures) for title, pictures in strips.items()}
    if len(set(lengths.values())) != 1:
        raise MediaError(f"the strips have different numbers of pictures ({lengths}): cut them to the same frames")
    n_frames = next(iter(lengths.values()))
    shown = np.unique(np.linspace(0, n_frames - 1, min(n_shown, n_frames)).round().astype(int))
    first = next(iter(strips.values()))
    low, high = (0, 255) if first.dtype == np.uint8 else (float(first.min()), float(first.max()))
    written: list[Path] = []
    height = PAGE_IN / (len(shown) + 1)
    with figure(path, PAGE_IN, height * len(strips) + 0.3, written) as drawn:
        grid = drawn.subplots(len(strips), len(shown), squeeze=False)
        for row, (title, pictures) in zip(grid, strips.items(), strict=True):
            for axes, frame in zip(row, shown, strict=True):
                axes.imshow(pictures[frame], cmap="gray", vmin=low, vmax=high)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(title)
        for axes, frame in zip(grid[-1], shown, strict=True):
            axes.set_xlabel(str(frame))
    return written


def read_strip(path: Path) -> np.ndarray:
    """Lip pictures of an ``.npz`` (``data``) or ``.npy`` file: (F, H, W).

    Raises:
        MediaError: no such file or not of that form.
    """
    if not path.is_file():
        raise MediaError(f"no lip pictures at {path}: name an .npz or .npy file")
    try:
        stored = np.load(path, allow_pickle=False)
        pictures = stored if isinstance(stored, np.ndarray) else stored["data"]
    except (ValueError, KeyError) as error:
        raise MediaError(f"{path}: {error}; needed is an array 'data' of shape (F, H, W)") from None
    if pictures.ndim != 3:
        raise MediaError(f"{path} has shape {pictures.shape}: needed is (F, H, W)")
    return pictures
