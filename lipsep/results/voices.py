"""Voices of any length: gathered in temporary files, then written as sound, video and one picture."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lipsep.faces.tracks import FaceTrack
from lipsep.lips.pictures import Lips
from lipsep.media.clip import Clip
from lipsep.results.fullband import full_band
from lipsep.results.speech import Segment
from lipsep.system.spool import Spool

LOUDEST = 1 - 2**-15  # the highest sample that 16 bits can hold


def file_stem(person: int, name: str) -> str:
    """speaker_1, or speaker_1_Anna with only such signs of the name as every system takes in file names."""
    coding = sys.getfilesystemencoding()  # ASCII with LC_ALL=C
    kept = name.encode(coding, "ignore").decode(coding)
    plain = re.sub(r"[^\w.-]+", "_", kept).strip("._")[:60]
    return f"speaker_{person}_{plain}" if plain else f"speaker_{person}"


@dataclass
class SeparatedVoices:
    """The voices of one run in temporary files, with what must be known before they are written for good."""

    tracks: list[FaceTrack]
    lips: list[Lips]
    mixture: Spool
    voices: list[Spool]
    residual: Spool
    called: dict[int, str] = field(default_factory=dict)  # names that were given, by number
    gains: np.ndarray | None = None  # (n_people + 1,) of the remix that is asked for, the residual's last
    speech: list[Segment] = field(default_factory=list)  # who speaks when
    peak: float = 0.0
    energy: np.ndarray | float = 0.0  # (n_people,)
    n_sounding: np.ndarray | float = 0.0  # (n_people,) samples that are not silence

    @property
    def names(self) -> dict[int, str]:
        """What everybody is called, by number."""
        return {track.person: self.called.get(track.person, f"person {track.person}") for track in self.tracks}

    @property
    def stems(self) -> list[str]:
        """Names of files without suffix, in the order of `tracks`: speaker_1, or speaker_1_Anna."""
        return [file_stem(track.person, self.called.get(track.person, "")) for track in self.tracks]

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
        self.sample_rate, self._weights = clip.recorded_form()
        self.n_channels = len(self._weights)

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 (n_people + 1, n_channels, n), the residual last."""
        signals = [signal.read for signal in (*self._found.voices, self._found.residual)]
        return full_band(self._clip.recorded_audio(), self.sample_rate, signals, self._weights)

    def peak(self) -> float:
        """The highest sample of all."""
        return max(float(np.abs(block).max(initial=0)) for block in self.blocks())
