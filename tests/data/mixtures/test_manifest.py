"""Manifests as JSONL and Parquet: what a row may say, and what is told where it says it wrongly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lipsep.data.mixtures.manifest import MixtureRow, mix, read_manifest, write_manifest
from lipsep.errors import MediaError
from lipsep.evaluation.cases import ManifestCases

ROWS = [
    MixtureRow("m-0", ("a/1.mp4", "b/é.mp4"), (1.25, -1.25), (0.0, 1.2), ("ann", "bob"), "train"),
    MixtureRow("m-1", ("a/1.mp4", "b/2.mp4", "c/3.mp4"), (0.0, 2.123456789, -3.0)),
]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_every_field_survives_the_disk(suffix, tmp_path):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet manifests need pyarrow")
    write_manifest(tmp_path / f"m.{suffix}", ROWS)
    assert read_manifest(tmp_path / f"m.{suffix}") == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [f"m.{suffix}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ["a"], "gains_db": [0]}, "line 2: 1 source; a mixture needs two"),
        ({"gains_db": [0]}, "line 2: 1 gains_db for 2 sources"),
        ({"gains_db": [0, "loud"]}, r"line 2: gains_db\.1: .*number"),
        ({"gains_db": [0, float("nan")]}, r"line 2: gains_db\.1: nan"),
        ({"starts_s": [0, 0.05]}, r"line 2: starts_s\.1: 0\.05 s is no start of a video frame"),
        ({"starts_s": [0, -1]}, r"starts_s\.1: -1\.0 s"),
        ({"speakers": ["ann"]}, "1 speakers for 2 sources"),
        ({"speaker": ["ann", "bob"]}, "line 2: speaker: "),
        ({"mixture": "m-0"}, "line 2: several mixtures named m-0"),
        ({"sources": None}, "line 2: sources: "),
    ],
)
def test_a_wrong_row_is_named_with_its_line_and_field(change, message, tmp_path):
    good = {"mixture": "m-0", "sources": ["a", "b"], "gains_db": [0, 1]}
    lines = [json.dumps(good), json.dumps({**good, "mixture": "m-1", **change})]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(MediaError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(MediaError, match=r"ends in \.csv, \.jsonl, \.parquet"):
        read_manifest(tmp_path / "m.txt")
    (tmp_path / "m.jsonl").write_text('{"mixture": "cut o')
    with pytest.raises(MediaError, match="line 1: no JSON"):
        read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(MediaError, match="CSV holds no starts"):
        write_manifest(tmp_path / "m.csv", ROWS)


def test_a_start_moves_voice_and_lips_alike(tmp_path):
    """Voice and lips that both count frames: after a start of 0.12 s both begin with frame 3."""
    cases = ManifestCases(
        [MixtureRow("m", ("a", "b"), (0.0, 0.0), (0.12, 0.0), ("ann", "bob"))], tmp_path, "x", tmp_path
    )
    count = np.arange(1, 26, dtype=np.float32)
    for name in ("a", "b"):
        np.save(cases._kept(name, "voice"), np.repeat(count, 640))
        np.save(cases._kept(name, "lips"), np.tile(count[:, None, None], (1, 8, 8)))
        np.save(cases._kept(name, "face"), np.zeros((192, 192, 3), np.uint8))
    case = cases.load(0)
    assert (
        case.talkers == ("ann", "bob") and case.references.shape == (2, 22 * 640) and case.lips.shape == (2, 22, 8, 8)
    )
    assert case.lips[0, 0, 0, 0] == 4 and case.lips[1, 0, 0, 0] == 1
    heard = case.references[:, ::640]
    np.testing.assert_allclose(heard[0] / heard[0, 0], count[3:] / 4, rtol=1e-4)
    np.testing.assert_allclose(heard[1] / heard[1, 0], count[:22], rtol=1e-4)
    with pytest.raises(MediaError, match="behind the end"):
        mix([np.ones(640), np.ones(640)], (0.0, 0.0), (1, 0))


@pytest.mark.parametrize("source", ["../private.mp4", "a/../../private.mp4", "/etc/passwd", "..", "a\0.mp4"])
def test_a_manifest_of_strangers_reads_nothing_outside_its_root(tmp_path, source):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"mixture": "x", "sources": ["a.mp4", source], "gains_db": [0.0, 0.0]}) + "\n")
    with pytest.raises(MediaError, match="leads out of the root folder"):
        read_manifest(path)
