"""Writing sound and video files; each appears under its name only when it is complete."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lipsep.constants import FPS, SAMPLE_RATE
from lipsep.errors import MediaError, OutputError
from lipsep.media.containers import (
    Source,
    audio_stream,
    open_media,
    picture_step_s,
    source_name,
    time_zero,
    video_stream,
)
from lipsep.media.decoding import decoded, demuxed
from lipsep.system.outputs import whole_file

_WAV_TYPES = {"PCM_16": (1, "<i2"), "FLOAT": (3, "<f4")}  # RIFF format tag, sample type
_WAV_MAX_BYTES = 2**32 - 100  # RIFF counts in 32 bits
_VOICE_BIT_RATE = 64_000  # bit/s per channel: transparent for AAC at 16 kHz
_SOUND_CODECS = {".flac": "flac", ".mp3": "libmp3lame", ".opus": "libopus"}
_OPUS_RATE = 48_000  # Hz, whatever goes in
_H264_OPTIONS = {"crf": "22", "preset": "superfast"}  # half the time of "veryfast" for files 1.5 times as large
_BT709, _LIMITED_RANGE = 1, 1  # ITU-T H.273: the colours of HD video
_MAX_REORDERED = 32  # pictures; no codec reorders more


class WavWriter:
    """Writes sound block by block; a context manager.

        with WavWriter("speaker_1.wav") as wav:
            wav.write(block)

    Args:
        path: the file, which appears (or is replaced) only when the `with` ends without an error.
        subtype: "PCM_16" (rounded, clipped at full scale) or "FLOAT" (32 bit, nothing is lost).
        sample_rate: Hz.
        n_channels: how many.

    Raises:
        OutputError: the file cannot be written. ValueError: unknown subtype, or samples that are not finite.
    """

    def __init__(
        self, path: str | os.PathLike, subtype: str = "PCM_16", sample_rate: int = SAMPLE_RATE, n_channels: int = 1
    ) -> None:
        if subtype not in _WAV_TYPES:
            raise ValueError(f"subtype '{subtype}' is unknown: use {' or '.join(_WAV_TYPES)}")
        self.path, self.sample_rate, self.n_channels = Path(path), sample_rate, n_channels
        self.n_samples = 0  # written so far, of each channel
        self.n_clipped = 0  # samples beyond full scale, which PCM_16 cannot hold
        self._tag, self._type = _WAV_TYPES[subtype]

    def __enter__(self) -> WavWriter:
        with ExitStack() as stack:
            part = stack.enter_context(whole_file(self.path))
            self._file = stack.enter_context(part.open("wb"))
            self._file.write(self._header())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is not None:
            self._stack.__exit__(kind, *error)
            return
        with self._stack:
            self._file.seek(0)
            self._file.write(self._header())  # now that the length is known

    def write(self, samples: np.ndarray) -> None:
        """Append float (n,) or (n_channels, n), full scale 1."""
        samples = np.asarray(samples)
        channels = 1 if samples.ndim == 1 else len(samples)
        if samples.ndim not in (1, 2) or channels != self.n_channels or not np.isfinite(samples).all():
            form = "(n,)" if self.n_channels == 1 else f"({self.n_channels}, n)"
            raise ValueError(f"expected finite samples {form}, got shape {samples.shape} or values that are not finite")
        if self._tag == 1:
            rounded = np.round(samples.astype(np.float64) * 2**15)
            samples = np.clip(rounded, -(2**15), 2**15 - 1)
            self.n_clipped += int(np.count_nonzero(rounded != samples))
        data = samples.T.astype(self._type).tobytes()  # the channels take turns
        self.n_samples += samples.shape[-1]
        if self.n_samples * self._bytes_per_sample > _WAV_MAX_BYTES:
            raise OutputError(f"'{self.path}' would be larger than the 4 GB that WAV can hold: split the input")
        self._file.write(data)

    @property
    def _bytes_per_sample(self) -> int:
        """Of all channels together."""
        return np.dtype(self._type).itemsize * self.n_channels

    def _header(self) -> bytes:
        """RIFF/WAVE with the chunks fmt, fact and data: 58 bytes."""
        width, rate = self._bytes_per_sample, self.sample_rate
        n_bytes, n_bits = self.n_samples * width, 8 * np.dtype(self._type).itemsize
        fmt = struct.pack("<HHIIHHH", self._tag, self.n_channels, rate, rate * width, width, n_bits, 0)
        chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"fact" + struct.pack("<II", 4, self.n_samples)
        chunks += b"data" + struct.pack("<I", n_bytes)
        return b"RIFF" + struct.pack("<I", 4 + len(chunks) + n_bytes) + b"WAVE" + chunks


def mux(video_source: Source, wav_path: str | os.PathLike, out_path: str | os.PathLike) -> Path:
    """The pictures of one file, copied unchanged, with the sound of another, as AAC; both start at time 0.

    Returns the path written: `out_path`, or the same with .mkv where its kind of file cannot hold such pictures.

    Raises:
        MediaError: a file cannot be read, has no pictures or no sound, or its pictures cannot be copied.
        OutputError: the result cannot be written.
    """
    return mux_tracks(video_source, [("", wav_path)], out_path)


def mux_tracks(
    video_source: Source, sounds: Sequence[tuple[str, str | os.PathLike]], out_path: str | os.PathLike
) -> Path:
    """As `mux`, with several sound tracks: (title, file) each, the first of them the one that is played unasked."""
    wanted = Path(out_path)
    for path in dict.fromkeys((wanted, wanted.with_suffix(".mkv"))):
        try:
            with open_media(video_source, fflags="+genpts") as container, whole_file(path) as part:
                _copy_with_sound(container, sounds, part, source_name(video_source))
            return path
        except _RefusedError as refusal:
            reason = refusal
    raise MediaError(
        f"the pictures of '{source_name(video_source)}' cannot be copied ({reason}): use --video tracked or none, "
        "or convert the video to MP4 first."
    )


def write_video(
    out_path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    wav_path: str | os.PathLike | None = None,
    fps: int = FPS,
) -> Path:
    """A new video of uint8 (H, W, 3) RGB pictures, H.264, with the sound of a file as AAC; odd sides grow by a pixel.

    Raises:
        MediaError: the sound cannot be read, or this kind of file cannot hold it. OutputError: it cannot be written.
        ValueError: no pictures, or pictures of different sizes or types.
    """
    path = Path(out_path)
    try:
        with whole_file(path) as part, _sink(part) as sink:
            _encode(sink, frames, wav_path, fps)
    except _RefusedError as refusal:
        raise MediaError(
            f"'{path.name}' cannot hold H.264 video with AAC sound ({refusal}): name it .mp4."
        ) from refusal
    return path


class _RefusedError(Exception):
    """This kind of file does not take such a stream."""


def _encode(sink, frames: Iterable[np.ndarray], wav_path: str | os.PathLike | None, fps: int) -> None:
    stream = sound = shape = None
    for index, image in enumerate(frames):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (shape or (*image.shape[:2], 3)):
            raise ValueError(f"expected uint8 pictures {shape or '(H, W, 3)'}, got {image.dtype} {image.shape}")
        if stream is None:
            shape, odd = image.shape, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)]
            stream = _video_encoder(sink, shape[1] + odd[1][1], shape[0] + odd[0][1], fps)
            sound = _Sound(sink, wav_path) if wav_path else None
        frame = av.VideoFrame.from_ndarray(np.pad(image, odd, mode="edge"), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709)
        frame.pts, frame.time_base = index, Fraction(1, fps)
        sink.mux(stream.encode(frame))
        if sound:
            sound.advance(index / fps)
    if stream is None:
        raise ValueError("there are no pictures to write")
    sink.mux(stream.encode(None))
    if sound:
        sound.advance(float("inf"))


def _video_encoder(sink, width: int, height: int, fps: int) -> av.VideoStream:
    name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = sink.add_stream(name, rate=fps, options=_H264_OPTIONS if name == "libx264" else {"qscale": "3"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    codec = stream.codec_context
    codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc = _LIMITED_RANGE, *3 * [_BT709]
    return stream


def encode_sound(wav_path: str | os.PathLike, out_path: str | os.PathLike) -> Path:
    """The sound of a file as FLAC, MP3 or Opus, by the suffix of `out_path`.

    Raises:
        MediaError: the sound cannot be read, or there is no such kind of file. OutputError: it cannot be written.
    """
    path = Path(out_path)
    codec = _SOUND_CODECS.get(path.suffix)
    if codec is None:
        raise MediaError(f"'{path.suffix}' is no sound file that is written here: use {', '.join(_SOUND_CODECS)}")
    with whole_file(path) as part, _sink(part) as sink:
        _Sound(sink, wav_path, codec=codec).advance(float("inf"))
    return path


def _copy_with_sound(container, sounds: Sequence[tuple[str, str | os.PathLike]], part: Path, name: str) -> None:
    template = video_stream(container)
    if template is None:
        raise MediaError(f"'{name}' has no pictures that could be copied.")
    with _sink(part) as sink:
        try:
            stream = sink.add_stream_from_template(template, opaque=True)
        except ValueError as error:
            raise _RefusedError(error) from error
        if template.codec_context.name == "hevc" and part.suffix in (".mp4", ".mov"):
            stream.codec_context.codec_tag = "hvc1"  # what Apple's players insist on
        tracks = [_Sound(sink, wav_path, title) for title, wav_path in sounds]
        last_dts, zero_s = None, time_zero(container)
        step_s = picture_step_s(template)
        for packet in _with_decoding_times(demuxed(container, template), step_s):
            shift = round(zero_s / packet.time_base)
            dts = packet.dts - shift if last_dts is None else max(packet.dts - shift, last_dts + 1)
            packet.pts = dts if packet.pts is None else max(dts, packet.pts - shift)
            packet.dts = last_dts = dts
            packet.duration = packet.duration or round(step_s / packet.time_base)
            packet.stream = stream
            for track in tracks:
                track.advance(float(dts * packet.time_base))
            sink.mux(packet)
        if last_dts is None:
            raise _RefusedError("no packet has a timestamp")
        for track in tracks:
            track.advance(float("inf"))


def _with_decoding_times(packets: Iterable[av.Packet | None], step_s: float) -> Iterator[av.Packet]:
    """Intact packets, all with a dts: Matroska leaves the first ones out, here they count back from the first known."""
    waiting: list[av.Packet] = []
    for packet in packets:
        if packet is None or not packet.size or (packet.pts is None and packet.dts is None):
            continue
        waiting.append(packet)
        if packet.dts is not None or len(waiting) >= _MAX_REORDERED:
            known = packet.pts if packet.dts is None else packet.dts
            for n_ahead, early in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
                if early.dts is None:
                    early.dts = known - n_ahead * max(1, round(step_s / early.time_base))
            yield from waiting
            waiting = []
    for packet in waiting:
        packet.dts = packet.pts
        yield packet


class _Sound:
    """The sound of a file on its way into another, encoded anew, in step with the pictures."""

    def __init__(self, sink, path: str | os.PathLike, title: str = "", codec: str = "aac") -> None:
        self._sink, self._packets = sink, self._encoded(sink, Path(path), title, codec)
        self._next = next(self._packets)

    def advance(self, until_s: float) -> None:
        """Write everything up to this time."""
        while self._next is not None and float(self._next.dts * self._next.time_base) <= until_s:
            self._sink.mux(self._next)
            self._next = next(self._packets, None)

    @staticmethod
    def _encoded(sink, path: Path, title: str, codec: str) -> Iterator[av.Packet]:
        with open_media(path) as container:
            source = audio_stream(container)
            if source is None:
                raise MediaError(f"'{path.name}' has no sound that could be added to the video.")
            n_channels = min(2, source.codec_context.layout.nb_channels)
            layout = "stereo" if n_channels == 2 else "mono"  # WAV names no layout
            rate = _OPUS_RATE if codec == "libopus" else source.codec_context.sample_rate
            stream = sink.add_stream(codec, rate=rate, layout=layout)
            if codec != "flac":
                stream.bit_rate = _VOICE_BIT_RATE * n_channels
            if title:
                stream.metadata.update(title=title, handler_name=title)  # Matroska shows the one, MP4 the other
            for frame in decoded(container, source, path.name):
                yield from stream.encode(frame)
            yield from stream.encode(None)


@contextmanager
def _sink(part: Path) -> Iterator[av.container.OutputContainer]:
    """A container for writing; what it does not take is a _RefusedError, a failing disk an OSError."""
    try:
        sink = av.open(f"file:{part}", "w")
    except ValueError as error:  # among them FFmpeg's own
        raise _RefusedError(f"'{part.suffix}' is no kind of video file") from error
    try:
        with sink:
            yield sink
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise _RefusedError(error.strerror) from error
