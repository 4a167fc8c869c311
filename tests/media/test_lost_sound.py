"""Sound that could not be had is never lost without a word."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip

from lipsep.media.clip import FileClip

KINDS = {
    "mp4": {"mux_options": {"movflags": "+faststart"}},
    "mkv": {"codec": "ffv1", "audio_codec": "flac"},
    "avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "audio_codec": "mp3", "audio_rate": 44_100},
}


@pytest.fixture(scope="module", params=KINDS)
def film(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    return make_clip(folder / f"film.{request.param}", seconds=4.0, **KINDS[request.param])


def notes_of(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return "; ".join(FileClip(path).sound.notes)


def test_of_a_whole_file_nothing_is_said(film):
    assert notes_of(film) == ""


def test_a_file_that_was_cut_off_says_how_much_is_left(film, tmp_path):
    if film.suffix == ".avi":
        pytest.skip("FFmpeg does not say how long a cut AVI was")
    content = film.read_bytes()
    cut = tmp_path / film.name
    cut.write_bytes(content[: len(content) // 2])
    said = notes_of(cut)
    assert "of the sound could be decoded, and the file says that there are 4.0: the rest is missing or silent" in said
    heard_s = float(said.split("only ")[1].split(" s")[0])
    assert 1.0 < heard_s < 3.0


def test_packets_that_cannot_be_decoded_are_counted(film, tmp_path):
    """Noise over a third of the file, where pictures and sound lie."""
    content, rng = bytearray(film.read_bytes()), np.random.default_rng(0)
    start, stop = len(content) // 3, 2 * len(content) // 3
    for at in range(start, stop, 50):
        content[at : at + 20] = rng.bytes(20)
    damaged = tmp_path / film.name
    damaged.write_bytes(content)
    said = notes_of(damaged)
    assert "packets of the sound could not be decoded" in said or "the file says that there are" in said
