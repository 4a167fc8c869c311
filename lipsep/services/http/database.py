"""Where a server's jobs are written down: an SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from lipsep.errors import OutputError


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


class Database:
    """One connection to a file, which several threads may use; locked, so that no second server takes its jobs.

    Raises:
        OutputError: it cannot be used, or another server uses it.
    """

    def __init__(self, path: Path) -> None:
        self._lock, self._path = threading.Lock(), path
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("BEGIN EXCLUSIVE")  # the lock is kept until the connection is closed
            self._db.execute("COMMIT")
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise OutputError(f"cannot use '{path}' ({error}): another server may; choose another --data") from error
        if found != "ok":
            self._db.close()
            raise OutputError(f"'{path}' is damaged ({_one_line(found)}): restore a copy, or choose another --data")

    def run(self, statement: str, values: tuple = ()) -> list[dict[str, Any]]:
        """Do it at once and for good, with `values` in the places written as ?; rows as dicts.

        Raises:
            OutputError: it cannot be done: the disk is full, or the database is damaged.
        """
        try:
            with self._lock:
                return [dict(row) for row in self._db.execute(statement, values).fetchall()]
        except sqlite3.Error as error:
            raise OutputError(
                f"cannot use '{self._path}' ({_one_line(error)}): free some space, or restore it"
            ) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()
