"""What people name: wildcards that the shell left alone, standard input, addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipsep.errors import MediaError, without_flags
from lipsep.services.batch.inputs import find_file, find_tasks


def test_wildcards_that_the_shell_left_alone_are_files(tmp_path):
    for name in "b.mp4", "a.mp4", "c.txt", "[odd].mp4":
        (tmp_path / name).write_bytes(b"x")
    named = [task.source.name for task in find_tasks([tmp_path / "?.mp4"], tmp_path / "out")]
    assert named == ["a.mp4", "b.mp4"]
    assert [task.source.name for task in find_tasks([tmp_path / "[odd].mp4"], tmp_path / "out")] == ["[odd].mp4"]
    with pytest.raises(MediaError, match="no file fits"):
        find_tasks([tmp_path / "*.mkv"], tmp_path / "out")


@pytest.mark.parametrize(("given", "said"), [("-", "save the video"), ("https://example.org/a.mp4", "download")])
def test_what_is_no_file_gets_one_sentence(tmp_path, given, said):
    with pytest.raises(MediaError, match=said):
        find_tasks([Path(given)], tmp_path)
    with pytest.raises(MediaError, match=given) if "/" in given else pytest.raises(MediaError, match=said):
        find_file(Path(given))


def test_commands_for_one_file_take_a_wildcard_that_fits_one(tmp_path):
    for name in "a.mp4", "b.mp4", "c.mkv":
        (tmp_path / name).write_bytes(b"x")
    assert find_file(tmp_path / "*.mkv") == tmp_path / "c.mkv"
    with pytest.raises(MediaError, match=r"fits 2 files, 'a.mp4' first"):
        find_file(tmp_path / "*.mp4")


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (
            "no face in 50 frames (2.0 s) of 'a.mp4': somebody must be visible; if faces are small, try --face-scale 2",
            "no face in 50 frames (2.0 s) of 'a.mp4': somebody must be visible; if faces are small",
        ),
        ("'a.mp4' is empty (0 bytes): copy it again.", "'a.mp4' is empty (0 bytes): copy it again."),
    ],
)
def test_people_at_the_page_are_told_no_flags(message, kept):
    assert without_flags(message) == kept
