"""Manifests, the two-cue test and evaluation runs, with systems whose scores are known beforehand."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from places import ROOT

from lipsep.data.mixtures.manifest import MixtureRow, draw_mixtures, mix, read_manifest, write_manifest
from lipsep.errors import MediaError, OutputError
from lipsep.evaluation.cases import Case, Estimates, open_cases, talker_of
from lipsep.evaluation.conditions import Setting, conditions
from lipsep.evaluation.evaluate import PARTIAL, Protocol, evaluate, score_case
from lipsep.evaluation.metrics import METRICS
from lipsep.evaluation.summary import gain_bin, summarise
from lipsep.evaluation.tables import read_rows, write_rows
from lipsep.models import SeparationModel, create_model


def voice(seed: int, n_frames: int = 50) -> np.ndarray:
    """Modulated noise, (T,) float32."""
    rng = np.random.default_rng(seed)
    sound = rng.normal(0, 0.1, n_frames * 640) * (1 + np.sin(np.arange(n_frames * 640) / (900 + 90 * seed)))
    return sound.astype(np.float32)


def case(*seeds: int, name: str = "toy-0000") -> Case:
    """Voices whose lips carry the seed in every pixel, so that a stand-in model knows who asks."""
    gains_db = tuple(1.0 - 2 * k for k in range(len(seeds)))
    mixture, references = mix([voice(seed) for seed in seeds], gains_db)
    lips = np.stack([np.full((50, 8, 8), 1 + seed, np.float32) for seed in seeds])
    sources = tuple(f"t{seed}_x" for seed in seeds)
    return Case(name, sources, tuple(map(talker_of, sources)), gains_db, mixture, references, lips)


class StandIn(torch.nn.Module):
    """Answers each face with the voice that `answer(asked)` names, a little noisy."""

    faces_at_once = needs_faces = False

    def __init__(self, sources: np.ndarray, answer=lambda k: k):
        super().__init__()
        self.sources, self.answer = torch.nn.Parameter(torch.from_numpy(sources)), answer

    def forward(self, mixture, lips):
        asked = (lips[:, 0, 0, 0].long() - 1).tolist()
        noise = torch.randn(len(asked), 1, mixture.shape[1], generator=torch.Generator().manual_seed(0))
        return torch.stack([self.sources[self.answer(k)] for k in asked])[:, None] + 0.01 * noise


class StandInCases:
    def __init__(self, *members: Case):
        self.members, self.names = members, [member.name for member in members]

    def load(self, index: int) -> Case:
        return self.members[index]


def rows_of(scored: list[dict], condition: str = "as given") -> list[dict]:
    return [{"condition": condition, **row} for row in scored]


@pytest.mark.parametrize(
    ("answer", "passes"),
    [(lambda k: k, True), (lambda k: 1 - k, False), (lambda k: 0, False)],
    ids=["own", "swapped", "deaf"],
)
def test_two_cue_passes_only_where_every_face_fetches_its_own_voice(answer, passes):
    two = case(0, 1)
    means = summarise(rows_of(score_case(StandIn(two.references, answer), two)))
    assert (means["two_cue"] == 1.0) is passes
    assert (means["si_snri"] > 15) is passes


def test_undefined_metrics_are_counted_and_left_out():
    good = {
        **dict.fromkeys(METRICS, 5.0), "condition": "as given", "own_voice": True, "talker": "x", "pesq": 2.0,
        "relative_level_db": 1.0,
    }  # fmt: skip
    bad = {**good, "pesq": math.nan, "own_voice": False}
    first, second = ({**row, "mixture": "a-0000"} for row in (good, bad))
    means = summarise([first, second, *({**good, "mixture": "b-0000"},) * 2])
    assert means["pesq"] == 2.0 and means["pesq_undefined"] == 1 and means["ci95"]["pesq"] == [2.0, 2.0]
    assert means["two_cue"] == 0.5 and means["groups"]["a"]["two_cue"] == 0.0 and means["groups"]["b"]["two_cue"] == 1.0
    nothing = summarise([{**good, "mixture": "a-0", "pesq": math.nan}])
    assert math.isnan(nothing["pesq"]) and math.isnan(nothing["ci95"]["pesq"][0])


def test_the_interval_is_that_of_the_normal_law_for_many_mixtures():
    rng = np.random.default_rng(0)
    row = {
        **dict.fromkeys(METRICS, 0.0), "condition": "as given", "own_voice": True, "talker": "x",
        "relative_level_db": 0.0,
    }  # fmt: skip
    means = summarise([{**row, "mixture": f"m-{k}", "si_snri": 10 + 3 * rng.normal()} for k in range(400)])
    low, high = means["ci95"]["si_snri"]
    assert high - low == pytest.approx(2 * 1.96 * 3 / 20, rel=0.15)
    assert low < means["si_snri"] < high


def test_breakdowns_per_talker_and_gain_are_in_order():
    rows = [
        {**dict.fromkeys(METRICS, float(k)), "condition": "as given", "own_voice": True, "talker": f"t{k % 2}",
         "mixture": f"m-{k}", "relative_level_db": 2.0 * k - 4}
        for k in range(5)
    ]  # fmt: skip
    means = summarise(rows)
    assert means["talkers"]["t0"]["si_snri"] == 2.0 and means["talkers"]["t1"]["utterances"] == 2
    assert list(means["gain_bins"]) == ["-5..-2.5 dB", "-2.5..0 dB", "0..2.5 dB", "2.5..5 dB"]
    assert gain_bin(-7) == "below -5 dB" and gain_bin(5.0) == "5 dB and more" and gain_bin(math.nan) == "unknown"


def test_tables_survive_the_disk_and_a_cut_off_mixture_is_left_out(tmp_path):
    two = case(0, 1)
    rows = rows_of(score_case(StandIn(two.references), two))
    rows[0]["pesq"] = math.nan
    write_rows(tmp_path / "u.csv", rows)
    again = read_rows(tmp_path / "u.csv")
    assert math.isnan(again[0].pop("pesq")) and rows[0].pop("pesq")
    assert again == rows
    text = (tmp_path / "u.csv").read_text()
    (tmp_path / "cut.csv").write_text(text[:-3])
    assert read_rows(tmp_path / "cut.csv") == []


def test_parquet_says_the_same(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    two = case(0, 1)
    rows = rows_of(score_case(StandIn(two.references), two))
    write_rows(tmp_path / "u.csv", rows)
    assert read_rows(tmp_path / "u.parquet") == rows


# --- Conditions ------------------------------------------------------------------------------------------------------


def condition(sweep: str, name: str, *members: Case) -> Case:
    apply = next(c.apply for c in conditions([sweep]) if c.name == name)
    return apply(Setting(StandInCases(*members)), members[0], 0)


@pytest.mark.parametrize("level", [-5, 20])
def test_noise_has_the_level_it_names_and_is_the_same_each_time(level):
    two = case(0, 1)
    noisy = condition("noise", f"noise {level} dB", two)
    noise = noisy.mixture - two.mixture
    assert 10 * np.log10(np.mean(two.mixture**2) / np.mean(noise**2)) == pytest.approx(level, abs=0.01)
    np.testing.assert_array_equal(noisy.references, two.references)
    np.testing.assert_array_equal(noisy.mixture, condition("noise", f"noise {level} dB", two).mixture)


def test_more_talkers_add_up_and_bring_their_lips():
    four = condition("talkers", "4 talkers", case(0, 1), case(1, 2, name="toy-0001"), case(3, 0, name="toy-0002"))
    assert four.sources == ("t0_x", "t1_x", "t2_x", "t3_x")
    np.testing.assert_allclose(four.references.sum(0), four.mixture, atol=1e-5)
    assert four.lips[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert len(score_case(StandIn(four.references), four)) == 4
    with pytest.raises(MediaError, match="too few clips"):
        condition("talkers", "4 talkers", case(0, 1), case(0, 1, name="toy-0001"))


def test_a_voice_off_screen_is_heard_and_not_asked_for():
    two = case(0, 1)
    more = condition("off screen", "a third voice off screen", two, case(1, 2, name="toy-0001"))
    assert len(more.references) == len(more.lips) == 2
    stranger = more.mixture - two.mixture
    assert np.std(stranger) == pytest.approx(np.std(two.references), rel=0.1)
    one = condition("off screen", "one visible, the other off screen", two)
    assert len(one.references) == len(one.lips) == len(one.sources) == 1
    np.testing.assert_array_equal(one.mixture, two.mixture)


def test_one_mouth_is_never_visible_and_its_voice_is_still_asked_for():
    hidden = condition("hidden", "one mouth never visible", case(0, 1))
    assert sorted(float(np.abs(lips).max()) > 0 for lips in hidden.lips) == [False, True]
    assert len(hidden.references) == 2


def test_a_room_is_heard_and_leaves_voices_where_they_were():
    pytest.importorskip("pyroomacoustics", reason="the room is simulated by pyroomacoustics")
    two = case(0, 1)
    room = condition("room", "a small room", two)
    np.testing.assert_allclose(room.references.sum(0), room.mixture, atol=1e-5)
    np.testing.assert_array_equal(room.mixture, condition("room", "a small room", two).mixture)
    for dry, wet in zip(two.references, room.references, strict=True):
        assert np.std(wet) == pytest.approx(np.std(dry), rel=0.05)
        likeness = np.correlate(wet, dry[800:-800], "valid") / np.std(dry) / np.std(wet) / len(dry[800:-800])
        assert abs(int(likeness.argmax()) - 800) <= 16  # in step to 1 ms
        assert 0.2 < likeness.max() < 0.97  # and not the same


def test_late_lips_show_what_was_said_before():
    counting = replace(case(0, 1), lips=np.arange(50, dtype=np.float32)[None, :, None, None] * np.ones((2, 1, 8, 8)))
    late = condition("offset", "lips +200 ms", counting).lips[0, :, 0, 0]
    early = condition("offset", "lips -200 ms", counting).lips[0, :, 0, 0]
    assert late[10] == 5 and late[0] == 0 and early[10] == 15 and early[49] == 49


def test_hidden_and_missing_lips_lose_the_share_they_name():
    two = case(0, 1)
    for name, sweep, lost in (
        ("25% of the mouth hidden", "occlusion", 0.25),
        ("100% of the mouth hidden", "occlusion", 1.0),
        ("lips missing 50% of the time", "missing", 0.5),
    ):
        assert np.mean(condition(sweep, name, two).lips == 0) == pytest.approx(lost)
    assert two.lips.all()


def test_swapped_faces_fetch_swapped_voices():
    swapped = condition("swap", "faces swapped", case(0, 1))
    assert swapped.sources == ("t1_x", "t0_x")
    original = case(0, 1)
    means = summarise(rows_of(score_case(StandIn(original.references), swapped)))
    assert means["two_cue"] == 1.0 and means["si_snri"] > 15
    deaf_to_lips = StandIn(original.references, answer=lambda k: 0)
    assert summarise(rows_of(score_case(deaf_to_lips, swapped)))["two_cue"] == 0.0


def test_an_unknown_sweep_lists_those_there_are():
    with pytest.raises(MediaError, match=r"no sweep named rain: choose from noise, talkers, .*all"):
        conditions(["rain"])


# --- Manifests -------------------------------------------------------------------------------------------------------


def test_mixtures_have_the_gains_they_name():
    mixture, sources = mix([voice(0), voice(1)], (3.0, -3.0))
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

    folder = ROOT / "recipes" / "laptop"
    sentences, talkers = (read_manifest(folder / f"unseen_{what}.csv") for what in ("sentences", "talkers"))
    assert len(sentences) == 200 and len(talkers) == 400
    assert all(source.startswith(("grid_s1/sw", "grid_s1/sr")) for row in sentences for source in row.sources)
    assert all(source.startswith("grid_unseen/") for row in talkers for source in row.sources)


@pytest.mark.parametrize(
    ("source", "talker"),
    [("grid_s1/srbo4p.mp4", "grid_s1"), ("grid_unseen/s26_swbm3n.mpg", "s26"), ("6330311066473698535_00011", None)],
)
def test_talkers_are_known_by_the_names_of_the_usual_corpora(source, talker):
    assert talker_of(source) == (talker or source.split("_")[0])


# --- Whole runs ------------------------------------------------------------------------------------------------------

NAMES = ["ann_1_2.0_bob_1_-2.0", "ann_2_0.5_cat_1_-0.5", "bob_2_-1.0_cat_2_1.0"]


@pytest.fixture
def published(tmp_path):
    """Three mixtures in the layout of the published sets, 1 s each."""
    root = tmp_path / "tt"
    for folder in ("mix", "s1", "s2", "mouths"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        parts = name.split("_")
        mixture, references = mix(
            [voice(2 * number, 25), voice(2 * number + 1, 25)], (float(parts[2]), float(parts[5]))
        )
        for folder, sound in zip(("mix", "s1", "s2"), (mixture, *references), strict=True):
            soundfile.write(root / folder / f"{name}.wav", sound, 16_000, subtype="FLOAT")
        for identity in ("_".join(parts[:2]), "_".join(parts[3:5])):
            np.savez(root / "mouths" / f"{identity}.npz", data=rng.integers(0, 255, (25, 96, 96), dtype=np.uint8))
    return root


class Echo(SeparationModel):
    """Answers with the mixture and a little noise that depends on the lips: cheap, and different for each face."""

    def __init__(self, level: float = 0.1) -> None:
        super().__init__(SimpleNamespace(lip_size=88), lip_recipe="mouth_88")
        self.level = torch.nn.Parameter(torch.tensor(level))

    def forward(self, mixture, lips):
        generator = torch.Generator().manual_seed(zlib.crc32(lips.numpy().tobytes()))  # no sum: threads round it
        return (mixture + self.level * torch.randn(mixture.shape, generator=generator)).unsqueeze(1)


def test_perfect_estimates_of_another_system_score_as_such(published, tmp_path):
    """The references themselves as estimates; one PESQ-less silence is counted, and no lips are needed."""
    shutil.rmtree(published / "mouths")
    theirs = tmp_path / "theirs"
    for k in (1, 2):
        shutil.copytree(published / f"s{k}", theirs / f"s{k}")
    soundfile.write(theirs / "s1" / f"{NAMES[2]}.wav", np.zeros(16_000), 16_000)
    means = evaluate(Estimates(theirs), Protocol(published), tmp_path / "out")
    assert means["si_snr"] > 60 and means["two_cue"] == pytest.approx(2 / 3)
    assert means["utterances"] == 6 and means["si_snri_undefined"] == means["pesq_undefined"] == 1
    assert set(means["talkers"]) == {"ann", "bob", "cat"}
    stored = json.loads((tmp_path / "out" / "means.json").read_text())
    assert stored["si_snr"] == means["si_snr"]
    rows = read_rows(tmp_path / "out" / "utterances.csv")
    assert [row["gain_db"] for row in rows] == [2.0, -2.0, 0.5, -0.5, -1.0, 1.0]


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_figures(published, tmp_path):
    model, protocol = Echo(), Protocol(published, sweeps=("swap",))
    whole = evaluate(model, protocol, tmp_path / "whole")

    def stop_at_the_third(step, completed, total, note=""):
        assert step == "mixtures" and "SI-SNRi" in note
        if completed == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, protocol, tmp_path / "cut", stop_at_the_third)
    with (tmp_path / "cut" / PARTIAL).open("a") as lines:
        lines.write("faces swapped,ann_1")
    seen = []
    again = evaluate(model, protocol, tmp_path / "cut", lambda step, completed, total, note: seen.append(total))
    assert seen == [3, 3, 3] and again["si_snri"] == whole["si_snri"]
    first, second = (read_rows(tmp_path / folder / "utterances.csv") for folder in ("whole", "cut"))
    assert first == [pytest.approx(row, abs=1e-9, nan_ok=True) for row in second]
    assert not (tmp_path / "cut" / PARTIAL).exists()
    assert set(whole["conditions"]) == {"faces swapped"}

    changed = Echo(0.2)
    with pytest.raises(OutputError, match=r"other settings \(weights_sha256\).*--overwrite"):
        evaluate(changed, protocol, tmp_path / "cut")
    assert evaluate(changed, protocol, tmp_path / "cut", overwrite=True)["mixtures"] == 3


@pytest.mark.slow
def test_two_processes_find_what_one_finds(published):
    model = Echo()
    one, two = (evaluate(model, Protocol(published), processes=n) for n in (1, 2))
    assert one["si_snri"] == pytest.approx(two["si_snri"], abs=1e-4) and one["utterances"] == two["utterances"]


def test_what_is_missing_is_named(published, tmp_path):
    (published / "mouths" / "ann_1.npz").unlink()
    with pytest.raises(MediaError, match=r"no mouth pictures at .*ann_1\.npz"):
        evaluate(Echo(), Protocol(published))
    with pytest.raises(MediaError, match="no estimate 1; looked for"):
        evaluate(Estimates(tmp_path), Protocol(published))
    with pytest.raises(MediaError, match="mouth_ recipe"):
        evaluate(create_model("dolphin_test"), Protocol(published))
    with pytest.raises(MediaError, match="no folder mix or mixture"):
        open_cases(tmp_path, tmp_path, None, tmp_path)


class Portraits(SeparationModel):
    """Knows who asks by the face alone: a brighter face is the later source."""

    needs_faces = True

    def __init__(self, sources: np.ndarray) -> None:
        super().__init__(SimpleNamespace(face_size=16), lip_recipe="mouth_88")
        self.sources = torch.nn.Parameter(torch.from_numpy(sources))

    def forward(self, mixture, lips, faces):
        assert faces.shape == (1, 3, 16, 16)
        return self.sources[int(faces.mean() > 0)][None, None]


def test_a_model_that_knows_faces_is_shown_them():
    dark, bright = np.zeros((192, 192, 3), np.uint8), np.full((192, 192, 3), 255, np.uint8)
    known = replace(case(1, 2), faces=(dark, bright))
    model = Portraits(known.references)
    assert all(row["own_voice"] for row in score_case(model, known))
    (swap,) = conditions(["swap"])[1:]
    swapped = swap.apply(Setting(StandInCases(known), ()), known, 0)
    assert all(row["own_voice"] for row in score_case(model, swapped))
    with pytest.raises(MediaError, match="needs pictures of faces"):
        score_case(model, case(1, 2))


@pytest.mark.slow
def test_a_model_is_evaluated_from_clips_on_disk(tmp_path):
    """Two filmed puppets, one mixture: every figure is there and finite, in memory and on disk."""
    from scenes import Shot, build_clip, demo_people

    left, right = demo_people()
    for name, person in (("a", left), ("b", right)):
        build_clip([replace(person, start_s=0.5)], tmp_path / f"{name}.mp4", duration_s=2.0, shots=[Shot(0.0, (0,))])
    write_manifest(tmp_path / "m.csv", [MixtureRow("toy-0000", ("a.mp4", "b.mp4"), (0.0, 0.0))])
    model = create_model("dolphin_laptop").eval()
    means = evaluate(model, Protocol(tmp_path / "m.csv", tmp_path), tmp_path / "out")
    assert means["mixtures"] == 1 and means["utterances"] == 2 and math.isfinite(means["si_snri"])
    assert json.loads((tmp_path / "out" / "means.json").read_text())["si_snri"] == means["si_snri"]
    assert [row["source"] for row in read_rows(tmp_path / "out" / "utterances.csv")] == ["a.mp4", "b.mp4"]
