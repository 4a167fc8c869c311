"""Manifests: fixed mixtures as a table, one row per mixture, so that every figure can be computed again.

Columns: ``mixture``, then for each source k: ``source_k`` (path of a filmed clip, relative to a root folder that the
command is given) and ``gain_db_k``. All sources start at 0; the mixture is as long as the shortest.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.errors import MediaError


@dataclass(frozen=True)
class MixtureRow:
    """One mixture: which clips, at which gains in dB after each was brought to the same power."""

    mixture: str
    sources: tuple[str, ...]
    gains_db: tuple[float, ...]


def read_manifest(path: Path) -> list[MixtureRow]:
    """Read a manifest.

    Raises:
        MediaError: the file is missing, or a row has fewer than two sources or a gain that is no number.
    """
    if not path.is_file():
        raise MediaError(f"no manifest at {path}; recipes/ holds those of the results tables")
    rows = []
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            n_src = sum(1 for key, value in row.items() if key and key.startswith("source_") and value)
            try:
                sources = tuple(row[f"source_{k}"] for k in range(1, n_src + 1))
                gains_db = tuple(float(row[f"gain_db_{k}"]) for k in range(1, n_src + 1))
                name = row["mixture"]
            except (KeyError, TypeError, ValueError) as error:
                raise MediaError(
                    f"{path}, line {number}: {error}; a row needs mixture, source_k and gain_db_k"
                ) from None
            if n_src < 2:
                raise MediaError(f"{path}, line {number}: {n_src} source; a mixture needs two")
            rows.append(MixtureRow(name, sources, gains_db))
    return rows


def write_manifest(path: Path, rows: list[MixtureRow]) -> None:
    """Write a manifest that `read_manifest` reads."""
    n_src = max(len(row.sources) for row in rows)
    columns = [f"{column}_{k}" for k in range(1, n_src + 1) for column in ("source", "gain_db")]
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["mixture", *columns])
        for row in rows:
            pairs = zip(row.sources, row.gains_db, strict=True)
            writer.writerow([row.mixture, *(cell for source, gain in pairs for cell in (source, f"{gain:.2f}"))])


def draw_mixtures(
    pairs: list[tuple[str, str]], n_mixtures: int, gain_db: float, group: str, seed: int
) -> list[MixtureRow]:
    """Mixtures of random pairs, every pair used once before any is used again, the first voice within
    -gain_db..gain_db of the second. Names are ``group-0000``, so that results can be read by group."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(-(-n_mixtures // len(pairs)))])[:n_mixtures]
    rows = []
    for number, index in enumerate(order):
        gain = float(rng.uniform(-gain_db, gain_db))
        rows.append(MixtureRow(f"{group}-{number:04d}", pairs[index], (gain / 2, -gain / 2)))
    return rows


def mix(voices: list[np.ndarray], gains_db: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Bring voices to equal power, apply gains, add up.

    Returns:
        mixture (T,) and sources (n_src, T), float32, T a whole number of video frames, mixture at -20 dB RMS.
    """
    n_samples = min(len(voice) for voice in voices) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    cut = [voice[:n_samples] for voice in voices]
    scaled = np.stack(
        [v / (np.sqrt(np.mean(np.square(v))) + 1e-8) * 10 ** (gain / 20) for v, gain in zip(cut, gains_db, strict=True)]
    )
    mixture = scaled.sum(0)
    level = 0.1 / (np.sqrt(np.mean(np.square(mixture))) + 1e-8)
    return (mixture * level).astype(np.float32), (scaled * level).astype(np.float32)


def sources_of(rows: list[MixtureRow]) -> Iterator[str]:
    """Every clip that a manifest names, once."""
    yield from dict.fromkeys(source for row in rows for source in row.sources)
