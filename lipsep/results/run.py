"""One run of the main path: its clip, settings, timings and warnings."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from lipsep.constants import Hook
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.sync import CONFIDENT, CORRECT_MS, Offset
from lipsep.media.clip import ArrayClip, Clip, FileClip
from lipsep.separation.options import Options


def open_clip(source: str | os.PathLike | BinaryIO | tuple[np.ndarray, np.ndarray], options: Options) -> Clip:
    """The clip, or the part and the sound track of it, that is asked for."""
    if isinstance(source, tuple):
        return ArrayClip(*source, options.start, options.end)
    return FileClip(source, options.audio_track, options.start, options.end)


class Run:
    """One call: its input and settings, the progress it reports, the time each step took, what it warned of."""

    def __init__(
        self,
        clip: Clip,
        options: Options,
        settings: dict[str, Any],
        hook: Hook | None,
        on_faces: Callable[[list[FaceTrack]], None] | None,
    ) -> None:
        self.clip, self.options, self.settings = clip, options, settings
        self._hook, self.on_faces = hook, on_faces
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []
        self.n_looked_at = 0  # frames
        self.offset = Offset()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def progress(self, step: str, completed: int, total: int | None) -> None:
        if self._hook:
            self._hook(step, completed, total)

    def counted(self, step: str, items: Iterable, total: int | None) -> Iterator:
        for n, item in enumerate(items, 1):
            yield item
            self.n_looked_at = n
            self.progress(step, n, total)
        self.progress(step, self.n_looked_at, self.n_looked_at)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        warnings.warn(text, stacklevel=3)

    def warn_of_offset(self) -> None:
        """Say what was done about sound and lips that are apart."""
        found_ms, believed = self.offset.found_ms, self.offset.confidence >= CONFIDENT
        if found_ms is not None and self.offset.corrected_ms:
            when = "after" if found_ms > 0 else "before"
            self.warn(f"the sound comes about {abs(found_ms):.0f} ms {when} the lips: corrected; --sync off leaves it")
        elif found_ms is not None and believed and abs(found_ms) > CORRECT_MS:
            self.warn(
                f"sound and lips seem {abs(found_ms):.0f} ms apart, too much to be corrected unasked: try --sync "
                f"{found_ms:.0f}"
            )
