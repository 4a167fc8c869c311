"""Filmed mouths, from the disk to what a model is shown: of prepared corpora and of published mixture folders."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from places import ROOT
from scenes import build_clip, demo_people

from lipsep.checkpoints.folder import load_model
from lipsep.data.clips.clips import TalkingClip, TalkingClips, join, pack
from lipsep.data.clips.pictures import cut
from lipsep.data.corpora.shards import load_shards, prepare_shards
from lipsep.data.mixing.lip_view import LipView, whole_clip
from lipsep.data.mixing.mixing import MixingConfig, Mixtures
from lipsep.data.mixing.mouth_augmentation import MouthConfig
from lipsep.data.mixtures.training import FinishedClips, open_split
from lipsep.errors import MediaError, ModelError
from lipsep.lips.recipes import lip_recipe, normalise_picture
from lipsep.lips.shape import RESTING_MOUTH
from lipsep.training import pretrain, train
from lipsep.training.corpora import prepare_feed
from lipsep.training.pretraining.reading import WatchedVoices
from lipsep.training.recipe import load_recipe

MOUTH_88 = lip_recipe("mouth_88")
AS_THEY_ARE = MixingConfig(
    segment_s=0.4,
    pace=(1.0, 1.0),
    mouths=None,
    dropped=0.0,
    noise=0.0,
    own_pace=1.0,
    alike=0.0,
    aligned=0.0,
    random_crop=False,
)


def counting(name: str, first: int, n_frames: int = 25, as_pictures: bool = True) -> TalkingClip:
    """Frame f of the sound is (first + f) / 300, and as grey are the pictures."""
    count = first + np.arange(n_frames)
    voice = np.repeat(count, 640).astype(np.float32) / 300
    pictures = np.broadcast_to(count.astype(np.uint8)[:, None, None], (n_frames, 96, 96))
    points = np.broadcast_to(RESTING_MOUTH, (n_frames, 20, 2))
    return TalkingClip(name, name[0], voice, points, pictures if as_pictures else None)


@pytest.fixture
def corpus(tmp_path) -> TalkingClips:
    """Four clips, kept in two files."""
    parts = [pack([counting(f"a{k}", 10 + 60 * k), counting(f"b{k}", 40 + 60 * k)]) for k in range(2)]
    for number, part in enumerate(parts):
        part.save(tmp_path / f"{number}.npz")
    return join([TalkingClips.load(tmp_path / f"{number}.npz") for number in range(2)])


def test_pictures_survive_the_disk_and_stay_there(corpus):
    for k, clip in enumerate(corpus[i] for i in range(4)):
        assert (clip.pictures[np.arange(25)][:, 0, 0] == 10 + 30 * k + np.arange(25)).all()
    assert not any(isinstance(pictures, np.ndarray) for pictures in corpus.pictures)
    assert join([corpus, pack([])]).pictures is not None  # a shard of which every clip was skipped
    assert join([corpus, pack([counting("c", 0, as_pictures=False)])]).pictures is None


def test_a_selection_of_joined_files_reads_its_own_slices(corpus, tmp_path):
    chosen = join([corpus.select([3, 0]), pack([counting("c", 50)])])
    chosen.save(tmp_path / "chosen.npz")
    for clips in (chosen, TalkingClips.load(tmp_path / "chosen.npz")):
        for index, first in enumerate((100, 10, 50)):
            voice = clips[index].voice[::640] * 300
            np.testing.assert_allclose(voice, first + np.arange(25), atol=0.01)
            assert clips[index].pictures[np.array([2])][0, 0, 0] == first + 2 and clips[index].mouth.shape == (
                25,
                20,
                2,
            )
        assert len(clips.voices) == 75 * 640 and clips.mouths.shape == (75, 20, 2)
    assert len(pickle.dumps(corpus)) < 5_000  # what a worker process is sent: paths, no arrays


def test_the_model_sees_the_frames_that_it_hears(corpus):
    starts = set()
    for mixture, lips, sources in (Mixtures(corpus, None, None, AS_THEY_ARE, MOUTH_88, 8, seed=0)[i] for i in range(8)):
        assert lips.shape == (2, 10, 88, 88) and mixture.shape == (2, 6400)
        for k in range(2):
            shown = np.round((lips[k, :, 40, 40].numpy() * 0.165 + 0.421) * 255)
            heard = sources[k, 0, ::640].numpy()
            np.testing.assert_allclose(heard / heard[0], shown / shown[0], rtol=2e-3)
            starts.add(shown[0])
    assert len(starts) > 8


def test_training_cuts_near_the_middle_and_mirrors_half():
    pictures = np.broadcast_to(np.arange(96 * 96).reshape(1, 96, 96) % 251, (3, 96, 96)).astype(np.uint8)
    np.testing.assert_array_equal(cut(pictures, 88), pictures[:, 4:92, 4:92])
    places, mirrored = set(), 0
    for seed in range(40):
        part = cut(pictures, 88, np.random.default_rng(seed))
        assert part.shape == (3, 88, 88)
        there = [
            (top, left, flip)
            for top in range(9) for left in range(9) for flip in (1, -1)
            if np.array_equal(part, pictures[:, top : top + 88, left : left + 88][:, :, ::flip])
        ]  # fmt: skip
        ((top, left, flip),) = there
        places.add((top, left))
        mirrored += flip == -1
    assert len(places) > 25 and 10 < mirrored < 30
    with pytest.raises(MediaError, match="96x96, and the model needs 112x112"):
        cut(pictures, 112)


def test_pictures_may_be_late_but_are_never_blended(corpus):
    view = LipView(corpus, None, MouthConfig(early_or_late=1.0, offset_frames=3), False, MOUTH_88)
    shown = [view(corpus[0], np.arange(10, 15) + 0.3, np.random.default_rng(seed))[:, 0, 0] for seed in range(60)]
    greys = np.round((np.stack(shown) * 0.165 + 0.421) * 255).astype(int) - 10
    assert (np.diff(greys) == 1).all() and set(greys[:, 0]) == {7, 8, 9, 11, 12, 13}


def test_what_the_pictures_cannot_give_is_drawn(corpus):
    drawn = LipView(corpus, None, None, True, lip_recipe("mesh_88"))(corpus[0], np.arange(5), np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, whole_clip(corpus[0], "mesh_88")[:5])
    unfilmed = pack([counting("c", 0, as_pictures=False)])
    view = LipView(corpus, unfilmed, None, True, MOUTH_88)
    drawn = view(unfilmed[0], np.arange(5), np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, whole_clip(unfilmed[0], "mouth_88")[:5])


def test_contrast_varies_between_examples_not_within(corpus):
    plain, varied = (LipView(corpus, None, None, False, MOUTH_88, contrast) for contrast in (0.0, 0.3))
    gains = []
    for seed in range(20):
        seen, changed = (v(corpus[0], np.arange(5), np.random.default_rng(seed)) for v in (plain, varied))
        gain = changed / seen
        np.testing.assert_allclose(gain, gain[0, 0, 0], rtol=1e-5)
        gains.append(gain[0, 0, 0])
    assert 0.7 <= min(gains) < 0.85 and 1.15 < max(gains) <= 1.3


def test_several_bystanders_may_be_heard_whom_nobody_asks_for(corpus):
    """With four voices the two that are asked for are not the whole mixture; what is drawn of two stays as it was."""
    two, four = (
        Mixtures(corpus, None, None, MixingConfig(segment_s=0.4, noise=0.0, mouths=None, speakers=n), MOUTH_88, 2, 0)[1]
        for n in (2, 4)
    )
    assert (two[0][0] - two[2].sum(0)[0]).abs().max() < 1e-6
    rest = four[0][0] - four[2].sum(0)[0]
    assert rest.square().mean() > 0.1 * four[0][0].square().mean()
    ratio = four[2][0, 0] / two[2][0, 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


# --- published folders -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """``wav16k/min/{tr,cv}`` with four mixtures each, and the mouths of all in one folder."""
    root = tmp_path_factory.mktemp("lrs2_2mix")
    rng = np.random.default_rng(0)
    (root / "mouths").mkdir()
    for split in ("tr", "cv"):
        base = root / "wav16k/min" / split
        for part in ("mix", "s1", "s2"):
            (base / part).mkdir(parents=True)
        for number in range(4):
            ids = [f"{split}{number}_0000{k}" for k in (1, 2)]
            loudness = rng.random((2, 30)).astype(np.float32)
            voices = np.repeat(loudness, 640, axis=1) * rng.normal(0, 0.1, (2, 30 * 640))
            name = f"{ids[0]}_1.5_{ids[1]}_-1.5"
            for part, sound in (("s1", voices[0]), ("s2", voices[1]), ("mix", voices.sum(0))):
                soundfile.write(base / part / f"{name}.wav", sound, 16_000, subtype="FLOAT")
            for identity, level in zip(ids, loudness, strict=True):
                noise = rng.integers(0, 60, (31, 96, 96))
                pictures = noise + (np.append(level, 0)[:, None, None] * 190)
                np.savez_compressed(root / "mouths" / f"{identity}.npz", data=pictures.astype(np.uint8))
    return root


def recipe(folder, base: str, **parts) -> Path:
    """A child of one of the paper's recipes, made small."""
    small = {
        "lip_size": 88, "lip_recipe": "mouth_88", "video_layers": ["compress_space"] * 3, "n_codes": 16, "code_dim": 8,
    }  # fmt: skip
    content = {
        "extends": f"{ROOT}/recipes/dolphin/{base}.yaml",
        "model": {"name": "dolphin_test", "overrides": small, "initial_weights": None},
        "training": {
            "steps_per_epoch": 2, "epochs": 1, "batch_mixtures": 2, "accumulate": 1, "validation_mixtures": 2,
            "workers": 0,
        },
        "output": "run",
        **parts,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_papers_recipe_trains_on_a_published_folder(published, tmp_path):
    data = {"finished": str(published), "mixing": {"segment_s": 0.64}}
    trained = load_model(str(train(recipe(tmp_path, "dolphin_lrs2_2mix", data=data))))
    assert np.isfinite(trained.metadata["validation"]["val_si_snri"]) and trained.lip_recipe == "mouth_88"


def test_clean_voices_of_a_published_folder_come_with_their_mouths(published):
    clips = FinishedClips(open_split(published, "tr"))
    assert len(clips) == 8 and set(clips.n_frames) == {30} and clips.talkers[0] == "tr0"
    examples = WatchedVoices(clips, None, AS_THEY_ARE, MOUTH_88, 6, seed=0)
    for lips, voice in (examples[i] for i in range(6)):
        loudness = voice.reshape(10, 640).square().mean(1).sqrt()
        assert np.corrcoef(loudness, lips.mean((1, 2)))[0, 1] > 0.98
    with pytest.raises(MediaError, match="holds mouth pictures, no points"):
        LipView(clips, None, None, True, lip_recipe("mesh_88"))


def test_the_papers_encoder_is_taught_by_the_mouths_of_a_published_folder(published, tmp_path):
    data = {"finished": str(published), "mixing": {"segment_s": 0.4}}
    coder = {
        "teacher": {"name": "log_mel", "weights": None, "targets": "targets"}, "batch": 2, "steps_per_epoch": 2,
        "epochs": 1, "validation_examples": 2, "workers": 0, "output": "coder",
    }  # fmt: skip
    pretrain(recipe(tmp_path, "dp_lipcoder_lrs2_2mix", data=data, lip_coder=coder))
    original = np.load(tmp_path / "coder/original.npy")
    assert original.shape == (10, 88, 88) and np.unique(original[0]).size > 40  # pictures, not drawings


# --- from the raw corpus to a model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lrs2(tmp_path_factory):
    """Raw LRS2 with two talkers in each list, all clips one clip of 1 s."""
    root = tmp_path_factory.mktemp("lrs2")
    build_clip(demo_people()[:1], root / "clip.mp4", duration_s=1.0, size=(320, 240))
    for split, talkers in (("train", ("653", "654")), ("val", ("655", "656"))):
        (root / f"{split}.txt").write_text("".join(f"{talker}/00001\n" for talker in talkers))
        for talker in talkers:
            (root / "mvlrs_v1/main" / talker).mkdir(parents=True)
            shutil.copy(root / "clip.mp4", root / f"mvlrs_v1/main/{talker}/00001.mp4")
    return root


def test_a_raw_corpus_becomes_shards_with_pictures_on_which_the_papers_recipe_trains(lrs2, film_once, tmp_path, capsys):
    out = tmp_path / "prepared"
    summary = prepare_shards("lrs2", lrs2, out, with_pictures=True)
    assert summary["splits"]["train"]["clips"] == 2 and not summary["skipped"]
    face = load_shards(out, "val")[0].face[np.zeros(1, int)]
    assert face.shape == (1, 192, 192, 3) and face.std() > 10
    mouth = load_shards(out, "val")[0].pictures[np.arange(25)]
    assert mouth.shape == (25, 96, 96) and mouth.std() > 10
    np.testing.assert_array_equal(whole_clip(load_shards(out, "val")[0], "mouth_88"), normalise_picture(cut(mouth, 88)))
    data = {"filmed": str(out), "mixing": {"segment_s": 0.64}}
    trained = load_model(str(train(recipe(tmp_path, "dolphin", data=data))))
    assert np.isfinite(trained.metadata["validation"]["val_si_snri"])
    assert "drawn mouths" not in capsys.readouterr().err
    prepare_shards("lrs2", lrs2, tmp_path / "points")
    data["filmed"] = str(tmp_path / "points")
    prepare_feed(load_recipe(recipe(tmp_path, "dolphin", data=data)), MOUTH_88)
    assert "drawn mouths" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ModelError, match=r"0 clips to train on|no splits train and val"):
        for talker in ("653", "654"):
            shutil.rmtree(lrs2 / "mvlrs_v1/main" / talker)
        prepare_shards("lrs2", lrs2, tmp_path / "empty")
        train(recipe(tmp_path, "dolphin", data={"filmed": str(tmp_path / "empty")}))
