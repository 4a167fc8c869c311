"""Damaged files of every kind: read as far as they go or refused in one line; no other error, no hang, no flood."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from clips import CAN_TURN, make_clip
from damaged import damage

from lipsep.errors import MediaError
from lipsep.media.reading import load_audio, probe, read_frames

N_FILES = 120
MAX_CPU_S = 5.0  # per file; a few hundredths are usual
MAX_FRAMES = 12 * 3600 * 25 + 1000  # what damaged timestamps can at most make of a clip of one second
MAX_LEVEL = 16.0  # times full scale: what damaged floating-point sound is limited to


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> list[tuple[str, bytes]]:
    """Name and content of small clips in the containers that people have."""
    folder = tmp_path_factory.mktemp("intact")
    kinds = {
        "h264.mp4": {},
        "turned.mov": {"audio_codec": "pcm_s16le", "rotation": 90 if CAN_TURN else 0},
        "vp9.webm": {"codec": "libvpx-vp9", "audio_codec": "libopus"},
        "ffv1.mkv": {"codec": "ffv1", "audio_codec": "flac"},
        "stream.ts": {"codec": "mpeg2video", "audio_codec": "mp2"},
        "old.mpg": {"codec": "mpeg1video", "audio_codec": "mp2", "audio_rate": 44_100},
        "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "audio_codec": "pcm_f32le", "audio_rate": 8000},
        "sound.wav": {"codec": None, "audio_codec": "pcm_s16le", "audio_rate": 8000, "channels": 1},
        "sound.mp3": {"codec": None, "audio_codec": "mp3"},
    }
    return [(name, make_clip(folder / name, seconds=1.0, **kind).read_bytes()) for name, kind in kinds.items()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(N_FILES))
def test_damaged_files_are_read_or_refused(intact, tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    name, data = intact[seed % len(intact)]
    kind, broken = damage(data, rng)
    source = tmp_path / name
    source.write_bytes(broken)
    check(io.BytesIO(broken) if seed % 3 == 0 else source, f"{name}, {kind}, seed {seed}")


def check(source, what: str) -> None:
    start_s = time.process_time()
    try:
        info = probe(source)
        assert info.n_frames >= 0 and info.n_samples >= 0 and info.has_audio + info.has_video > 0, what
    except MediaError as error:
        assert "\n" not in str(error), what
    for grey in (False, True):
        n_frames = 0
        try:
            for n_frames, frame in enumerate(read_frames(source, grey=grey), 1):
                assert frame.index == n_frames - 1 and frame.image.dtype == np.uint8, what
                assert frame.image.ndim == 3 - grey and frame.image.size, what
        except MediaError as error:
            assert "\n" not in str(error), what
        assert n_frames <= MAX_FRAMES, what
    try:
        wave = load_audio(source)
        assert len(wave) and np.isfinite(wave).all() and np.abs(wave).max() <= MAX_LEVEL, what
    except MediaError as error:
        assert "\n" not in str(error), what
    assert time.process_time() - start_s < MAX_CPU_S, what
