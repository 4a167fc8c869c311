"""Filmed mouths of training clips: pictures as the field stores them, of which a model sees the middle or near it.
And one picture of each clip's face, for models that want to know who is speaking.

They stay on disk, 0.8 GB for an hour of mouths and 0.1 GB for a thousand faces; each example reads what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lipsep.data.clips.stored import StoredArray
from lipsep.errors import MediaError
from lipsep.faces.tracks import face_picture
from lipsep.lips.recipes import CROP_SIZE
from lipsep.system.outputs import whole_file


class Pictures(Protocol):
    """Pictures of one clip: an array, or what reads them from a file."""

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        """Frames (n,) int of the clip -> uint8, mouths (n, H, W), a face (1, H, W, 3) RGB."""


@dataclass(frozen=True)
class StoredPictures:
    """Pictures of one clip among those of many, uint8 (frames, ...), of which it begins at `first`."""

    stored: StoredArray
    first: int

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        return self.stored[self.first + np.asarray(frames)]


@dataclass(frozen=True)
class ZippedPictures:
    """Pictures of one clip in an ``.npz`` file (``data``: uint8 (F, H, W)); after the last frame follows the last."""

    path: Path

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        pictures = read_zipped(self.path)
        return pictures[np.minimum(frames, len(pictures) - 1)]


def read_zipped(path: Path) -> np.ndarray:
    """All pictures of a published ``.npz`` file: uint8 (F, H, W).

    Raises:
        MediaError: there is no such file.
    """
    if not path.is_file():
        raise MediaError(f"no mouth pictures at {path}")
    with np.load(path, allow_pickle=False) as stored:
        return stored["data"]


def cut(pictures: np.ndarray, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """The middle of pictures; with `rng` somewhere near it, half of them mirrored, as the field trains.

    Shape: (F, H, W) -> (F, size, size).

    Raises:
        MediaError: they are smaller than that.
    """
    rest = [side - size for side in pictures.shape[1:]]
    if min(rest) < 0:
        raise MediaError(
            f"mouth pictures of {pictures.shape[1]}x{pictures.shape[2]}, and the model needs {size}x{size}"
        )
    top, left = (side // 2 if rng is None else int(rng.integers(side + 1)) for side in rest)
    part = pictures[:, top : top + size, left : left + size]
    return part[:, :, ::-1] if rng is not None and rng.random() < 0.5 else part


def show_face(face: Pictures, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """A talker's face as networks that know faces want it, float32 (3, size, size); with `rng` half of them mirrored,
    in another light and in weaker or stronger colours, as VisualVoice trains."""
    picture = face[np.zeros(1, np.int64)][0]  # (H, W, 3)
    if rng is not None:
        light, colour = rng.uniform(0.7, 1.3, 2)
        seen = light * picture[:, :: -1 if rng.random() < 0.5 else 1].astype(np.float32)
        grey = seen.mean(2, keepdims=True)
        picture = np.clip(np.round(grey + colour * (seen - grey)), 0, 255).astype(np.uint8)
    return face_picture(picture, size)


def save_pictures(
    path: Path, clips: Sequence[Pictures], n_frames: np.ndarray, shape: tuple[int, ...] = (CROP_SIZE, CROP_SIZE)
) -> None:
    """Write the pictures of clips end to end, complete or not at all, with one clip in memory at a time; shape: of one
    picture."""
    shape = (int(n_frames.sum()), *shape)
    with whole_file(path) as part:
        stored = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        first = 0
        for pictures, n in zip(clips, n_frames, strict=True):
            stored[first : first + n] = pictures[np.arange(n)]
            first += n
        stored.flush()


def stored_pictures(path: Path, n_frames: np.ndarray) -> list[StoredPictures]:
    """What `save_pictures` wrote, one for each clip."""
    stored = StoredArray.open(path)
    return [StoredPictures(stored, int(first)) for first in np.cumsum(n_frames) - n_frames]
