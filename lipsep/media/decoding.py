"""Frames out of a file and when each of them is due, whatever packets and timestamps are worth."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import av

from lipsep.errors import MediaError
from lipsep.media.containers import (
    AUDIO_RATES,
    DECODE_OPTIONS,
    Source,
    open_media,
    sound_streams,
    source_name,
    time_zero,
)

MAX_GAP_S = 3600.0  # a longer jump of the timestamps is damage, not a pause
MAX_STEP_BACK_S = 1.0  # so is a jump back by more than this
_MAX_FAILURES = 1_000  # unreadable packets, after which the rest of a file is given up
_MAX_FAILURES_IN_ROW = 20
_FEW_FAILURES = 0.01  # of all packets: nobody will notice
_CHANGING = ("aac", "mp2", "mp3", "ac3", "eac3", "mpeg1video", "mpeg2video", "h264", "hevc")  # told by their packets
_STATES_LENGTHS = {"mov", "avi", "wav", "flac", "asf"}  # formats that write down how long each stream is
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # of Matroska
N_HEAD = 16  # frames whose timestamps tell what those of a whole sound track are worth
_ODD_GAP_S, _ROUNDING_S = 0.25, 0.002  # what may lie between two honest frames; Matroska counts in ms

log = logging.getLogger(__name__)


class Timeline:
    """Places the items of one stream in time, s after time 0, whatever their timestamps are worth.

    A missing timestamp, or the same once more, means right after the item before. So does one that jumps (more than
    MAX_STEP_BACK_S back or MAX_GAP_S ahead): files that were joined without care go on where the joint is.
    """

    def __init__(self, name: str, zero_s: float, max_gaps_s: float = float("inf")) -> None:
        self._name, self._shift_s, self._gaps_s, self._max_gaps_s = name, -zero_s, 0.0, max_gaps_s
        self._back_s = MAX_GAP_S  # before the first item: whatever was put before time 0
        self._stamp_s: float | None = None  # of the item before

    def place(self, time_s: float | None, expected_s: float) -> float:
        """The time of an item that is stamped `time_s` and would start at `expected_s` if it followed at once.

        Raises:
            MediaError: the gaps add up to more than `max_gaps_s`.
        """
        if time_s is None or time_s == self._stamp_s:
            return expected_s
        self._stamp_s = time_s
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


@dataclass
class Losses:
    """What of a stream could not be had."""

    n_packets: int = 0
    n_failed: int = 0  # packets that could not be decoded, and places where the file itself is broken
    stated_s: float | None = None  # how long the file says that the stream is


def decoded(
    container: av.container.InputContainer,
    stream: av.VideoStream | av.AudioStream,
    name: str,
    losses: Losses | None = None,
) -> Iterator[av.frame.Frame]:
    """Every frame of a stream that can be decoded; what cannot is skipped, counted and logged once (a lot: as warning).

    Args:
        losses: what is counted is told here too.

    Raises:
        MediaError: nothing at all can be decoded.
    """
    n_packets = n_frames = n_failures = 0
    decoder: Any = stream.codec_context  # PyAV's stubs know `decode` of its two kinds alone
    may_change = container.format.name == "mpegts" and decoder.name.startswith(_CHANGING)
    for packet in demuxed(container, stream):
        n_packets += packet is None or packet.size > 0
        last: list[av.VideoFrame] | list[av.AudioFrame] = []
        try:
            codec = _codec_of(packet) if packet and may_change else None
            if packet and codec and not decoder.name.startswith(codec):
                log.info("%s: the %s changes from %s to %s", name, stream.type, decoder.name, codec)
                rest = av.Packet()
                rest.time_base = packet.time_base
                last, decoder = decoder.decode(rest), av.CodecContext.create(codec, "r")
                decoder.options = DECODE_OPTIONS
            frames = [*last, *decoder.decode(packet)] if packet else ()
        except av.FFmpegError:
            packet = None
        n_failures += packet is None
        if losses is not None:
            losses.n_packets, losses.n_failed = n_packets, n_failures
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


def _codec_of(packet: av.Packet) -> str | None:
    """The codec of a packet from MPEG-TS by its first bytes, where these tell: a recording may go on in other codecs
    (film, then advertisements), and FFmpeg keeps to those of the beginning."""
    first = bytes(packet)[:6]
    if len(first) < 6:
        return None
    if packet.stream.type == "video":
        if first[:4] == b"\0\0\1\xb3":
            return "mpeg2video"
        unit = first[first.index(1) + 1 :] if first[:3] in (b"\0\0\0", b"\0\0\1") and 1 in first else b"  "
        if unit[:2] in (b"\x46\1", b"\x40\1", b"\x42\1"):  # delimiter, video and sequence parameters
            return "hevc"
        return "h264" if unit[0] & 0x9F in (7, 9) else None
    if first[0] == 0xFF and first[1] & 0xF0 == 0xF0:  # twelve bits of synchronisation, then version and layer
        return {0: "aac", 1: "mp3", 2: "mp2"}.get(first[1] >> 1 & 3)
    if first[:2] == b"\x0b\x77":
        return "eac3" if first[5] >> 3 > 10 else "ac3"  # bsid
    return "aac_latm" if first[0] == 0x56 and first[1] & 0xE0 == 0xE0 else None


def sound_frames(
    source: Source, number: int = 0, losses: Losses | None = None
) -> Iterator[tuple[av.AudioFrame, float | None]]:
    """Every frame of a sound track that can be decoded, and its time, s after time 0; None where that is not known.

    Timestamps that contradict the number of samples from the start (a clock of the wrong rate) are believed nowhere in
    the track; an edit list, which counts by the same clock, is not followed then either.

    Args:
        number: of the track, from 1; 0: the track flagged default, else the first.
        losses: what could not be had is told here.

    Raises (at the first `next`):
        MediaError: the file cannot be read, or has no such sound.
    """
    name = source_name(source)
    options: dict[str, str] = {}
    for _ in range(2):
        with open_media(source, **options) as container:
            frames = _sound_of(container, number, name, losses)
            head = list(islice(frames, N_HEAD))
            believed = _stamps_agree(head)
            if not believed and not options and "mov" in container.format.name:
                options = {"ignore_editlist": "1"}
                continue
            zero_s = time_zero(container)
            for frame in chain(head, frames):
                stamped_s = frame.time if believed and not options else None
                yield frame, None if stamped_s is None else stamped_s - zero_s
        return


def _sound_of(
    container: av.container.InputContainer, number: int, name: str, losses: Losses | None = None
) -> Iterator[av.AudioFrame]:
    streams = dict(sound_streams(container))
    if not streams or (number and number not in streams):
        raise MediaError(f"'{name}' has no sound that can be decoded: there is nothing to separate.")
    stream = streams[number] if number else next(iter(streams.values()))
    if losses is not None:
        losses.stated_s = _stated_s(container, stream)
    for frame in decoded(container, stream, name, losses):
        if isinstance(frame, av.AudioFrame) and frame.sample_rate in AUDIO_RATES:
            yield frame


def _stated_s(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """How long a file says that a stream is, s; None where it does not: FFmpeg then makes guesses."""
    if "matroska" in container.format.name:
        found = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) if found else None
    if not set(container.format.name.split(",")) & _STATES_LENGTHS or not stream.duration or not stream.time_base:
        return None
    return float(stream.duration * stream.time_base)


def _stamps_agree(head: list[av.AudioFrame]) -> bool:
    """Whether frames last about as long as their timestamps and durations say."""
    n_wrong = 0
    for frame, following in zip(head, [*head, None][1:], strict=True):
        length_s = frame.samples / frame.sample_rate
        stated_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else length_s
        next_s = following.time if following else None
        step_s = length_s if frame.time is None or next_s is None else next_s - frame.time
        too_long = max(stated_s, abs(step_s)) > 2 * length_s + _ODD_GAP_S
        n_wrong += too_long or step_s < 0.5 * length_s - _ROUNDING_S
    return 2 * n_wrong <= len(head)


def sound_is_stamped(source: Source) -> bool:
    """Whether the timestamps of the sound that is taken unasked agree with its samples."""
    with open_media(source) as container:
        return _stamps_agree(list(islice(_sound_of(container, 0, source_name(source)), N_HEAD)))
