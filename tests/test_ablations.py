"""The recipes of Dolphin's ablations: each builds, learns, and has the size that the paper gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lipsep.losses import negative_si_snr
from lipsep.models import create_model
from lipsep.training.recipe import load_recipe

FOLDER = Path(__file__).resolve().parents[1] / "recipes/dolphin"
RECIPES = sorted(FOLDER.glob("*.yaml"))
TABLE5 = {
    "table5_no_ga_no_la": "no_ga_no_la",
    "table5_no_la": "one_of_ga_la_row2",
    "table5_no_ga": "one_of_ga_la_row3",
    "dolphin": "full",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_an_ablation_builds_and_every_layer_gets_a_gradient(path):
    recipe = load_recipe(path)
    torch.manual_seed(0)
    model = create_model(recipe.model.name, **recipe.model.overrides)
    mixture = torch.randn(2, 1_920)
    negative_si_snr(model(mixture, torch.randn(2, 3, 88, 88)), mixture[:, None]).backward()
    for name, part in (*model.separator.encoder.named_children(), *model.separator.decoder.named_children()):
        assert any(p.grad is not None and p.grad.any() and torch.isfinite(p.grad).all() for p in part.parameters()), (
            name
        )


@pytest.mark.parametrize("name", TABLE5)
def test_parameters_are_those_of_table_5(name, shared):
    published = json.loads((shared / "reference/published.json").read_text())["dolphin"]["table5_gla_lrs2"]
    column = published["columns"].index("params_m")
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    with torch.device("meta"):
        model = create_model(recipe.model.name, **recipe.model.overrides)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == published[TABLE5[name]][column]


@pytest.mark.parametrize("name", [path.stem for path in RECIPES if path.stem.startswith(("table9", "table10"))])
def test_allocation_and_output_change_no_parameter_count(name):
    """Tables 9 and 10 compare networks of one size."""
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    with torch.device("meta"):
        model = create_model(recipe.model.name, **recipe.model.overrides)
    assert sum(p.numel() for p in model.parameters()) == 7_000_448


def test_ablations_train_alike():
    """An ablation changes the network and the folder, and nothing else."""
    base = load_recipe(FOLDER / "dolphin.yaml")
    for path in RECIPES:
        recipe = load_recipe(path)
        assert recipe.training == base.training and recipe.data == base.data, path.stem
    assert len({load_recipe(path).output for path in RECIPES}) == len(RECIPES)
