"""Manifests: fixed mixtures as a table, one row per mixture, so that every figure can be computed again.

A row says which filmed clips are mixed (paths relative to a root folder that the command is given), from where on each
is heard, at which gain, who speaks, and to which split the mixture belongs. The end of the file's name says how rows
are written: ``.jsonl`` (one object per line, the fields of `MixtureRow`), ``.parquet`` (the same as columns, where
pyarrow is installed) or ``.csv`` (``mixture``, ``source_k`` and ``gain_db_k`` only).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lipsep.constants import FPS, SAMPLES_PER_FRAME
from lipsep.errors import MediaError
from lipsep.system.outputs import whole_file


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number to mix with")
    return value


def _on_frame(value: float) -> float:
    if _finite(value) < 0 or abs(value * FPS - round(value * FPS)) > 1e-6:
        raise ValueError(f"{value} s is no start of a video frame: starts are multiples of {1 / FPS} s from 0 on")
    return value


def _named(value: str) -> str:
    if not value:
        raise ValueError("an empty name")
    return value


def _inside(value: str) -> str:
    if Path(_named(value)).is_absolute() or ".." in Path(value).parts or "\0" in value:
        raise ValueError(f"'{value}' leads out of the root folder: name clips inside it")
    return value


Name = Annotated[str, AfterValidator(_named)]
Source = Annotated[str, AfterValidator(_inside)]
Decibel = Annotated[float, AfterValidator(_finite)]
Start = Annotated[float, AfterValidator(_on_frame)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MixtureRow:
    """One mixture: which clips, at which gains in dB after each was brought to the same power.

    Attributes:
        mixture: a name of its own.
        sources: paths of two clips or more, inside the root folder.
        gains_db: one for each source.
        starts_s: where in its clip each source begins, s, on the video's frames; empty: all at 0.
        speakers: who speaks in each source; empty: unknown.
        split: ``train``, ``val``, ``test`` or as the corpus says; empty: none.

    Raises:
        pydantic.ValidationError: fewer than two sources, or lists of other lengths, or values out of range.
    """

    mixture: Name
    sources: tuple[Source, ...]
    gains_db: tuple[Decibel, ...]
    starts_s: tuple[Start, ...] = ()
    speakers: tuple[Name, ...] = ()
    split: str = ""

    def __post_init__(self) -> None:
        n_src = len(self.sources)
        if n_src < 2:
            raise ValueError(f"{n_src} source; a mixture needs two")
        for name, values, needed in (
            ("gains_db", self.gains_db, True),
            ("starts_s", self.starts_s, False),
            ("speakers", self.speakers, False),
        ):
            if len(values) != n_src and (needed or values):
                raise ValueError(f"{len(values)} {name} for {n_src} sources")

    @property
    def first_frames(self) -> tuple[int, ...]:
        """Video frame at which each source begins."""
        return tuple(round(start_s * FPS) for start_s in self.starts_s) or (0,) * len(self.sources)


_ROW = TypeAdapter(MixtureRow)
_FIELDS = tuple(MixtureRow.__dataclass_fields__)


def read_manifest(path: Path) -> list[MixtureRow]:
    """Read a manifest, ``.jsonl``, ``.parquet`` or ``.csv``.

    Raises:
        MediaError: the file is missing or of another kind, a row is wrong, or a name comes twice; the message says
            where and why.
    """
    if not path.is_file():
        raise MediaError(f"no manifest at {path}; recipes/ holds those of the results tables")
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise MediaError(f"{path}: a manifest ends in {', '.join(readers)}")
    rows: dict[str, MixtureRow] = {}
    for where, cells in readers[path.suffix](path):
        row = _checked(cells, f"{path}, {where}")
        if row.mixture in rows:
            raise MediaError(f"{path}, {where}: several mixtures named {row.mixture}; give each a name of its own")
        rows[row.mixture] = row
    return list(rows.values())


def write_manifest(path: Path, rows: list[MixtureRow]) -> None:
    """Write a manifest that `read_manifest` reads, complete or not at all.

    Raises:
        MediaError: the file's name ends otherwise, CSV cannot hold the rows, or pyarrow is missing for Parquet.
    """
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise MediaError(f"{path}: a manifest ends in {', '.join(writers)}")
    with whole_file(path) as part:
        writers[path.suffix](part, rows)


def _checked(cells: Any, where: str) -> MixtureRow:
    try:
        return _ROW.validate_python(cells)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise MediaError(f"{where}: {place + ': ' if place else ''}{reason}") from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                raise MediaError(f"{path}, line {number}: no JSON ({error}); a row is one object per line") from None


def _write_jsonl(path: Path, rows: Iterable[MixtureRow]) -> None:
    lines = (json.dumps(_cells(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parquet(path).read_table(path).to_pylist()
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", {name: value for name, value in row.items() if value is not None}


def _write_parquet(path: Path, rows: list[MixtureRow]) -> None:
    parquet = _parquet(path)
    import pyarrow

    texts, numbers = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float64())
    kinds = (pyarrow.string(), texts, numbers, numbers, texts, pyarrow.string())
    schema = pyarrow.schema(list(zip(_FIELDS, kinds, strict=True)))
    parquet.write_table(pyarrow.Table.from_pylist([_cells(row) for row in rows], schema), path)


def _parquet(path: Path) -> Any:
    if find_spec("pyarrow") is None:
        raise MediaError(f"{path}: Parquet needs the package 'pyarrow': pip install pyarrow, or use .jsonl")
    from pyarrow import parquet

    return parquet


def _cells(row: MixtureRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _FIELDS}


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            n_src = sum(1 for key, value in row.items() if key and key.startswith("source_") and value)
            try:
                columns = {
                    name: [row[f"{column}_{k}"] for k in range(1, n_src + 1)]
                    for name, column in (("sources", "source"), ("gains_db", "gain_db"))
                }
                yield f"line {number}", {"mixture": row["mixture"], **columns}
            except KeyError as error:
                raise MediaError(
                    f"{path}, line {number}: {error}; a row needs mixture, source_k and gain_db_k"
                ) from None


def _write_csv(path: Path, rows: list[MixtureRow]) -> None:
    if any(row.starts_s or row.speakers or row.split for row in rows):
        raise MediaError(f"{path}: CSV holds no starts, speakers or splits; write .jsonl")
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


def mix(
    voices: list[np.ndarray], gains_db: tuple[float, ...], first_frames: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Cut voices from their first frames on to the shortest, bring them to equal power, apply gains, add up.

    Returns:
        mixture (T,) and sources (n_src, T), float32, T a whole number of video frames, mixture at -20 dB RMS.

    Raises:
        MediaError: a voice begins after its end.
    """
    if first_frames:
        voices = [voice[first * SAMPLES_PER_FRAME :] for voice, first in zip(voices, first_frames, strict=True)]
    n_samples = min(len(voice) for voice in voices) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    if not n_samples:
        raise MediaError("a voice ends before it starts: the manifest's start lies behind the end of its clip")
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
