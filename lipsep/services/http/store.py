"""The jobs of a server in a database: they survive its end, and are taken up again at its next start."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipsep.services.http.database import Database
from lipsep.system.outputs import writing_to

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
STATUSES = (WAITING, RUNNING, DONE, FAILED)
_TABLE = """CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, status TEXT NOT NULL, name TEXT NOT NULL, options TEXT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    ended_s DOUBLE PRECISION, message TEXT NOT NULL DEFAULT '', report TEXT NOT NULL DEFAULT '{}')"""


class JobStore:
    """Jobs as dicts with the columns of the table; `options` and `report` are JSON objects, {} where they are damaged.

    All methods raise OutputError where the database cannot be used.

    Args:
        folder: holds jobs.sqlite and a folder of files for each job; made if needed.

    Raises:
        OutputError: the folder or the database cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = Database(folder / "jobs.sqlite")
        self._db.run(_TABLE)
        # what ran when the server ended is done again, in its old place of the queue
        self._db.run("UPDATE jobs SET status = ? WHERE status = ?", (WAITING, RUNNING))

    def add(self, name: str, options: Mapping[str, Any], new_id: str) -> dict[str, Any]:
        """A new job at the end of the queue."""
        row = (new_id, WAITING, name, json.dumps(dict(options)), time.time())
        self._db.run(
            "INSERT INTO jobs (id, number, status, name, options, created_s) VALUES "
            "(?, (SELECT COALESCE(MAX(number), 0) + 1 FROM jobs), ?, ?, ?, ?)",
            row,
        )
        return self.get(new_id)

    def get(self, job_id: str) -> dict[str, Any] | None:
        """One job, or None."""
        rows = self._db.run("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _decoded(rows[0]) if rows else None

    def ids(self) -> set[str]:
        """Of all jobs."""
        return {row["id"] for row in self._db.run("SELECT id FROM jobs")}

    def take(self) -> dict[str, Any] | None:
        """The job that has waited longest, running from now on; None if none waits."""
        rows = self._db.run(
            "UPDATE jobs SET status = ? WHERE id = (SELECT id FROM jobs WHERE status = ? ORDER BY number LIMIT 1) "
            "RETURNING *",
            (RUNNING, WAITING),
        )
        return _decoded(rows[0]) if rows else None

    def end(self, job_id: str, status: str, report: Mapping[str, Any], message: str) -> None:
        """Note how a job ended, unless it is gone."""
        self._db.run(
            "UPDATE jobs SET status = ?, report = ?, message = ?, ended_s = ? WHERE id = ?",
            (status, json.dumps(dict(report)), message, time.time(), job_id),
        )

    def remove(self, job_id: str) -> None:
        self._db.run("DELETE FROM jobs WHERE id = ?", (job_id,))

    def ended_before(self, time_s: float) -> list[str]:
        """Ids of jobs that ended earlier (seconds since 1970)."""
        return [row["id"] for row in self._db.run("SELECT id FROM jobs WHERE ended_s < ?", (time_s,))]

    def n_ahead(self, job: Mapping[str, Any]) -> int:
        """How many jobs wait before this one."""
        rows = self._db.run("SELECT COUNT(*) AS n FROM jobs WHERE status = ? AND number < ?", (WAITING, job["number"]))
        return rows[0]["n"]

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        found = {
            row["status"]: row["n"] for row in self._db.run("SELECT status, COUNT(*) AS n FROM jobs GROUP BY status")
        }
        return {status: found.get(status, 0) for status in STATUSES}

    def close(self) -> None:
        self._db.close()


def new_id() -> str:
    """An address that nobody can guess: 192 random bits."""
    return secrets.token_urlsafe(24)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "options": _json_object(row["options"]), "report": _json_object(row["report"])}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
