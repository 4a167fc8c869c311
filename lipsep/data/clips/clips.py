"""Talking clips: a corpus packed for training, every voice beside the mouth that spoke it.

A corpus of short clips becomes one file: all voices end to end at 16 kHz and all mouths end to end at 25 fps, so that
a training example is two slices of two arrays, which stay on disk. An hour of speech takes 115 MB for the voices and
14 MB for the mouths. Where the mouths were filmed too, their pictures and one of each face lie in files beside it
(`lipsep.data.clips.pictures`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lipsep.constants import SAMPLES_PER_FRAME
from lipsep.data.clips.pictures import Pictures, save_pictures, stored_pictures
from lipsep.data.clips.stored import EndToEnd, Sliced, StoredArray
from lipsep.errors import MediaError
from lipsep.system.outputs import whole_file

MOUTH_POINTS = 20  # iBUG-68 landmarks 48..67


@dataclass(frozen=True)
class TalkingClip:
    """One voice and its mouth.

    Attributes:
        name: where it comes from, unique in its corpus.
        talker: who speaks; clips of one talker cannot be told apart by the voice alone.
        voice: (T,) float32 in [-1, 1], 16 kHz.
        mouth: (F, 20, 2) float32 normalised mouth points at 25 fps (`lips.reading.normalise_mouth`), F = T // 640;
            (F, 0, 2) where only pictures are known.
        pictures: F mouth pictures, uint8; None where only the points are known.
        face: one picture of the talker's face, uint8 (1, H, W, 3) RGB; None where it is not known.
    """

    name: str
    talker: str
    voice: np.ndarray
    mouth: np.ndarray
    pictures: Pictures | None = None
    face: Pictures | None = None

    @property
    def n_frames(self) -> int:
        return len(self.mouth)

    def part(self, first: int, stop: int) -> TalkingClip:
        """Frames first..stop-1 of the voice and the mouth's points."""
        voice = self.voice[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
        return TalkingClip(self.name, self.talker, voice, self.mouth[first:stop])


class TalkingClips:
    """A sequence of `TalkingClip`, slices of two flat arrays; what a corpus becomes once prepared."""

    def __init__(
        self,
        names: list[str],
        talkers: list[str],
        n_frames: np.ndarray,
        voices: Sliced,
        mouths: Sliced,
        pictures: Sequence[Pictures] | None = None,
        first_frames: np.ndarray | None = None,
        faces: Sequence[Pictures] | None = None,
    ):
        """
        Args:
            names, talkers: one each per clip.
            n_frames: (clips,) int64, video frames per clip.
            voices: (640 * frames,) int16.
            mouths: (frames, 20, 2) float32.
            pictures, faces: one each per clip; None: the corpus has none.
            first_frames: (clips,) int64, where in the arrays each clip begins; None: they follow one another.
        """
        self.names, self.talkers, self.n_frames = names, talkers, n_frames
        self.pictures, self.faces = pictures, faces
        self._voices, self._mouths = voices, mouths
        self._first_frames = np.cumsum(n_frames) - n_frames if first_frames is None else first_frames

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TalkingClip:
        return TalkingClip(
            self.names[index],
            self.talkers[index],
            self._part(self._voices, index, SAMPLES_PER_FRAME).astype(np.float32) / 32768,
            self._part(self._mouths, index, 1),
            None if self.pictures is None else self.pictures[index],
            None if self.faces is None else self.faces[index],
        )

    @property
    def voices(self) -> np.ndarray:
        """All voices end to end, (640 * sum(n_frames),) int16."""
        parts = [self._part(self._voices, index, SAMPLES_PER_FRAME) for index in range(len(self))]
        return np.concatenate([np.zeros(0, np.int16), *parts])

    @property
    def mouths(self) -> np.ndarray:
        """All mouths end to end, (sum(n_frames), 20, 2) float32."""
        parts = [self._part(self._mouths, index, 1) for index in range(len(self))]
        return np.concatenate([np.zeros((0, MOUTH_POINTS, 2), np.float32), *parts])

    def _part(self, array: Sliced, index: int, per_frame: int) -> np.ndarray:
        start = int(self._first_frames[index])
        return array[start * per_frame : (start + int(self.n_frames[index])) * per_frame]

    def select(self, indices: Iterable[int]) -> TalkingClips:
        """The clips with these indices, as a corpus of its own."""
        chosen = np.array(list(indices), np.int64)
        return TalkingClips(
            [self.names[i] for i in chosen],
            [self.talkers[i] for i in chosen],
            self.n_frames[chosen],
            self._voices,
            self._mouths,
            None if self.pictures is None else [self.pictures[i] for i in chosen],
            self._first_frames[chosen],
            None if self.faces is None else [self.faces[i] for i in chosen],
        )

    def save(self, path: Path) -> None:
        """Write to one ``.npz`` file, complete or not at all; pictures and faces to one each beside it, first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.pictures is not None:
            save_pictures(_pictures_path(path), self.pictures, self.n_frames)
        if self.faces:
            shape = self.faces[0][np.zeros(1, np.int64)].shape[1:]  # (H, W, 3)
            save_pictures(_faces_path(path), self.faces, np.ones(len(self), np.int64), shape)
        with whole_file(path) as part:
            np.savez(
                part,
                names=np.array(self.names),
                talkers=np.array(self.talkers),
                n_frames=self.n_frames,
                voices=self.voices,
                mouths=self.mouths.astype(np.float32),
            )

    @classmethod
    def load(cls, path: Path) -> TalkingClips:
        """Read what `save` wrote.

        Raises:
            MediaError: there is no such file; the message names the command that makes it.
        """
        if not path.is_file():
            raise MediaError(f"no prepared corpus at {path}: `lipsep train RECIPE` makes those its recipe names")
        pictures, faces = _pictures_path(path), _faces_path(path)
        with np.load(path, allow_pickle=False) as stored:
            names, talkers, n_frames = (stored[what] for what in ("names", "talkers", "n_frames"))
        return cls(
            names.tolist(),
            talkers.tolist(),
            n_frames,
            StoredArray.open(path, "voices"),
            StoredArray.open(path, "mouths"),
            stored_pictures(pictures, n_frames) if pictures.is_file() else None,
            faces=stored_pictures(faces, np.ones_like(n_frames)) if faces.is_file() else None,
        )


def pack(clips: Iterable[TalkingClip]) -> TalkingClips:
    """Join clips into a corpus; a voice is cut or padded with silence to whole video frames."""
    names, talkers, n_frames, voices, mouths, pictures, faces = [], [], [], [], [], [], []
    for clip in clips:
        voice = np.zeros(clip.n_frames * SAMPLES_PER_FRAME, np.int16)
        heard = np.clip(np.round(clip.voice[: len(voice)] * 32768), -32768, 32767).astype(np.int16)
        voice[: len(heard)] = heard
        names.append(clip.name)
        talkers.append(clip.talker)
        n_frames.append(clip.n_frames)
        voices.append(voice)
        mouths.append(clip.mouth.astype(np.float32))
        pictures.append(clip.pictures)
        faces.append(clip.face)
    if not names:
        return TalkingClips(
            [], [], np.zeros(0, np.int64), np.zeros(0, np.int16), np.zeros((0, MOUTH_POINTS, 2), np.float32)
        )
    return TalkingClips(
        names,
        talkers,
        np.array(n_frames),
        np.concatenate(voices),
        np.concatenate(mouths),
        _all_or_none(pictures),
        faces=_all_or_none(faces),
    )


def join(parts: Sequence[TalkingClips]) -> TalkingClips:
    """Several corpora as one."""
    before = np.cumsum([0, *(len(part._mouths) for part in parts)])  # frames
    return TalkingClips(
        [name for part in parts for name in part.names],
        [talker for part in parts for talker in part.talkers],
        np.concatenate([part.n_frames for part in parts]),
        EndToEnd([part._voices for part in parts]),
        EndToEnd([part._mouths for part in parts]),
        _all_or_none([each for part in parts for each in part.pictures or [None] * len(part)]),
        np.concatenate([part._first_frames + first for part, first in zip(parts, before, strict=False)]),
        _all_or_none([each for part in parts for each in part.faces or [None] * len(part)]),
    )


def _all_or_none(pictures: list[Pictures | None]) -> list[Pictures] | None:
    """A corpus either has pictures or not; what only some clips have is of no use."""
    return None if any(each is None for each in pictures) or not pictures else pictures


def _pictures_path(path: Path) -> Path:
    return path.with_suffix(".pictures.npy")


def _faces_path(path: Path) -> Path:
    return path.with_suffix(".faces.npy")
