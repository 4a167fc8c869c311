"""Dolphin's recipes, and the baselines', against what the papers say of data, batch and schedule."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipsep.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
DOLPHIN = sorted(path.stem for path in (RECIPES / "dolphin").glob("*.yaml"))
HOURS = {"lrs3": 28, "vox2": 56}  # of mixtures to train on (appendix C); all else is LRS2's 11
BASELINES = sorted(path.stem for path in (RECIPES / "baselines").glob("*.yaml") if "visualvoice" not in path.stem)


def dolphin(name: str) -> Recipe:
    return load_recipe(RECIPES / "dolphin" / f"{name}.yaml")


def mixtures_per_epoch(recipe: Recipe) -> int:
    part = recipe.training
    return part.steps_per_epoch * part.accumulate * part.batch_mixtures


@pytest.mark.parametrize("name", DOLPHIN)
def test_a_step_of_dolphin_sees_48_voices_and_an_epoch_the_papers_hours(name):
    recipe = dolphin(name)
    part = recipe.training
    assert 2 * part.batch_mixtures * part.accumulate == 48  # both voices of each mixture are asked for
    hours = mixtures_per_epoch(recipe) * recipe.data.mixing["segment_s"] / 3600
    expected = next((hours for corpus, hours in HOURS.items() if corpus in name), 11)
    assert hours == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", DOLPHIN)
def test_dolphins_optimiser_and_schedule_are_those_of_section_4(name):
    part = dolphin(name).training
    assert (part.loss, part.optimiser, part.learning_rate, part.clip_norm) == ("si_snr", "adam", 1e-3, 5.0)
    assert (part.schedule, part.halve_after_epochs, part.stop_after_epochs) == ("plateau", 15, 30)
    assert part.betas == (0.9, 0.999) and part.weight_decay == 0  # Adam's own; the paper names none
    assert part.auxiliary_weight == (0.0 if name.startswith("table8") else 0.4)  # Eq. 28


@pytest.mark.parametrize("name", BASELINES)
def test_an_epoch_of_a_baseline_is_as_long_as_its_finished_corpus(name):
    expected = {"iianet_lrs3": 50_000, "iianet_vox2": 100_000}.get(name, 20_000)
    recipe = load_recipe(RECIPES / "baselines" / f"{name}.yaml")
    assert mixtures_per_epoch(recipe) == pytest.approx(expected, rel=0.001)
