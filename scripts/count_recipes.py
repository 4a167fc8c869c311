"""Count the networks of the papers' tables that have no registered name, only a recipe, for the results pages.

    python scripts/count_recipes.py        # writes docs/results/data/recipes.csv; then `make results`

Columns are those of `lipsep profile`, for one second of sound; nothing is timed.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from lipsep.constants import SAMPLE_RATE
from lipsep.models import create_model
from lipsep.profiling import count_macs, count_parameters
from lipsep.system.outputs import whole_file
from lipsep.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = [
    *sorted(ROOT.glob("recipes/dolphin/table[156]_*.yaml")),
    *sorted(ROOT.glob("recipes/baselines/*_dp_lipcoder.yaml")),
]


def count(recipe: Path) -> dict[str, float | str]:
    """A row of the table."""
    part = load_recipe(recipe).model
    with torch.device("meta"):
        model = create_model(part.name, **part.overrides).eval()
    size, macs = count_parameters(model), count_macs(model, SAMPLE_RATE)
    return {
        "model": recipe.stem,
        "seconds": 1.0,
        "params": size.total,
        "params_without_video_encoder": size.without_video_encoder,
        "macs": macs.true.total,
        "hook_macs": macs.hooks.total,
        "hook_macs_without_video_encoder": macs.hooks.without_video_encoder,
    }


if __name__ == "__main__":
    rows = [count(recipe) for recipe in RECIPES]
    with (
        whole_file(ROOT / "docs/results/data/recipes.csv") as path,
        path.open("w", newline="", encoding="utf-8") as lines,
    ):
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
