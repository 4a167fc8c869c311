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


def test_rows_of_table_2_are_separators_with_dp_lipcoder_and_not_those_of_table_3(tmp_path):
    """The plain CTCNet has 18.33 M parameters; with the other video encoder it is a recipe's network, counted apart."""
    shutil.copytree(FOLDER / "data", tmp_path / "data")
    for system, si_snri in (("ctcnet", 11.25), ("ctcnet_dp_lipcoder", 10.75)):
        row = {
            **dict.fromkeys(METRICS, 1.0), "condition": "as given", "mixture": "m-0000", "position": 0, "source": "a",
            "talker": "t", "n_src": 1, "gain_db": 0.0, "relative_level_db": math.nan, "own_voice": True,
            "si_snri": si_snri,
        }  # fmt: skip
        (tmp_path / "data" / "lrs2" / system).mkdir(parents=True)
        write_rows(tmp_path / "data" / "lrs2" / system / "utterances.csv", [row])
    page = pages(tmp_path / "data")["dolphin.md"]
    third, second = (page.split(f"## Table {n}:")[1].split("\n## ")[0] for n in (3, 2))
    assert "| ctcnet | 14.3 / 11.25 |" in third and "| ctcnet | 14 / 10.75 |" in second
    assert "18.33" not in second and "7.65 / 8.57" in second


@pytest.mark.parametrize(
    "row",
    [
        "| resnet18_3d | 17 / no data | 17.1 / no data | 3.3 / no data | 11.19 / 11.19 | 7.95 / 7.94 |",
        "| one_of_ga_la_row3 | 15.6 / no data | 15.8 / no data | 3.18 / no data | 3.81 / 3.81 | 6.59 / 6.59 |",
        "| conv1d | 16.5 / no data | 16.4 / no data | 3.25 / no data | 7.57 / 7.57 | 11.19 / 12.00 |",
    ],
)
def test_ablations_show_what_their_recipes_count(row):
    """Tables 1, 5 and 6."""
    assert row in (FOLDER / "dolphin.md").read_text(encoding="utf-8")
