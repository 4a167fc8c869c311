"""The threads of a server that take jobs from the store and have them separated by processes of their own."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lipsep.errors import OutputError, plain_reason
from lipsep.separation.options import Options
from lipsep.services.http.store import DONE, FAILED, JobStore
from lipsep.services.process import OPENING_LIMIT_S, WorkerProcess

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5  # for new jobs that were not announced, and for old ones
UPLOAD, RESULTS = "input", "results"  # inside a job's folder
_JOB_NAME = re.compile(r"[\w-]{32}")


class Runner:
    """Works through the store's jobs until closed.

    Args:
        workers: processes, one thread each.
        duration_s: longer videos are refused.
        time_limit_s: for one separation.
        keep_s: how long ended jobs and their files stay.

    Raises:
        LipsepError: the model cannot be loaded.
    """

    def __init__(
        self, store: JobStore, workers: list[WorkerProcess], duration_s: float, time_limit_s: float, keep_s: float
    ) -> None:
        self._store, self._workers = store, workers
        self._duration_s, self._time_limit_s, self._keep_s = duration_s, time_limit_s, keep_s
        self._ended, self._news = threading.Event(), threading.Event()
        self._running: dict[str, threading.Event] = {}  # stops a job
        self.progress: dict[str, tuple[str, int, int | None]] = {}  # of running jobs: step, completed, total
        self.totals: Counter[str] = Counter()  # since the start: jobs by status, seconds of work and of video
        self._remove_orphans()
        workers[0].start()
        self._threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in workers]
        for thread in self._threads:
            thread.start()

    def announce(self) -> None:
        """There is a new job."""
        self._news.set()

    def cancel(self, job_id: str) -> None:
        """Stop a job if it runs, and remove it with its files."""
        self._store.remove(job_id)
        stop = self._running.get(job_id)
        if stop:
            stop.set()  # its thread removes the files
        else:
            shutil.rmtree(self._store.folder / job_id, ignore_errors=True)

    def close(self) -> None:
        """Stop; jobs that run are done again by the next server."""
        self._ended.set()
        for stop in list(self._running.values()):
            stop.set()
        for thread in self._threads:  # each ends its process within the time of grace
            thread.join()
        for worker in self._workers:
            worker.close()

    def _work(self, worker: WorkerProcess) -> None:
        while not self._ended.is_set():
            try:
                job = self._store.take()
                if job is None:
                    self._sweep()
            except OutputError as error:  # the disk is full, perhaps not for long
                log.warning("%s", error)
                job = None
            if job is None:
                self._news.wait(_LOOK_EVERY_S)
                self._news.clear()
                continue
            stop = self._running[job["id"]] = threading.Event()
            if self._ended.is_set():
                return
            try:
                self._separate(worker, job, stop)
            except Exception as error:  # a defect, or an entry that somebody has tampered with: the others are served
                log.exception("job %s", job["id"])
                self._end(job, FAILED, {}, plain_reason(error) or f"unexpected {type(error).__name__}: {error}")
            finally:
                self._running.pop(job["id"], None)
                self.progress.pop(job["id"], None)
            if self._is_cancelled(job, stop):
                shutil.rmtree(self._store.folder / job["id"], ignore_errors=True)

    def _is_cancelled(self, job: dict[str, Any], stop: threading.Event) -> bool:
        try:
            return self._store.get(job["id"]) is None
        except OutputError:
            return stop.is_set() and not self._ended.is_set()

    def _separate(self, worker: WorkerProcess, job: dict[str, Any], stop: threading.Event) -> None:
        folder = self._store.folder / job["id"]
        source = folder / UPLOAD / job["name"]

        def progress(step: str, completed: int, total: int | None) -> None:
            self.progress[job["id"]] = (step, completed, total)

        outcome = worker.separate(
            source,
            folder / RESULTS,
            Options.of(**{**job["options"], "overwrite": True}),
            progress=progress,
            stop=stop,
            time_limit_s=self._time_limit_s,
            opening_limit_s=OPENING_LIMIT_S,
            max_duration_s=self._duration_s,
        )
        if outcome.status == "stopped":
            return None
        self.totals["seconds"] += outcome.seconds
        if outcome.status == "failed":
            return self._end(job, FAILED, {}, outcome.message)
        self.totals["video_seconds"] += outcome.report["input"]["duration_s"]
        return self._end(job, DONE, outcome.report, "")

    def _end(self, job: dict[str, Any], status: str, report: dict[str, Any], message: str) -> None:
        self.totals[status] += 1
        while not self._ended.is_set():
            try:
                self._store.end(job["id"], status, report, message)
                break
            except OutputError as error:  # as above; without this note the job would be done again
                log.warning("%s", error)
                self._ended.wait(_LOOK_EVERY_S)
        shutil.rmtree(self._store.folder / job["id"] / UPLOAD, ignore_errors=True)

    def _remove_orphans(self) -> None:
        """Files of jobs that no list knows: the server was killed between storing an upload and noting it."""
        known = self._store.ids()
        for folder in self._store.folder.iterdir():
            is_job = _JOB_NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
            if is_job and folder.name not in known and {path.name for path in folder.iterdir()} <= {UPLOAD, RESULTS}:
                shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        for job_id in self._store.ended_before(time.time() - self._keep_s):
            self.cancel(job_id)


def result_path(folder: Path, job: dict[str, Any], name: str) -> Path | None:
    """A file of a finished job's results by its name in the report; None if there is none."""
    if name not in (*job["report"].get("files", []), "report.json"):
        return None
    path = folder / job["id"] / RESULTS / name
    return path if path.is_file() else None
