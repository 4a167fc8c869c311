"""Tables of scored utterances on disk: CSV always, Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lipsep.errors import MediaError
from lipsep.evaluation.metrics import METRICS
from lipsep.system.outputs import whole_file

COLUMNS: dict[str, type] = {
    "condition": str,
    "mixture": str,
    "position": int,
    "source": str,
    "talker": str,
    "n_src": int,
    "gain_db": float,
    "relative_level_db": float,
    "own_voice": bool,
    **dict.fromkeys(METRICS, float),
}
"""One row per separated voice; NaN where a metric or a gain is undefined."""


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a CSV file, with a header where it is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(COLUMNS), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV file, complete or not at all, and a Parquet file beside it where pyarrow is installed."""
    with whole_file(path) as part:
        append_rows(part, rows)
    if find_spec("pyarrow") is not None:
        import pyarrow
        from pyarrow import parquet

        columns = {name: pyarrow.array([row[name] for row in rows]) for name in COLUMNS}
        parquet.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what `write_rows` or `append_rows` wrote, CSV or Parquet; a mixture cut off at the end of a CSV is left out.

    Raises:
        MediaError: no such file, or columns are missing.
    """
    if not path.is_file():
        raise MediaError(f"no evaluation at {path}: `lipsep evaluate MODEL --data MANIFEST -o FOLDER` writes one")
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise MediaError(f"{path} lacks the columns {', '.join(missing)}: score again with `lipsep evaluate`")
        cells = [row for row in reader if None not in row.values()]
    rows = [
        {name: row[name] == "True" if kind is bool else kind(row[name]) for name, kind in COLUMNS.items()}
        for row in cells
    ]
    members: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["condition"], row["mixture"])
        members[key] = members.get(key, 0) + 1
    return [row for row in rows if members[row["condition"], row["mixture"]] == row["n_src"]]


def write_json(path: Path, what: dict[str, Any]) -> None:
    """Write standard JSON: numbers that are undefined (NaN) become null."""
    path.write_text(json.dumps(_defined(what), indent=2) + "\n", encoding="utf-8")


def _defined(what: Any) -> Any:
    if isinstance(what, dict):
        return {key: _defined(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [_defined(value) for value in what]
    return None if isinstance(what, float) and math.isnan(what) else what
