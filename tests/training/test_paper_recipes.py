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


def test_dp_lipcoder_is_taught_as_appendix_a_3_says():
    recipe = dolphin("dp_lipcoder")
    part = recipe.lip_coder
    assert [folder.name for folder in recipe.data.filmed] == ["lrs2", "lrs3", "vox2"]
    assert recipe.data.mixing["segment_s"] == 2.0
    assert (part.teacher.name, part.learning_rate) == ("av_hubert", 1e-3)
    assert (part.reconstruction, part.distillation, part.commitment) == (1.0, 1.0, 1.0)
    assert (part.epochs, part.stop_after_epochs, part.batch * part.accumulate) == (500, 20, 32)
    assert part.restart_below == 0.0


def test_what_is_taught_first_is_what_the_separator_begins_with():
    """In the paper the encoder is frozen, the projection behind it is not."""
    for teacher in ("", "_log_mel"):
        taught, learning = dolphin(f"dp_lipcoder{teacher}"), dolphin(f"dolphin_dp_lipcoder{teacher}")
        assert Path(learning.model.initial_weights) == taught.lip_coder.output / "model"
        assert learning.training.frozen_video == "encoder" and [f.name for f in learning.data.filmed] == ["lrs2"]
        assert taught.output != learning.output


@pytest.mark.parametrize(
    ("name", "mixtures", "seconds", "snr_db"),
    [("lrs3_wham", 50_000, 2.0, (-3, 6)), ("ntcd_timit", 3_840, 4.0, (-5, 20))],
)
def test_bin_is_trained_as_its_authors_code_says(name, mixtures, seconds, snr_db):
    """Optimiser and schedule are in the code alone; length and noise in section 3.1."""
    recipe = load_recipe(RECIPES / "bin" / f"{name}.yaml")
    part = recipe.training
    assert (part.loss, part.optimiser, part.learning_rate, part.weight_decay) == ("si_snr", "adamw", 1e-3, 0.1)
    assert part.betas == (0.9, 0.98) and part.clip_norm == float("inf")
    assert (part.schedule, part.halve_after_epochs, part.frozen_video) == ("plateau", 6, True)
    assert mixtures_per_epoch(recipe) == pytest.approx(mixtures, rel=0.002)
    assert recipe.data.mixing["segment_s"] == seconds
    assert recipe.data.mixing["noise"] == 1.0 and tuple(recipe.data.mixing["noise_snr_db"]) == snr_db


DRAWN = [
    *(f"dolphin/{name}" for name in DOLPHIN if "2mix" not in name and "3mix" not in name and "4mix" not in name),
    *(f"baselines/{name}" for name in BASELINES),
    "baselines/visualvoice",
    "bin/lrs3_wham",
    "bin/ntcd_timit",
    "bin/lrs3_wham_as_published",
]


@pytest.mark.parametrize("name", DRAWN)
def test_mixtures_of_papers_are_of_different_people_at_the_lists_levels(name):
    """Appendix C: two distinct speakers. The finished lists have +g and -g, g up to 5 dB; NTCD-TIMIT has equal levels,
    and so has VisualVoice's own training."""
    mixing = load_recipe(RECIPES / f"{name}.yaml").data.mixing
    assert mixing["distinct_talkers"] and mixing["alike"] == 0 and mixing["aligned"] == 0
    assert mixing["gain_db"] == (0.0 if name in ("baselines/visualvoice", "bin/ntcd_timit") else 10.0)


def test_a_recipe_of_0_1_may_extend_one_of_today(tmp_path):
    """`data.published` was the name of `data.finished`."""
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {RECIPES}/dolphin/dolphin_lrs2_2mix.yaml\ndata: {{published: here}}\n")
    assert load_recipe(child).data.finished == tmp_path / "here"
