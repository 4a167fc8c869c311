"""Noise corpora in their published layouts, and noise to train with."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from scipy.io import savemat

from lipsep.data.corpora.noises import find_noises
from lipsep.data.corpora.prepare import noise_corpus
from lipsep.data.corpora.shards import load_noises, prepare_shards
from lipsep.data.mixing.mixing import MixingConfig, Mixtures
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.errors import MediaError
from lipsep.lips.recipes import lip_recipe


def write(path, rate: int, level: float, channels: int = 1):
    """2 s; the first channel steps up to `level` in ten steps, a second one is loud."""
    steps = np.repeat(np.linspace(0.1, 1.0, 10) * level, rate // 5).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        savemat(path, {path.stem: np.round(steps * 32768)[:, None]})
    else:
        sound = np.stack([steps] + [np.full_like(steps, 0.9)] * (channels - 1), 1)
        soundfile.write(path, sound, rate)


LAYOUTS = {
    "noisex92": (
        {"babble.wav": (19_980, 1), "signals/white.mat": (19_980, 1), "speech/me.wav": (16_000, 1)},
        {("babble", s) for s in ("train", "val", "test")} | {("white", s) for s in ("train", "val", "test")},
    ),
    "wham": (
        {"wham_noise/tr/a_1.wav": (16_000, 2), "wham_noise/cv/b.wav": (16_000, 2), "wham_noise/tt/c.wav": (16_000, 2)},
        {("a_1", "train"), ("b", "val"), ("c", "test")},
    ),
    "demand": (
        {"DKITCHEN/ch01.wav": (48_000, 1), "DKITCHEN/ch02.wav": (48_000, 1), "NPARK/ch01.wav": (16_000, 1)},
        {(place, s) for place in ("DKITCHEN", "NPARK") for s in ("train", "val", "test")},
    ),
    "esc": (
        {"audio/1-10-A-0.wav": (44_100, 1), "audio/4-12-B-17.wav": (44_100, 1), "001 - Dog/5-1-A.ogg": (44_100, 1)},
        {("1-10-A-0", "train"), ("4-12-B-17", "val"), ("5-1-A", "test")},
    ),
}  # fmt: skip
BY_TIME = ("noisex92", "demand")


@pytest.mark.parametrize("corpus", LAYOUTS)
def test_each_published_layout_keeps_its_splits(corpus, tmp_path):
    files, expected = LAYOUTS[corpus]
    for path, (rate, channels) in files.items():
        write(tmp_path / "raw" / path, rate, 0.8, channels)
    assert {(source.name, source.split) for source in find_noises(corpus, tmp_path / "raw")} == expected
    summary = prepare_shards(corpus, tmp_path / "raw", tmp_path / "out", clips_per_shard=1)
    for split, share, last in (("train", 0.8, 0.64), ("val", 0.1, 0.72), ("test", 0.1, 0.8)):
        noise = load_noises(tmp_path / "out", split)
        n_files = sum(1 for _, of in expected if of == split)
        assert summary["splits"][split]["clips"] == n_files
        seconds = 2.0 * (share if corpus in BY_TIME else 1.0)
        assert len(noise) == pytest.approx(n_files * seconds * 16_000, abs=4)
        end = noise[len(noise) - 1_000 : len(noise) - 100] / 32768
        assert np.median(end) == pytest.approx(last if corpus in BY_TIME else 0.8, abs=0.02)
    assert len(noise_corpus(tmp_path / "out")) == len(load_noises(tmp_path / "out", "train"))


def test_noise_is_read_across_shards_and_mixed(tmp_path):
    for number in range(3):
        write(tmp_path / f"raw/wham_noise/tr/{number}.wav", 16_000, 0.2 + 0.1 * number)
    (tmp_path / "raw/wham_noise/tr/broken.wav").write_bytes(b"no sound")
    summary = prepare_shards("wham", tmp_path / "raw", tmp_path / "out", clips_per_shard=1)
    (skipped,) = summary["skipped"]
    assert skipped["clip"] == "broken" and "broken.wav" in skipped["reason"]
    noise = load_noises(tmp_path / "out", "train")
    whole = noise[0 : len(noise)]
    assert len(noise) == 96_000 and whole.dtype == np.int16
    for start, stop in ((0, 10), (31_990, 32_010), (31_000, 96_000), (32_000, 64_000)):
        np.testing.assert_array_equal(noise[start:stop], whole[start:stop])
    clips = synthetic_corpus(2, 1, 1.0, seed=0)
    config = MixingConfig(segment_s=0.4, noise=1.0, noise_snr_db=(0.0, 0.0), mouths=None)
    mixture, _, sources = Mixtures(clips, None, noise, config, lip_recipe("mesh_32"), 1, seed=0)[0]
    added = mixture[0] - sources.sum(0)[0]
    assert added.square().mean() == pytest.approx(float(sources.sum(0)[0].square().mean()), rel=0.01)


def test_a_folder_of_another_kind_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"does not look like demand: no DKITCHEN/ch01\.wav"):
        find_noises("demand", tmp_path)
    write(tmp_path / "raw/wham_noise/tr/1.wav", 16_000, 0.5)
    prepare_shards("wham", tmp_path / "raw", tmp_path / "out")
    with pytest.raises(MediaError, match="no split test"):
        load_noises(tmp_path / "out", "test")
