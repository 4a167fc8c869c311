"""The papers' tables, as far as figures are compared with them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

PAPER_NAMES = {"rtfsnet_12": "rtfsnet", "swiftnet_12": "swiftnet"}


def paper_tables() -> dict[str, Any]:
    """The papers' tables; ``_source`` says from where."""
    return json.loads(files("lipsep").joinpath("assets/paper_tables.json").read_text(encoding="utf-8"))


def paper_quality() -> dict[str, float]:
    """SI-SNRi in dB on LRS2-2Mix by Dolphin's Table 3."""
    table = paper_tables()["dolphin"]["table3"]
    return {name: row[0] for name, row in table.items() if name != "columns"}
