"""The remix of a visitor: voices and residual added up as the sliders stand, while it is sent."""

from __future__ import annotations

import re
import struct
import wave
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_GAIN_DB = re.compile(r"-?\d{1,2}(\.\d)?")
_BLOCK = 2**16  # samples that are added up at once
_FULL_SCALE = 2**15
_HEADER_BYTES = 44


@dataclass(frozen=True)
class Remix:
    """A WAV file that is made while it is read."""

    n_bytes: int
    pieces: Iterator[bytes]


def remix(folder: Path, gains: Mapping[str, str]) -> Remix | None:
    """speaker_*.wav and residual.wav of a folder, each by its gain, as one WAV; turned down where it would clip.

    Args:
        gains: "-12" (dB) or "off" by the name of a voice; 0 dB for those that are not named.

    Returns:
        None if somebody is named who is not there, or a gain is none.
    """
    paths = {path.stem: path for path in (*sorted(folder.glob("speaker_*.wav")), folder / "residual.wav")}
    known = all(gain == "off" or _GAIN_DB.fullmatch(gain) for gain in gains.values())
    if not known or not gains.keys() <= paths.keys():
        return None
    levels = [gains.get(name, "0") for name in paths]
    factors = np.array([0.0 if level == "off" else 10 ** (float(level) / 20) for level in levels], np.float32)
    loudest = max(float(np.abs(block).max(initial=0)) for block in _sums([*paths.values()], factors))
    factors *= min(1.0, (_FULL_SCALE - 1) / max(loudest, 1.0))
    with wave.open(str(paths["residual"])) as first:
        n_bytes = first.getnframes() * first.getnchannels() * first.getsampwidth()
        header = _header(first.getnchannels(), first.getframerate(), n_bytes)

    def pieces() -> Iterator[bytes]:
        yield header
        for block in _sums([*paths.values()], factors):
            yield np.clip(np.round(block), -_FULL_SCALE, _FULL_SCALE - 1).astype("<i2").tobytes()

    return Remix(_HEADER_BYTES + n_bytes, pieces())


def _sums(paths: list[Path], factors: np.ndarray) -> Iterator[np.ndarray]:
    """float32 (n * n_channels,) blocks of the weighted sum, in steps of 16 bit."""
    with ExitStack() as stack:
        wavs = [stack.enter_context(wave.open(str(path))) for path in paths]
        while data := [np.frombuffer(wav.readframes(_BLOCK), "<i2") for wav in wavs]:
            n = min(map(len, data))
            if not n:
                return
            yield sum(factor * samples[:n].astype(np.float32) for factor, samples in zip(factors, data, strict=True))


def _header(n_channels: int, sample_rate: int, n_bytes: int) -> bytes:
    """RIFF/WAVE of PCM with 16 bit."""
    width = 2 * n_channels
    fmt = struct.pack("<HHIIHH", 1, n_channels, sample_rate, sample_rate * width, width, 16)
    sizes = struct.pack("<I", 4 + 24 + 8 + n_bytes), struct.pack("<I", len(fmt)), struct.pack("<I", n_bytes)
    return b"RIFF" + sizes[0] + b"WAVEfmt " + sizes[1] + fmt + b"data" + sizes[2]
