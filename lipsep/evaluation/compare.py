"""Several evaluations side by side, on the utterances that all of them have, with the significance of differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from lipsep.errors import MediaError
from lipsep.evaluation.conditions import CLEAN
from lipsep.evaluation.summary import bootstrap_interval
from lipsep.evaluation.tables import read_rows

COMPARED = ("si_snri", "sdri", "pesq", "estoi")
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """One system against the first, on one metric.

    Attributes:
        mean: over the common utterances of this system.
        difference: to the first system's mean; positive is better.
        low, high: 95 % bootstrap interval of the difference, whole mixtures drawn again.
        p: Wilcoxon signed-rank test over mixtures, two-sided; NaN for the first system and for identical ones.
        undefined: utterances left out because the metric is undefined for this system or the first.
    """

    mean: float
    difference: float
    low: float
    high: float
    p: float
    undefined: int

    @property
    def significant(self) -> bool:
        return self.p < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """Systems by name, each with its metrics, on `mixtures` mixtures and `utterances` utterances of all."""

    systems: dict[str, dict[str, Difference]]
    mixtures: int
    utterances: int


def compare(folders: list[Path], condition: str = CLEAN) -> Comparison:
    """Compare evaluations; the first is what the others are measured against.

    Args:
        folders: as `lipsep evaluate -o` writes them, or the tables in them.

    Raises:
        MediaError: an evaluation is missing, or the evaluations share no utterance.
    """
    names = _names(folders)
    tables = [_by_utterance(folder, condition) for folder in folders]
    common = sorted(set(tables[0]).intersection(*tables[1:]))
    if not common:
        raise MediaError(
            f"{' and '.join(names)} share no utterance under '{condition}': evaluate them on the same --data"
        )
    systems = {
        name: {metric: _difference(tables[0], table, common, metric) for metric in COMPARED}
        for name, table in zip(names, tables, strict=True)
    }
    return Comparison(systems, len({mixture for mixture, _ in common}), len(common))


def _names(folders: list[Path]) -> list[str]:
    """Folder names, as much of the path as tells them apart."""
    parts = [(folder.parent if folder.is_file() else folder).resolve().parts for folder in folders]
    depth = next((n for n in range(1, 20) if len({part[-n:] for part in parts}) == len(parts)), 1)
    return ["/".join(part[-depth:]) for part in parts]


def _by_utterance(folder: Path, condition: str) -> dict[tuple[str, str], dict[str, Any]]:
    table = folder if folder.is_file() else folder / "utterances.csv"
    return {(row["mixture"], row["source"]): row for row in read_rows(table) if row["condition"] == condition}


def _difference(
    first: dict[tuple[str, str], dict[str, Any]],
    other: dict[tuple[str, str], dict[str, Any]],
    common: list[tuple[str, str]],
    metric: str,
) -> Difference:
    pairs = {key: (first[key][metric], other[key][metric]) for key in common}
    defined = {key: pair for key, pair in pairs.items() if not any(map(math.isnan, pair))}
    undefined = len(pairs) - len(defined)
    if not defined:
        return Difference(*(math.nan,) * 5, undefined)
    mixtures: dict[str, list[float]] = {}
    for (mixture, _), (a, b) in defined.items():
        mixtures.setdefault(mixture, []).append(b - a)
    sums, counts = (np.array([fold(d) for d in mixtures.values()], float) for fold in (sum, len))
    per_mixture = sums / counts
    low, high = bootstrap_interval(sums, counts)
    p = float(wilcoxon(per_mixture).pvalue) if np.any(per_mixture) else math.nan
    mean = float(np.mean([b for _, b in defined.values()]))
    return Difference(mean, float(sums.sum() / counts.sum()), low, high, p, undefined)
