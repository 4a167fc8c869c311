"""Media files from the outside: opening them, their streams, where time begins, which way is up."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from lipsep.constants import FPS
from lipsep.errors import MediaError

Source = str | os.PathLike | BinaryIO

SHOWN_TOLERANCE_S = 0.004  # a frame stamped so little after a grid point counts as shown there: containers round
MAX_LAST_S = 0.5  # the last picture of a film of variable rate is held for no longer: the film may have frozen before
MAX_PIXELS = 2**26  # 67 million: 8K video has 33 million; more is a damaged header or an attack on memory
AUDIO_RATES = range(1_000, 768_001)  # Hz
MAX_SIDE = 2**14  # px
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
DECODE_OPTIONS = {"max_pixels": str(MAX_PIXELS)} if int(av.__version__.split(".")[0]) >= 18 else {}


def source_name(source: Source) -> str:
    """What to call a source: its file name, as UTF-8 can write it.

    On old disks, and with LC_ALL=C, names hold bytes that Python stands in for by half surrogates.
    """
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    if not isinstance(path, str | os.PathLike) or not path:
        return "open file"
    return Path(path).name.encode(errors="surrogateescape").decode(errors="replace")


@contextmanager
def open_media(source: Source, **options: str) -> Iterator[av.container.InputContainer]:
    """A container for reading, closed at the end; what FFmpeg finds wrong inside the `with` becomes a MediaError."""
    name = source_name(source)
    target = checked_path(source) if isinstance(source, str | os.PathLike) else _OwnPosition(source)
    try:
        with av.open(
            target,
            metadata_errors="replace",
            options=DECODE_OPTIONS,
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


def sound_streams(container: av.container.InputContainer) -> list[tuple[int, av.AudioStream]]:
    """The sound tracks that can be decoded, each with its number in the file, from 1: the default first, then in order.

    Where a file flags several tracks or none, the order of the file decides.
    """
    usable = []
    for number, stream in enumerate(container.streams.audio, 1):
        codec = stream.codec_context
        if codec is not None and codec.sample_rate in AUDIO_RATES and codec.layout.nb_channels > 0:
            usable.append((number, stream))
    return sorted(usable, key=lambda pair: not pair[1].disposition & av.stream.Disposition.default)


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The sound track that is taken unasked: the one flagged default, else the first that can be decoded."""
    return next((stream for _, stream in sound_streams(container)), None)


def time_zero(container: av.container.InputContainer) -> float:
    """The file time, s, of output time 0: where the first of sound and pictures starts (MPEG-TS starts anywhere).

    What lies before zero was put there to be skipped (codec delay, edit lists), but for formats whose clock may begin
    anywhere: where that of MPEG-TS wraps (once in 26.5 h), what comes before the wrap has negative times.
    """
    video, sounds = video_stream(container), [stream for _, stream in sound_streams(container)]
    starts_s = [_start_s(stream) for stream in sounds if stream.start_time is not None]
    if video is not None and video.start_time is not None:
        # sound a little earlier does not count, so that the pictures keep their own grid
        starts_s = [start_s for start_s in starts_s if not 0 < _start_s(video) - start_s <= _PRIMING_S]
        starts_s.append(_start_s(video))
    zero_s = min(starts_s, default=0.0)
    any_clock = bool(container.format.flags & av.format.Flags.ts_discont.value) and zero_s < -_PRIMING_S
    return zero_s if any_clock else max(0.0, zero_s)


def _start_s(stream: av.stream.Stream) -> float:
    return float(stream.start_time * stream.time_base)


def picture_step_s(stream: av.VideoStream) -> float:
    """Seconds from picture to picture, as far as the file knows."""
    rate = stream.guessed_rate or stream.average_rate
    return float(1 / rate) if rate and 1 <= rate <= 1000 else 1 / FPS


def last_shown_until(container: av.container.InputContainer, zero_s: float, last_s: float, longest_s: float) -> float:
    """Until when the last picture is shown, s after time 0, in a film whose pictures last differently long: it begins
    at `last_s` and may last as long as the longest before it, up to MAX_LAST_S, but not beyond the end of the file."""
    if container.duration is None:
        return last_s
    file_end_s = ((container.start_time or 0) + container.duration) / av.time_base - zero_s
    return min(last_s + min(longest_s, MAX_LAST_S), file_end_s)


def frames_shown_before(end_s: float) -> int:
    """How many points of the 25 fps grid lie before a time."""
    n_frames = max(0, int(end_s * FPS))
    return n_frames + 1 if n_frames / FPS < end_s - SHOWN_TOLERANCE_S else n_frames


class Geometry:
    """How a decoded picture becomes an upright one with square pixels."""

    def __init__(self, stream: av.VideoStream, first: av.VideoFrame, name: str, turn: int = 0) -> None:
        self.mirrored, quarter_turns = _orientation(first)  # left and right change places, then it is turned
        self.quarter_turns = (quarter_turns + turn // 90) % 4
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


def _orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """Whether the stored picture is to be mirrored (left and right change places), and how many quarter turns
    counter-clockwise it is then to be given: the one of the eight ways that is nearest to the display matrix."""
    matrix = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None or len(matrix) < 20:
        return False, 0
    a, b, _, c, d = np.frombuffer(matrix, "<i4", 5) / 2**16  # to the right goes (a, b), downwards (c, d)
    ways = [(mirrored, turns) for mirrored in (False, True) for turns in range(4)]
    right = {0: (1, 0), 1: (0, -1), 2: (-1, 0), 3: (0, 1)}  # where a picture's right points after turns; y downwards
    down = {0: (0, 1), 1: (1, 0), 2: (0, -1), 3: (-1, 0)}

    def agreement(way: tuple[bool, int]) -> float:
        mirrored, turns = way
        (rx, ry), (dx, dy) = right[turns], down[turns]
        sign = -1 if mirrored else 1
        return sign * (a * rx + b * ry) + c * dx + d * dy

    return max(ways, key=agreement)


def checked_path(source: str | os.PathLike) -> str:
    """The address by which FFmpeg opens a file.

    Raises:
        MediaError: it is no file, empty, or cannot be read.
    """
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
