"""Media files from the outside: opening them, their streams and clocks, and what `probe` tells about them."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError

Source = str | os.PathLike | BinaryIO

SHOWN_TOLERANCE_S = 0.004  # a frame stamped so little after a grid point counts as shown there: containers round
MAX_GAP_S = 3600.0  # a longer jump of the timestamps is damage, not a pause
MAX_STEP_BACK_S = 1.0  # so is a jump back by more than this
MAX_PIXELS = 2**26  # 67 million: 8K video has 33 million; more is a damaged header or an attack on memory
AUDIO_RATES = range(1_000, 768_001)  # Hz
MAX_SIDE = 2**14  # px
_MAX_FAILURES = 1_000  # unreadable packets, after which the rest of a file is given up
_MAX_FAILURES_IN_ROW = 20
_FEW_FAILURES = 0.01  # of all packets: nobody will notice
_PRIMING_S = 0.05  # sound that starts so little before the pictures is what its codec needed to swing in
_TEXT_ART = {"ansi", "bintext", "xbin", "idf"}  # FFmpeg "plays" text files with these
# What is opened at all. No playlist is among these (HLS, DASH, concat, SDP): they make FFmpeg open what they name, any
# file of this machine or an address of its network.
FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "rm", "dv"),  # video
    *("wav", "w64", "mp3", "aac", "flac", "aiff", "au", "caf", "amr", "ac3"),  # sound
    *("image2", "png_pipe", "jpeg_pipe", "bmp_pipe", "tiff_pipe", "webp_pipe", "gif"),  # to be told what they are
)
_OPEN_OPTIONS = {
    "format_whitelist": ",".join(FORMATS),
    "protocol_whitelist": "file",
    "pattern_type": "none",  # of image2, which would take a % in a name for the numbers of further files
}
# PyAV before 18 crashes when decoders get options and tracks turn up late (MPEG-PS, FLV)
_DECODE_OPTIONS = {"max_pixels": str(MAX_PIXELS)} if int(av.__version__.split(".")[0]) >= 18 else {}

log = logging.getLogger(__name__)


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
        geometry = Geometry(video, first, source_name(source)) if first is not None else None
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


def source_name(source: Source) -> str:
    """What to call a source: its file name."""
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(path).name if isinstance(path, str | os.PathLike) and path else "open file"


@contextmanager
def open_media(source: Source, **options: str) -> Iterator[av.container.InputContainer]:
    """A container for reading, closed at the end; what FFmpeg finds wrong inside the `with` becomes a MediaError."""
    name = source_name(source)
    target = _checked_path(source) if isinstance(source, str | os.PathLike) else _OwnPosition(source)
    try:
        with av.open(
            target,
            metadata_errors="replace",
            options=_DECODE_OPTIONS,
            container_options={**_OPEN_OPTIONS, **options},
        ) as container:
            yield container
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.ArgumentError):  # what FFmpeg says of formats that are not on the list
            reason = "no video or sound, or a playlist that names other files"
        raise MediaError(
            f"'{name}' cannot be read as video or sound ({reason}): it is damaged, incomplete or of an unknown kind; "
            "check that it plays elsewhere, or convert it to MP4."
        ) from error


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first moving (or still) picture that can be decoded; cover pictures of sound files do not count."""
    for stream in container.streams.video:
        is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if stream.codec_context is not None and not is_cover and stream.codec_context.name not in _TEXT_ART:
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # opening sees to its own decoders only
            return stream
    return None


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first sound track that can be decoded."""
    for stream in container.streams.audio:
        codec = stream.codec_context
        if codec is not None and codec.sample_rate in AUDIO_RATES and codec.layout.nb_channels > 0:
            return stream
    return None


def time_zero(container: av.container.InputContainer) -> float:
    """The file time, s, of output time 0: where the first of sound and pictures starts (MPEG-TS starts anywhere).

    Never negative: what lies before zero was put there to be skipped (codec delay, edit lists).
    """
    starts_s = []
    for stream in (video_stream(container), audio_stream(container)):
        if stream is not None and stream.start_time is not None:
            starts_s.append(float(stream.start_time * stream.time_base))
    if len(starts_s) == 2 and 0 < starts_s[0] - starts_s[1] <= _PRIMING_S:
        starts_s.pop()  # so that the pictures keep their own grid
    return max(0.0, min(starts_s, default=0.0))


def picture_step_s(stream: av.VideoStream) -> float:
    """Seconds from picture to picture, as far as the file knows."""
    rate = stream.guessed_rate or stream.average_rate
    return float(1 / rate) if rate and 1 <= rate <= 1000 else 1 / FPS


def frames_shown_before(end_s: float) -> int:
    """How many points of the 25 fps grid lie before a time."""
    n_frames = max(0, int(end_s * FPS))
    return n_frames + 1 if n_frames / FPS < end_s - SHOWN_TOLERANCE_S else n_frames


class Geometry:
    """How a decoded picture becomes an upright one with square pixels."""

    def __init__(self, stream: av.VideoStream, first: av.VideoFrame, name: str) -> None:
        self.quarter_turns = round((first.rotation or 0) / 90) % 4  # counter-clockwise
        aspect = float(stream.sample_aspect_ratio or 1)  # width : height of one stored pixel
        aspect = aspect if 0.2 <= aspect <= 5 else 1.0
        self.size = (round(first.width * max(aspect, 1)), round(first.height / min(aspect, 1)))  # before turning
        if max(self.size) > MAX_SIDE or self.size[0] * self.size[1] > MAX_PIXELS:
            raise MediaError(
                f"'{name}' has pictures of {self.size[0]} x {self.size[1]} pixels: at most {MAX_SIDE} a side and "
                f"{MAX_PIXELS // 10**6} million in all can be read; scale it down, or copy it again if it is damaged."
            )

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height, px, after turning."""
        return self.size if self.quarter_turns % 2 == 0 else self.size[::-1]


