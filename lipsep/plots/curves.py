"""Curves over training or over iterations, from CSV files (Dolphin, Fig. 7; BIN, Fig. 3)."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lipsep.errors import MediaError
from lipsep.plots.style import COLUMN_IN, figure, line_style

X_COLUMNS = ("iteration", "epoch", "step")


def read_curves(path: Path, wanted: Sequence[str] = ()) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """The horizontal axis' name, and the points of every numeric column over it; empty cells are left out.

    Args:
        path: CSV with one of the columns iteration, epoch, step.
        wanted: columns to take; default: all.

    Raises:
        MediaError: no such file, no such axis, or a wanted column is missing.
    """
    if not path.is_file():
        raise MediaError(f"no table at {path}: name a CSV file with a column {', '.join(X_COLUMNS)}")
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    columns = list(rows[0]) if rows else []
    x_name = next((name for name in X_COLUMNS if name in columns), None)
    if x_name is None:
        raise MediaError(f"{path} has the columns {', '.join(columns) or 'none'}: needed is one of {X_COLUMNS}")
    names = list(wanted) or [name for name in columns if name not in X_COLUMNS]
    if missing := [name for name in names if name not in columns]:
        raise MediaError(f"{path} has no column {', '.join(missing)}: choose from {', '.join(columns)}")
    curves = {name: [(_number(row[x_name]), _number(row[name])) for row in rows] for name in names}
    known = {name: [p for p in points if not any(map(math.isnan, p))] for name, points in curves.items()}
    return x_name, {name: points for name, points in known.items() if points}


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str, path: Path, log: bool = False
) -> list[Path]:
    """All curves in one panel; the axis is logarithmic where `log`."""
    written: list[Path] = []
    with figure(path, COLUMN_IN, 2.4, written) as drawn:
        axes = drawn.subplots()
        for number, (name, points) in enumerate(curves.items()):
            x, y = zip(*points, strict=True)
            style = line_style(number)
            axes.plot(x, y, label=name, markevery=max(1, len(x) // 10), **style)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        if log:
            axes.set_yscale("log")
        axes.grid(color="0.9")
        axes.legend(frameon=False)
    return written


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan
