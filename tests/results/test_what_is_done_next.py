"""What people do with the result: remix, one film for editors, other formats, timelines, parts, people, transcripts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import opentimelineio
import pytest
import soundfile
import torch
from portraits import film, scene
from typer.testing import CliRunner

from lipsep.cli import app
from lipsep.errors import MediaError, OptionError, OutputError
from lipsep.media.reading import load_audio, probe, read_frames
from lipsep.results.people import chosen_people
from lipsep.results.remix import remix_gains
from lipsep.results.report import is_result_name
from lipsep.separation.options import Options
from lipsep.separator import Separator

EVERYTHING = {
    "name": ["1=Anna Ödegård", "2=Ben"],
    "gain": "2=-12",
    "mute": "residual",
    "tracks": "mov",
    "sound": "flac",
    "timeline": True,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two portraits beside each other, and a third from half of the film on."""
    two, three = [("hopper", 20, 50), ("collins", 350, 50)], ("hopper", 20, 50)
    frames = [scene(*two).image] * 40 + [scene(three).image] * 10
    return film(tmp_path_factory.mktemp("film") / "talk show.mp4", frames)


@pytest.fixture(scope="module")
def done(source, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    return Separator(model_folder)(source, folder, rate="original", **EVERYTHING)


def folder_of(done) -> Path:
    return done.files[0].parent


# --------------------------------------------------------------------------------------------------------------- remix


def test_the_remix_is_the_recording_with_one_person_turned_down(done, source):
    folder = folder_of(done)
    anna, ben, remix = (
        soundfile.read(folder / f"{name}.wav")[0] for name in ("speaker_1_Anna_Ödegård", "speaker_2_Ben", "remix")
    )
    expected = anna + 10 ** (-12 / 20) * ben  # and nothing of the rest
    assert np.abs(remix * done.report["scale"] - expected).max() < 5e-4
    assert probe(folder / "remix.mp4").n_frames == probe(source).n_frames


def test_gains_by_name():
    def gains(**given):
        return remix_gains(Options.of(**given), [1, 3])

    assert gains() is None
    assert gains(gain="3=-6,residual=6") == pytest.approx([1, 0.5012, 1.9953], abs=1e-3)
    assert gains(mute=1).tolist() == [0, 1, 1] and gains(solo=["3"]).tolist() == [0, 1, 0]
    assert gains(solo="1,residual", gain="1=20").tolist() == pytest.approx([10, 0, 1])
    with pytest.raises(OptionError, match="no '2' to turn up or down: there are 1, 3, residual"):
        gains(mute=2)
    for wrong in {"gain": "2"}, {"gain": "2=loud"}, {"mute": "everybody"}, {"name": "Anna"}, {"people": "1;2"}:
        with pytest.raises(OptionError, match="is not a choice: "):
            Options.of(**wrong)


# -------------------------------------------------------------------------------------------------- for other programs


def test_one_film_with_a_named_track_per_person(done, source):
    folder = folder_of(done)
    with av.open(str(folder / "tracks.mov")) as found:
        titles = [stream.metadata.get("handler_name") for stream in found.streams.audio]
        assert len(found.streams.video) == 1
    assert titles == ["original", "Anna Ödegård", "Ben", "everything else"]
    assert probe(folder / "tracks.mov").n_frames == probe(source).n_frames


def test_voices_in_another_format_sound_alike(done):
    folder = folder_of(done)
    flac, _ = soundfile.read(folder / "speaker_2_Ben.flac")
    wav, _ = soundfile.read(folder / "speaker_2_Ben.wav")
    assert len(flac) == len(wav) and np.abs(flac - wav).max() < 1e-4
    assert {"speaker_2_Ben.wav", "speaker_2_Ben.flac", "speaker_2_Ben.mp4"} == set(done.report["tracks"][1]["files"])


@pytest.mark.parametrize("suffix", ["mp3", "opus"])
def test_lossy_formats_hold_the_voice(done, suffix, tmp_path):
    from lipsep.media.writing import encode_sound

    wav = folder_of(done) / "speaker_1_Anna_Ödegård.wav"
    out = encode_sound(wav, tmp_path / f"voice.{suffix}")
    before, after = load_audio(wav), load_audio(out)
    assert len(after) == pytest.approx(len(before), abs=1600)
    assert np.std(after) == pytest.approx(np.std(before), rel=0.3)


def test_a_timeline_opens_with_a_track_per_person(done):
    timeline = opentimelineio.adapters.read_from_file(str(folder_of(done) / "timeline.otio"))
    assert [track.name for track in timeline.audio_tracks()] == ["Anna Ödegård", "Ben", "everything else"]
    (clip,) = timeline.audio_tracks()[0]
    assert clip.media_reference.target_url == "speaker_1_Anna_Ödegård.wav"
    assert clip.duration().to_seconds() == pytest.approx(2.0, abs=0.05)


def test_every_file_is_known_as_a_result(done):
    assert all(is_result_name(path.name) for path in done.files)
    assert {"who_speaks_when.rttm", "who_speaks_when.txt", "who_speaks_when.csv"} <= {p.name for p in done.files}


def test_channels_of_one_wav(source, model_folder, tmp_path):
    Separator(model_folder)(source, tmp_path, tracks="wav", video="none")
    original, first, second, rest = soundfile.read(tmp_path / "tracks.wav")[0].T
    assert np.abs(first + second + rest - original).max() < 3e-4


def test_a_result_prints_in_five_lines(done):
    lines = str(done).splitlines()
    assert len(lines) == 5 and "Anna Ödegård speaks" in lines[1] and "talk show.mp4" in lines[0]
    assert max(map(len, lines)) < 300


# ---------------------------------------------------------------------------------------------------- parts and people


def test_a_part_of_a_film(source, model_folder, tmp_path):
    result = Separator(model_folder)(source, tmp_path, start=0.4, end="0:01.2")
    assert result.report["input"]["n_samples"] == 12_800 and result.report["input"]["n_frames"] == 20
    whole = load_audio(source)
    parts = [soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("speaker_1", "speaker_2", "residual")]
    assert np.abs(sum(parts) - whole[6_400:19_200]).max() < 3e-4
    assert probe(tmp_path / "speaker_1.mp4").n_frames == 20
    with pytest.raises(MediaError, match=r"lasts 2\.0. s: it has no part that begins at 3 s"):
        Separator(model_folder)(source, start=3)
    with pytest.raises(MediaError, match="its end must lie behind its start"):
        Separator(model_folder)(source, start=1, end=0.5)


def test_some_people_alone_keep_their_numbers(source, model_folder):
    result = Separator(model_folder)(source, people="2")
    assert [track.person for track in result.tracks] == [2] and result.voices.shape[0] == 1
    with pytest.raises(OptionError, match="there is no person 7: there are 1, 2"):
        Separator(model_folder)(source, people=["2", "7"])


def test_two_tracks_of_one_person_become_one(done):
    early, late = done.tracks
    (both,) = chosen_people([early, late], ["2+1"])
    assert both.person == 2
    assert (both.present == early.present | late.present).all()
    only_early = early.present & ~late.present
    assert only_early.any() and np.array_equal(both.boxes[only_early], early.boxes[only_early])
    assert np.array_equal(both.boxes[late.present], late.boxes[late.present])
    with pytest.raises(OptionError, match="twice"):
        chosen_people([early, late], ["1", "1+2"])


def test_people_are_listed_with_thumbnails_before_anything_is_separated(source, tmp_path):
    ran = CliRunner().invoke(app, ["people", str(source), "-o", str(tmp_path), "--name", "2=Ben"])
    assert ran.exit_code == 0, ran.output
    assert {p.name for p in (tmp_path / "talk show").iterdir()} == {"speaker_1.png", "speaker_2_Ben.png"}
    assert "2.0 s" in ran.output and "1.6 s" in ran.output and "Ben" in ran.output


# --------------------------------------------------------------------------------------------------------- transcripts


class StubModel:
    """What faster-whisper's WhisperModel offers, hearing one word at 0.1 s whatever is said."""

    def __init__(self, model: str) -> None:
        if model == "nowhere":
            raise ValueError("no weights here")

    def transcribe(self, sound, language=None):
        assert sound.dtype == np.float32 and sound.ndim == 1
        return iter([SimpleNamespace(start=0.1, end=0.4, text=" <yes> ")]), SimpleNamespace(language=language)


@pytest.fixture
def spoken(done, tmp_path):
    """The finished work, with two stretches of speech."""
    import json
    import shutil

    folder = tmp_path / "spoken"
    shutil.copytree(folder_of(done), folder)
    report = json.loads((folder / "report.json").read_text())
    report["tracks"][0]["speech"], report["tracks"][1]["speech"] = [[1.2, 1.8]], [[0.3, 0.9]]
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_transcript_names_who_says_what(spoken, monkeypatch):
    stub = ModuleType("faster_whisper")
    stub.WhisperModel = StubModel
    monkeypatch.setitem(sys.modules, "faster_whisper", stub)
    ran = CliRunner().invoke(app, ["transcribe", str(spoken), "--whisper", "weights"])
    assert ran.exit_code == 0, ran.output
    srt = (spoken / "transcript.srt").read_text(encoding="utf-8").split("\n\n")
    assert srt[0] == "1\n00:00:00,200 --> 00:00:00,500\nBen: <yes>"
    assert srt[1] == "2\n00:00:01,100 --> 00:00:01,400\nAnna Ödegård: <yes>"
    vtt = (spoken / "transcript.vtt").read_text(encoding="utf-8")
    assert vtt.startswith("WEBVTT\n\n00:00:00.200 --> 00:00:00.500\n<v Ben>&lt;yes&gt;\n")
    failed = CliRunner().invoke(app, ["transcribe", str(spoken), "--whisper", "nowhere"])
    assert failed.exit_code != 0 and "cannot load 'nowhere'" in str(failed.exception)


def test_without_the_engine_stretches_are_written_for_another(spoken, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    ran = CliRunner().invoke(app, ["transcribe", str(spoken)])
    assert ran.exit_code == 0 and "2 stretches of speech" in ran.output
    first, second = sorted((spoken / "segments").iterdir())
    assert first.name == "0001 Ben 0.10-1.10.wav" and second.name.startswith("0002 Anna Ödegård 1.00-")
    assert len(load_audio(first)) == 16_000


def test_a_transcript_needs_finished_work(tmp_path):
    from lipsep.results.transcript import write_segments

    with pytest.raises(OutputError, match="no finished work"):
        write_segments(tmp_path)


def test_turned_pictures_come_turned(source, model_folder, tmp_path):
    Separator(model_folder)(source, tmp_path, rotate=90, end=0.4, min_visible_s=0.04, speakers=1)
    upright, shown = next(read_frames(source)).image, next(read_frames(tmp_path / "speaker_1.mp4")).image
    assert np.abs(np.rot90(upright, -1).astype(int) - shown).mean() < 8


def test_a_recording_of_silence_is_refused_before_faces_are_looked_for(model_folder):
    steps = []
    frames = np.full((25, 64, 64, 3), 90, np.uint8)
    with pytest.raises(MediaError, match="silent from beginning to end"):
        Separator(model_folder)((np.full(16_000, 1e-5), frames), hook=lambda step, *_: steps.append(step))
    assert "faces" not in steps


def test_another_default_of_torch_breaks_nothing(source, model_folder):
    expected = Separator(model_folder)(source, end=0.6, speakers=1).voices
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.autocast("cpu"):
            result = Separator(model_folder)(source, end=0.6, speakers=1)
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert result.voices.dtype == np.float32 and np.array_equal(result.voices, expected)
