"""How much of the disk visitors may fill, each of them and all together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


class NoRoomError(Exception):
    """What would be stored is too much; the message is for the visitor."""


class Room:
    """Counts what lies on the disk, results included, and what is on its way there.

    Args:
        folder: in which everything lies that visitors store.
        total_bytes, visitor_bytes: of all, and of one.
        folders_of: where the files of a visitor lie.
    """

    def __init__(
        self, folder: Path, total_bytes: int, visitor_bytes: int, folders_of: Callable[[str], Iterable[Path]]
    ) -> None:
        self._folder, self._total_bytes, self._visitor_bytes = folder, total_bytes, visitor_bytes
        self._folders_of = folders_of
        self._coming: Counter[str] = Counter()  # bytes on their way, by visitor
        self._lock = threading.Lock()

    def take(self, visitor: str, n_bytes: int) -> None:
        """Hold so many bytes for a visitor while they arrive, until they are given back.

        Raises:
            NoRoomError: they are too many for this visitor, or for all together.
        """
        with self._lock:
            own = self._coming[visitor] + sum(map(_size, self._folders_of(visitor)))
            if own + n_bytes > self._visitor_bytes:
                raise NoRoomError(
                    f"you have {own / 2**20:.0f} MB here, and one visitor may have {self._visitor_bytes / 2**20:.0f}: "
                    "remove something, or come back later"
                )
            if sum(self._coming.values()) + _size(self._folder) + n_bytes > self._total_bytes:
                raise NoRoomError("there is no room for more files at present: come back later")
            self._coming[visitor] += n_bytes

    def give_back(self, visitor: str, n_bytes: int) -> None:
        """They have arrived, or do not come."""
        with self._lock:
            self._coming[visitor] -= n_bytes
            if not self._coming[visitor]:
                del self._coming[visitor]


def _size(folder: Path) -> int:
    """Bytes of all files below; those that vanish meanwhile do not count."""
    n_bytes = 0
    with suppress(OSError):
        for path in folder.rglob("*"):
            with suppress(OSError):
                n_bytes += path.lstat().st_size
    return n_bytes
