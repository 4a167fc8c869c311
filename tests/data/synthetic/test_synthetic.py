"""The synthetic corpus, and the toy recipes that learn from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT

from lipsep.data.synthetic.babble import synthetic_corpus, with_foreign_mouths
from lipsep.errors import ModelError
from lipsep.training.recipe import load_recipe

TOYS = sorted(path for path in (ROOT / "recipes/toy").glob("*.yaml") if path.stem not in ("base", "foreign_mouths"))


@pytest.fixture(scope="module")
def corpus():
    return synthetic_corpus(n_talkers=6, clips_per_talker=2, clip_s=4.0, seed=0)


def test_the_same_seed_gives_the_same_clips_whatever_else_is_made(corpus):
    alone = synthetic_corpus(n_talkers=2, clips_per_talker=1, clip_s=4.0, seed=0)
    np.testing.assert_array_equal(alone[1].voice, corpus[2].voice)  # the first clip of the second talker
    np.testing.assert_array_equal(alone[1].mouth, corpus[2].mouth)
    other = synthetic_corpus(n_talkers=1, clips_per_talker=1, clip_s=4.0, seed=1)
    assert np.abs(other[0].voice - corpus[0].voice).max() > 0.1


def test_talkers_differ_in_pitch_and_mouth(corpus):
    def pitch_hz(voice: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(voice)) ** 2
        lag = np.fft.irfft(spectrum)[40:250]  # 64 to 400 Hz
        return 16_000 / (40 + lag.argmax())

    pitches = [pitch_hz(corpus[2 * talker].voice) for talker in range(6)]
    assert max(pitches) / min(pitches) > 1.3
    widths = [np.ptp(corpus[2 * talker].mouth[:, :12, 0].mean(0)) for talker in range(6)]
    assert np.ptp(widths) > 0.02


def test_mouths_open_with_their_own_voice_only(corpus):
    def loudness(clip) -> np.ndarray:
        return np.sqrt(np.square(clip.voice).reshape(clip.n_frames, -1).mean(1))

    def opening(clip) -> np.ndarray:
        return clip.mouth[:, 18, 1] - clip.mouth[:, 14, 1]

    own = [np.corrcoef(loudness(clip), opening(clip))[0, 1] for clip in (corpus[i] for i in range(12))]
    foreign = with_foreign_mouths(corpus)
    others = [np.corrcoef(loudness(clip), opening(clip))[0, 1] for clip in (foreign[i] for i in range(12))]
    assert min(own) > 0.4 and np.mean(own) > 0.6
    assert abs(np.mean(others)) < 0.2


def test_the_control_differs_from_the_toy_run_in_its_mouths_alone():
    """docs/training.md tells how a whole run of either ends."""
    toy, control = (load_recipe(TOYS[0].with_name(f"{name}.yaml")) for name in ("dolphin_toy", "foreign_mouths"))
    assert control.training == toy.training and control.training.required_si_snri_db == 6.0
    assert control.data.synthetic == toy.data.synthetic.model_copy(update={"foreign_mouths": True})
    assert control.model == toy.model and control.data.mixing == toy.data.mixing


def test_mouths_lie_in_the_picture_and_lips_enclose_the_gap(corpus):
    points = corpus.mouths
    assert points.min() > 0.05 and points.max() < 0.95
    assert (points[:, 3, 1] < points[:, 14, 1]).all()  # outer upper lip above inner upper lip
    assert (points[:, 14, 1] <= points[:, 18, 1]).all() and (points[:, 18, 1] < points[:, 9, 1]).all()


def short(recipe: Path, folder: Path, **training: object) -> Path:
    """A recipe that runs another for a handful of steps."""
    content = {
        "extends": str(recipe),
        "model": {"initial_weights": None},
        "data": {
            "synthetic": {"talkers": 6, "held_out_talkers": 2, "clips_per_talker": 2, "clip_s": 2.0},
            "mixing": {"segment_s": 1.6, "pace": [1.0, 1.0]},  # no pause is longer
        },
        "training": {
            "batch_mixtures": 1, "steps_per_epoch": 8, "epochs": 1, "warmup_steps": 2,
            "learning_rate": 5e-3, "validation_mixtures": 3, "required_si_snri_db": None, **training,
        },
        "output": str(folder / "run"),
    }  # fmt: skip
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TOYS, ids=[path.stem for path in TOYS])
def test_a_toy_recipe_learns_in_a_handful_of_steps(recipe, tmp_path):
    import lightning

    from lipsep.checkpoints.folder import load_model
    from lipsep.lips.recipes import lip_recipe
    from lipsep.models import create_model
    from lipsep.training import train
    from lipsep.training.corpora import prepare_feed
    from lipsep.training.separation import SeparationTraining

    path = short(recipe, tmp_path)
    settings = load_recipe(path)
    lightning.seed_everything(0, verbose=False)
    untrained = create_model(settings.model.name, **settings.model.overrides)
    face_size = untrained.config.face_size if untrained.needs_faces else None
    feed = prepare_feed(settings, lip_recipe(untrained.lip_recipe), face_size)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (before,) = trainer.validate(SeparationTraining(untrained, settings.training), feed, verbose=False)
    after = load_model(str(train(path))).metadata["validation"]
    assert after["val_si_snri"] > before["val_si_snri"]


@pytest.mark.slow
def test_a_run_that_misses_its_mark_fails(tmp_path):
    from lipsep.training import train

    recipe = next(path for path in TOYS if path.stem == "dolphin_toy")
    with pytest.raises(ModelError, match=r"requires 60\.0 dB"):
        train(short(recipe, tmp_path, steps_per_epoch=1, required_si_snri_db=60.0))


def test_a_recipe_names_one_kind_of_corpus(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(f"extends: {TOYS[0]}\ndata: {{filmed: somewhere}}\n")
    with pytest.raises(ModelError, match="either 'filmed'"):
        load_recipe(path)
