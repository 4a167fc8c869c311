"""Visitors in line for a free process, in the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lipsep.services.process import WorkerProcess


class Line:
    """Who waits for which process.

    Args:
        workers: processes without work.
        n_waiting: visitors who may wait.
    """

    def __init__(self, workers: Iterable[WorkerProcess], n_waiting: int) -> None:
        self.free, self.n_waiting = [*workers], n_waiting
        self.waiting: list[Place] = []
        self.moves = threading.Condition()

    @contextmanager
    def place(self) -> Iterator[Place | None]:
        """A place at the end; None where too many wait. Its process is free again afterwards."""
        place = Place(self)
        with self.moves:
            full = not self.free and len(self.waiting) >= self.n_waiting
            if not full:
                self.waiting.append(place)
        try:
            yield None if full else place
        finally:
            place.leave()


class Place:
    """One visitor's place in a line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._worker: WorkerProcess | None = None

    @property
    def n_before(self) -> int:
        """Visitors who come first."""
        with self._line.moves:
            return self._line.waiting.index(self)

    def worker(self, wait_s: float) -> WorkerProcess | None:
        """The process of this visitor, when it is their turn; None if that does not come within `wait_s`."""
        line = self._line
        with line.moves:
            if self._worker is None and line.moves.wait_for(lambda: line.free and line.waiting[0] is self, wait_s):
                line.waiting.remove(self)
                self._worker = line.free.pop()
                line.moves.notify_all()
            return self._worker

    def leave(self) -> None:
        """The place, and the process, for somebody else."""
        line = self._line
        with line.moves:
            if self in line.waiting:
                line.waiting.remove(self)
            if self._worker is not None:
                line.free.append(self._worker)
                self._worker = None
            line.moves.notify_all()