class Timeline:
    """Places the items of one stream in time, s after time 0, whatever their timestamps are worth.

    A missing timestamp means right after the item before. So does one that jumps (more than MAX_STEP_BACK_S back or
    MAX_GAP_S ahead): files that were joined without care go on where the joint is.
    """

    def __init__(self, name: str, zero_s: float, max_gaps_s: float = float("inf")) -> None:
        self._name, self._shift_s, self._gaps_s, self._max_gaps_s = name, -zero_s, 0.0, max_gaps_s
        self._back_s = MAX_GAP_S  # before the first item: whatever was put before time 0

    def place(self, time_s: float | None, expected_s: float) -> float:
        """The time of an item that is stamped `time_s` and would start at `expected_s` if it followed at once.

        Raises:
            MediaError: the gaps add up to more than `max_gaps_s`.
        """
        if time_s is None:
            return expected_s
        placed_s = time_s + self._shift_s
        if not expected_s - self._back_s <= placed_s <= expected_s + MAX_GAP_S:
            log.info("%s: time jumps from %.2f s to %.2f s: taken as a joint", self._name, expected_s, placed_s)
            self._shift_s += expected_s - placed_s
            placed_s = expected_s
        self._back_s = MAX_STEP_BACK_S
        self._gaps_s += max(0.0, placed_s - expected_s)
        if self._gaps_s > self._max_gaps_s:
            raise MediaError(
                f"'{self._name}' has timestamps with gaps of more than {self._max_gaps_s / 3600:.0f} hours in all: "
                "it is damaged; convert it anew from the original."
            )
        return placed_s


def demuxed(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet | None]:
    """The packets of some streams, the flushing ones included; None for each place where the file itself is broken."""
    packets, n_failures, n_in_row = container.demux(streams), 0, 0
    while n_failures < _MAX_FAILURES and n_in_row < _MAX_FAILURES_IN_ROW:
        try:
            packet, n_in_row = next(packets), 0
        except StopIteration:
            return
        except av.FFmpegError:  # go on behind the place
            packet, n_failures, n_in_row = None, n_failures + 1, n_in_row + 1
            packets = container.demux(streams)
        yield packet


