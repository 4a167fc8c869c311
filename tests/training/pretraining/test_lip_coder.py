"""DP-LipCoder's pretraining: what it learns, how its codes are used, where its targets come from."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lipsep.checkpoints.beginnings import take_all, take_separator
from lipsep.checkpoints.folder import load_model, save_model
from lipsep.data.clips.clips import TalkingClips
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.encoders.vector_quantizer import VectorQuantizer
from lipsep.errors import MediaError, ModelError
from lipsep.lips.recipes import lip_recipe
from lipsep.models import create_model, model_config
from lipsep.training import pretrain, train
from lipsep.training.pretraining.coder import perplexity
from lipsep.training.pretraining.start import Pretraining
from lipsep.training.pretraining.teachers import CLIPS_PER_SHARD, LogMelTeacher, create_teacher, store_targets
from lipsep.training.recipe import TeacherPart, load_recipe
from lipsep.training.separation import SeparationTraining


def write(folder: Path, video_encoder: str = "dp_lipcoder", **coder) -> Path:
    content = {
        "model": {"name": "dolphin_test", "overrides": {"n_codes": 16, "code_dim": 8, "video_encoder": video_encoder}},
        "data": {
            "synthetic": {"talkers": 4, "held_out_talkers": 2, "clips_per_talker": 2, "clip_s": 1.0},
            "mixing": {"segment_s": 0.48, "mouths": None},
        },
        "training": {"loss": "snr", "batch_mixtures": 2, "steps_per_epoch": 1, "epochs": 1},
        "lip_coder": {
            "batch": 4, "steps_per_epoch": 8, "epochs": 3, "validation_examples": 8, "workers": 0,
            "learning_rate": 3e-3, "output": "coder", **coder,
        },
        "output": "run", "licence": "none", "provenance": "a toy",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def column(folder: Path, name: str) -> list[float]:
    """A logged value over the epochs."""
    with next(folder.rglob("metrics.csv")).open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [{}, pytest.param({"reduction": "sum_per_frame", "codebook": "gradient"}, marks=pytest.mark.exhaustive)],
    ids=["default", "paper"],
)
def test_it_learns_to_give_pictures_back_and_uses_its_codes(tmp_path, form):
    """As means and by moving averages, and by Eq. 15-17 as written. In so few steps codes that nobody chose must begin
    anew, or two or three are left."""
    settings = {"batch": 2, "steps_per_epoch": 16, "restart_below": 0.2, **form}
    folder = pretrain(write(tmp_path, teacher={"targets": "targets"}, **settings))
    errors = column(tmp_path / "coder", "val_reconstruction")
    assert errors[-1] < 0.5 * errors[0]
    assert column(tmp_path / "coder", "val_codes_used")[-1] >= 4
    assert column(tmp_path / "coder", "val_perplexity")[-1] > 2
    model = load_model(str(folder))
    assert model.metadata["teacher"] == "log_mel" and "without AV-HuBERT" in model.metadata["provenance"]
    assert model.metadata["validation"]["val_reconstruction"] == pytest.approx(min(errors), abs=1e-3)
    assert bool(model.video_encoder.quantizer.started)
    original, given_back = (np.load(tmp_path / f"coder/{name}.npy") for name in ("original", "reconstruction"))
    assert original.shape == given_back.shape and np.square(given_back - original).mean() < 0.7 * original.var()


@pytest.mark.slow
def test_it_stops_when_reconstruction_no_longer_improves(tmp_path):
    """The reconstruction path alone has no codes and no teacher; at a learning rate of 0 nothing ever improves."""
    pretrain(write(tmp_path, "reconstruction", learning_rate=0.0, steps_per_epoch=1, epochs=9, stop_after_epochs=2))
    last = torch.load(tmp_path / "coder/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 2  # the first epoch and two that were no better


def settings_of(tmp_path: Path, **training):
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"training": content["training"] | training}))
    return load_recipe(path).training


def learning(model: torch.nn.Module) -> set[str]:
    return {name.split(".")[0] for name, weights in model.named_parameters() if weights.requires_grad}


def test_what_stays_frozen_is_what_was_taught(tmp_path):
    """`lip_coder` teaches the encoder alone: the projection behind it must learn with the separator."""
    trained = {frozen: create_model("dolphin_test") for frozen in (False, True, "encoder")}
    for frozen, model in trained.items():
        SeparationTraining(model, settings_of(tmp_path, frozen_video=frozen))
    learners = {frozen: learning(model) for frozen, model in trained.items()}
    assert learners[False] - learners["encoder"] == {"video_encoder"}
    assert learners["encoder"] - learners[True] == {"video_projection", "visual_fusion"}
    avlit = create_model("avlit_test")
    SeparationTraining(avlit, settings_of(tmp_path, frozen_video=True))
    assert "video_encoder" not in learning(avlit) and "video_branch" in learning(avlit)


def test_a_separator_learns_to_use_other_eyes(tmp_path):
    """The separator begins as that of a model with another encoder; sizes that differ elsewhere are refused."""
    given = create_model("dolphin_test", video_encoder="mouth_points", lip_size=8, lip_recipe="points_8")
    save_model(given, tmp_path / "given", {"licence": "none", "provenance": "a toy"})
    model = create_model("dolphin_test")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    take_separator(model, str(tmp_path / "given"))
    for name, value in model.state_dict().items():
        own = name.startswith(("video_encoder.", "video_projection."))
        torch.testing.assert_close(value, before[name] if own else given.state_dict()[name], rtol=0, atol=0)
    with pytest.raises(ModelError, match="outside the video branch"):
        take_separator(create_model("dolphin_test", channels=32), str(tmp_path / "given"))
    with pytest.raises(ModelError, match=r"differ in video_encoder, video_projection: .* initial_separator"):
        take_all(model, str(tmp_path / "given"))


def test_a_separator_is_taken_over_by_a_model_that_has_more(tmp_path):
    """What the other model lacks, places for several faces, begins untaught; pretraining begins with the rest."""
    sizes = asdict(model_config("dolphin_test", masking=True, n_codes=16, code_dim=8))
    given = create_model("dolphin_laptop", **sizes)
    save_model(given, tmp_path / "given", {"licence": "none", "provenance": "a toy"})
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    several = {**sizes, "video_layers": list(sizes["video_layers"]), "n_src": 2}
    content["model"] = {"name": "dolphin_laptop", "initial_separator": "./given", "overrides": several}
    path.write_text(yaml.safe_dump(content))
    model = Pretraining.open(path, "lip_coder").model
    assert model.faces_at_once and model.rivals.linear.weight.any()
    for name in ("separator", "audio_encoder", "output_layer", "visual_fusion"):
        for key, value in given.get_submodule(name).state_dict().items():
            torch.testing.assert_close(model.get_submodule(name).state_dict()[key], value, rtol=0, atol=0)
    del content["lip_coder"]
    content["model"] |= {"initial_weights": "./given"}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match="leave 'initial_separator' out"):
        train(path)


def test_what_is_missing_is_told_with_what_to_do_next(tmp_path):
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    for corpus in ("filmed", "finished"):
        path.write_text(yaml.safe_dump(content | {"data": {corpus: "nowhere"}}))
        with pytest.raises(MediaError, match=f"there is no folder '.*nowhere.*'.*{corpus}"):
            pretrain(path)
    reading = {**content["lip_coder"], "epochs": 1}
    content = {**content, "lip_coder": None, "lip_reading": reading, "model": {"name": "avlit_test"}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match="'avlit_test' has none: lip_coder teaches"):
        pretrain(path)


def test_perplexity_counts_equally_frequent_codes():
    assert perplexity(torch.tensor([5.0, 5.0, 5.0, 0.0])) == pytest.approx(3.0)
    assert perplexity(torch.tensor([9.0, 0.0])) == pytest.approx(1.0)


def test_dead_codes_begin_anew_only_when_asked():
    """Half the vectors vanish; their codes stay where they were unless a restart is asked for."""
    used = {}
    for restart_below in (0.0, 0.5):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(4, n_codes=16, code_dim=4).train()
        quantizer.restart_below = restart_below
        features = torch.randn(4, 40, 4)
        features[:2] += 30.0
        quantizer(features)
        for _ in range(20):
            quantizer(features[2:])
        used[restart_below] = len(quantizer.eval()(features[2:]).codes.unique())
    assert used[0.5] > used[0.0]


# --- teachers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips() -> TalkingClips:
    return synthetic_corpus(CLIPS_PER_SHARD // 2 + 1, 2, 0.4, seed=0)


def quiet(*_):
    pass


def test_stored_targets_are_the_teachers_and_are_made_once(clips, tmp_path):
    teacher = LogMelTeacher()
    stored = store_targets(teacher, clips, tmp_path, quiet)
    last = len(clips) - 1
    voice = torch.from_numpy(clips[last].voice)[None]
    np.testing.assert_allclose(stored[last], teacher(torch.empty(0), voice)[0], atol=2e-3)
    shards = sorted(tmp_path.glob("shard_*.npy"))
    assert len(shards) == 2
    untouched = shards[0].stat().st_mtime_ns
    shards[1].unlink()  # as if the run had been cut off before
    again = store_targets(teacher, clips, tmp_path, quiet)
    np.testing.assert_array_equal(again[last], stored[last])
    assert shards[0].stat().st_mtime_ns == untouched


def test_targets_of_another_corpus_are_refused(clips, tmp_path):
    store_targets(LogMelTeacher(), clips.select(range(3)), tmp_path, quiet)
    with pytest.raises(ModelError, match="another teacher or corpus"):
        store_targets(LogMelTeacher(), clips.select(range(4)), tmp_path, quiet)


def test_av_hubert_needs_its_weights():
    with pytest.raises(ModelError, match="large_vox_433h"):
        create_teacher(TeacherPart(name="av_hubert"), lip_recipe("mouth_88"))


def test_a_teachers_paths_are_relative_to_the_recipe(tmp_path):
    recipe = load_recipe(write(tmp_path, teacher={"name": "av_hubert", "weights": "w.pt", "targets": "t"}))
    assert recipe.lip_coder.teacher.weights == (tmp_path / "w.pt").resolve()
    assert recipe.lip_coder.teacher.targets == (tmp_path / "t").resolve()
