"""Reading: every picture and every click is where its time says, whatever the file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import TONE_LEVEL, colours, is_flash, make_clip, picture, repeat_clip, sound, stamp_ms

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError
from lipsep.media import containers, decoding
from lipsep.media.reading import load_audio, probe, read_audio, read_frames
from lipsep.media.writing import WavWriter, mux

EVENTS_S = (0.6, 1.4)
NTSC_FILM, NTSC = Fraction(24_000, 1001), Fraction(30_000, 1001)
QUIET_X265 = {"x265-params": "log-level=none"}


def click_sample(sound: np.ndarray, near_s: float) -> int:
    """The loudest sample within 60 ms of a time."""
    first = round((near_s - 0.06) * SAMPLE_RATE)
    return first + int(np.argmax(sound[first : round((near_s + 0.06) * SAMPLE_RATE)]))


def flash_starts(source) -> list[int]:
    lit = [is_flash(frame.image) for frame in read_frames(source)]
    return [k for k in range(1, len(lit)) if lit[k] and not lit[k - 1]]


def shown_ms(times_s, n_frames: int) -> list[int]:
    """What a perfect reader shows: at i / 25 s the last picture that has begun (a little later counts as begun)."""
    times = np.round(np.asarray(times_s), 9)
    last = [np.flatnonzero(times <= i / FPS + containers.SHOWN_TOLERANCE_S) for i in range(n_frames)]
    return [round(times[k[-1] if len(k) else 0] * 1000) for k in last]


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [5, 10, 15, NTSC_FILM, 24, 25, NTSC, 30, 50, 60])
def test_frames_lie_on_the_grid_at_any_frame_rate(tmp_path, fps, suffix):
    clip = make_clip(tmp_path / f"clip{suffix}", fps=fps, audio_codec=None)
    frames = list(read_frames(clip))
    assert [f.index for f in frames] == list(range(50))
    assert [f.time_s for f in frames] == [k / 25 for k in range(50)]
    times = np.round(np.arange(round(2 * fps)) / float(fps), 3 if suffix == ".mkv" else 6)  # Matroska counts in ms
    expected = shown_ms(times, 50)
    assert all(abs(stamp_ms(f.image) - ms) <= 1 for f, ms in zip(frames, expected, strict=True))
    assert probe(clip).n_frames == 50


def test_variable_frame_rate(tmp_path):
    times = [0, 0.033, 0.067, 0.2, 0.21, 0.5, 0.51, 0.52, 0.9, 1.0, 1.04, 1.4, 1.41, 1.9]
    clip = make_clip(tmp_path / "vfr.mp4", times_s=times, audio_codec=None)
    frames = list(read_frames(clip))
    assert [stamp_ms(f.image) for f in frames] == shown_ms(times, 49)
    assert probe(clip).n_frames == len(frames) == 49  # the last picture is shown for a frame from 1.9 s on


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_flags_are_applied(tmp_path, rotation, size):
    clip = make_clip(tmp_path / "turned.mp4", rotation=rotation, size=size, seconds=0.4)
    info = probe(clip)
    assert (info.width, info.height, info.rotation) == (*size, rotation)
    for frame in read_frames(clip):
        assert frame.image.shape == (size[1], size[0], 3)
        assert stamp_ms(frame.image) == 40 * frame.index


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options"),
    [
        ("libx264", "yuv420p", {}),
        ("libx264", "yuv420p", {"flags": "+ildct+ilme"}),
        ("libx265", "yuv420p10le", QUIET_X265),
        ("libx264", "yuv422p10le", {}),
        ("libvpx-vp9", "yuv420p", {}),
        ("ffv1", "yuv444p", {}),
        ("mpeg4", "yuv420p", {}),
        ("mjpeg", "yuvj420p", {}),
    ],
)
def test_colours_and_grey_are_full_range(tmp_path, codec, pix_fmt, options):
    clip = make_clip(tmp_path / "clip.mkv", codec=codec, pix_fmt=pix_fmt, options=options, seconds=0.4)
    colour, grey = list(read_frames(clip)), list(read_frames(clip, grey=True))
    assert len(colour) == len(grey) == 10
    for k, mean in enumerate(colours(colour[5].image)):
        assert np.abs(mean - 255 * np.eye(3)[k]).max() < 12
    assert [stamp_ms(f.image) for f in grey] == [40 * k for k in range(10)]
    assert grey[5].image.dtype == np.uint8 and grey[5].image.shape == (48, 64)
    assert grey[5].image.min() < 8 and grey[5].image.max() > 247
    luma = colour[5].image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - grey[5].image)[16:].mean() < 8


def test_stored_pixels_that_are_not_square_are_stretched(tmp_path):
    clip = make_clip(tmp_path / "hdv.mp4", size=(128, 72), aspect=Fraction(4, 3), seconds=0.4)
    assert (probe(clip).width, probe(clip).height) == (128, 72)
    frame = next(read_frames(clip))
    assert frame.image.shape == (72, 128, 3) and stamp_ms(frame.image) == 0


def test_odd_sizes_and_vertical_video(tmp_path):
    clip = make_clip(tmp_path / "odd.mkv", size=(65, 97), codec="ffv1", pix_fmt="yuv444p", seconds=0.4)
    assert {f.image.shape for f in read_frames(clip)} == {(97, 65, 3)}


def test_late_pictures_hold_the_first_briefly_and_are_black_for_long(tmp_path):
    frames = list(read_frames(make_clip(tmp_path / "late.mkv", video_start_s=0.32)))
    assert [stamp_ms(f.image) for f in frames] == [320] * 8 + [40 * k for k in range(8, 50)]
    frames = list(read_frames(make_clip(tmp_path / "later.mkv", video_start_s=1.2)))
    assert all(f.image.max() == 0 for f in frames[:30])
    assert [stamp_ms(f.image) for f in frames[30:]] == [40 * k for k in range(30, 50)]


def test_pictures_end_when_the_video_ends_not_the_sound(tmp_path):
    longer = make_clip(tmp_path / "longer.mp4", audio_seconds=3.0)
    assert (probe(longer).n_frames, probe(longer).n_samples) == (50, 3 * SAMPLE_RATE)
    assert sum(1 for _ in read_frames(longer)) == 50
    assert len(load_audio(longer)) == 3 * SAMPLE_RATE
    shorter = make_clip(tmp_path / "shorter.mp4", audio_seconds=1.5)
    assert sum(1 for _ in read_frames(shorter)) == 50
    assert len(load_audio(shorter)) == 1.5 * SAMPLE_RATE
    assert probe(shorter).duration_s == pytest.approx(2.0)


def test_a_photograph_is_one_still_frame(tmp_path):
    path = tmp_path / "photo.png"
    with av.open(str(path), "w", format="image2") as out:
        stream = out.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0.123), format="rgb24")))
        out.mux(stream.encode(None))
    info = probe(path)
    assert info.has_video and info.is_still and not info.has_audio and info.n_frames == 1
    (frame,) = read_frames(path)
    assert stamp_ms(frame.image) == 123
    assert not probe(make_clip(tmp_path / "moving.mp4")).is_still
    assert probe(make_clip(tmp_path / "one.mp4", times_s=[0.0], audio_seconds=2)).is_still


def test_cover_picture_of_a_sound_file_is_no_video(tmp_path):
    path = tmp_path / "podcast.mp4"
    with av.open(str(path), "w") as out:
        audio, cover = out.add_stream("aac", rate=48_000, layout="mono"), out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        frame = av.AudioFrame.from_ndarray(sound(1, 48_000, 1, []), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        out.mux(audio.encode(frame) + audio.encode(None))
        out.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")) + cover.encode(None))
    info = probe(path)
    assert info.has_audio and not info.has_video and info.n_frames == 0
    with pytest.raises(MediaError, match="no pictures"):
        list(read_frames(path))


# ------------------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize(
    ("suffix", "codec", "audio_codec", "rate", "channels"),
    [
        (".mp4", "libx264", "aac", 48_000, 2),
        (".mp4", "libx264", "aac", 8_000, 1),
        (".mp4", "libx264", "aac", 44_100, 2),
        (".mkv", "libx264", "pcm_s16le", 16_000, 1),
        (".mkv", "libx264", "flac", 96_000, 2),
        (".mkv", "libx264", "pcm_f32le", 22_050, 2),
        (".mov", "libx264", "pcm_s24le", 48_000, 2),
        (".webm", "libvpx-vp9", "libopus", 48_000, 2),
        (".ts", "libx264", "aac", 48_000, 2),
        (".mpg", "mpeg1video", "mp2", 44_100, 2),
        (".flv", "libx264", "aac", 44_100, 2),
        (".avi", "mjpeg", "pcm_u8", 8_000, 1),
    ],
)
def test_clicks_and_flashes_agree_in_every_container(tmp_path, suffix, codec, audio_codec, rate, channels):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(
        tmp_path / f"clip{suffix}",
        codec=codec,
        pix_fmt=pix_fmt,
        audio_codec=audio_codec,
        audio_rate=rate,
        channels=channels,
    )
    info, wave = probe(clip), load_audio(clip)
    assert (info.has_audio, info.audio_rate, info.audio_channels) == (True, rate, channels)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) - info.n_samples) <= 0.04 * SAMPLE_RATE
    for at in EVENTS_S:  # FLV counts in ms
        assert abs(click_sample(wave, at) - at * SAMPLE_RATE) <= (16 if suffix == ".flv" else 2)
    assert flash_starts(clip) == [round(at * FPS) for at in EVENTS_S]
    level = np.sqrt(2 * np.mean(wave[SAMPLE_RATE // 10 : SAMPLE_RATE // 2] ** 2))
    assert level == pytest.approx(TONE_LEVEL, rel=0.05)  # neither 3 dB too loud nor too quiet


@pytest.mark.parametrize(("suffix", "audio_codec"), [(".mp4", "aac"), (".mkv", "pcm_s16le"), (".mov", "pcm_s16le")])
@pytest.mark.parametrize("seconds", [0.72, 2.0, 3.333])
def test_sample_count_is_exact(tmp_path, suffix, audio_codec, seconds):
    clip = make_clip(tmp_path / f"clip{suffix}", seconds=seconds, audio_codec=audio_codec, events_s=())
    assert len(load_audio(clip)) == probe(clip).n_samples == round(round(seconds * 48_000) / 3)


def test_downmix_is_the_mean_of_the_channels(tmp_path):
    path = tmp_path / "stereo.wav"
    left, right = np.full(8000, 0.5, np.float32), np.zeros(8000, np.float32)
    for layout, wave, mean in [("stereo", [left, right], 0.25), ("stereo", [left, left], 0.5), ("mono", [left], 0.5)]:
        for codec, kind in [("pcm_s16le", "s16"), ("pcm_f32le", "flt"), ("pcm_s32le", "s32"), ("pcm_u8", "u8")]:
            with av.open(str(path), "w") as out:
                stream = out.add_stream(codec, rate=16_000, layout=layout)
                frame = av.AudioFrame.from_ndarray(np.array(wave), format="fltp", layout=layout)
                frame.sample_rate = 16_000
                out.mux(stream.encode(frame) + stream.encode(None))
            assert load_audio(path) == pytest.approx(np.full(8000, mean), abs=0.005), (layout, kind)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_speech_and_suppresses_what_would_fold_back(tmp_path, rate):
    time_s = np.arange(2 * rate) / rate
    for hz in (100, 1000, 3400, 6000, 10_000, 14_000):
        if hz >= 0.45 * rate:
            continue
        frame = av.AudioFrame.from_ndarray(np.sin(2 * np.pi * hz * time_s, dtype=np.float32)[None], "flt", "mono")
        frame.sample_rate = rate
        with av.open(str(tmp_path / "tone.wav"), "w") as out:
            stream = out.add_stream("pcm_f32le", rate=rate, layout="mono")
            out.mux(stream.encode(frame) + stream.encode(None))
        wave = load_audio(tmp_path / "tone.wav")
        assert len(wave) == 2 * SAMPLE_RATE
        middle = wave[8000:24_000]
        if hz < 7000:
            expected = np.sin(2 * np.pi * hz * np.arange(8000, 24_000) / SAMPLE_RATE)
            assert np.abs(middle - expected).max() < 1e-2  # level, phase and time
        else:
            assert np.sqrt(np.mean(middle**2)) < 3e-3  # -50 dB


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_late_sound_is_preceded_by_silence(tmp_path, suffix):
    clip = make_clip(tmp_path / f"late{suffix}", audio_start_s=0.5)
    wave = load_audio(clip)
    assert np.abs(wave[: round(0.47 * SAMPLE_RATE)]).max() == 0
    for at in EVENTS_S:  # MP4 edit lists and Matroska count in ms
        assert abs(click_sample(wave, at) - at * SAMPLE_RATE) <= (2 if suffix == ".ts" else 16)
    assert flash_starts(clip) == [15, 35]


def test_sound_before_time_zero_is_left_out(tmp_path):
    clip = make_clip(tmp_path / "early.mp4", audio_start_s=-0.2)
    wave = load_audio(clip)
    assert len(wave) == 2 * SAMPLE_RATE
    assert [abs(click_sample(wave, at) - at * SAMPLE_RATE) <= 2 for at in EVENTS_S] == [True, True]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_gaps_in_the_sound_are_filled_with_silence(tmp_path, suffix):
    clip = make_clip(tmp_path / f"gap{suffix}", gap_s=(0.8, 1.2))
    wave = load_audio(clip)
    assert np.abs(wave[round(0.86 * SAMPLE_RATE) : round(1.14 * SAMPLE_RATE)]).max() < 1e-6
    assert [abs(click_sample(wave, at) - at * SAMPLE_RATE) <= 16 for at in EVENTS_S] == [True, True]


def test_blocks_are_full_and_join_to_the_whole(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", seconds=2.2)
    blocks = list(read_audio(clip, block_samples=5000))
    assert [len(b) for b in blocks] == [5000] * 7 + [200]
    assert np.array_equal(np.concatenate(blocks), load_audio(clip))


# ------------------------------------------------------------------------------------------------------------ inputs


def test_paths_with_spaces_colons_and_letters_of_any_script(tmp_path):
    folder = tmp_path / "Ñandú 会议 100%d"
    folder.mkdir()
    for name in ("Gespräch über Öl.mp4", "talk:1 [a].mp4", "'quoted' & co.mp4", "-leading.mp4", "会议.mp4"):
        clip = make_clip(folder / name, seconds=0.4, events_s=())
        assert probe(clip).n_frames == 10 and probe(str(clip)).name == name
        with WavWriter(folder / "voice ü.wav") as wav:
            wav.write(load_audio(clip))
        assert len(list(read_frames(mux(clip, folder / "voice ü.wav", folder / f"out {name}")))) == 10


def test_open_files_are_read_like_paths_and_can_be_shared_by_readers(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    memory = io.BytesIO(clip.read_bytes())
    memory.seek(1000)
    assert probe(memory).n_frames == 50
    both = zip(read_frames(memory), read_audio(memory, 640), strict=True)  # two readers of one file, in turns
    assert all(stamp_ms(frame.image) == 40 * frame.index and len(block) == 640 for frame, block in both)
    assert np.array_equal(load_audio(memory), load_audio(clip))
    with clip.open("rb") as file:
        assert probe(file).name == "clip.mp4"
        assert len(list(read_frames(file))) == 50
    with WavWriter(tmp_path / "voice.wav") as wav:
        wav.write(np.zeros(SAMPLE_RATE))
    assert len(list(read_frames(mux(memory, tmp_path / "voice.wav", tmp_path / "out.mp4")))) == 50


def test_joined_transport_streams_go_on_behind_the_joint(tmp_path):
    clip = make_clip(tmp_path / "part.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * clip.read_bytes())  # timestamps jump back by 2 s
    stamps = [stamp_ms(f.image) for f in read_frames(joined)]
    assert len(stamps) == pytest.approx(100, abs=3)
    assert stamps[-1] == 1960 and stamps[:50] == [40 * k for k in range(50)]
    assert len(load_audio(joined)) == pytest.approx(4 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


def test_damaged_timestamps_neither_stall_nor_flood():
    timeline = decoding.Timeline("clip.mp4", zero_s=1.0, max_gaps_s=5000.0)
    assert timeline.place(0.9, 0.0) == pytest.approx(-0.1)  # before time 0: the reader leaves it out
    assert timeline.place(1.04, 0.04) == pytest.approx(0.04)
    assert timeline.place(None, 0.08) == 0.08
    assert timeline.place(1e7, 0.12) == 0.12  # a jump: goes on at once, and from there
    assert timeline.place(1e7 + 0.04, 0.16) == pytest.approx(0.16)
    assert timeline.place(3.0, 0.2) == 0.2
    assert timeline.place(3001.0, 0.24) == pytest.approx(2998.2)  # a pause
    with pytest.raises(MediaError, match=r"'clip\.mp4' has timestamps with gaps of more than 1 hours"):
        timeline.place(6001.0, 2998.24)


def test_a_truncated_file_still_gives_its_good_part(tmp_path, caplog):
    for suffix in (".ts", ".mkv"):
        clip = make_clip(tmp_path / f"clip{suffix}", seconds=4)
        half = tmp_path / f"half{suffix}"
        half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        n_frames, n_samples = sum(1 for _ in read_frames(half)), len(load_audio(half))
        assert 10 < n_frames < 95 and SAMPLE_RATE < n_samples < 4 * SAMPLE_RATE
        assert abs(probe(half).n_frames - n_frames) <= 3


def test_damaged_packets_are_survived_and_counted(tmp_path, caplog):
    clip = make_clip(tmp_path / "clip.mkv", codec="mjpeg", pix_fmt="yuvj420p", audio_codec="flac")
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        for k, packet in enumerate(p for p in container.demux() if p.size and p.pos):
            if 20 <= k < 40:
                start = data.index(bytes(packet)[:64])
                data[start : start + packet.size] = bytes(packet.size)
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data)
    frames, wave = list(read_frames(damaged)), load_audio(damaged)
    assert len(frames) == 50 and len(wave) == 2 * SAMPLE_RATE  # the rest keeps its place in time
    assert stamp_ms(frames[45].image) == 1800
    assert any("packets could not be decoded" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", r"empty \(0 bytes\)"),
        (b"hello, this is no video at all\n" * 100, "cannot be read"),
        (bytes(100_000), "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.txt", "clip.avi", "clip.wav"])
def test_what_is_no_media_file_is_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    if name.endswith(".txt") and content and content[0]:
        message = "cannot be (read|decoded)"  # FFmpeg can play text
    for read in (probe, load_audio, lambda source: list(read_frames(source))):
        with pytest.raises(MediaError, match=message if read is probe else None) as error:
            read(path)
        assert "\n" not in str(error.value) and (name in str(error.value) or "clip" in str(error.value))
        if content is not None:
            with pytest.raises(MediaError):
                read(io.BytesIO(content))


def test_folders_pipes_text_and_rights_are_refused_in_one_line(tmp_path):
    with pytest.raises(MediaError, match="is a folder"):
        probe(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="not a regular file"):
        probe(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="binary mode"):
        probe(io.StringIO("text"))
    with pytest.raises(MediaError, match=r"cannot be opened|does not exist"):
        probe("nul\0byte.mp4")
    closed = io.BytesIO(b"abc")
    closed.close()
    with pytest.raises(MediaError, match="not a readable"):
        probe(closed)
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(MediaError, match="cannot seek"):
        probe(pipe)


def test_missing_tracks_are_told(tmp_path):
    silent, blind = make_clip(tmp_path / "silent.mp4", audio_codec=None), make_clip(tmp_path / "blind.mp4", codec=None)
    info = probe(silent)
    assert (info.has_audio, info.n_samples, info.audio_rate, info.n_frames) == (False, 0, 0, 50)
    with pytest.raises(MediaError, match="no sound"):
        load_audio(silent)
    info = probe(blind)
    assert (info.has_video, info.n_frames, info.width, info.n_samples) == (False, 0, 0, 2 * SAMPLE_RATE)
    with pytest.raises(MediaError, match="no pictures"):
        next(read_frames(blind))
    subtitles = tmp_path / "words.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    with pytest.raises(MediaError, match="no video or sound"):
        probe(subtitles)


def test_absurd_sizes_and_rates_are_refused(tmp_path):
    clip = make_clip(tmp_path / "wide.mkv", codec="ffv1", pix_fmt="gray", size=(20_000, 16), seconds=0.08, events_s=())
    with pytest.raises(MediaError, match=r"'wide\.mkv' has pictures of 20000 x 16"):
        next(read_frames(clip))
    with WavWriter(tmp_path / "slow.wav", sample_rate=7) as wav:
        wav.write(np.zeros(1000))
    with pytest.raises(MediaError, match="no sound that can be decoded"):
        load_audio(tmp_path / "slow.wav")


def test_an_iterator_that_is_dropped_closes_its_file(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    n_before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for _ in range(5):
        frames, sound_blocks = read_frames(clip), read_audio(clip, 100)
        next(frames), next(sound_blocks)
        frames.close(), sound_blocks.close()
    if n_before is not None:
        assert len(os.listdir("/proc/self/fd")) == n_before


# ------------------------------------------------------------------------------------------------- long and real files


@pytest.mark.slow
def test_an_hour_in_constant_memory(tmp_path):
    """64 x 48 at 5 fps with 8 kHz sound; 90,000 frames and 57.6 million samples are read."""
    minute = make_clip(tmp_path / "minute.mov", seconds=60, fps=5, audio_codec="pcm_s16le", audio_rate=8000, channels=1)
    clip = repeat_clip(minute, tmp_path / "hour.mov", 60, 60.0)
    code = f"""
