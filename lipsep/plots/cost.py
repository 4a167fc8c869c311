"""Quality against cost, one point per model."""

from __future__ import annotations

import csv
from pathlib import Path

from lipsep.errors import MediaError
from lipsep.evaluation.paper_tables import PAPER_NAMES, paper_quality
from lipsep.plots.style import COLUMN_IN, MARKERS, figure

"""Registered names of models that the tables know by another."""


def draw_quality_cost(profile: Path, path: Path) -> list[Path]:
    """The papers' SI-SNRi on LRS2-2Mix over the executed MACs counted here; the area of a point grows with parameters.

    Args:
        profile: ``profile.csv`` of `lipsep profile -o`. Models of whose paper no figure is known are left out.

    Raises:
        MediaError: no such table, or no paper has a figure of any of its models.
    """
    if not profile.is_file():
        raise MediaError(f"no table at {profile}: `lipsep profile --all -o FOLDER` writes profile.csv")
    with profile.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    quality = paper_quality()
    known = [row for row in rows if PAPER_NAMES.get(row["model"], row["model"]) in quality]
    if not known:
        raise MediaError(f"{profile}: none of {', '.join(row['model'] for row in rows)} has an SI-SNRi in a paper")
    written: list[Path] = []
    with figure(path, COLUMN_IN, 2.8, written) as drawn:
        axes = drawn.subplots()
        for number, row in enumerate(known):
            x = float(row["macs"]) / float(row["seconds"]) / 1e9
            y = quality[PAPER_NAMES.get(row["model"], row["model"])]
            area = 6 + 3 * float(row["params"]) / 1e6
            marker = MARKERS[number % len(MARKERS)]
            axes.scatter(x, y, s=area, marker=marker, facecolor="0.75", edgecolor="0", linewidth=0.8)
            below = (0, -0.7 * area**0.5 - 1)  # points: under the marker, whatever its size and shape
            axes.annotate(row["model"], (x, y), below, textcoords="offset points", fontsize=7, ha="center", va="top")
        axes.set(xscale="log", xlabel="executed MACs, G per second of audio", ylabel="SI-SNRi, dB (LRS2-2Mix, papers)")
        axes.margins(0.25, 0.18)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    return written
