"""Training on a toy corpus: what a researcher would notice if it broke."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from kept import keep

from lipsep.checkpoints.folder import load_model
from lipsep.data.clips.clips import TalkingClip, TalkingClips, pack
from lipsep.data.clips.pace import change_pace
from lipsep.data.corpora.sound_to_mouth import fit, predict
from lipsep.data.mixing.mixing import MixingConfig, Mixtures, collate
from lipsep.data.mixing.mouth_augmentation import MouthAugmentation, MouthConfig, principal_motions
from lipsep.errors import ModelError
from lipsep.lips.recipes import lip_recipe
from lipsep.training.recipe import load_recipe

MESH = lip_recipe("mesh_32")


def talking(name: str, seed: int, n_frames: int = 60) -> TalkingClip:
    """A toy talker: a hum whose loudness opens the mouth."""
    rng = np.random.default_rng(seed)
    opening = np.repeat(rng.random(n_frames // 5 + 1), 5)[:n_frames].astype(np.float32)
    t = np.arange(n_frames * 640) / 16_000
    tone = sum(np.sin(2 * np.pi * h * (110 + 10 * seed) * t) / h for h in range(1, 8))
    voice = (0.1 * tone * np.repeat(opening, 640)).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([0.5 + 0.25 * np.cos(angle), 0.5 + 0.08 * np.sin(angle)], -1)
    mouth = ring[None] + opening[:, None, None] * np.stack([0 * angle, 0.15 * np.sin(angle)], -1)
    return TalkingClip(name, "toy", voice, mouth.astype(np.float32))


@pytest.fixture(scope="module")
def corpus() -> TalkingClips:
    return pack(talking(f"clip{i}", seed=i) for i in range(12))


def test_a_packed_corpus_survives_the_disk(corpus, tmp_path):
    corpus.save(tmp_path / "toy.npz")
    loaded = TalkingClips.load(tmp_path / "toy.npz")
    original = talking("clip3", seed=3)
    assert loaded[3].name == "clip3" and loaded[3].talker == "toy"
    np.testing.assert_allclose(loaded[3].voice, original.voice, atol=1 / 32768)
    np.testing.assert_array_equal(loaded[3].mouth, original.mouth)


def test_pace_moves_voice_and_mouth_together():
    """At pace 1.25 a pulse at frame 20 of voice and mouth is met at frame 16 of both."""
    clip = talking("pulse", seed=0)
    voice, mouth = np.zeros_like(clip.voice), np.zeros_like(clip.mouth)
    voice[20 * 640 : 21 * 640], mouth[20] = 0.5, 1.0
    still = dataclasses.replace(clip, voice=voice, mouth=mouth)
    fast_voice, fast_mouth = change_pace(still, 1.25, 48, np.random.default_rng(0))
    loudness = np.square(fast_voice).reshape(48, 640).mean(1)
    assert loudness.argmax() == fast_mouth[:, 0, 0].argmax() == 16


def test_mixtures_are_a_function_of_seed_epoch_and_index(corpus):
    noises = (np.random.default_rng(0).normal(0, 3_000, 100_000)).astype(np.int16)
    make = lambda **changes: Mixtures(  # noqa: E731
        **{
            "filmed": corpus, "unfilmed": corpus, "noises": noises, "config": MixingConfig(), "recipe": MESH,
            "n_items": 4, "seed": 1, "epoch": 0, **changes,
        }
    )  # fmt: skip
    for first, again in zip(make()[2], make()[2], strict=True):
        torch.testing.assert_close(first, again, rtol=0, atol=0)
    for changes in ({"epoch": 1}, {"seed": 2}):
        assert not torch.equal(make()[2][0], make(**changes)[2][0])


def test_a_mixture_is_asked_with_both_mouths_and_is_the_sum_of_its_sources(corpus):
    config = MixingConfig(noise=0.0)
    items = [Mixtures(corpus, None, None, config, MESH, 3, seed=0)[i] for i in range(3)]
    mixture, lips, sources = collate(items)
    assert mixture.shape == (6, 32_000) and lips.shape == (6, 50, 32, 32) and sources.shape == (6, 1, 32_000)
    torch.testing.assert_close(mixture[0], mixture[1])
    torch.testing.assert_close(sources[0, 0] + sources[1, 0], mixture[0], atol=1e-5, rtol=0)
    assert not torch.equal(lips[0], lips[1])


def test_mouths_follow_the_sound(corpus):
    network, explained = fit(corpus, n_steps=60, batch=8)
    assert explained > 0.5  # the toy mouth opens with the loudness
    assert predict(network, corpus[0].voice).shape == (60, 20, 2)


def recipe_for(corpus: TalkingClips, folder, epochs: int) -> dict:
    keep(corpus, folder / "prepared", folder / "filmed")
    return {
        "model": {"name": "dolphin_test", "overrides": {"video_layers": ["compress_space", "compress_space"]}},
        "data": {
            "filmed": "filmed", "prepared": "prepared", "filmed_test_prefixes": ["clip11"],
            "filmed_validation_prefixes": ["clip9", "clip10"], "mixing": {"segment_s": 1.0},
        },
        "training": {
            "loss": "snr", "batch_mixtures": 2, "steps_per_epoch": 3, "epochs": epochs, "warmup_steps": 2,
            "validation_mixtures": 1, "workers": 0,
        },
        "output": "run",
        "licence": "none",
        "provenance": "a toy",
    }  # fmt: skip


def write_recipe(content: dict, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path, monkeypatch):
    """Cut a run of two epochs after the first; the rest must give the same weights as never having been cut."""
    from lightning.pytorch.callbacks import Callback

    from lipsep.training import train

    whole = train(write_recipe(recipe_for(corpus, tmp_path / "whole", epochs=2), tmp_path / "whole"))

    cut = write_recipe(recipe_for(corpus, tmp_path / "cut", epochs=2), tmp_path / "cut")

    class PowerCut(Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    import lightning

    original = lightning.Trainer.__init__
    monkeypatch.setattr(
        lightning.Trainer,
        "__init__",
        lambda self, **kw: original(self, **{**kw, "callbacks": [*kw["callbacks"], PowerCut()]}),
    )
    with pytest.raises(BaseException):  # noqa: B017 - Lightning turns Ctrl-C into SystemExit or KeyboardInterrupt
        train(cut)
    monkeypatch.setattr(lightning.Trainer, "__init__", original)
    resumed = train(cut)
    a, b = load_model(str(whole)).state_dict(), load_model(str(resumed)).state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)
    assert load_model(str(resumed)).keeps_level


@pytest.mark.slow
def test_lips_learn_to_hear_and_then_stay_as_they_are(corpus, tmp_path):
    """On toy talkers whose mouths follow the loudness, the video branch learns to predict it; training the separator
    from there with `frozen_video` changes the separator only."""
    from lipsep.training import pretrain, train

    content = recipe_for(corpus, tmp_path, epochs=1)
    content["model"]["overrides"] = {
        "video_encoder": "reconstruction", "visual_dropout": 0.0,
        "video_layers": ["compress_space", "residual", "compress_space", "compress_space"],
    }  # fmt: skip
    lips = {
        "batch": 4,
        "steps_per_epoch": 40,
        "epochs": 2,
        "validation_examples": 8,
        "workers": 0,
        "learning_rate": 0.02,
        "output": "lips",
    }
    plain = {"segment_s": 1.0, "mouths": None}
    recipe = write_recipe(content | {"lip_reading": lips, "data": content["data"] | {"mixing": plain}}, tmp_path)
    watched = load_model(str(pretrain(recipe)))
    assert watched.metadata["teacher"] == "log_mel"
    assert watched.metadata["validation"]["val_explained"] > 0.1
    content["model"]["initial_weights"] = "./lips/model"
    content["training"]["frozen_video"] = True
    trained = load_model(str(train(write_recipe(content, tmp_path)))).state_dict()
    before = watched.state_dict()
    frozen = [name for name in before if name.startswith(("video_", "visual_"))]
    assert all(torch.equal(before[name], trained[name]) for name in frozen)
    assert not torch.equal(before["audio_projection.linear.weight"], trained["audio_projection.linear.weight"])


def test_a_recipe_without_lip_reading_cannot_pretrain(corpus, tmp_path):
    from lipsep.training import pretrain

    with pytest.raises(ModelError, match="no part 'lip_reading'"):
        pretrain(write_recipe(recipe_for(corpus, tmp_path, epochs=1), tmp_path))


def test_an_augmented_mouth_still_says_the_same(corpus):
    """Size, place, shape and strength vary, yet the opening of the pictures follows the opening of the mouth."""
    mouth = corpus[0].mouth[:50]
    augment = MouthAugmentation(MouthConfig(), principal_motions(corpus.mouths), MESH)
    opening = mouth[:, 18, 1] - mouth[:, 14, 1]
    found = []
    for seed in range(20):
        pictures = augment(mouth, np.random.default_rng(seed))  # (50, 32, 32)
        dark = (pictures < -2).mean((1, 2))
        found.append(np.corrcoef(dark, opening)[0, 1])
    assert np.median(found) > 0.8
    assert not np.array_equal(augment(mouth, np.random.default_rng(0)), augment(mouth, np.random.default_rng(1)))


def test_recipes_extend_and_refuse_what_they_do_not_know(corpus, tmp_path):
    base = write_recipe(recipe_for(corpus, tmp_path, epochs=1), tmp_path)
    child = tmp_path / "child.yaml"
    child.write_text("extends: recipe.yaml\ntraining: {epochs: 7}\n")
    assert load_recipe(child).training.epochs == 7 and load_recipe(child).training.batch_mixtures == 2
    assert load_recipe(child).output == (tmp_path / "run").resolve()
    child.write_text("extends: recipe.yaml\ntraining: {epoch: 7}\n")
    with pytest.raises(ModelError, match=r"training\.epoch"):
        load_recipe(child)
    with pytest.raises(ModelError, match="cannot be read"):
        load_recipe(tmp_path / "nowhere.yaml")
    assert base.is_file()
