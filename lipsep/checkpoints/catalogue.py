"""Which weights there are, and what is known of each and of every model, without loading any of it (nor torch)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lipsep.errors import WeightsError

PACKAGED = Path(__file__).parents[1] / "weights"
DEFAULT_MODEL = "voices_first"
CONFIG, WEIGHTS, PICKLES = "config.json", "model.safetensors", ("pytorch_model.bin", "model.pt", "best_model.pth")
_LARGEST_CARD = 2**20  # bytes


@dataclass(frozen=True)
class WeightsEntry:
    """One set of weights that `load_model(name)` can load."""

    name: str
    model: str
    licence: str
    size: int  # bytes
    sha256: str | None  # None where the file is not on this machine
    provenance: str


DOLPHIN = WeightsEntry(
    name="JusperLee/Dolphin",
    model="dolphin",
    licence="source code Apache-2.0; weights without a licence of their own, not cleared for commercial use",
    size=28_200_000,
    sha256=None,
    provenance=(
        "separator trained on VoxCeleb2 mixtures; video encoder distilled from AV-HuBERT large_vox_433h, "
        "whose licence is for non-commercial research"
    ),
)


def available_weights() -> list[WeightsEntry]:
    """The packaged weights, and the released ones that can be downloaded."""
    entries = []
    for config in sorted(PACKAGED.glob(f"*/{CONFIG}")):
        card, weights = read_card(config.parent), config.parent / WEIGHTS
        if "lipsep" not in card or not weights.is_file():
            continue
        entries.append(
            WeightsEntry(
                name=config.parent.name,
                model=card["model"],
                licence=card.get("licence", "not stated"),
                size=weights.stat().st_size,
                sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
                provenance=card.get("provenance", "not stated"),
            )
        )
    return [*entries, DOLPHIN]


def model_sizes() -> dict[str, dict[str, Any]]:
    """Every registered model -> its "parameters" and "lip_recipe", as `scripts/write_model_sizes.py` counted them."""
    return json.loads(files("lipsep").joinpath("assets/models.json").read_text(encoding="utf-8"))


def read_card(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder.

    Raises:
        WeightsError: there is none, or it is no JSON object.
    """
    path = folder / CONFIG
    try:
        if path.stat().st_size > _LARGEST_CARD:
            raise WeightsError(f"'{path}' is larger than {_LARGEST_CARD // 2**20} MB: it describes no model")
        card = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(f"'{folder}' has no {CONFIG}: a model folder needs it beside {WEIGHTS}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot read '{path}': {' '.join(str(error).split())}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"'{path}' is not a JSON object")
    return card
