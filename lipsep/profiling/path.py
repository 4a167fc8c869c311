"""Where the time of one separation goes, from file to voices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def path_table(report: Mapping[str, Any], opening_s: float, processor_s: float) -> str:
    """Seconds of each step, its share of all, and the factor of real time.

    Args:
        report: of the separation, as in report.json.
        opening_s: that PyTorch and the weights took to load.
        processor_s: of all threads together, loading included.
    """
    film_s = report["input"]["duration_s"]
    steps = {"load": opening_s, **{step: s for step, s in report["seconds"].items() if step != "total"}}
    total_s = sum(steps.values())
    lines = [f"{'step':10}{'seconds':>9}{'share':>8}{'of real time':>14}"]
    for step, seconds in {**steps, "total": total_s}.items():
        lines.append(f"{step:10}{seconds:9.2f}{seconds / total_s:8.0%}{seconds / film_s:14.3f}")
    lines.append(f"{'processor':10}{processor_s:9.2f}{'':8}{processor_s / film_s:14.3f}")
    return "\n".join(lines) + "\n"
