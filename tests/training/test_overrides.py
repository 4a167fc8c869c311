"""Recipes changed on the command line, and recipes tried out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lipsep.checkpoints.folder import load_model
from lipsep.cli import app
from lipsep.errors import ModelError
from lipsep.training.recipe import load_recipe

runner = CliRunner()
TOY = Path("toy/dolphin_toy")


def test_overrides_reach_every_part_of_a_recipe(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = load_recipe(TOY)
    changed = load_recipe(
        TOY,
        [
            "training.learning_rate=3e-4",  # a number without a point, which YAML 1.1 takes for a word
            "training.betas=[0.9, 0.98]",
            "data.mixing.speakers=3",
            "data.mixing.gain_db=1e-1",
            "model.overrides.channels=16",
            "output=elsewhere",
        ],
    )
    assert changed.training.learning_rate == pytest.approx(3e-4) and changed.training.betas == (0.9, 0.98)
    assert changed.data.mixing == {**plain.data.mixing, "speakers": 3, "gain_db": 0.1}
    assert changed.model.overrides == {**plain.model.overrides, "channels": 16}
    assert changed.output == tmp_path / "elsewhere", "a path of the command line is meant from the current folder"
    assert changed.training.epochs == plain.training.epochs, "what is not named stays"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.learning_rat=1", r"training\.learning_rat: there is no such setting"),
        ("training.learning_rate=fast", r"training\.learning_rate: .*number"),
        ("training", "'training' is no KEY=VALUE"),
        ("training..epochs=2", "is no KEY=VALUE"),
        ("training.betas=[0.9", "not YAML"),
        ("data=5", "data: "),
        ("model.initial_weights=5", "model.initial_weights: "),
    ],
)
def test_an_override_that_fits_nothing_is_refused_by_name(override: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load_recipe(TOY, [override])


def test_a_trial_takes_its_steps_in_a_folder_of_its_own_and_leaves_the_run_alone(tmp_path) -> None:
    content = {
        "model": {"name": "dolphin_test", "overrides": {"video_layers": ["compress_space", "compress_space"]}},
        "data": {
            "synthetic": {"talkers": 2, "held_out_talkers": 2, "clips_per_talker": 1, "clip_s": 1.0},
            "mixing": {"segment_s": 0.64},
        },
        "training": {
            "loss": "si_snr", "batch_mixtures": 9, "steps_per_epoch": 50, "epochs": 9, "workers": 0,
            "validation_mixtures": 1, "required_si_snri_db": 40.0,
        },
        "output": "run",
        "licence": "none",
        "provenance": "a toy",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").touch()
    ran = runner.invoke(app, ["train", str(tmp_path / "recipe.yaml"), "training.batch_mixtures=1", "--steps", "1"])
    assert ran.exit_code == 0, ran.exception
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"kept", "trial"}
    model = load_model(tmp_path / "run" / "trial" / "model")
    assert model.name == "dolphin_test" and "val_si_snri" in model.metadata["validation"]