def decoded(container: av.container.InputContainer, stream: av.stream.Stream, name: str) -> Iterator[av.frame.Frame]:
    """Every frame of a stream that can be decoded; what cannot is skipped, counted and logged once (a lot: as warning).

    Raises:
        MediaError: nothing at all can be decoded.
    """
    n_packets = n_frames = n_failures = 0
    for packet in demuxed(container, stream):
        n_packets += packet is None or packet.size > 0
        try:
            frames = packet.decode() if packet else ()
        except av.FFmpegError:
            packet = None
        n_failures += packet is None
        if packet is not None:
            for frame in frames:
                n_frames += 1
                yield frame
    if n_failures:
        level = logging.WARNING if n_failures > _FEW_FAILURES * n_packets else logging.INFO
        log.log(level, "%s: %d of %d %s packets could not be decoded", name, n_failures, n_packets, stream.type)
    if n_packets and not n_frames:
        raise MediaError(
            f"'{name}': none of its {n_packets} {stream.type} packets ({stream.codec_context.name}) can be decoded: "
            "it is damaged; copy or download it again."
        )


def first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame | None:
    """The first picture that can be decoded, or None."""
    try:
        return next(decoded(container, stream, "probe"), None)
    except MediaError:
        return None


def _checked_path(source: str | os.PathLike) -> str:
    path, name = Path(source), source_name(source)
    try:
        if path.is_dir():
            raise MediaError(f"'{path}' is a folder: name a video file in it.")
        if not path.exists():
            raise MediaError(f"'{path}' does not exist: check the name and the folder.")
        if not path.is_file():
            raise MediaError(f"'{path}' is not a regular file: save the video to a file first.")
        with path.open("rb") as file:
            if not file.read(1):
                raise MediaError(f"'{name}' is empty (0 bytes): copy or download it again.")
    except (OSError, ValueError) as error:
        raise MediaError(f"'{path}' cannot be opened ({error}): check its name and its rights.") from error
    return f"file:{path}"  # with the prefix a colon in a name cannot be taken for a protocol


class _OwnPosition:
    """A seekable binary file, read from its start with a position of our own, so that several readers can share it."""

    def __init__(self, file: BinaryIO) -> None:
        self.name = ""  # FFmpeg must judge by content
        self._file, self._position = file, 0
        try:
            if not file.seekable():
                raise MediaError("the open file cannot seek: read it into io.BytesIO first.")
            if not isinstance(self.read(1), bytes):
                raise MediaError("the open file gives text: open it in binary mode ('rb').")
            if not self._position:
                raise MediaError(f"'{source_name(file)}' is empty (0 bytes): copy or download it again.")
        except (OSError, ValueError, AttributeError) as error:
            raise MediaError(f"'{source_name(file)}' is not a readable binary file ({error}).") from error
        self._position = 0

    def read(self, n_bytes: int) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(n_bytes)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = offset + self._position, io.SEEK_SET
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position


def _ends(source: Source) -> tuple[tuple[float, int], tuple[float, int]]:
    """When pictures and sound end, s after time 0, and their numbers of packets; nothing is decoded."""
    with open_media(source) as container:
        streams = [video_stream(container), audio_stream(container)]
        zero_s = time_zero(container)
        timelines = {s.index: Timeline(source_name(source), zero_s) for s in streams if s}
        steps_s = {s.index: picture_step_s(s) if s.type == "video" else 0.0 for s in streams if s}
        ends_s, counts = dict.fromkeys(timelines, 0.0), dict.fromkeys(timelines, 0)
        for packet in demuxed(container, *filter(None, streams)) if timelines else ():
            if packet is not None and packet.size and not packet.is_discard:
                index = packet.stream.index
                time_s = None if packet.pts is None else float(packet.pts * packet.time_base)
                start_s = timelines[index].place(time_s, ends_s[index])
                length_s = float(packet.duration * packet.time_base) if packet.duration else steps_s[index]
                ends_s[index] = max(ends_s[index], start_s + min(length_s, MAX_GAP_S))
                counts[index] += 1
        return tuple((ends_s[s.index], counts[s.index]) if s else (0.0, 0) for s in streams)
