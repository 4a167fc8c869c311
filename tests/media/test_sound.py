"""What is heard: the right track, all of its channels, at its level and its time, whatever the recorder did."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import colours, is_flash, make_clip, sound, stamp_ms

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError, OptionError
from lipsep.media.clip import FileClip
from lipsep.media.probing import probe
from lipsep.media.reading import load_audio, read_frames
from lipsep.media.sound import bs775_weights, choose_sound
from lipsep.separation.options import Options

RATE, SECONDS, CLICK_S = 48_000, 1.0, 0.5
TALK = sound(SECONDS, RATE, 1, [CLICK_S])[0]  # (T,): a quiet tone and a click
NOTHING = np.zeros_like(TALK)
HUM = np.float32(0.2) * np.sin(2 * np.pi * 100 * np.arange(len(TALK)) / RATE).astype(np.float32)
LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 6: "5.1", 8: "7.1"}


def write_tracks(path: Path, *tracks: list[np.ndarray], default: tuple[int, ...] | None = None) -> Path:
    """A film of one second with PCM sound tracks, each a list of channels; those of `default` (from 1) are flagged."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=FPS)
        video.width = video.height = 32
        streams = [out.add_stream("pcm_s16le", rate=RATE, layout=LAYOUTS[len(track)]) for track in tracks]
        for number, stream in enumerate(streams, 1):
            flags = stream.disposition & ~av.stream.Disposition.default
            wanted = default is not None and number in default
            stream.disposition = flags | av.stream.Disposition.default if wanted else flags
        for k in range(FPS):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for stream, channels in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(np.stack(channels), format="fltp", layout=stream.codec_context.layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def heard(path: Path, track: str | int = "auto") -> tuple[np.ndarray, tuple[str, ...]]:
    """What lipsep hears, float32 (T,), and what it says about it."""
    clip = FileClip(path, track)
    return np.concatenate(list(clip.audio())), clip.sound.notes


def gain_of(wave: np.ndarray, of: np.ndarray = TALK) -> float:
    """The factor by which a sound at 48 kHz is part of a wave at 16 kHz, away from the ends."""
    inside = slice(1000, -1000)
    plain = of[::3][: len(wave)][inside]  # the tone and the hum lie far below 8 kHz
    calm = np.abs(plain) < 0.3  # the click is wider than the grid is fine
    return float(wave[inside][calm] @ plain[calm] / (plain[calm] @ plain[calm]))


# -------------------------------------------------------------------------------------------------------------- tracks


def test_the_first_track_that_is_not_silent_is_heard_and_it_is_said(tmp_path):
    hiss = np.random.default_rng(0).normal(0, 2e-5, len(TALK)).astype(np.float32)  # -94 dBFS: a muted microphone
    for silence in NOTHING, hiss:
        wave, notes = heard(write_tracks(tmp_path / "two.mkv", [silence, silence], [TALK, TALK], default=(1,)))
        assert gain_of(wave) == pytest.approx(1, abs=0.02)
        assert any("track 1 of 2 is silent" in note for note in notes)


def test_the_track_flagged_default_is_heard(tmp_path):
    wave, notes = heard(write_tracks(tmp_path / "two.mkv", [HUM], [TALK], default=(2,)))
    assert gain_of(wave) == pytest.approx(1, abs=0.02) and abs(gain_of(wave, HUM)) < 0.02
    assert any("track 2 of 2" in note for note in notes)


def test_a_track_can_be_chosen_and_all_can_be_mixed(tmp_path):
    path = write_tracks(tmp_path / "two.mkv", [HUM], [TALK, TALK], default=(1,))
    assert gain_of(heard(path, 2)[0]) == pytest.approx(1, abs=0.02)
    assert gain_of(heard(path, "2")[0]) == pytest.approx(1, abs=0.02)
    mixed, _ = heard(path, "mix")
    assert gain_of(mixed) == pytest.approx(1, abs=0.02) and gain_of(mixed, HUM) == pytest.approx(1, abs=0.02)
    with pytest.raises(MediaError, match=r"'two\.mkv' has no sound track 3 .*1, 2 or mix"):
        heard(path, 3)
    assert Options.of(audio_track=2).audio_track == "2"
    for wrong in "loud", "0", -1:
        with pytest.raises(OptionError, match=r"audio_track '.*' is not a choice.*mix"):
            Options.of(audio_track=wrong)


def test_one_good_track_is_not_worth_a_word(tmp_path):
    assert heard(write_tracks(tmp_path / "one.mkv", [TALK, TALK], default=(1,)))[1] == ()


def test_the_recorded_form_follows_the_chosen_track(tmp_path):
    clip = FileClip(write_tracks(tmp_path / "two.mkv", [NOTHING], [TALK, HUM], default=(1,)))
    recorded = np.concatenate(list(clip.recorded_audio()), axis=1)
    assert recorded.shape == (2, len(TALK))
    assert np.abs(recorded - np.stack([TALK, HUM])).max() < 1e-3


# ------------------------------------------------------------------------------------------------------------ channels


def test_dialogue_in_the_centre_keeps_its_level_and_the_effects_channel_is_left_out(tmp_path):
    surround = [NOTHING, NOTHING, TALK, HUM, NOTHING, NOTHING]  # L R C LFE Ls Rs
    wave = load_audio(write_tracks(tmp_path / "film.mkv", surround))
    assert gain_of(wave) == pytest.approx(1, abs=0.02)
    assert abs(gain_of(wave, HUM)) < 0.01


@pytest.mark.parametrize(
    ("channels", "weights"),  # Recommendation ITU-R BS.775-3, table 2, row 1/0
    [
        (("FL", "FR", "FC"), (0.7071, 0.7071, 1)),
        (("FL", "FR", "FC", "LFE", "SL", "SR"), (0.7071, 0.7071, 1, 0, 0.5, 0.5)),
        (("FL", "FR", "FC", "LFE", "BL", "BR"), (0.7071, 0.7071, 1, 0, 0.5, 0.5)),
        (("FC",), (1,)),
        (("FL", "FR"), (0.5, 0.5)),  # a voice in both channels keeps its level
        (("NONE", "NONE", "NONE", "NONE"), (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_channels_are_weighted_by_their_places(channels, weights):
    assert bs775_weights(channels) == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("leak", [0.0, 0.003])
@pytest.mark.parametrize("left", [True, False])
def test_a_voice_in_one_channel_alone_keeps_its_level(tmp_path, left, leak):
    full, empty = TALK, np.float32(leak) * TALK
    path = write_tracks(tmp_path / "lapel.mov", [full, empty] if left else [empty, full])
    wave, notes = heard(path)
    assert gain_of(wave) == pytest.approx(1, abs=0.02)
    assert [("right" if left else "left") + " channel is empty" in note for note in notes] == [True]
    recorded = np.concatenate(list(FileClip(path).recorded_audio()), axis=1)
    assert np.abs(recorded - TALK).max() < 1e-3  # on both sides, so that the channels add up to what is heard


def test_two_people_on_one_channel_each_are_both_heard(tmp_path):
    first, second = TALK.copy(), HUM.copy()
    first[len(TALK) // 2 :], second[: len(TALK) // 2] = 0, 0  # one after the other
    wave, notes = heard(write_tracks(tmp_path / "interview.mov", [first, second]))
    assert not notes
    assert np.sqrt(np.mean(wave[1000:7000] ** 2)) > 0.02 and np.sqrt(np.mean(wave[9000:15000] ** 2)) > 0.05


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_opposite_phase_is_noticed_and_repaired(tmp_path, noise):
    hiss = np.random.default_rng(1).normal(0, noise, (2, len(TALK))).astype(np.float32)
    path = write_tracks(tmp_path / "cable.mov", [TALK + hiss[0], -TALK + hiss[1]])
    wave, notes = heard(path)
    assert gain_of(wave) == pytest.approx(1, abs=0.05)
    assert [("opposite phase" in note) for note in notes] == [True]
    assert np.abs(load_audio(path)[1000:-1000]).max() < 0.2  # taken as it is, the mean of the channels is nothing


def test_stereo_as_it_should_be_is_left_alone(tmp_path):
    rng = np.random.default_rng(2)
    room = rng.normal(0, 0.1, (2, len(TALK))).astype(np.float32)  # uncorrelated
    for left, right in [(TALK, TALK), (TALK + room[0], TALK + room[1]), tuple(room)]:
        wave, notes = heard(write_tracks(tmp_path / "stereo.mov", [left, right]))
        assert not notes
        assert np.abs(wave - load_audio(tmp_path / "stereo.mov")).max() < 1e-6


# ---------------------------------------------------------------------------------------------------- times and damage

WRAP_S = 2**33 / 90_000  # MPEG-TS counts 33 bits at 90 kHz


@pytest.mark.parametrize("before_s", [0.5, 1.32])
def test_all_of_a_transport_stream_whose_clock_wraps_is_read(tmp_path, before_s):
    start_s = round(WRAP_S - before_s, 3)
    clip = make_clip(
        tmp_path / "wrap.ts", seconds=start_s + 3, video_start_s=start_s, audio_start_s=start_s,
        events_s=(start_s + 0.6, start_s + 2.2),
    )  # fmt: skip
    wave = load_audio(clip)
    lit = [is_flash(frame.image) for frame in read_frames(clip)]
    assert len(lit) == pytest.approx(75, abs=2) and len(wave) == pytest.approx(3 * SAMPLE_RATE, abs=1600)
    flashes = [k for k in range(1, len(lit)) if lit[k] and not lit[k - 1]]
    assert len(flashes) == 2
    for flash in flashes:
        around = wave[(flash - 3) * 640 : (flash + 3) * 640]
        assert np.argmax(around) / 640 == pytest.approx(3, abs=1.1)  # the click comes with its picture
    assert probe(clip).n_frames == pytest.approx(75, abs=2)


def test_opus_beside_av1_is_in_time(tmp_path):
    clip = make_clip(tmp_path / "clip.webm", codec="libsvtav1", audio_codec="libopus", size=(64, 64))
    wave = load_audio(clip)
    for at in (0.6, 1.4):
        first = round((at - 0.06) * SAMPLE_RATE)
        assert abs(first + np.argmax(wave[first : first + 1920]) - at * SAMPLE_RATE) <= 16  # 1 ms


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_last_picture_of_a_variable_rate_film_is_shown_to_its_end(tmp_path, suffix):
    times = [0, 0.04, 0.1, 0.3, 0.34, 0.8, 1.2, 1.24, 1.28, 1.32, 1.36, 1.4, 1.44, 1.5, 1.52, 1.84]
    clip = make_clip(tmp_path / f"vfr{suffix}", times_s=times, seconds=2)
    frames = list(read_frames(clip))
    assert len(frames) == probe(clip).n_frames == pytest.approx(50, abs=1)
    assert stamp_ms(frames[-1].image) == 1840


def matrix(path: Path, to_right: tuple[int, int], down: tuple[int, int]) -> Path:
    """Write a display matrix into an MP4: where the stored picture's right and bottom point (x, y; y downwards)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    for k, value in enumerate((*to_right, 0, *down, 0)):
        if k in (0, 1, 3, 4):
            data[start + 4 * k : start + 4 * k + 4] = (value * 2**16 % 2**32).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("down", [(0, 1), (0, -1), (1, 0), (-1, 0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_display_matrices_turn_and_mirror(tmp_path, down, sign):
    right = (sign * down[1], -sign * down[0])  # at right angles, either way
    plain = make_clip(tmp_path / "plain.mp4", seconds=0.2, size=(64, 48), audio_codec="aac")
    stored = next(read_frames(plain)).image.astype(int)  # (48, 64, 3)
    height, width = stored.shape[:2]
    shown = np.zeros((abs(right[1]) * width + abs(down[1]) * height, abs(right[0]) * width + abs(down[0]) * height, 3))
    y, x = np.mgrid[:height, :width]
    to_x, to_y = x * right[0] + y * down[0], x * right[1] + y * down[1]
    shown[to_y - to_y.min(), to_x - to_x.min()] = stored
    turned = next(read_frames(matrix(plain, right, down))).image.astype(int)
    assert turned.shape == shown.shape and np.abs(turned - shown).mean() < 2
    info = probe(plain)
    assert (info.width, info.height) == (shown.shape[1], shown.shape[0])


def test_sound_whose_timestamps_are_all_zero_is_joined_without_them(tmp_path):
    clip, zeroed = make_clip(tmp_path / "clip.mp4"), tmp_path / "zeroed.mkv"
    with av.open(str(clip)) as source, av.open(str(zeroed), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                if packet.stream.type == "audio":
                    packet.pts = packet.dts = 0
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    check_repaired(zeroed)


@pytest.mark.parametrize("timescale", [1, 30, 1000])
def test_sound_whose_clock_counts_in_the_wrong_unit_is_joined_without_it(tmp_path, timescale):
    clip = make_clip(tmp_path / "clip.mp4", audio_rate=44_100)
    data = bytearray(clip.read_bytes())
    at = data.index((44_100).to_bytes(4, "big"), data.rindex(b"mdhd"))
    data[at : at + 4] = timescale.to_bytes(4, "big")
    clip.write_bytes(data)
    check_repaired(clip)


def check_repaired(path: Path) -> None:
    wave, notes = heard(path)
    assert len(wave) == pytest.approx(2 * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)
    assert abs(np.argmax(wave[:20_000]) - 0.6 * SAMPLE_RATE) < 0.06 * SAMPLE_RATE
    assert any("timestamps" in note and "damaged" in note for note in notes)
    assert probe(path).duration_s == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("codec", "audio_codec"), [("libx264", "mp2"), ("libx264", "ac3"), ("mpeg2video", "aac")])
def test_what_follows_a_change_of_codecs_is_read_too(tmp_path, codec, audio_codec):
    parts = [
        make_clip(tmp_path / "film.ts", audio_rate=44_100),
        make_clip(tmp_path / "advert.ts", audio_rate=44_100, codec=codec, audio_codec=audio_codec),
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    wave, frames = load_audio(joined), list(read_frames(joined))
    assert len(wave) == pytest.approx(4 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)
    clicks = np.flatnonzero(wave > 0.35)
    assert len(np.flatnonzero(np.diff(clicks) > 1000)) == 3  # two clicks in either half
    assert len(frames) == pytest.approx(100, abs=4) and stamp_ms(frames[-1].image) == 1960
    assert colours(frames[-1].image)[0][0] > 180


# ------------------------------------------------------------------------------------------------- small inputs by kind


@pytest.mark.parametrize(
    ("name", "duration_s", "level_dbfs", "said"),
    [
        ("ts_clock_wrap.ts", 3.03, -25.7, None),
        ("first_track_silent.mkv", 1.0, -26.5, "silent"),
        ("default_on_second.mkv", 1.0, -26.5, "track 2"),
        ("opposite_phase.mov", 1.0, -26.8, "opposite phase"),
        ("surround_centre.mkv", 0.98, -27.1, None),
        ("sound_all_timestamps_zero.mkv", 1.63, -24.2, "damaged"),
        ("sound_timescale_1.mp4", 1.63, -24.2, "damaged"),
        ("codec_changes_halfway.ts", 3.22, -25.3, None),
    ],
)
def test_small_inputs_that_once_failed(shared, name, duration_s, level_dbfs, said):
    path = shared / "cases" / "media" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    wave, notes = heard(path)
    assert len(wave) / SAMPLE_RATE == pytest.approx(duration_s, abs=0.05)
    assert 10 * np.log10(np.mean(wave**2)) == pytest.approx(level_dbfs, abs=0.5)
    assert [said in " ".join(notes)] == [True] if said else not notes


def test_choosing_needs_sound(tmp_path):
    with pytest.raises(MediaError, match="no sound"):
        choose_sound(make_clip(tmp_path / "mute.mp4", seconds=0.2, audio_codec=None))
