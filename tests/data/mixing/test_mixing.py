"""Drawn mixtures: who is in them, how loud each voice is, how loud the noise."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import yaml
from kept import keep

from lipsep.data.clips.clips import TalkingClip, TalkingClips, pack
from lipsep.data.mixing.mixing import MixingConfig, Mixtures
from lipsep.errors import ModelError
from lipsep.lips.recipes import lip_recipe
from lipsep.training.corpora import mixing_config, plain, prepare_feed
from lipsep.training.recipe import load_recipe

POINTS = lip_recipe("points_8")
PAPERS = {
    "segment_s": 0.64, "distinct_talkers": True, "gain_db": 10.0, "filmed_pairs": 1.0, "alike": 0.0, "aligned": 0.0,
    "crossed_pairs": 0.0, "pace": (1.0, 1.0), "noise": 0.0, "dropped": 0.0, "mouths": None,
}  # fmt: skip


def hum(talker: int, clip: int) -> TalkingClip:
    """A talker is a tone of his own, of constant level; the names of all clips begin alike."""
    voice = 0.3 * np.sin(2 * np.pi * 400 * (talker + 1) * np.arange(25 * 640) / 16_000)
    mouth = np.random.default_rng(100 * talker + clip).random((25, 20, 2), np.float32)
    return TalkingClip(f"clip{talker}{clip}", f"talker{talker}", voice.astype(np.float32), mouth)


@pytest.fixture(scope="module")
def corpus() -> TalkingClips:
    return pack(hum(talker, clip) for talker in range(4) for clip in range(5))


def mixtures(corpus: TalkingClips, n_items: int = 40, noises=None, unfilmed=None, **changes) -> Mixtures:
    return Mixtures(corpus, unfilmed, noises, MixingConfig(**PAPERS | changes), POINTS, n_items, seed=0)


def levels(sound) -> np.ndarray:
    """Of each talker's tone, its power."""
    power = np.square(np.abs(np.fft.rfft(np.asarray(sound, np.float64)))) / len(sound) ** 2 * 2
    return power[[round(400 * (talker + 1) * len(sound) / 16_000) for talker in range(4)]]


def talkers(sound) -> list[int]:
    found = levels(sound)
    return [k for k in range(4) if found[k] > 1e-3 * found.max()]


@pytest.mark.parametrize("speakers", [2, 3, 4])
def test_voices_of_a_mixture_are_different_peoples_where_the_recipe_says_so(corpus, speakers):
    for mixture, _, sources in mixtures(corpus, speakers=speakers):
        assert len(talkers(mixture[0])) == speakers
        assert talkers(sources[0, 0]) != talkers(sources[1, 0])


def test_otherwise_a_talker_may_be_mixed_with_himself(corpus):
    pairs = [[talkers(source[0]) for source in item[2]] for item in mixtures(corpus, distinct_talkers=False)]
    assert any(first == second for first, second in pairs)


def test_unfilmed_voices_are_different_peoples_too(corpus):
    drawn = mixtures(corpus, unfilmed=corpus, filmed_pairs=0.0, own_voice=1.0, segment_s=0.2)
    assert all(len(talkers(item[0][0])) == 2 for item in drawn)


def test_a_stranger_is_nobody_who_talks(corpus):
    """With three talkers and two of them heard, the third's mouth is the stranger's: no voice is mixed in for it."""
    drawn = mixtures(corpus, target_absent=1.0)
    assert all(len(talkers(mixture[0])) == 2 and not sources[1].any() for mixture, _, sources in drawn)


@pytest.mark.parametrize(("changes", "needs"), [({}, 2), ({"speakers": 3}, 3), ({"target_absent": 0.1}, 3)])
def test_too_few_talkers_are_told(corpus, changes, needs):
    one = corpus.select(range(5))
    with pytest.raises(ModelError, match=f"needs clips of {needs} talkers, and these 5 are of 1"):
        mixtures(one, **changes)


def test_one_voice_is_raised_and_the_other_lowered_by_up_to_5_db(corpus):
    """The lists of the field: levels +g and -g, g even in 0..5 dB, so 2 g apart; either voice may be the louder."""
    apart = []
    for _, _, sources in mixtures(corpus, 300):
        first, second = (levels(source[0]).max() for source in sources)
        apart.append(10 * np.log10(first / second))
    assert max(np.abs(apart)) <= 10.05 and max(apart) > 9 and min(apart) < -9
    assert np.mean(np.abs(apart)) == pytest.approx(5.0, abs=0.6)


@pytest.mark.parametrize("snr_db", [6.0, -3.0])
def test_noise_is_so_many_db_below_the_voices(corpus, snr_db):
    noises = np.random.default_rng(0).normal(0, 3_000, 200_000).astype(np.int16)
    drawn = mixtures(corpus, 5, noises, noise=1.0, noise_snr_db=(snr_db, snr_db))
    for mixture, _, sources in drawn:
        voices = sources.sum(0)[0]
        found = 10 * np.log10(float(voices.square().mean() / (mixture[0] - voices).square().mean()))
        assert found == pytest.approx(snr_db, abs=0.05)


def test_a_papers_recipe_validates_by_the_rules_it_trains_by(corpus, tmp_path):
    """Different talkers at different levels, with noise; nothing of the pictures varies. Other recipes: the hardest."""
    keep(corpus, tmp_path, tmp_path / "filmed")
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "cafe_1.wav", noise, 16_000)
    content = {
        "model": {"name": "dolphin_laptop"},
        "data": {
            "filmed": "filmed", "prepared": ".", "noises": "noise", "filmed_validation_prefixes": ["clip0", "clip1"],
            "mixing": {**PAPERS, "pace": [1.0, 1.0], "noise": 1.0, "noise_snr_db": [10.0, 10.0]},
        },
        "training": {"loss": "si_snr", "batch_mixtures": 2, "steps_per_epoch": 1, "epochs": 1, "workers": 0},
        "output": "run", "licence": "none", "provenance": "a toy",
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    recipe = load_recipe(path)
    apart = []
    for mixture, _, sources in (prepare_feed(recipe, POINTS).validation[k] for k in range(12)):
        voices = sources.sum(0)[0]
        assert sorted(talkers(sources[0, 0]) + talkers(sources[1, 0])) == [0, 1]
        below = 10 * np.log10(float(voices.square().mean() / (mixture[0] - voices).square().mean()))
        assert below == pytest.approx(10.0, abs=0.1)
        apart.append(abs(10 * np.log10(levels(sources[0, 0]).max() / levels(sources[1, 0]).max())))
    assert max(apart) > 5.1
    assert plain(mixing_config(recipe.data)).mouths is None and not plain(mixing_config(recipe.data)).random_crop
    hardest = plain(MixingConfig())
    assert (hardest.alike, hardest.aligned, hardest.noise) == (1.0, 1.0, 0.0)
