"""Lists of mixtures, drawn for a corpus or published."""

from __future__ import annotations

from collections import Counter

import pytest
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.data.corpora.layouts import find_sources
from lipsep.data.mixtures.lists import draw_list, read_list
from lipsep.data.mixtures.manifest import read_manifest
from lipsep.data.names import parse_name
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
    assert read_list(lrs3 / "names.txt", find_sources("lrs3", lrs3), lrs3) == rows


def test_a_published_list_becomes_a_manifest_of_the_corpus(lrs3):
    """Names with folders and endings, and the two paths with two gains of the .scp files."""
    (lrs3 / "tt.scp").write_text(
        "/elsewhere/mix/vid-1_x_00001_1.25_vid-2_x_00002_-1.25.wav\n\n"
        "/data/raw_audio/vid-0_x_00000.wav 2.66586 /data/raw_audio/t_00001.wav -2.66586\n"
    )
    arguments = ["mixtures", "lrs3", str(lrs3), "--names", str(lrs3 / "tt.scp"), "-o", str(lrs3 / "tt.jsonl")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    first, second = read_manifest(lrs3 / "tt.jsonl")
    assert first.sources == ("test/vid-1_x/00001.mp4", "test/vid-2_x/00002.mp4") and first.split == "test"
    assert second.mixture == "vid-0_x_00000_2.66586_t_00001_-2.66586" and second.gains_db == (2.66586, -2.66586)
    assert second.sources == ("test/vid-0_x/00000.mp4", "trainval/t/00001.mp4") and second.speakers == ("vid-0_x", "t")
    sources = find_sources("lrs3", lrs3)
    for line, message in (("x_1_1.0_t_00001_-1.0", "has no clip x_1"), ("nonsense", "nonsense is no name like")):
        (lrs3 / "tt.scp").write_text(f"\n{line}\n")
        with pytest.raises(MediaError, match=f"line 2: .*{message}"):
            read_list(lrs3 / "tt.scp", sources, lrs3)


def test_too_few_talkers_and_unknown_protocols_are_told(lrs3):
    sources = find_sources("lrs3", lrs3)
    with pytest.raises(MediaError, match=r"split 'val' has clips of 0 talkers.*the corpus has test, train"):
        draw_list(sources, lrs3, "val", 2, 5, "usev", seed=0)
    with pytest.raises(MediaError, match="unknown protocol 'wsj': choose one of look2hear, usev"):
        draw_list(sources, lrs3, "test", 2, 5, "wsj", seed=0)
