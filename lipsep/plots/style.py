"""One look for all figures: sized for a journal column, told apart by line, marker and lightness, not by hue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lipsep.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_IN, PAGE_IN = 3.5, 7.2  # widths in inches of one and of two columns
FONT_PT = 8  # of labels; ticks are a point smaller
DPI = 300
GREYS = ("0.0", "0.35", "0.55", "0.7")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")


@contextmanager
def figure(path: Path, width_in: float, height_in: float, written: list[Path]) -> Iterator[Figure]:
    """A figure to draw into, which is then written as ``path.pdf`` and ``path.png``; both are appended to `written`.

    The same drawing gives the same bytes.

    Raises:
        OutputError: the folder cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    look = {
        "font.size": FONT_PT, "axes.titlesize": FONT_PT, "axes.labelsize": FONT_PT, "legend.fontsize": FONT_PT - 1,
        "xtick.labelsize": FONT_PT - 1, "ytick.labelsize": FONT_PT - 1, "lines.linewidth": 1.2,
        "lines.markersize": 4, "pdf.fonttype": 42,
    }  # fmt: skip
    with matplotlib.rc_context(look):
        drawn = Figure(figsize=(width_in, height_in), layout="constrained")
        yield drawn
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
                target = path.with_name(f"{path.name}.{kind}")
                drawn.savefig(target, dpi=DPI, metadata=metadata)
                written.append(target)
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror}; choose another -o") from error


def line_style(number: int) -> dict[str, str]:
    """Grey, dashes and marker of the n-th line."""
    return {
        "color": GREYS[number % len(GREYS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }
