"""Published names of mixtures and folders of finished ones, for scoring and for training."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from lipsep.data.mixtures.folders import FinishedMixtures, load_wav
from lipsep.data.mixtures.training import FinishedTraining
from lipsep.data.names import parse_name, talker_of
from lipsep.errors import MediaError
from lipsep.lips.recipes import lip_recipe, normalise_picture
from lipsep.media.reading import load_audio

NAMES = ["ann_1_2.0_bob_1_-2.0", "ann_2_0.5_cat_1_-0.5", "bob_2_-1.0_cat_2_1.0"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("65326_00011_1.52_63303_00006_-1.52", [("65326_00011", 1.52), ("63303_00006", -1.52)]),
        ("0a-f_TcOSc_50001_-0.3_x_1_0.3", [("0a-f_TcOSc_50001", -0.3), ("x_1", 0.3)]),
        ("_Ab_00001_2e-05_c_2_-2e-05", [("_Ab_00001", 2e-5), ("c_2", -2e-5)]),
        ("id00017_01dfn2_00001_4.0_id00061_7_2_-4.0_id00081_8_3_0.5",
         [("id00017_01dfn2_00001", 4.0), ("id00061_7_2", -4.0), ("id00081_8_3", 0.5)]),
        ("a_1_3_b_2_-3", [("a_1", 3.0), ("b_2", -3.0)]),
        ("holiday_video_2", []),
        ("a_1_1.5_b_2", []),
    ],
)  # fmt: skip
def test_names_tell_ids_and_gains(name, parts):
    assert parse_name(name) == parts


def test_talkers_of_ids():
    assert [talker_of(name) for name in ("id00017_01dfn2_00001", "0a_b_50001", "s1/video.mp4", "t/s26_swbm3n.mpg")] == [
        "id00017", "0a_b", "s1", "s26",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three mixtures of 1 s in the published layout; frame f of source k's sound is f + 100 k thousandths, and its
    pictures are f + 100 k grey."""
    root = tmp_path_factory.mktemp("wav16k") / "tr"
    for part in ("mix", "s1", "s2", "mouths"):
        (root / part).mkdir(parents=True)
    count = np.arange(25)
    for name in NAMES:
        sources = [np.repeat(count + 100 * k, 640) / 1000 for k in range(2)]
        for part, sound in (("s1", sources[0]), ("s2", sources[1]), ("mix", sources[0] + sources[1])):
            soundfile.write(root / part / f"{name}.wav", sound, 16_000, subtype="FLOAT")
        for k, (identity, _) in enumerate(parse_name(name)):
            pictures = np.broadcast_to((count + 100 * k)[:, None, None], (25, 96, 96)).astype(np.uint8)
            np.savez(root / "mouths" / f"{identity}.npz", data=pictures)
    return root


def test_stretches_to_train_on_keep_lips_and_voices_together(folder):
    data = FinishedTraining(FinishedMixtures(folder), lip_recipe("mouth_88"), 0.4, n_items=20, seed=1, drawn=True)
    firsts, asked_first = set(), set()
    for mixture, lips, sources in (data[i] for i in range(20)):
        assert mixture.shape == (2, 6400) and lips.shape == (2, 10, 88, 88) and sources.shape == (2, 1, 6400)
        assert (sources.sum(0)[0] - mixture[0]).abs().max() < 1e-6 and mixture[0].equal(mixture[1])
        heard = (sources[:, 0, ::640] * 1000).round().int().numpy()  # (2, 10): what each frame says
        firsts.add(int(heard.min()))
        asked_first.add(int(heard[0, 0]) // 100)
        shown = lips[:, :, 40, 40].numpy()
        np.testing.assert_allclose(shown, normalise_picture(heard.astype(np.uint8)), atol=1e-5)
    assert len(firsts) > 5 and asked_first == {0, 1}
    again = FinishedTraining(FinishedMixtures(folder), lip_recipe("mouth_88"), 0.4, n_items=20, seed=1, drawn=True)
    assert all(a.equal(b) for a, b in zip(data[7], again[7], strict=True))
    again.epoch = 1
    assert not all(a.equal(b) for a, b in zip(data[7], again[7], strict=True))


def test_of_three_talkers_any_two_are_asked(tmp_path):
    name = "ann_1_1.0_bob_1_-1.0_cat_1_0.5"
    for k, part in enumerate(("mix", "s1", "s2", "s3")):
        (tmp_path / part).mkdir()
        soundfile.write(tmp_path / part / f"{name}.wav", np.full(16_000, k / 10), 16_000)
    (tmp_path / "mouths").mkdir()
    for k, identity in enumerate(("ann_1", "bob_1", "cat_1"), start=1):
        np.savez(tmp_path / "mouths" / f"{identity}.npz", data=np.full((25, 96, 96), k, np.uint8))
    data = FinishedTraining(FinishedMixtures(tmp_path), lip_recipe("mouth_88"), 0.4, n_items=30, seed=0, drawn=True)
    pairs = set()
    for _, lips, sources in (data[i] for i in range(30)):
        voices = np.round(sources[:, 0, 0].numpy() * 10)
        np.testing.assert_allclose(lips[:, 0, 0, 0], normalise_picture(voices), atol=1e-5)
        pairs.add(tuple(voices.astype(int)))
    assert pairs == {(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)}


def test_wavs_are_read_as_all_media_are(tmp_path):
    rng = np.random.default_rng(0)
    for name, rate, channels in (("mono", 16_000, 1), ("stereo", 16_000, 2), ("fast", 48_000, 1)):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, (rate // 5, channels)), rate)
        np.testing.assert_array_equal(load_wav(tmp_path / f"{name}.wav"), load_audio(tmp_path / f"{name}.wav"))
    with pytest.raises(MediaError, match=r"none\.wav"):
        load_wav(tmp_path / "none.wav")


def test_validation_takes_every_mixture_once_and_pads_short_ones(folder):
    data = FinishedTraining(FinishedMixtures(folder), lip_recipe("mouth_88"), 2.0, n_items=9, seed=0, drawn=False)
    assert len(data) == 3
    mixture, lips, _ = data[0]
    assert mixture.shape == (2, 32_000) and not mixture[:, 16_000:].any() and lips.shape == (2, 50, 88, 88)
    with pytest.raises(MediaError, match="recipe 'mesh_32'"):
        FinishedTraining(FinishedMixtures(folder), lip_recipe("mesh_32"), 2.0, 1, 0, drawn=False)
