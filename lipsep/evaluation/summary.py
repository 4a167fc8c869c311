"""From scored utterances to means that can be trusted: undefined values counted, intervals, breakdowns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from lipsep.evaluation.conditions import CLEAN
from lipsep.evaluation.metrics import METRICS

RESAMPLES = 2000
NUMBERED = re.compile(r"(.+)-\d{3,}")
GAIN_EDGES_DB = (-5.0, -2.5, 0.0, 2.5, 5.0)
"""Between bins of a voice's level against all others together."""

Rows = list[dict[str, Any]]


def summarise(scored: Rows) -> dict[str, Any]:
    """Means over utterances.

    Returns:
        ``mixtures``, ``utterances``; every metric's mean over utterances where it is defined, ``<metric>_undefined``
        (how many were left out), ``two_cue`` (share of mixtures, 0..1), ``ci95`` (for each of them the 95 % bootstrap
        interval over mixtures), all of the cases as given. Then the same, without intervals, per ``groups`` (mixtures
        named ``group-0000``), ``talkers`` and ``gain_bins`` where there are several, and
        with intervals per robustness condition under ``conditions``.
    """
    as_given = [row for row in scored if row["condition"] == CLEAN]
    summary = _with_intervals(as_given)
    breakdowns: dict[str, Callable[[dict[str, Any]], str]] = {
        "groups": lambda row: numbered[1] if (numbered := NUMBERED.fullmatch(row["mixture"])) else "others",
        "talkers": lambda row: row["talker"],
        "gain_bins": lambda row: gain_bin(row["relative_level_db"]),
    }
    for name, key in breakdowns.items():
        parts = _split(as_given, key)
        if 1 < len(parts) <= max(20, len(as_given) // 4):
            ordered = sorted(parts, key=_gain_order) if name == "gain_bins" else sorted(parts)
            summary[name] = {part: _means(parts[part]) for part in ordered}
    others = _split([row for row in scored if row["condition"] != CLEAN], lambda row: row["condition"])
    if others:
        summary["conditions"] = {name: _with_intervals(rows) for name, rows in others.items()}
    return summary


def means_so_far(scored: Rows) -> str:
    """The running mean, for a progress bar."""
    rows = [row for row in scored if row["condition"] == scored[-1]["condition"]]
    return f"SI-SNRi {_mean(rows, 'si_snri'):+.2f} dB, SDRi {_mean(rows, 'sdri'):+.2f} dB, {rows[-1]['condition']}"


def gain_bin(level_db: float) -> str:
    """The bin of a level: "-2.5..0 dB"."""
    if math.isnan(level_db):
        return "unknown"
    k = int(np.searchsorted(GAIN_EDGES_DB, level_db, side="right"))
    if k == 0:
        return f"below {GAIN_EDGES_DB[0]:g} dB"
    if k == len(GAIN_EDGES_DB):
        return f"{GAIN_EDGES_DB[-1]:g} dB and more"
    return f"{GAIN_EDGES_DB[k - 1]:g}..{GAIN_EDGES_DB[k]:g} dB"


def _gain_order(name: str) -> int:
    probes = [GAIN_EDGES_DB[0] - 1, *GAIN_EDGES_DB]
    names = [gain_bin(level) for level in probes]
    return names.index(name) if name in names else len(names)


def bootstrap_interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over utterances, whole mixtures drawn again, so that voices of one stay together.

    Args:
        sums, counts: (n_mixtures,) per mixture, sum of the defined values and how many there are.

    Returns:
        Both ends; NaN where nothing is defined, the mean itself where one mixture alone has defined values.
    """
    defined = counts > 0
    sums, counts = sums[defined], counts[defined]
    if len(sums) < 2:  # of which nothing can be drawn again
        mean = float(sums[0] / counts[0]) if len(sums) else math.nan
        return mean, mean
    found = bootstrap(
        (sums, counts),
        lambda s, n, axis=-1: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,  # of the resamples that are in memory at a time
        method="percentile",
        random_state=0,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _split(rows: Rows, key: Callable[[dict[str, Any]], Hashable]) -> dict[Any, Rows]:
    parts: dict[Any, Rows] = {}
    for row in rows:
        parts.setdefault(key(row), []).append(row)
    return parts


def _with_intervals(rows: Rows) -> dict[str, Any]:
    summary = _means(rows)
    mixtures = list(_split(rows, lambda row: row["mixture"]).values())
    intervals = {}
    for metric in METRICS:
        defined = [[row[metric] for row in mixture if not math.isnan(row[metric])] for mixture in mixtures]
        intervals[metric] = bootstrap_interval(np.array(list(map(sum, defined))), np.array(list(map(len, defined))))
    passed = np.array([float(_passes(mixture)) for mixture in mixtures])
    intervals["two_cue"] = bootstrap_interval(passed, np.ones(len(mixtures)))
    summary["ci95"] = {name: list(interval) for name, interval in intervals.items()}
    return summary


def _means(rows: Rows) -> dict[str, Any]:
    mixtures = _split(rows, lambda row: row["mixture"])
    means: dict[str, Any] = {"mixtures": len(mixtures), "utterances": len(rows)}
    for metric in METRICS:
        means[metric] = _mean(rows, metric)
        means[f"{metric}_undefined"] = sum(math.isnan(row[metric]) for row in rows)
    means["two_cue"] = float(np.mean([_passes(mixture) for mixture in mixtures.values()])) if mixtures else math.nan
    return means


def _mean(rows: Iterable[dict[str, Any]], metric: str) -> float:
    defined = [row[metric] for row in rows if not math.isnan(row[metric])]
    return float(np.mean(defined)) if defined else math.nan


def _passes(mixture: Rows) -> bool:
    return all(row["own_voice"] for row in mixture)
