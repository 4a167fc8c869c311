"""Small test clips whose every picture tells its own time, with clicks in the sound and flashes in the picture.

A picture shows its time in ms as 16 black and white blocks (`stamp_ms` reads it), red, green and blue patches below it
(`colours` reads them), a bar that is white during a flash (`is_flash`), and noise that moves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsep.constants import FPS

CLICK_LEVEL = 0.7
TONE_HZ, TONE_LEVEL = 440.0, 0.1
_BLOCK = 8  # px, of the 64 x 48 design; larger pictures scale it
_DESIGN = (64, 48)  # px, width and height
FLASH_S = 0.2
CAN_TURN = hasattr(av.VideoStream, "set_display_rotation")  # PyAV 18 and later


def picture(time_s: float, size: tuple[int, int] = _DESIGN, flashes_s: Sequence[float] = ()) -> np.ndarray:
    """uint8 (H, W, 3) RGB for a time; stamp on top, then colours, then the flash bar, then moving noise."""
    stamp = round(time_s * 1000)
    design = np.zeros((_DESIGN[1], _DESIGN[0], 3), np.uint8)
    for bit in range(16):
        row, column = divmod(bit, 8)
        design[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 255 * (stamp >> bit & 1)
    for k, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        design[16:32, 20 * k : 20 * k + 20] = colour
    design[32:40] = 255 * any(at <= time_s + 1e-9 < at + FLASH_S for at in flashes_s)
    design[40:] = np.random.default_rng(stamp).integers(60, 200, (8, 64, 3))
    rows = np.arange(size[1]) * _DESIGN[1] // size[1]
    columns = np.arange(size[0]) * _DESIGN[0] // size[0]
    return design[rows][:, columns]


def stamp_ms(image: np.ndarray) -> int:
    """The time, ms, that a decoded picture (RGB or grey, any size) shows."""
    bits = [_patch(image, 8 * (k % 8), 8 * (k // 8), 8, 8).mean() > 127 for k in range(16)]
    return sum(1 << k for k, bit in enumerate(bits) if bit)


def colours(image: np.ndarray) -> list[np.ndarray]:
    """Mean RGB of the red, green and blue patches."""
    return [_patch(image, 20 * k + 4, 18, 12, 12).reshape(-1, 3).mean(0) for k in range(3)]


def is_flash(image: np.ndarray) -> bool:
    return bool(_patch(image, 0, 33, 64, 6).mean() > 127)


def _patch(image: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The inner part of a patch that is named in design pixels."""
    scale_y, scale_x = image.shape[0] / _DESIGN[1], image.shape[1] / _DESIGN[0]
    top, bottom = (y + height * 0.25) * scale_y, (y + height * 0.75) * scale_y
    left, right = (x + width * 0.25) * scale_x, (x + width * 0.75) * scale_x
    return image[int(top) : int(bottom) + 1, int(left) : int(right) + 1].astype(np.float64)


def sound(seconds: float, rate: int, channels: int, clicks_s: Sequence[float]) -> np.ndarray:
    """float32 (channels, n): a quiet tone, and smooth clicks 1 ms wide that peak at the given times."""
    time_s = np.arange(round(seconds * rate)) / rate
    wave = TONE_LEVEL * np.sin(2 * np.pi * TONE_HZ * time_s)
    for at in clicks_s:
        wave += CLICK_LEVEL * np.exp(-0.5 * ((time_s - at) / 0.0002) ** 2)
    return np.tile(wave.astype(np.float32), (channels, 1))


def make_clip(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: Fraction | float = FPS,
    times_s: Sequence[float] | None = None,
    size: tuple[int, int] = _DESIGN,
    codec: str | None = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    video_start_s: float = 0.0,
    audio_codec: str | None = "aac",
    audio_rate: int = 48_000,
    channels: int = 2,
    audio_start_s: float = 0.0,
    audio_seconds: float | None = None,
    events_s: Sequence[float] = (0.6, 1.4),
    gap_s: tuple[float, float] | None = None,
    mux_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip in which every event is a click at that file time and a flash of FLASH_S from that time on.

    Args:
        times_s: when each picture is shown (variable frame rate); default `fps`.
        rotation: degrees counter-clockwise that a player must turn the stored pictures: 0, 90, 180 or 270.
        aspect: shape of a stored pixel, width : height; the picture is stored narrower so that it is shown as `size`.
        codec, audio_codec: None leaves pictures or sound out.
        gap_s: from, to: sound of this stretch is left out (the timestamps jump).
    """
    with av.open(f"file:{path}", "w", options=mux_options or {}) as out:
        video = audio = None
        if codec:
            n_turns = rotation // 90 % 4
            stored = (size[0] if aspect is None else round(size[0] / aspect), size[1])
            video = out.add_stream(codec, rate=Fraction(fps).limit_denominator(60_000), options=options or {})
            video.width, video.height = stored if n_turns % 2 == 0 else stored[::-1]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = Fraction(1, 90_000) if times_s is not None else 1 / video.codec_context.rate
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if rotation:
                if not CAN_TURN:
                    pytest.skip("rotation flags can be written with PyAV 18 and later only")
                video.set_display_rotation(rotation)
        if audio_codec:
            audio = out.add_stream(audio_codec, rate=audio_rate, layout="mono" if channels == 1 else "stereo")
        if audio is not None:
            length_s = seconds - audio_start_s if audio_seconds is None else audio_seconds
            _write_sound(out, audio, length_s, audio_rate, channels, audio_start_s, events_s, gap_s)
        if video is not None:
            if times_s is None:
                times_s = [video_start_s + k / float(fps) for k in range(round((seconds - video_start_s) * fps))]
            base = video.codec_context.time_base
            for at in times_s:
                image = np.rot90(picture(at, stored, events_s), -n_turns)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = round(Fraction(at) / base), base
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):  # where it may, it makes its caller a real-time task
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def _write_sound(out, audio, seconds, rate, channels, start_s, events_s, gap_s) -> None:
    wave = sound(seconds, rate, channels, [at - start_s for at in events_s])
    stretches = [(0, wave.shape[1])]
    if gap_s:
        stretches = [(0, round((gap_s[0] - start_s) * rate)), (round((gap_s[1] - start_s) * rate), wave.shape[1])]
    for first, last in stretches:
        for start in range(first, last, 1024):
            block = np.ascontiguousarray(wave[:, start : min(start + 1024, last)])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono" if channels == 1 else "stereo")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(start_s * rate)
            out.mux(audio.encode(frame))
    out.mux(audio.encode(None))


def repeat_clip(clip: Path, path: Path, n_times: int, seconds: float) -> Path:
    """A long file from a short one of so many seconds: its packets are copied again and again."""
    with av.open(f"file:{path}", "w") as out, av.open(f"file:{clip}") as once:
        copies = {s.index: out.add_stream_from_template(s) for s in once.streams}
        for k in range(n_times):
            with av.open(f"file:{clip}") as again:
                for packet in again.demux():
                    if packet.dts is not None:
                        shift = round(k * seconds / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = copies[packet.stream.index]
                        out.mux(packet)
    return path
