"""What is in a file, told without decoding all of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import av
import numpy as np

from lipsep.constants import SAMPLE_RATE
from lipsep.errors import MediaError
from lipsep.media.containers import (
    Geometry,
    Source,
    audio_stream,
    frames_shown_before,
    last_shown_until,
    open_media,
    picture_step_s,
    source_name,
    time_zero,
    video_stream,
)
from lipsep.media.decoding import MAX_GAP_S, Timeline, decoded, demuxed, sound_frames, sound_is_stamped


@dataclass(frozen=True)
class MediaInfo:
    """What is in a file. Counts are on the output grids (25 fps, 16 kHz) and start at time 0, the start of the file.

    They follow from the packets in the file, not from what its header claims. Sound may turn out up to 50 ms shorter,
    where a codec pads it; a damaged file, whose packets do not all decode, may deliver less.
    """

    name: str
    duration_s: float  # where the later of sound and pictures ends
    has_audio: bool
    has_video: bool  # the cover picture of a sound file is no video
    is_still: bool  # one picture only: a photograph, or a video made of one
    width: int  # px as displayed: upright, square pixels; 0 without video
    height: int  # px as displayed
    rotation: int  # degrees counter-clockwise that were applied: 0, 90, 180 or 270
    audio_rate: int  # Hz; 0 without sound
    audio_channels: int  # 0 without sound
    n_frames: int  # on the 25 fps grid
    n_samples: int  # on the 16 kHz grid


def probe(source: Source) -> MediaInfo:
    """What is in a file: one picture is decoded, and all packets are counted (about 2 s for an hour of video).

    Raises:
        MediaError: the file is missing, empty, no media file, or neither its sound nor its pictures can be decoded.
    """
    with open_media(source) as container:  # FFmpeg frees the streams at its end: nothing below may touch them
        video, audio = video_stream(container), audio_stream(container)
        first = first_frame(container, video) if video else None
        geometry = Geometry(video, first, source_name(source)) if video and first else None
        is_image = "image2" in container.format.name or container.format.name.endswith("_pipe")
        tracks = " and ".join(sorted({stream.type for stream in container.streams}))
        rate, n_channels = (
            (audio.codec_context.sample_rate, audio.codec_context.layout.nb_channels) if audio else (0, 0)
        )
    (video_s, n_pictures), (audio_s, _) = _ends(source)
    n_samples = round(audio_s * SAMPLE_RATE)
    if geometry is None and n_samples == 0:
        found = f"only {tracks} that cannot be decoded" if tracks else "neither sound nor pictures"
        raise MediaError(f"'{source_name(source)}' holds {found}: a video with sound is needed.")
    video_s = video_s if geometry else 0.0
    return MediaInfo(
        name=source_name(source),
        duration_s=max(video_s, audio_s),
        has_audio=n_samples > 0,
        has_video=geometry is not None,
        is_still=geometry is not None and (is_image or n_pictures == 1),
        width=geometry.shown_size[0] if geometry else 0,
        height=geometry.shown_size[1] if geometry else 0,
        rotation=geometry.quarter_turns * 90 if geometry else 0,
        audio_rate=rate if n_samples else 0,
        audio_channels=n_channels if n_samples else 0,
        n_frames=max(1, frames_shown_before(video_s)) if geometry else 0,
        n_samples=n_samples,
    )


def first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame | None:
    """The first picture that can be decoded, or None."""
    try:
        found = next(decoded(container, stream, "probe"), None)
    except MediaError:
        return None
    return found if isinstance(found, av.VideoFrame) else None


def _ends(source: Source) -> tuple[tuple[float, int], tuple[float, int]]:
    """When pictures and sound end, s after time 0, and their numbers of packets; nothing is decoded."""
    with open_media(source) as container:
        video, audio = streams = (video_stream(container), audio_stream(container))
        zero_s = time_zero(container)
        timelines = {s.index: Timeline(source_name(source), zero_s) for s in streams if s}
        steps_s = {s.index: picture_step_s(s) if s.type == "video" else 0.0 for s in streams if s}
        ends_s, counts, shown_s = dict.fromkeys(timelines, 0.0), dict.fromkeys(timelines, 0), array("d")
        for packet in demuxed(container, *filter(None, streams)) if timelines else ():
            if packet is not None and packet.size and not packet.is_discard:
                index = packet.stream.index
                time_s = None if packet.pts is None else float(packet.pts * packet.time_base)
                start_s = timelines[index].place(time_s, ends_s[index])
                length_s = float(packet.duration * packet.time_base) if packet.duration else steps_s[index]
                ends_s[index] = max(ends_s[index], start_s + min(length_s, MAX_GAP_S))
                counts[index] += 1
                if packet.stream.type == "video":
                    shown_s.append(start_s)
        if shown_s and video:
            starts_s = np.sort(shown_s)  # packets come in the order in which they are decoded
            held_s = last_shown_until(container, zero_s, starts_s[-1], float(np.diff(starts_s).max(initial=0.0)))
            ends_s[video.index] = max(ends_s[video.index], held_s)
        found = [(ends_s[s.index], counts[s.index]) if s else (0.0, 0) for s in streams]
    if audio and not sound_is_stamped(source):
        length_s = sum(frame.samples / frame.sample_rate for frame, _ in sound_frames(source))
        found[1] = (length_s, found[1][1])
    return found[0], found[1]
