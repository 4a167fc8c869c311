"""Lists of mixtures that are drawn for a corpus."""

from __future__ import annotations

from collections import Counter

import pytest
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.data.drawing import draw_list
from lipsep.data.layouts import find_sources
from lipsep.data.manifest import read_manifest
from lipsep.data.published import parse_name, read_names
from lipsep.errors import MediaError


@pytest.fixture
def lrs3(tmp_path):
    """Six talkers with three test clips each, and one to train on."""
    for talker in range(6):
        for clip in range(3):
            path = tmp_path / f"test/vid-{talker}_x/0000{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "trainval/t").mkdir(parents=True)
    (tmp_path / "trainval/t/00001.mp4").touch()
    return tmp_path


@pytest.mark.parametrize("n_speakers", [2, 3, 4])
@pytest.mark.parametrize(("protocol", "limit_db"), [("look2hear", 5.0), ("usev", 10.0)])
def test_mixtures_hold_different_talkers_within_the_protocols_gains(lrs3, n_speakers, protocol, limit_db):
    rows = draw_list(find_sources("lrs3", lrs3), lrs3, "test", n_speakers, 90, protocol, seed=1)
    assert len(rows) == 90 and {row.split for row in rows} == {"test"}
    gains = []
    for row in rows:
        assert len(set(row.speakers)) == n_speakers
        ids, gains_db = zip(*parse_name(row.mixture), strict=True)
        assert gains_db == row.gains_db
        assert [f"test/{one.rpartition('_')[0]}/{one.rpartition('_')[2]}.mp4" for one in ids] == list(row.sources)
        gains.append(gains_db)
        assert gains_db[1] == -gains_db[0] if protocol == "look2hear" else gains_db[0] == 0.0
    spread = [gain for each in gains for gain in each[1:]]
    assert 0.9 * limit_db < max(map(abs, spread)) <= limit_db
    assert set(Counter(row.sources[0] for row in rows).values()) == {5}  # 18 clips, each as often first


def test_a_list_depends_on_its_seed_alone_and_comes_back_from_the_disk(lrs3):
    draw = ["mixtures", "lrs3", str(lrs3), "-n", "20", "--seed", "3"]
    for name in ("a.jsonl", "b.jsonl", "names.txt"):
        assert CliRunner().invoke(app, [*draw, "-o", str(lrs3 / name)]).exit_code == 0
    assert CliRunner().invoke(app, [*draw[:-1], "4", "-o", str(lrs3 / "c.jsonl")]).exit_code == 0
    rows = read_manifest(lrs3 / "a.jsonl")
    assert (lrs3 / "a.jsonl").read_bytes() == (lrs3 / "b.jsonl").read_bytes() != (lrs3 / "c.jsonl").read_bytes()
    again = read_names(lrs3 / "names.txt", lrs3 / "test")
    assert [(row.mixture, row.gains_db, row.speakers) for row in again] == [
        (row.mixture, row.gains_db, row.speakers) for row in rows
    ]


def test_too_few_talkers_and_unknown_protocols_are_told(lrs3):
    sources = find_sources("lrs3", lrs3)
    with pytest.raises(MediaError, match=r"split 'val' has clips of 0 talkers.*the corpus has test, train"):
        draw_list(sources, lrs3, "val", 2, 5, "usev", seed=0)
    with pytest.raises(MediaError, match="unknown protocol 'wsj': choose one of look2hear, usev"):
        draw_list(sources, lrs3, "test", 2, 5, "wsj", seed=0)
