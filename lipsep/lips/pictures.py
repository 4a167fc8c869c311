"""One person's lip pictures, read piece by piece."""

from __future__ import annotations

import numpy as np

from lipsep.lips.drawing import picture_mouth
from lipsep.lips.recipes import LipRecipe, normalise_picture
from lipsep.system.spool import Spool


class Lips:
    """One person's lip pictures, read piece by piece.

    Attributes:
        n_frames: F.
        valid: (F,) bool; False where there is no usable mouth and `read` gives zeros.
    """

    def __init__(self, valid: np.ndarray, size: int) -> None:
        self.valid = valid
        self.n_frames = len(valid)
        self._size = size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Pictures of frames start..stop-1 as float32 (stop - start, S, S), normalised; zeros where not valid.

        Raises:
            ValueError: the range does not lie in 0..F.
        """
        if not 0 <= start <= stop <= self.n_frames:
            raise ValueError(f"frames {start}..{stop} do not lie in 0..{self.n_frames}")
        lips = normalise_picture(self._pictures(start, stop))
        lips[~self.valid[start:stop]] = 0
        return lips

    def _pictures(self, start: int, stop: int) -> np.ndarray:
        """uint8 (stop - start, S, S), anything where not valid."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the pictures occupy; `read` must not be called any more."""

    def __enter__(self) -> Lips:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DrawnLips(Lips):
    """Mouths drawn from their points when they are read."""

    def __init__(self, points: np.ndarray, valid: np.ndarray, recipe: LipRecipe) -> None:
        """points: (F, 20, 2) as `normalise_mouth` gives them, from memory or mapped from a file."""
        super().__init__(valid, recipe.size)
        self._points, self._recipe = points, recipe

    def _pictures(self, start: int, stop: int) -> np.ndarray:
        return picture_mouth(self._points[start:stop], self._recipe)


class FilmedLips(Lips):
    """Mouths cut from a video, kept in a temporary file that vanishes when closed or forgotten."""

    def __init__(self, pictures: Spool, valid: np.ndarray, size: int) -> None:
        """pictures: F of them, uint8 (size, size)."""
        super().__init__(valid, size)
        self._kept = pictures

    def _pictures(self, start: int, stop: int) -> np.ndarray:
        return self._kept.read(start, stop)

    def close(self) -> None:
        self._kept.close()