from lipsep.media.reading import probe, read_audio, read_frames
from lipsep.results.report import peak_memory_mib
next(read_frames({str(clip)!r})); next(read_audio({str(clip)!r}))
before = peak_memory_mib()
info = probe({str(clip)!r})
n_frames = sum(1 for _ in read_frames({str(clip)!r}))
n_samples = sum(len(block) for block in read_audio({str(clip)!r}))
print(info.n_frames, info.n_samples, n_frames, n_samples, peak_memory_mib() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=550, check=True)
    *counts, growth_mib = done.stdout.split()
    assert [int(n) for n in counts] == [90_000, 3600 * SAMPLE_RATE] * 2
    assert float(growth_mib) < 50


def test_real_clips(shared, tmp_path):
    clips = [
        (shared / "media" / "two_people_interview_720p.mp4", (1280, 720), 438, 280_576),
        (shared / "media" / "two_people_studio_1080p.mp4", (1920, 1080), 335, 214_738),
        (shared / "data" / "grid_unseen" / "s26_bgbsza.mpg", (360, 288), 75, 47_647),
    ]
    for path, size, n_frames, n_samples in clips:
        info = probe(path)
        assert (info.width, info.height, info.n_frames, info.n_samples) == (*size, n_frames, n_samples)
        wave = load_audio(path)
        assert len(wave) == n_samples and 0.1 < np.abs(wave).max() < 1
        assert sum(1 for _ in read_frames(path, grey=True)) == n_frames
        with WavWriter(tmp_path / "voice.wav") as wav:
            wav.write(wave)
        out = mux(path, tmp_path / "voice.wav", tmp_path / "out.mp4")
        assert (probe(out).n_frames, abs(probe(out).n_samples - n_samples) <= 16) == (n_frames, True)
        heard = load_audio(out)[: n_samples - 1024]
        assert np.corrcoef(heard, wave[: len(heard)])[0, 1] > 0.98  # AAC, and no shift
