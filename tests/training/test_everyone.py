"""Two commands to weights better than ours: the recipe of all that anybody may download, on tiny made-up records."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from lipsep.checkpoints.folder import load_model
from lipsep.cli import main
from lipsep.data.clips.clips import TalkingClip
from lipsep.data.corpora import opening, prepare, shards
from lipsep.data.corpora.opening import filmed_split, held_out_talkers
from lipsep.data.synthetic.babble import synthetic_corpus
from lipsep.errors import WeightsError
from lipsep.training import run, train
from lipsep.training.recipe import load_recipe

RECIPE = "laptop/everyone"
TRAINED = {
    "grid": ["s1", "s34"],
    "lombard_grid": ["lombard_s2", "lombard_s55"],
    "crema_d": ["crema_1001", "crema_1091"],
}
VALIDATED = {
    "grid": ["s9", "s20"],
    "lombard_grid": ["lombard_s16", "lombard_s52"],
    "crema_d": ["crema_1008", "crema_1060"],
}
TINY = [
    "model.name=voices_first_test",
    "voices.initial_weights=null",
    "data.mixing.segment_s=0.6",
    "voices.mixing={segment_s: 0.6}",
    *(f"{part}.{setting}" for part in ("voices", "training") for setting in (
        "steps_per_epoch=2", "epochs=1", "workers=0", "validation_mixtures=2", "loggers=[]")),
    *("voices.batch=2", "voices.rooms=0", "voices.precision=32-true", "training.batch_mixtures=2"),
]  # fmt: skip
THREE = "data.filmed_held_out={grid: [s16, s25], lombard_grid: [lombard_s22], crema_d: []}"
HELD_OUT = load_recipe(Path(RECIPE)).data.filmed_held_out


def layout(corpus: str, talker: str, number: int) -> list[str]:
    """Where the record keeps a clip of a talker, and its sound."""
    name = talker.removeprefix("lombard_").removeprefix("crema_")
    if corpus == "grid":
        return [f"{name}/{name}/bbaf{number}n.mpg"]
    if corpus == "lombard_grid":
        clip = f"{name}_l_bbim{number}a"
        unpacked = "lombardgrid_{0}/lombardgrid/{0}"
        return [f"{unpacked.format('front')}/{clip}.mov", f"{unpacked.format('audio')}/{clip}.wav"]
    return [f"VideoFlash/{name}_DFA_ANG_X{number}.flv"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with `corpora/` as `lipsep download` leaves it; whoever films a clip there sees a talker who babbles."""
    for corpus in TRAINED:
        for talker in (*TRAINED[corpus], *VALIDATED[corpus], *HELD_OUT[corpus]):
            for path in (part for number in (1, 2) for part in layout(corpus, talker, number)):
                (tmp_path / "corpora" / corpus / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "corpora" / corpus / path).touch()
    babble = synthetic_corpus(8, 1, 0.8, 0)

    def film(video, name, talker, *_):
        clip = babble[sum(map(ord, talker)) % len(babble)]
        return TalkingClip(name, talker, clip.voice, clip.mouth)

    monkeypatch.setattr(shards, "film_talker", film)
    monkeypatch.setattr(prepare.os, "cpu_count", lambda: 1)  # else other processes film, who see nobody here
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lipsep(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["lipsep", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr().err


def test_nobody_who_is_held_out_or_validates_is_trained_on(here):
    data = load_recipe(Path(RECIPE)).data
    training, validation = filmed_split(data, lambda *_: None)
    everyone = {
        name: {each for of in talkers.values() for each in of} for name, talkers in (("t", TRAINED), ("v", VALIDATED))
    }
    assert set(training.talkers) == everyone["t"] and set(validation.talkers) == everyone["v"]
    named = {talker for talkers in HELD_OUT.values() for talker in talkers}
    assert len(named) == 10 and set(held_out_talkers(data).talkers) == named
    assert {"s16", "s25", "s26", "s31"} <= named, "those on whom the packaged weights are judged"


def test_one_command_prepares_pretrains_trains_and_reports(here, monkeypatch):
    monkeypatch.setattr(run, "PER_PAIR", 1)
    folder = train(RECIPE, overrides=[*TINY, THREE])
    assert folder == here / "runs" / "everyone" / "model"
    rows = list(csv.DictReader((here / "runs" / "everyone" / "held_out.csv").open()))
    pairs = [("lombard_s22", "s16"), ("lombard_s22", "s25"), ("s16", "s25")]
    assert [(row["first"], row["second"]) for row in rows] == pairs
    assert all(math.isfinite(float(row["si_snri_db"])) and float(row["two_cue"]) in (0, 1) for row in rows)
    card = json.loads((folder / "config.json").read_text())
    mean_db = sum(float(row["si_snri_db"]) for row in rows) / len(rows)
    assert card["held_out"]["si_snri_db"] == pytest.approx(mean_db, abs=1e-3)
    assert "ODbL" in card["licence"] and "CC-BY-4.0" in card["licence"] and "CREMA-D" in card["provenance"]

    pretrained = load_model(here / "runs" / "everyone_voices" / "model").state_dict()
    assert any(not torch.equal(value, pretrained[name]) for name, value in load_model(folder).state_dict().items())


@pytest.mark.slow
def test_what_was_cut_off_goes_on_and_what_has_ended_is_left_alone(here, monkeypatch):
    """Killed between the pretraining's last step and its model, and again while it reports."""
    monkeypatch.setattr(run, "PER_PAIR", 1)
    few = [*TINY, THREE, "voices.ema_decay=0.5"]
    folder = train(RECIPE, overrides=few)
    pretrained = here / "runs" / "everyone_voices" / "model"
    before = [load_model(each).state_dict() for each in (pretrained, folder)]
    for each in (pretrained, folder):
        (each / "config.json").unlink()
    monkeypatch.setattr(shards, "film_talker", None)  # nothing is filmed again
    assert train(RECIPE, overrides=few) == folder
    for each, weights in zip((pretrained, folder), before, strict=True):
        for name, value in load_model(each).state_dict().items():
            torch.testing.assert_close(value, weights[name], msg=name, rtol=0, atol=0)
        assert math.isfinite(load_model(each).metadata["validation"]["val_si_snri"])


def test_as_many_processes_pretrain_as_train(here, monkeypatch):
    """One that only trained would find nothing to begin with; one that only pretrained would train a second time."""
    asked = []
    monkeypatch.setattr("lipsep.training.pretrain", lambda path, overrides, resume: asked.extend(overrides))
    with pytest.raises(WeightsError, match="everyone_voices/model"):
        train(RECIPE, overrides=[*TINY, "training.devices=3"])
    voices = load_recipe(Path(RECIPE), asked).voices
    assert (voices.devices, voices.nodes) == (3, 1)


def test_a_trial_tries_the_pretraining_too_and_leaves_the_run_alone(here):
    folder = train(
        RECIPE,
        overrides=[*TINY, THREE],
        trial_steps=1,
    )
    assert folder == here / "runs" / "everyone" / "trial" / "model"
    assert [path.name for path in (here / "runs" / "everyone_voices").iterdir()] == ["trial"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.corpora.crema_d=nowhere", "there is no folder '{here}/nowhere' (data.corpora.crema_d)"),
        ("data.corpora.grid=corpora/crema_d", "does not look like grid"),
        (
            "data.filmed_held_out.grid=[s16, s77]",
            "has no talker s77 (data.filmed_held_out.grid); it has 8, s1, s16, s20",
        ),
        ("data.filmed_held_out={grid: [s16], lombard_grid: [], crema_d: []}", "names too few talkers"),
        ("data.filmed_held_out.vox2=[id1, id2]", "'filmed_held_out' names vox2, which 'corpora' does not"),
        ("data.corpora.grids=corpora/grid", "data.corpora has no layout grids: choose of folder, grid"),
        ("data.filmed_validation_prefixes=[]", "has no splits train and val: name 'filmed_validation_prefixes'"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_begun(here, monkeypatch, capsys, change, told):
    monkeypatch.setattr(shards, "film_talker", None)
    code, line = lipsep(monkeypatch, capsys, "train", RECIPE, *TINY, change)
    assert code == 1 and told.format(here=here) in line and line.count("\n") == 1
    assert not (here / "runs").exists() and not (here / "data").exists()


def test_too_few_talkers_are_told_before_anything_is_taught(here, monkeypatch, capsys):
    one = "data.filmed_validation_prefixes=[s1_, s2, s9_, lombard, crema]"
    code, line = lipsep(monkeypatch, capsys, "train", RECIPE, *TINY, one)
    assert code == 1 and "blind separation needs 4 talkers; these clips have 1" in line and line.count("\n") == 1
    assert not (here / "runs").exists()


def test_a_held_out_talker_of_whom_no_clip_can_be_used_is_named(here, monkeypatch):
    film = shards.film_talker

    def film_all_but_s16(video, name, talker, *rest):
        if talker == "s16":
            raise opening.MediaError("damaged")
        return film(video, name, talker, *rest)

    monkeypatch.setattr(shards, "film_talker", film_all_but_s16)
    data = load_recipe(Path(RECIPE)).data
    filmed_split(data, lambda *_: None)
    with pytest.raises(opening.ModelError, match=r"no clip of s16 \(data.filmed_held_out.grid\) can be used"):
        held_out_talkers(data)
