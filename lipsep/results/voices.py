"""Voices of any length: gathered in temporary files, then written as sound, video and one picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import MediaError
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.reading import Lips
from lipsep.media.clip import Clip
from lipsep.media.reading import WavWriter, mux, write_video
from lipsep.results.fullband import full_band
from lipsep.results.report import draw_boxes, draw_lips, draw_overview
from lipsep.system.outputs import OutputFolder
from lipsep.system.spool import Spool

RATE_CHOICES = ("16k", "original")
VIDEO_CHOICES = ("none", "original", "tracked")
LOUDEST = 1 - 2**-15  # the highest sample that 16 bits can hold
BLOCK = 10 * SAMPLE_RATE  # samples that are copied at once


@dataclass
class SeparatedVoices:
    """The voices of one run in temporary files, with what must be known before they are written for good."""

    tracks: list[FaceTrack]
    lips: list[Lips]
    mixture: Spool
    voices: list[Spool]
    residual: Spool
    peak: float = 0.0
    energy: np.ndarray | float = 0.0  # (n_people,)
    n_sounding: np.ndarray | float = 0.0  # (n_people,) samples that are not silence

    def add(self, mixture: np.ndarray, block: np.ndarray) -> None:
        """mixture (n,), block (n_people, n)"""
        residual = mixture - block.sum(0)
        for spool, voice in zip(self.voices, block, strict=True):
            spool.append(voice)
        self.residual.append(residual)
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)), float(np.abs(residual).max(initial=0)))
        self.energy = self.energy + np.square(block, dtype=np.float64).sum(1)
        self.n_sounding = self.n_sounding + np.count_nonzero(block, axis=1)

    @property
    def scale(self) -> float:
        """One factor for all written files: 1, or what keeps the loudest of them within 16 bits without clipping."""
        return min(1.0, LOUDEST / max(self.peak, LOUDEST))

    def levels_dbfs(self) -> list[float | None]:
        """Mean level of each voice while it sounds, dB relative to full scale; None if it never does."""
        power = self.energy / np.maximum(self.n_sounding, 1)
        return [round(10 * float(np.log10(p)), 1) if p > 0 else None for p in power]


class RecordedVoices:
    """The voices and the residual of one run at the rate and with the channels of the recording, made while read."""

    def __init__(self, found: SeparatedVoices, clip: Clip) -> None:
        self._found, self._clip = found, clip
        self.sample_rate, self.n_channels = clip.recorded_form()

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 (n_people + 1, n_channels, n), the residual last."""
        signals = [signal.read for signal in (*self._found.voices, self._found.residual)]
        return full_band(self._clip.recorded_audio(), self.sample_rate, signals)

    def peak(self) -> float:
        """The highest sample of all."""
        return max(float(np.abs(block).max(initial=0)) for block in self.blocks())


def write_results(
    found: SeparatedVoices,
    clip: Clip,
    folder: OutputFolder,
    *,
    recorded: RecordedVoices | None,
    video: str,
    save_artifacts: bool,
    progress: Callable[[str, int, int], None],
    warn: Callable[[str], None],
) -> None:
    """Voices, residual, picture, videos and artifacts into `folder.results`; progress counts the files.

    The sound is that of `recorded` where given, else 16 kHz mono.
    Pictures that no container takes are warned about and left out: the voices, the point of it all, are kept.
    """
    results, names = folder.results, [f"speaker_{track.person}" for track in found.tracks]
    jobs: list[Callable[[], object]] = []
    wavs = [results / f"{name}.wav" for name in (*names, "residual")]
    if recorded is not None:
        found.peak = recorded.peak()
        jobs.append(partial(_write_recorded, wavs, recorded, found.scale))
    else:
        for path, voice in zip(wavs, [*found.voices, found.residual], strict=True):
            jobs.append(partial(_write_wav, path, voice, found.scale))
    jobs.append(partial(draw_overview, results / "overview.png", clip.name, found))
    if video != "none":
        jobs.append(partial(_write_videos, found, clip, folder, video == "tracked", warn))
    if save_artifacts:
        (results / "artifacts").mkdir()
        for name, track, lips in zip(names, found.tracks, found.lips, strict=True):
            jobs.append(partial(_write_artifacts, results / "artifacts" / name, track, lips, results / f"{name}.wav"))
    for done, job in enumerate(jobs, 1):
        job()
        progress("write", done, len(jobs))


def is_result_name(name: str) -> bool:
    """Whether a file of this name could be replaced by a result."""
    return bool(re.fullmatch(r"speaker_\d+\.(wav|mp4|mkv)|residual\.wav|overview\.png|report\.json", name))


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


def _write_videos(
    found: SeparatedVoices, clip: Clip, folder: OutputFolder, tracked: bool, warn: Callable[[str], None]
) -> None:
    """The pictures once per person, each time with that person's voice."""
    if tracked:
        drawn = write_video(folder.staging / "tracked.mp4", draw_boxes(clip.frames(), found.tracks))
        with_voice = partial(mux, drawn)
    else:
        with_voice = clip.video_with
    for name in (f"speaker_{track.person}" for track in found.tracks):
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
