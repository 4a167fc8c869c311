"""Talking clips: a corpus packed for training, every voice beside the mouth that spoke it.

A corpus of short clips becomes one file: all voices end to end at 16 kHz and all mouths end to end at 25 fps, so that
a training example is two slices of two arrays. An hour of speech takes 115 MB for the voices and 14 MB for the mouths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.errors import MediaError

MOUTH_POINTS = 20  # iBUG-68 landmarks 48..67


@dataclass(frozen=True)
class TalkingClip:
    """One voice and its mouth.

    Attributes:
        name: where it comes from, unique in its corpus.
        talker: who speaks; clips of one talker cannot be told apart by the voice alone.
        voice: (T,) float32 in [-1, 1], 16 kHz.
        mouth: (F, 20, 2) float32 normalised mouth points at 25 fps (`lipsep.lips.normalise_mouth`), F = T // 640.
    """

    name: str
    talker: str
    voice: np.ndarray
    mouth: np.ndarray

    @property
    def n_frames(self) -> int:
        return len(self.mouth)

    def part(self, first: int, stop: int) -> TalkingClip:
        """Frames first..stop-1, with their sound."""
        voice = self.voice[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
        return TalkingClip(self.name, self.talker, voice, self.mouth[first:stop])


class TalkingClips:
    """A sequence of `TalkingClip` in two flat arrays; what a corpus becomes once prepared."""

    def __init__(
        self, names: list[str], talkers: list[str], n_frames: np.ndarray, voices: np.ndarray, mouths: np.ndarray
    ):
        """
        Args:
            names, talkers: one each per clip.
            n_frames: (clips,) int64, video frames per clip.
            voices: (640 * sum(n_frames),) int16.
            mouths: (sum(n_frames), 20, 2) float32.
        """
        self.names, self.talkers = names, talkers
        self.n_frames, self.voices, self.mouths = n_frames, voices, mouths
        self._first_frame = np.concatenate([[0], np.cumsum(n_frames)])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TalkingClip:
        start, stop = self._first_frame[index], self._first_frame[index + 1]
        voice = self.voices[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
        return TalkingClip(
            self.names[index], self.talkers[index], voice.astype(np.float32) / 32768, self.mouths[start:stop]
        )

    def select(self, indices: Iterable[int]) -> TalkingClips:
        """The clips with these indices, as a corpus of its own."""
        return pack(self[int(i)] for i in indices)

    def save(self, path: Path) -> None:
        """Write to one ``.npz`` file, complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial.npz")
        np.savez(
            partial,
            names=np.array(self.names),
            talkers=np.array(self.talkers),
            n_frames=self.n_frames,
            voices=self.voices,
            mouths=self.mouths.astype(np.float32),
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> TalkingClips:
        """Read what `save` wrote.

        Raises:
            MediaError: there is no such file; the message names the command that makes it.
        """
        if not path.is_file():
            raise MediaError(f"no prepared corpus at {path}: `lipsep train RECIPE` makes those its recipe names")
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                stored["names"].tolist(),
                stored["talkers"].tolist(),
                stored["n_frames"],
                stored["voices"],
                stored["mouths"],
            )


def pack(clips: Iterable[TalkingClip]) -> TalkingClips:
    """Join clips into a corpus; a voice is cut or padded with silence to whole video frames."""
    names, talkers, n_frames, voices, mouths = [], [], [], [], []
    for clip in clips:
        voice = np.zeros(clip.n_frames * SAMPLES_PER_FRAME, np.int16)
        heard = np.clip(np.round(clip.voice[: len(voice)] * 32768), -32768, 32767).astype(np.int16)
        voice[: len(heard)] = heard
        names.append(clip.name)
        talkers.append(clip.talker)
        n_frames.append(clip.n_frames)
        voices.append(voice)
        mouths.append(clip.mouth.astype(np.float32))
    if not names:
        return TalkingClips(
            [], [], np.zeros(0, np.int64), np.zeros(0, np.int16), np.zeros((0, MOUTH_POINTS, 2), np.float32)
        )
    return TalkingClips(names, talkers, np.array(n_frames), np.concatenate(voices), np.concatenate(mouths))


def join(parts: Sequence[TalkingClips]) -> TalkingClips:
    """Several corpora as one."""
    return TalkingClips(
        [name for part in parts for name in part.names],
        [talker for part in parts for talker in part.talkers],
        *(np.concatenate([getattr(part, what) for part in parts]) for what in ("n_frames", "voices", "mouths")),
    )
