"""Video and sound files in and out: pictures on the 25 fps grid, sound at 16 kHz mono, voices back into videos.

Everything streams: memory does not grow with the length of a file. Time 0 is the start of the file, where the first of
sound and pictures begins; frame i is what is on the screen at i / 25 s, sample k is the sound at k / 16000 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest

import av
import numpy as np

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError
from lipsep.media.containers import (
    SHOWN_TOLERANCE_S,
    Geometry,
    Source,
    last_shown_until,
    open_media,
    picture_step_s,
    source_name,
    time_zero,
    video_stream,
)
from lipsep.media.decoding import MAX_GAP_S, Timeline, decoded, sound_frames
from lipsep.media.probing import MediaInfo, probe
from lipsep.media.sound import LOUDEST, PLAIN, Sound, Track, bs775_weights, channel_names
from lipsep.media.writing import WavWriter, mux, write_video

__all__ = [
    "Frame",
    "MediaInfo",
    "Resampler",
    "Source",
    "WavWriter",
    "load_audio",
    "mux",
    "probe",
    "read_audio",
    "read_frames",
    "read_recorded_audio",
    "recorded_form",
    "write_video",
]

HOLD_FIRST_S = 0.5  # pictures that start later than this after the sound are preceded by black, not by a frozen face
MAX_AUDIO_DRIFT_S = 0.04  # sound may stray so far from its timestamps before silence is put in or sound left out
MAX_SILENCE_S = 2 * 3600.0  # more silence than this is not filled in: the timestamps are damaged
MAX_HELD_S = 12 * 3600.0  # nor are pictures held for longer than this in all


@dataclass(frozen=True)
class Frame:
    """One picture of the 25 fps grid."""

    index: int
    time_s: float  # index / 25
    image: np.ndarray  # uint8 (H, W, 3) RGB or (H, W) grey, upright, full range; held frames share it: do not write


def read_frames(source: Source, *, grey: bool = False, turn: int = 0) -> Iterator[Frame]:
    """The picture on the screen at 0, 1/25, 2/25, ... s, until the pictures end; any frame rate, fixed or varying.

    Args:
        turn: degrees counter-clockwise by which pictures are turned besides: 0, 90, 180 or 270.

    Rotation flags and non-square pixels are applied; every picture has the size of the first one. A late first picture
    is preceded by itself (up to HOLD_FIRST_S) or by black. Damaged parts repeat the last good picture.

    Raises (at the first `next`):
        MediaError: the file cannot be read, or has no pictures that can be decoded.
    """
    name = source_name(source)
    with open_media(source) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(f"'{name}' has no pictures: a video that shows the people who speak is needed.")
        stream.thread_type = "AUTO"
        step_s = picture_step_s(stream)
        zero_s = time_zero(container)
        timeline = Timeline(name, zero_s, MAX_HELD_S)
        index, shown, next_s, end_s, longest_s = 0, None, 0.0, 0.0, 0.0
        for frame in decoded(container, stream, name):
            start_s = timeline.place(frame.time, next_s)
            if shown is None:
                geometry = Geometry(stream, frame, name, turn)
                shown = _Picture(frame, geometry, grey, black=start_s > HOLD_FIRST_S)
            while index / FPS < start_s - SHOWN_TOLERANCE_S:
                yield Frame(index, index / FPS, shown.image())
                index += 1
            longest_s = max(longest_s, start_s - next_s + step_s if next_s else 0.0)
            shown = _Picture(frame, geometry, grey)
            next_s = start_s + step_s
            length_s = float(frame.duration * frame.time_base) if frame.duration else step_s
            end_s = max(end_s, start_s + min(length_s, MAX_GAP_S))
        end_s = max(end_s, last_shown_until(container, zero_s, next_s - step_s, longest_s))
        while shown is not None and (index == 0 or index / FPS < end_s - SHOWN_TOLERANCE_S):
            yield Frame(index, index / FPS, shown.image())
            index += 1
    if shown is None:
        raise MediaError(f"'{name}' has a video track without a single picture in it: it is damaged or incomplete.")


def read_audio(source: Source, block_samples: int = 10 * SAMPLE_RATE, sound: Sound = PLAIN) -> Iterator[np.ndarray]:
    """The sound as float32 (block_samples,) blocks, the last one shorter: one channel (see `media.sound`) at 16 kHz.

    Full scale is 1. A track that starts late is preceded by silence, gaps in it are filled with silence, so that
    sample k always is the sound at k / 16000 s; what lies before time 0 is left out.

    Raises (at the first `next`):
        MediaError: the file cannot be read, or has no sound that can be decoded.
    """
    for (block,) in _in_blocks(_heard_pieces(source, sound, SAMPLE_RATE, 1), block_samples):
        yield block


def load_audio(source: Source) -> np.ndarray:
    """The whole sound, float32 (T,), mono at 16 kHz; see `read_audio`. An hour takes 230 MB."""
    return np.concatenate(list(read_audio(source)))


def recorded_form(source: Source, sound: Sound = PLAIN) -> tuple[int, np.ndarray]:
    """Sampling rate, Hz, of the sound as it was recorded, and the weights that make its channels one: (n_channels,).

    Raises:
        MediaError: the file cannot be read, or has no sound that can be decoded.
    """
    for frame, _ in sound_frames(source, sound.tracks[0].number):
        return frame.sample_rate, bs775_weights(channel_names(frame))
    raise MediaError(f"'{source_name(source)}' has a sound track without any sound in it: it is damaged or incomplete.")


def read_recorded_audio(source: Source, rate: int, n_channels: int, sound: Sound = PLAIN) -> Iterator[np.ndarray]:
    """The sound in its own form, see `recorded_form`: float32 (n_channels, n) pieces, aligned as `read_audio` does.

    Stretches of another rate are resampled; where the number of channels changes, every channel gets their downmix.

    Raises (at the first `next`):
        MediaError: the file cannot be read, or has no sound that can be decoded.
    """
    return _heard_pieces(source, sound, rate, n_channels)


def _heard_pieces(source: Source, sound: Sound, out_rate: int, n_channels: int) -> Iterator[np.ndarray]:
    """Pieces of the tracks that are heard, added up, as long as the longest."""
    tracks = [_aligned_pieces(source, track, out_rate, n_channels) for track in sound.tracks]
    if len(tracks) == 1:
        yield from tracks[0]
        return
    for blocks in zip_longest(*(_in_blocks(track, out_rate) for track in tracks)):
        there = [block for block in blocks if block is not None]
        total = np.zeros((n_channels, max(block.shape[1] for block in there)), np.float32)
        for block in there:
            total[:, : block.shape[1]] += block
        yield total


def between(pieces: Iterable[np.ndarray], first: int, last: int | None) -> Iterator[np.ndarray]:
    """Samples [first, last) of pieces (..., n) that follow one another; None: to the end."""
    position = 0
    for piece in pieces:
        start, stop = max(0, first - position), piece.shape[-1] if last is None else last - position
        position += piece.shape[-1]
        if stop <= 0:
            return
        if start < piece.shape[-1]:
            yield piece[..., start:stop]


class _Picture:
    """A decoded frame, converted only when somebody looks, and only once."""

    def __init__(self, frame: av.VideoFrame, geometry: Geometry, grey: bool, *, black: bool = False) -> None:
        self._frame, self._geometry, self._format, self._black = frame, geometry, "gray" if grey else "rgb24", black
        self._image: np.ndarray | None = None

    def image(self) -> np.ndarray:
        """uint8 (H, W, 3) or (H, W)."""
        if self._image is None:
            width, height = self._geometry.size
            image = self._frame.to_ndarray(format=self._format, width=width, height=height)
            image = np.zeros_like(image) if self._black else image
            image = image[:, ::-1] if self._geometry.mirrored else image
            self._image = np.ascontiguousarray(np.rot90(image, self._geometry.quarter_turns))
            self._frame = None
        return self._image


def _aligned_pieces(source: Source, track: Track, out_rate: int, n_channels: int) -> Iterator[np.ndarray]:
    """Pieces of a track that follow one another without gap from time 0: float32 (n_channels, n) at `out_rate`."""
    name = source_name(source)
    timeline = Timeline(name, 0.0, MAX_SILENCE_S)
    run, n_out, end_s = None, 0, 0.0  # run: sound without a gap; end_s: where it ends by count of its samples
    for (frame, time_s), following in pairwise(chain(sound_frames(source, track.number), [None])):
        rate = frame.sample_rate
        sound = track.one_channel(frame) if n_channels == 1 else track.channels(frame, n_channels)  # (n_channels, n)
        if following is None and time_s is not None:
            sound = sound[:, : _n_stamped(frame)]
        start_s = timeline.place(time_s, end_s)
        if run is None or rate != run.rate or abs(start_s - end_s) > MAX_AUDIO_DRIFT_S:
            if run is not None:
                yield (piece := run.finish())
                n_out += piece.shape[1]
            n_ahead = round(start_s * out_rate) - n_out
            for start in range(0, n_ahead, out_rate):
                yield np.zeros((n_channels, min(out_rate, n_ahead - start)), np.float32)
            n_out += max(0, n_ahead)
            n_early = max(0, round(-n_ahead * rate / out_rate))  # samples that lie before what is out already
            start_s += min(n_early, sound.shape[1]) / rate
            sound, end_s = sound[:, n_early:], start_s
            run = Resampler(rate, out_rate, n_channels) if sound.shape[1] else None
            if run is None:
                continue
        yield (piece := run.add(sound))
        n_out += piece.shape[1]
        end_s += sound.shape[1] / rate
    if run is not None:
        yield (piece := run.finish())
        n_out += piece.shape[1]
    if not n_out:
        raise MediaError(f"'{name}' has a sound track without any sound in it: it is damaged or incomplete.")


def _in_blocks(pieces: Iterator[np.ndarray], block_samples: int) -> Iterator[np.ndarray]:
    """Pieces (n_channels, n) of any length as blocks of one length, the last one shorter."""
    pending, n_pending = [], 0
    for piece in pieces:
        pending.append(piece)
        n_pending += piece.shape[1]
        if n_pending >= block_samples:
            joined = np.concatenate(pending, axis=1)
            n_whole = n_pending - n_pending % block_samples
            for start in range(0, n_whole, block_samples):
                yield joined[:, start : start + block_samples]
            pending, n_pending = [joined[:, n_whole:]], n_pending - n_whole
    if n_pending:
        yield np.concatenate(pending, axis=1)


class Resampler:
    """Changes the rate of a stretch of sound: sample k lies at the time of its source, the count is exact."""

    def __init__(self, rate: int, out_rate: int, n_channels: int = 1) -> None:
        self.rate, self.out_rate = rate, out_rate
        self._n_in = self._n_out = 0
        self._resamplers = [av.AudioResampler(format="flt", layout="mono", rate=out_rate) for _ in range(n_channels)]

    def add(self, sound: np.ndarray) -> np.ndarray:
        """float32 (n_channels, n) at `rate` -> what can be told so far, float32 (n_channels, m) at `out_rate`."""
        self._n_in += sound.shape[1]
        told = []
        for channel, resampler in zip(sound, self._resamplers, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channel[None]), format="flt", layout="mono")
            frame.sample_rate = self.rate
            told.append(_joined(resampler.resample(frame)))
        self._n_out += len(told[0])
        return np.stack(told)

    def finish(self) -> np.ndarray:
        """The rest, so that n samples at `rate` have become round(n * out_rate / rate)."""
        n_rest = round(self._n_in * self.out_rate / self.rate) - self._n_out
        rest = np.stack([_joined(resampler.resample(None)) for resampler in self._resamplers])[:, :n_rest]
        return np.pad(rest, ((0, 0), (0, n_rest - rest.shape[1])))


def _joined(frames: list[av.AudioFrame]) -> np.ndarray:
    pieces = [frame.to_ndarray()[0] for frame in frames]
    joined = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return np.clip(joined, -LOUDEST, LOUDEST)  # the filter overshoots


def _n_stamped(frame: av.AudioFrame) -> int:
    """How many samples of the last frame are meant to be heard: codecs pad it, containers say how long it is."""
    if not frame.duration or not frame.time_base:
        return frame.samples
    n_stamped, n_per_tick = (round(k * frame.time_base * frame.sample_rate) for k in (frame.duration, 1))
    return n_stamped if n_stamped + n_per_tick < frame.samples else frame.samples
