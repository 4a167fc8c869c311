"""What people will try first, with the default weights: each clip goes in as a file and must come out as it should."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from scenes import Shot, build_clip, demo_people

from lipsep.evaluation.cases import Case
from lipsep.evaluation.evaluate import separate_case
from lipsep.faces.tracks import find_faces
from lipsep.lips.reading import extract_lips
from lipsep.lips.recipes import lip_recipe
from lipsep.losses import si_snr
from lipsep.media.reading import load_audio, probe, read_frames
from lipsep.separator import Separator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def separator() -> Separator:
    return Separator()


@pytest.fixture(scope="module")
def two_people(tmp_path_factory) -> Path:
    """Two seconds of two people who talk at once, 960x540, 25 fps, 48 kHz mono."""
    path = tmp_path_factory.mktemp("clips") / "two people.mp4"
    build_clip([replace(person, start_s=0.5) for person in demo_people()], path, duration_s=2.0)
    return path


def recode(source: Path, path: Path, codec: str, pix_fmt: str, rate: int, channels: int) -> Path:
    """The same clip in another coding."""
    sound = load_audio(source)
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=25)
        audio = out.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=rate)
        audio.layout = "mono" if channels == 1 else "stereo"
        for frame in read_frames(source):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.image), format="rgb24")
            if frame.index == 0:
                video.width, video.height, video.pix_fmt = picture.width, picture.height, pix_fmt
            picture.pts, picture.time_base = frame.index, Fraction(1, 25)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        resampler = av.AudioResampler(format=audio.format.name, layout=audio.layout.name, rate=rate)
        whole = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        whole.sample_rate, whole.pts, whole.time_base = 16_000, 0, Fraction(1, 16_000)
        for piece in (whole, None):
            for part in resampler.resample(piece):
                out.mux(audio.encode(part))
        out.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "rate", "channels"),
    [
        ("8 kHz mono.mkv", "libx264", "yuv420p", 8_000, 1),
        ("48 kHz stereo.mkv", "libx264", "yuv420p", 48_000, 2),
        ("zehn Bit, größer – 十.mkv", "libx265", "yuv420p10le", 16_000, 1),
    ],
    ids=["8kHz", "48kHz-stereo", "hevc-10bit"],
)
def test_any_coding_gives_two_voices_as_long_as_the_clip(
    separator, two_people, tmp_path, name, codec, pix_fmt, rate, channels
):
    clip = recode(two_people, tmp_path / name, codec, pix_fmt, rate, channels)
    result = separator(clip, tmp_path / "out")
    assert len(result.tracks) == 2
    mixture = load_audio(clip)
    parts = [soundfile.read(tmp_path / "out" / f"{p}.wav")[0] for p in ("speaker_1", "speaker_2", "residual")]
    assert all(len(part) == len(mixture) for part in parts)
    np.testing.assert_allclose(sum(parts), mixture, atol=3 / 32768)
    for k in (1, 2):
        (film,) = (tmp_path / "out").glob(f"speaker_{k}.m[pk][4v]")
        assert probe(film).n_frames == probe(clip).n_frames


@pytest.fixture(scope="module")
def one_of_three_is_silent(separator, tmp_path_factory):
    left, right = demo_people()
    silent = replace(left, portrait="blend", voice=None, phones=())
    path = tmp_path_factory.mktemp("three") / "three.mp4"
    return separator(build_clip([left, silent, right], path, duration_s=3.0).path)


def test_three_faces_of_which_one_is_silent(one_of_three_is_silent):
    """Three voices come out, and the report points at the lips that hardly move, and at no others."""
    assert len(one_of_three_is_silent.tracks) == 3
    still = [warning for warning in one_of_three_is_silent.report["warnings"] if "hardly move" in warning]
    assert len(still) == 1 and "2" in still[0]


def test_the_silent_one_of_three_gets_the_quietest_voice(one_of_three_is_silent):
    """Measured on three kinds of processor: 0.4 to 0.75 of the quieter talker's energy."""
    energy = np.square(one_of_three_is_silent.voices).sum(1)
    assert energy[1] < 0.9 * min(energy[0], energy[2])


def test_vertical_phone_video(separator, tmp_path):
    top, bottom = (replace(person, start_s=0.5) for person in demo_people())
    clip = build_clip(
        [top, bottom], tmp_path / "phone.mp4", duration_s=2.0, shots=[Shot(0.0, (0, 1), stacked=True)], size=(540, 960)
    )
    assert len(separator(clip.path).tracks) == 2


def test_people_who_arrive_late_and_nobody_in_the_first_frame(separator, tmp_path):
    people = [replace(person, start_s=0.5) for person in demo_people()]
    shots = [Shot(0.0, (None, None)), Shot(1.0, (0, None)), Shot(2.0, (0, 1))]
    clip = build_clip(people, tmp_path / "late.mp4", duration_s=4.0, shots=shots)
    result = separator(clip.path)
    assert [np.flatnonzero(track.present)[0] for track in result.tracks] == pytest.approx([25, 50], abs=6)
    assert not result.voices[1][:16_000].any()  # nobody there yet: silence


@pytest.mark.parametrize("late_ms", [0, 120])
def test_swap_the_lips_and_the_voices_swap(separator, late_ms):
    """Each face of the bundled clip fetches its own voice, and the other's lips fetch the other's, late lips too."""
    from importlib.resources import files

    path = Path(str(files("lipsep") / "assets" / "demo.mp4"))
    clean, _ = soundfile.read(path.with_name("demo_voices.flac"), dtype="float32")
    tracks = find_faces(read_frames(path))
    lips = extract_lips(tracks, (), lip_recipe(separator.model.lip_recipe))
    mixture = load_audio(path)
    n_frames = min(len(clean), len(mixture)) // 640
    pictures = np.stack([one.read(0, n_frames) for one in lips])  # (2, F, S, S)
    pictures = np.roll(pictures, late_ms // 40, axis=1)
    voices = clean[: n_frames * 640].T.copy()  # (2, T)
    people, levels = ("left", "right"), (0.0, 0.0)
    for order in ([0, 1], [1, 0]):
        case = Case("demo", people, people, levels, mixture[: n_frames * 640], voices, pictures[order])
        estimates = torch.from_numpy(separate_case(separator.model, case))
        closeness = si_snr(estimates[:, None], torch.from_numpy(voices)[None])
        assert closeness.argmax(1).tolist() == order
