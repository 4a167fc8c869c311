"""Transcripts: each person's voice to an engine for speech recognition, one file of subtitles with names from all.

The engine is the package faster-whisper with weights that the user has; nothing is downloaded here unless the name of a
model is given instead of its folder. Without the engine the stretches in which people speak are written as sound files,
ready for any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import ModelError, OutputError
from lipsep.media.reading import load_audio
from lipsep.media.writing import WavWriter
from lipsep.system.outputs import finished_report, whole_file

STEM, SEGMENTS = "transcript", "segments"
CONTEXT_S = 0.2  # around a stretch of speech: engines miss words that begin at once

Engine = Callable[[np.ndarray], list[tuple[float, float, str]]]
"""What recognises speech: float32 (T,) at 16 kHz -> (start_s, end_s, text), ... within it."""


@dataclass(frozen=True)
class Line:
    """Somebody says something."""

    start_s: float
    end_s: float
    name: str
    text: str


def faster_whisper(model: str, language: str | None = None) -> Engine | None:
    """The engine, or None where its package is not installed.

    Args:
        model: a folder with weights, or a name that faster-whisper knows and fetches.
        language: such as "en"; None: found out for each stretch.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    try:
        from faster_whisper import WhisperModel
    except ModuleNotFoundError:
        return None
    try:
        whisper = WhisperModel(model)
    except Exception as error:  # of several packages below it
        raise ModelError(f"faster-whisper cannot load '{model}' ({error}): name a folder with its weights") from error

    def recognise(sound: np.ndarray) -> list[tuple[float, float, str]]:
        segments, _ = whisper.transcribe(sound, language=language)
        return [(each.start, each.end, each.text.strip()) for each in segments]

    return recognise


def transcribe(folder: Path, engine: Engine, hook: Callable[[str, int, int], None] | None = None) -> list[Line]:
    """What everybody says in finished work, in order of time.

    Raises:
        OutputError: the folder holds no finished work.
    """
    spoken = list(_speech(folder))
    lines = []
    for done, (name, start_s, sound) in enumerate(spoken, 1):
        for begin_s, end_s, text in engine(sound):
            if text:
                lines.append(Line(start_s + begin_s, start_s + end_s, name, text))
        if hook:
            hook("transcribe", done, len(spoken))
    return sorted(lines, key=lambda line: line.start_s)


def write_transcript(folder: Path, lines: Sequence[Line]) -> list[Path]:
    """transcript.srt and transcript.vtt, each line with its speaker."""
    srt = [
        f"{n}\n{_clock(line.start_s, ',')} --> {_clock(line.end_s, ',')}\n{line.name}: {line.text}\n\n"
        for n, line in enumerate(lines, 1)
    ]
    vtt = [
        f"{_clock(line.start_s, '.')} --> {_clock(line.end_s, '.')}\n<v {_escaped(line.name)}>{_escaped(line.text)}\n\n"
        for line in lines
    ]
    paths = []
    for suffix, text in (".srt", "".join(srt)), (".vtt", "WEBVTT\n\n" + "".join(vtt)):
        with whole_file(folder / f"{STEM}{suffix}") as part:
            part.write_text(text, encoding="utf-8")
        paths.append(folder / f"{STEM}{suffix}")
    return paths


def write_segments(folder: Path) -> list[Path]:
    """Every stretch of speech as a sound file, segments/0003 Anna 12.40-15.84.wav: number, name, and times in s."""
    (folder / SEGMENTS).mkdir(exist_ok=True)
    paths = []
    for n, (name, start_s, sound) in enumerate(_speech(folder), 1):
        plain = "".join(c if c.isalnum() or c in " -" else "_" for c in name)
        path = folder / SEGMENTS / f"{n:04d} {plain} {start_s:.2f}-{start_s + len(sound) / SAMPLE_RATE:.2f}.wav"
        with WavWriter(path) as wav:
            wav.write(sound)
        paths.append(path)
    return paths


def _speech(folder: Path):
    """(name, start_s, float32 (T,)) of every stretch of speech, in order of time."""
    report = finished_report(folder)
    if report is None or any("speech" not in track for track in report["tracks"]):
        raise OutputError(f"'{folder}' holds no finished work that says who speaks when: separate the video first")
    voices = {}
    for track in report["tracks"]:
        wav = next(name for name in track["files"] if name.endswith(".wav"))
        voices[track["person"]] = load_audio(folder / wav)
    spoken = [(start_s, end_s, track) for track in report["tracks"] for start_s, end_s in track["speech"]]
    for start_s, end_s, track in sorted(spoken, key=lambda each: each[:2]):
        voice, first_s = voices[track["person"]], max(0.0, start_s - CONTEXT_S)
        yield track["name"], first_s, voice[round(first_s * SAMPLE_RATE) : round((end_s + CONTEXT_S) * SAMPLE_RATE)]


def _clock(time_s: float, point: str) -> str:
    """00:01:02,500 or 00:01:02.500."""
    total_ms = round(time_s * 1000)
    hours, minutes, seconds = total_ms // 3_600_000, total_ms // 60_000 % 60, total_ms // 1000 % 60
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{total_ms % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
