"""What goes on into other programs: one film with a named sound track per person, other sound formats, timelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import needs_extra
from lipsep.media.clip import Clip
from lipsep.media.writing import WavWriter, encode_sound, mux_tracks, write_video
from lipsep.results.speech import Segment
from lipsep.results.voices import SeparatedVoices
from lipsep.system.spool import Spool

STEM, TIMELINE = "tracks", "timeline.otio"
_BLOCK = 10 * SAMPLE_RATE


def write_tracks(
    found: SeparatedVoices, clip: Clip, results: Path, work: Path, kind: str, wavs: Sequence[Path]
) -> Path:
    """The pictures once, with the original sound and a named track per person and for the rest; or, for `kind` "wav",
    one WAV with these as its channels, in this order.

    Args:
        work: a folder for what is needed on the way.
        wavs: the voices and the residual as written.
    """
    names = [found.names[track.person] for track in found.tracks]
    if kind == "wav":
        return _write_channels(results / f"{STEM}.wav", [found.mixture, *found.voices, found.residual], found.scale)
    original = work / "original.wav"
    rate, weights = clip.recorded_form()
    with WavWriter(original, sample_rate=rate, n_channels=len(weights)) as writer:
        for block in clip.recorded_audio():
            writer.write(block)
    sounds = [("original", original), *zip([*names, "everything else"], wavs, strict=True)]
    out = results / f"{STEM}.{kind}"
    if clip.path is not None and not clip.pictures_changed:
        return mux_tracks(clip.path, sounds, out)
    pictures = write_video(work / "pictures.mp4", (frame.image for frame in clip.frames()))
    return mux_tracks(pictures, sounds, out)


def _write_channels(path: Path, signals: Sequence[Spool], scale: float) -> Path:
    with WavWriter(path, n_channels=len(signals)) as out:
        for start in range(0, len(signals[0]), _BLOCK):
            out.write(np.stack([signal.read(start, start + _BLOCK) for signal in signals]) * np.float32(scale))
    return path


def write_formats(wavs: Sequence[Path], suffix: str) -> None:
    """The same sounds beside the WAVs as FLAC, MP3 or Opus."""
    for wav in wavs:
        encode_sound(wav, wav.with_suffix(f".{suffix}"))


def write_timeline(path: Path, clip: Clip, found: SeparatedVoices, wavs: Sequence[Path]) -> Path:
    """An OpenTimelineIO file that editors import: the film, and a sound track per person with speech marked.

    Raises:
        ModelError: the package opentimelineio is not installed.
    """
    with needs_extra("an OpenTimelineIO file", "edit"):
        import opentimelineio as otio

    n_samples = len(found.mixture)
    time_range = otio.opentime.TimeRange(
        otio.opentime.RationalTime(0, FPS), otio.opentime.RationalTime(n_samples / SAMPLE_RATE * FPS, FPS)
    )
    timeline = otio.schema.Timeline(name=clip.name)

    def add_track(name: str, kind: str, target: str, speech: Sequence[Segment] = ()) -> None:
        track = otio.schema.Track(name=name, kind=kind)
        reference = otio.schema.ExternalReference(target_url=target, available_range=time_range)
        item = otio.schema.Clip(name=name, media_reference=reference, source_range=time_range)
        for each in speech:
            marked = otio.opentime.TimeRange(
                otio.opentime.RationalTime(each.start_s * FPS, FPS),
                otio.opentime.RationalTime((each.end_s - each.start_s) * FPS, FPS),
            )
            item.markers.append(otio.schema.Marker(name=f"{name} speaks", marked_range=marked))
        track.append(item)
        timeline.tracks.append(track)

    film = clip.path.absolute().as_uri() if clip.path else clip.name
    add_track(clip.name, otio.schema.TrackKind.Video, film)
    for track, wav in zip(found.tracks, wavs, strict=False):
        own = [each for each in found.speech if each.person == track.person]
        add_track(found.names[track.person], otio.schema.TrackKind.Audio, wav.name, own)
    add_track("everything else", otio.schema.TrackKind.Audio, wavs[-1].name)
    path.write_text(otio.adapters.write_to_string(timeline, "otio_json"), encoding="utf-8")  # whatever its name holds
    return path
