"""Writing: complete or not at all, and what was not asked to change stays as it is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import CLICK_LEVEL, colours, make_clip, picture, sound, stamp_ms
from test_reading import EVENTS_S, QUIET_X265, click_sample, flash_starts

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError, OutputError
from lipsep.media import writing as recording
from lipsep.media.reading import load_audio, probe, read_frames
from lipsep.media.writing import WavWriter, mux, write_video


def test_wav_holds_what_was_written(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, 50_000).astype(np.float32)
    with WavWriter(tmp_path / "pcm.wav") as wav:
        for start in range(0, len(wave), 7000):
            wav.write(wave[start : start + 7000])
    assert wav.n_samples == 50_000 and wav.n_clipped == 0
    assert np.abs(load_audio(tmp_path / "pcm.wav") - wave).max() <= 0.5 / 2**15
    with WavWriter(tmp_path / "float.wav", subtype="FLOAT") as wav:
        wav.write(3 * wave)
    assert np.array_equal(load_audio(tmp_path / "float.wav"), 3 * wave)
    soundfile = pytest.importorskip("soundfile")
    read, rate = soundfile.read(tmp_path / "pcm.wav", dtype="float32")
    assert rate == SAMPLE_RATE and np.array_equal(read, load_audio(tmp_path / "pcm.wav"))
    assert np.array_equal(soundfile.read(tmp_path / "float.wav", dtype="float32")[0], 3 * wave)
    with WavWriter(tmp_path / "loud.wav") as wav:
        wav.write(np.array([0.0, 2.0, -2.0, 0.5]))
    assert wav.n_clipped == 2
    assert load_audio(tmp_path / "loud.wav") == pytest.approx([0, 1, -1, 0.5], abs=1e-4)


def test_wav_refuses_what_is_no_sound(tmp_path):
    for bad in (np.array([0.0, np.nan]), np.array([np.inf]), np.zeros((2, 5))):
        with pytest.raises(ValueError, match="finite"), WavWriter(tmp_path / "bad.wav") as wav:
            wav.write(bad)
    with pytest.raises(ValueError, match="PCM_16"):
        WavWriter(tmp_path / "bad.wav", subtype="MP3")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def voice(tmp_path):
    """A voice whose only click lies at 1.0 s: it cannot be mistaken for the sound of a clip."""
    with WavWriter(tmp_path / "voice.wav") as wav:
        wav.write(sound(2, SAMPLE_RATE, 1, [1.0])[0])
    return tmp_path / "voice.wav"


def assert_has_the_voice(path, within=2):
    wave = load_audio(path)
    assert abs(click_sample(wave, 1.0) - SAMPLE_RATE) <= within
    assert wave.max() == pytest.approx(CLICK_LEVEL, rel=0.2)
    assert max(np.abs(wave[round((at - 0.02) * SAMPLE_RATE) :][:640]).max() for at in EVENTS_S) < 0.2


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "written"),
    [
        (".mp4", "libx264", "yuv420p", ".mp4"),
        (".mkv", "libx264", "yuv420p", ".mp4"),
        (".ts", "libx264", "yuv420p", ".mp4"),
        (".flv", "libx264", "yuv420p", ".mp4"),
        (".mp4", "libx265", "yuv420p10le", ".mp4"),
        (".webm", "libvpx-vp9", "yuv420p", ".mp4"),
        (".webm", "libvpx", "yuv420p", ".mkv"),
        (".mp4", "libsvtav1", "yuv420p", ".mp4"),
        (".mpg", "mpeg1video", "yuv420p", ".mp4"),
        (".ts", "mpeg2video", "yuv420p", ".mp4"),
        (".avi", "mjpeg", "yuvj420p", ".mp4"),
        (".avi", "mpeg4", "yuv420p", ".mp4"),
        (".mkv", "ffv1", "yuv444p", ".mp4"),
    ],
)
def test_mux_copies_the_pictures_and_replaces_the_sound(tmp_path, voice, suffix, codec, pix_fmt, written):
    options = QUIET_X265 if codec == "libx265" else {}
    audio_codec = {".webm": "libopus", ".mpg": "mp2", ".avi": "pcm_s16le"}.get(suffix, "aac")
    rate = 44_100 if suffix in (".flv", ".mpg") else 48_000
    clip = make_clip(
        tmp_path / f"clip{suffix}",
        codec=codec,
        pix_fmt=pix_fmt,
        options=options,
        audio_codec=audio_codec,
        audio_rate=rate,
        size=(128, 96),
    )
    out = mux(clip, voice, tmp_path / "out.mp4")
    assert out == tmp_path / f"out{written}" and out.is_file()
    assert_has_the_voice(out)
    before, after = list(read_frames(clip)), list(read_frames(out))
    assert len(before) == len(after) == probe(out).n_frames
    assert all(np.array_equal(a.image, b.image) for a, b in zip(before, after, strict=True))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_mux_keeps_rotation_and_pixel_shape(tmp_path, voice, rotation):
    aspect = Fraction(4, 3) if not rotation else None
    clip = make_clip(tmp_path / "clip.mp4", rotation=rotation, size=(128, 72), aspect=aspect, video_start_s=0.32)
    for name in ("out.mp4", "out.mkv"):
        out = mux(clip, voice, tmp_path / name)
        assert (probe(out).width, probe(out).height, probe(out).rotation) == (128, 72, rotation)
        assert [stamp_ms(f.image) for f in read_frames(out)] == [320] * 8 + [40 * k for k in range(8, 50)]


def test_mux_of_hevc_plays_on_apple_devices(tmp_path, voice):
    clip = make_clip(tmp_path / "clip.mkv", codec="libx265", options=QUIET_X265)
    with av.open(str(mux(clip, voice, tmp_path / "out.mp4"))) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_mux_of_a_clip_without_sound_and_of_longer_and_shorter_voices(tmp_path, voice):
    clip = make_clip(tmp_path / "clip.mp4", audio_codec=None, seconds=3)
    out = mux(clip, voice, tmp_path / "out.mp4")
    assert probe(out).n_frames == 75 and abs(len(load_audio(out)) - 2 * SAMPLE_RATE) < 1024
    clip = make_clip(tmp_path / "short.mp4", audio_codec=None, seconds=0.4, events_s=())
    out = mux(clip, voice, tmp_path / "out.mp4")
    assert probe(out).n_frames == 10
    assert_has_the_voice(out)


def test_mux_tells_what_is_missing(tmp_path, voice):
    blind, silent = make_clip(tmp_path / "blind.mp4", codec=None), make_clip(tmp_path / "silent.mp4", audio_codec=None)
    for video, wav, message in [
        (blind, voice, "no pictures"),
        (silent, silent, "no sound"),
        (silent, tmp_path / "none.wav", "does not exist"),
        (tmp_path / "none.mp4", voice, "does not exist"),
    ]:
        with pytest.raises(MediaError, match=message):
            mux(video, wav, tmp_path / "out.mp4")
    assert mux(silent, voice, tmp_path / "other.xyz").name == "other.mkv"
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (33, 64)])
def test_write_video_shows_the_pictures_and_plays_the_voice(tmp_path, voice, size):
    images = [picture(k / FPS, size, [1.0]) for k in range(50)]
    out = write_video(tmp_path / "out.mp4", iter(images), voice)
    with av.open(str(out)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    assert (probe(out).width % 2, probe(out).height % 2, probe(out).n_frames) == (0, 0, 50)
    frames = [f.image[: size[1], : size[0]] for f in read_frames(out)]
    assert [stamp_ms(f) for f in frames] == [40 * k for k in range(50)]
    assert np.abs(colours(frames[9])[0] - [255, 0, 0]).max() < 15
    assert flash_starts(out) == [25]
    assert_has_the_voice(out)


def test_write_video_without_sound_and_without_pictures(tmp_path):
    assert not probe(write_video(tmp_path / "mute.mp4", [picture(0)] * 5)).has_audio
    (tmp_path / "mute.mp4").unlink()
    with pytest.raises(MediaError, match=r"name it \.mp4"):
        write_video(tmp_path / "bad.xyz", [picture(0)])
    for bad in ([], [picture(0), picture(0, (32, 32))], [picture(0) / 255.0], [picture(0)[..., 0]]):
        with pytest.raises(ValueError, match="picture"):
            write_video(tmp_path / "bad.mp4", bad)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- disks


def test_nothing_is_left_and_nothing_lost_when_work_is_interrupted(tmp_path, voice):
    old = tmp_path / "out.mp4"
    old.write_bytes(b"finished work")

    def interrupted():
        yield picture(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(old, interrupted(), voice)
    with pytest.raises(KeyboardInterrupt), WavWriter(tmp_path / "out.mp4") as wav:
        wav.write(np.zeros(100))
        assert old.read_bytes() == b"finished work"
        raise KeyboardInterrupt
    assert old.read_bytes() == b"finished work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "voice.wav"]


def test_folders_that_cannot_be_written_are_told(tmp_path, voice, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "file").write_bytes(b"x")
    for folder in ("missing", "file"):
        for write in (
            lambda path: WavWriter(path).__enter__(),
            lambda path: mux(clip, voice, path),
            lambda path: write_video(path, [picture(0)]),
        ):
            with pytest.raises(OutputError, match="cannot be written") as error:
                write(tmp_path / folder / "out.mp4")
            assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path, voice):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        write_video(tmp_path / "locked" / "out.mp4", [picture(0)])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("limit", [0, 30_000])
@pytest.mark.parametrize("what", ["wav", "mux", "write_video"])
def test_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, voice, what, limit):
    """A process may write files of `limit` bytes only: the system calls fail as they do on a full disk."""
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", pix_fmt="yuv444p", size=(128, 96))
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.mkv").write_bytes(b"finished work")
    code = f"""
import resource, signal, sys
import numpy as np
from lipsep.media.reading import WavWriter, mux, read_frames, write_video
from lipsep.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
noise = np.random.default_rng(0).integers(0, 255, (10, 96, 128, 3), dtype=np.uint8)
try:
    if {what!r} == "wav":
        with WavWriter({str(out / "old.mkv")!r}) as wav:
            wav.write(np.zeros(100_000))
    elif {what!r} == "mux":
        mux({str(clip)!r}, {str(voice)!r}, {str(out / "old.mkv")!r})
    else:
        write_video({str(out / "old.mkv")!r}, noise)
except OutputError as error:
    print(error)
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stdout and "free some space" in done.stdout and done.stdout.count("\n") == 1
    assert [p.name for p in out.iterdir()] == ["old.mkv"]
    assert (out / "old.mkv").read_bytes() == b"finished work"


def test_full_disk_at_the_very_end(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recording.os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        write_video(tmp_path / "out.mp4", [picture(0)] * 3)
    with pytest.raises(OutputError, match="No space left on device"), WavWriter(tmp_path / "out.wav") as wav:
        wav.write(np.zeros(10))
    assert not list(tmp_path.iterdir())
