"""Where a server's jobs are written down: an SQLite file, or PostgreSQL by its URL. Statements suit both."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any, Protocol

from lipsep.errors import OutputError, needs_extra

_ONE_SERVER = 0x6C697073  # "lips": the key of PostgreSQL's advisory lock that a server holds as long as it lives


class Database(Protocol):
    """One connection, which several threads may use; places for values are written as ?."""

    def run(self, statement: str, values: tuple = ()) -> list[dict[str, Any]]:
        """Do it at once and for good; rows as dicts.

        Raises:
            OutputError: it cannot be done: the disk is full, the database is damaged, gone or another program's.
        """

    def close(self) -> None: ...


def open_database(file: Path, url: str | None = None) -> Database:
    """The database at `url` (postgresql://user:password@host/name), or else the SQLite `file`.

    Raises:
        OutputError: it cannot be used, or another server uses it. ModelError: psycopg is not installed.
    """
    if url is None:
        return SqliteDatabase(file)
    if not url.startswith(("postgresql://", "postgres://")):
        raise OutputError("the database's URL must begin with postgresql:// ; without one, SQLite is used")
    return PostgresDatabase(url)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


class SqliteDatabase:
    """A file; locked, so that no second server takes its jobs."""

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


class PostgresDatabase:
    """A PostgreSQL database; a connection that was lost is made anew."""

    def __init__(self, url: str) -> None:
        with needs_extra("a PostgreSQL database", "postgres"):
            import psycopg
            import psycopg.rows
        self._psycopg, self._url, self._lock = psycopg, url, threading.Lock()
        self._db = self._connect()

    def run(self, statement: str, values: tuple = ()) -> list[dict[str, Any]]:
        statement = statement.replace("?", "%s")
        with self._lock:
            try:
                return self._execute(statement, values)
            except self._psycopg.OperationalError:
                self._db.close()
                self._db = self._connect()
                return self._execute(statement, values)
            except self._psycopg.Error as error:
                raise OutputError(f"cannot use the PostgreSQL database ({_one_line(error)})") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _execute(self, statement: str, values: tuple) -> list[dict[str, Any]]:
        cursor = self._db.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def _connect(self) -> Any:
        try:
            db = self._psycopg.connect(
                self._url, autocommit=True, connect_timeout=10, row_factory=self._psycopg.rows.dict_row
            )
            locked = db.execute("SELECT pg_try_advisory_lock(%s) AS locked", (_ONE_SERVER,)).fetchone()["locked"]
        except self._psycopg.Error as error:
            reason = str(error).splitlines()[0]
            raise OutputError(
                f"cannot use the PostgreSQL database ({reason}): check its URL and that it runs"
            ) from error
        if not locked:
            db.close()
            raise OutputError("another server uses this PostgreSQL database: give each server one of its own")
        return db
