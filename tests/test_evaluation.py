"""Manifests and the two-cue test, with systems whose scores are known beforehand."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch

from lipsep.data.manifest import MixtureRow, draw_mixtures, mix, read_manifest, write_manifest
from lipsep.errors import MediaError
from lipsep.evaluation.evaluate import FilmedVoice, evaluate, score_mixture, summarise


def voice(seed: int, n_frames: int = 50) -> FilmedVoice:
    """Modulated noise; its lips carry the seed, so that a stand-in model knows who asks."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 0.1, n_frames * 640) * (1 + np.sin(np.arange(n_frames * 640) / (900 + 90 * seed)))
    return FilmedVoice(sound.astype(np.float32), np.full((n_frames, 4, 4), seed, np.float32))


class StandIn:
    """Answers each face with the voice that `answer(asked)` names, a little noisy."""

    faces_at_once = False

    def __init__(self, sources: np.ndarray, answer):
        self.sources, self.answer = torch.from_numpy(sources), answer

    def __call__(self, mixture, lips):
        asked = lips[:, 0, 0, 0].long().tolist()
        noise = torch.randn(len(asked), 1, mixture.shape[1], generator=torch.Generator().manual_seed(0))
        return torch.stack([self.sources[self.answer(k)] for k in asked])[:, None] + 0.01 * noise


ROW = MixtureRow("toy-0000", ("a", "b"), (1.0, -1.0))


@pytest.mark.parametrize(
    ("answer", "passes"),
    [(lambda k: k, True), (lambda k: 1 - k, False), (lambda k: 0, False)],
    ids=["own", "swapped", "deaf"],
)
def test_two_cue_passes_only_where_every_face_fetches_its_own_voice(answer, passes):
    voices = [voice(0), voice(1)]
    _, sources = mix([v.voice for v in voices], ROW.gains_db)
    utterances = score_mixture(StandIn(sources, answer), ROW, voices)
    means = summarise([utterances])
    assert (means["two_cue"] == 1.0) is passes
    assert (means["si_snri"] > 15) is passes


def test_undefined_metrics_are_counted_and_left_out():
    good = {"mixture": "a-0", "source": "x", "own_voice": True, "si_snri": 5.0, "sdri": 5.0, "pesq": 2.0, "estoi": 0.8}
    bad = {**good, "pesq": math.nan, "own_voice": False}
    means = summarise([[good, bad], [{**good, "mixture": "b-0"}, {**good, "mixture": "b-0"}]])
    assert means["pesq"] == 2.0 and means["pesq_undefined"] == 1
    assert means["two_cue"] == 0.5 and means["groups"]["a"]["two_cue"] == 0.0 and means["groups"]["b"]["two_cue"] == 1.0


def test_mixtures_have_the_gains_they_name():
    mixture, sources = mix([voice(0).voice, voice(1).voice], (3.0, -3.0))
    power = 10 * np.log10(np.mean(np.square(sources), axis=1))
    assert power[0] - power[1] == pytest.approx(6.0, abs=1e-3)
    np.testing.assert_allclose(sources.sum(0), mixture, atol=1e-6)
    assert np.sqrt(np.mean(np.square(mixture))) == pytest.approx(0.1, rel=1e-4)


def test_manifests_survive_the_disk_and_name_every_pair_before_any_twice(tmp_path):
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    rows = draw_mixtures(pairs, 5, 5.0, "toy", seed=0)
    assert sorted(row.sources for row in rows[:3]) == pairs
    write_manifest(tmp_path / "m.csv", rows)
    again = read_manifest(tmp_path / "m.csv")
    assert [r.sources for r in again] == [r.sources for r in rows]
    np.testing.assert_allclose([r.gains_db for r in again], [r.gains_db for r in rows], atol=0.005)
    (tmp_path / "bad.csv").write_text("mixture,source_1,gain_db_1\n0,a,0\n")
    with pytest.raises(MediaError, match="line 2"):
        read_manifest(tmp_path / "bad.csv")


def test_the_committed_manifests_never_touch_training_sentences_or_talkers():
    from pathlib import Path

    folder = Path(__file__).resolve().parents[1] / "recipes" / "laptop"
    sentences, talkers = (read_manifest(folder / f"unseen_{what}.csv") for what in ("sentences", "talkers"))
    assert len(sentences) == 200 and len(talkers) == 400
    assert all(source.startswith(("grid_s1/sw", "grid_s1/sr")) for row in sentences for source in row.sources)
    assert all(source.startswith("grid_unseen/") for row in talkers for source in row.sources)


@pytest.mark.slow
def test_a_model_is_evaluated_from_clips_on_disk(tmp_path):
    """Two filmed puppets, one mixture: every figure is there and finite, in memory and on disk."""
    from dataclasses import replace

    from lipsep.data.scenes import Shot, build_clip, demo_people
    from lipsep.models import create_model

    left, right = demo_people()
    for name, person in (("a", left), ("b", right)):
        build_clip([replace(person, start_s=0.5)], tmp_path / f"{name}.mp4", duration_s=2.0, shots=[Shot(0.0, (0,))])
    write_manifest(tmp_path / "m.csv", [MixtureRow("toy-0000", ("a.mp4", "b.mp4"), (0.0, 0.0))])
    model = create_model("dolphin_laptop").eval()
    means = evaluate(model, tmp_path / "m.csv", tmp_path, tmp_path / "out")
    assert means["mixtures"] == 1 and means["utterances"] == 2 and math.isfinite(means["si_snri"])
    assert json.loads((tmp_path / "out" / "means.json").read_text())["si_snri"] == means["si_snri"]
    rows = list(csv.DictReader((tmp_path / "out" / "utterances.csv").open()))
    assert [row["source"] for row in rows] == ["a.mp4", "b.mp4"]
