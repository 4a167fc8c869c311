"""Voices, residual, picture, videos and artifacts into a folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import MediaError
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.pictures import Lips
from lipsep.media.clip import Clip
from lipsep.media.writing import WavWriter, mux, write_video
from lipsep.results.editing import TIMELINE, write_formats, write_timeline, write_tracks
from lipsep.results.overview import draw_boxes, draw_lips, draw_overview
from lipsep.results.remix import write_remix
from lipsep.results.speech import audacity_labels, rttm, table
from lipsep.results.voices import RecordedVoices, SeparatedVoices
from lipsep.separation.options import Options
from lipsep.system.outputs import OutputFolder
from lipsep.system.spool import Spool

BLOCK = 10 * SAMPLE_RATE  # samples that are copied at once


def write_results(
    found: SeparatedVoices,
    clip: Clip,
    folder: OutputFolder,
    *,
    options: Options,
    progress: Callable[[str, int, int], None],
    warn: Callable[[str], None],
) -> None:
    """Voices, residual, who speaks when, picture, videos, remix and what else `options` ask for into `folder.results`;
    progress counts the steps.

    Pictures that cannot be drawn, or that no container takes, are warned about and left out: the voices, the point of
    it all, are kept.
    """
    results, names = folder.results, found.stems
    recorded = RecordedVoices(found, clip) if options.rate == "original" else None
    jobs: list[Callable[[], object]] = []
    wavs = [results / f"{name}.wav" for name in (*names, "residual")]
    if recorded is not None:
        found.peak = recorded.peak()
        jobs.append(partial(_write_recorded, wavs, recorded, found.scale))
    else:
        for path, voice in zip(wavs, [*found.voices, found.residual], strict=True):
            jobs.append(partial(_write_wav, path, voice, found.scale))
    jobs.append(partial(_write_speech, results / "who_speaks_when", Path(clip.name).stem, found))
    jobs.append(partial(_draw_overview, results / "overview.png", clip.name, found, warn))
    if options.video != "none":
        jobs.append(partial(_write_videos, found, clip, folder, options.video == "tracked", warn))
    if found.gains is not None:
        jobs.append(partial(write_remix, found, clip, results, found.gains, options.video != "none", warn))
    if options.tracks != "none":
        jobs.append(partial(write_tracks, found, clip, results, folder.staging, options.tracks, wavs))
    if options.sound != "wav":
        jobs.append(partial(write_formats, wavs, options.sound))
    if options.timeline:
        jobs.append(partial(write_timeline, results / TIMELINE, clip, found, wavs))
    if options.save_artifacts:
        (results / "artifacts").mkdir()
        for name, track, lips in zip(names, found.tracks, found.lips, strict=True):
            jobs.append(partial(_write_artifacts, results / "artifacts" / name, track, lips, results / f"{name}.wav"))
    for done, job in enumerate(jobs, 1):
        job()
        progress("write", done, len(jobs))


def _write_wav(path: Path, signal: Spool, scale: float) -> None:
    with WavWriter(path) as wav:
        for _, block in signal.blocks(BLOCK):
            wav.write(block * np.float32(scale))


def _write_recorded(paths: list[Path], recorded: RecordedVoices, scale: float) -> None:
    with ExitStack() as stack:
        form = {"sample_rate": recorded.sample_rate, "n_channels": recorded.n_channels}
        wavs = [stack.enter_context(WavWriter(path, **form)) for path in paths]
        for block in recorded.blocks():
            for wav, signal in zip(wavs, block, strict=True):
                wav.write(signal * np.float32(scale))


def _write_speech(stem: Path, recording: str, found: SeparatedVoices) -> None:
    """Who speaks when, as RTTM, as labels for Audacity, and as a table."""
    for suffix, text in (
        (".rttm", rttm(found.speech, recording, found.names)),
        (".txt", audacity_labels(found.speech, found.names)),
        (".csv", table(found.speech, found.names)),
    ):
        stem.with_suffix(suffix).write_text(text, encoding="utf-8")


def _draw_overview(path: Path, title: str, found: SeparatedVoices, warn: Callable[[str], None]) -> None:
    try:
        draw_overview(path, title, found)
    except Exception as error:  # a drawing library may raise anything; the voices beside it are good
        path.unlink(missing_ok=True)
        warn(f"no {path.name}: drawing it failed ({type(error).__name__}: {error})")


def _write_videos(
    found: SeparatedVoices, clip: Clip, folder: OutputFolder, tracked: bool, warn: Callable[[str], None]
) -> None:
    """The pictures once per person, each time with that person's voice."""
    if tracked:
        drawn = write_video(folder.staging / "tracked.mp4", draw_boxes(clip.frames(), found.tracks))
        with_voice = partial(mux, drawn)
    else:
        with_voice = clip.video_with
    for name in found.stems:
        try:
            with_voice(folder.results / f"{name}.wav", folder.results / f"{name}.mp4")
        except MediaError as error:
            warn(f"no video for {name}: {error}")


def _write_artifacts(stem: Path, track: FaceTrack, lips: Lips, wav: Path) -> None:
    """Where the face was (NaN while absent), and the lip pictures as the model saw them, with the voice."""
    np.savez_compressed(
        stem.with_name(f"{stem.name}_track.npz"), present=track.present, boxes=track.boxes, landmarks=track.landmarks
    )
    write_video(stem.with_name(f"{stem.name}_lips.mp4"), draw_lips(lips), wav)
