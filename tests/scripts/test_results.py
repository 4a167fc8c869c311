"""The results pages are what their stored files say, and say what could not be run."""

from __future__ import annotations

import math
import shutil

import pytest
from make_results import OWN_SETS, pages, write_pages
from places import ROOT

from lipsep.evaluation.metrics import METRICS
from lipsep.evaluation.tables import read_rows, write_rows

FOLDER = ROOT / "docs" / "results"


@pytest.mark.parametrize("name", ["README.md", "own.md", "dolphin.md", "bin.md", "cost.md"])
def test_the_committed_pages_are_made_of_the_committed_files(name):
    text = pages(FOLDER / "data")[name]
    assert (FOLDER / name).read_text(encoding="utf-8") == text, "run  make results  and commit docs/results"


def test_every_stored_evaluation_has_its_place_and_its_settings():
    stored = sorted(path.parent for path in (FOLDER / "data").glob("*/*/utterances.csv"))
    assert stored
    for folder in stored:
        assert folder.parent.name in OWN_SETS
        settings = (folder / "settings.json").read_text(encoding="utf-8")
        assert "/" not in settings.replace("\\/", "")  # names, no places of this or that machine
        assert read_rows(folder / "utterances.csv")


def test_a_new_evaluation_appears_beside_the_published_figure(tmp_path):
    shutil.copytree(FOLDER / "data", tmp_path / "data")
    before = pages(tmp_path / "data")["dolphin.md"]
    assert "| dolphin | 16.8 / no data | 16.9 / no data |" in before
    row = {
        **dict.fromkeys(METRICS, 1.0), "condition": "as given", "mixture": "m-0000", "position": 0, "source": "a",
        "talker": "t", "n_src": 1, "gain_db": 0.0, "relative_level_db": math.nan, "own_voice": True, "si_snri": 16.25,
        "pesq": math.nan,
    }  # fmt: skip
    (tmp_path / "data" / "lrs2" / "dolphin").mkdir(parents=True)
    write_rows(tmp_path / "data" / "lrs2" / "dolphin" / "utterances.csv", [row])
    write_pages(tmp_path)
    assert "| dolphin | 16.8 / 16.25 | 16.9 / 1.00 | 3.29 / undefined |" in (tmp_path / "dolphin.md").read_text()


def test_missing_profiles_are_marked(tmp_path):
    cost = pages(tmp_path)["cost.md"]
    assert "| dolphin | 6.22 / not run | 7 / not run |" in cost
