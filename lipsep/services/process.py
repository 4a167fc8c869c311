"""Separation in a process of its own, which can crash, hang or be stopped without harm to the program that asks."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lipsep.errors
from lipsep.constants import Hook
from lipsep.errors import LipsepError
from lipsep.separation.options import Options

OnFaces = Callable[[list[dict[str, Any]]], None]

GRACE_S = 5.0  # between asking a process to stop and ending it
SHORT_GRACE_S = 2.0  # of a service, which removes what a process leaves
OPENING_LIMIT_S = 60.0  # of a service, whose files are no larger than an upload
LOOK_EVERY_S = 0.1  # at the clock and at `stop`, while nothing is heard from the process


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    status: str  # "done", "already done", "failed" or "stopped"
    seconds: float
    report: dict[str, Any] = field(default_factory=dict)  # as in report.json, when done
    kind: str = ""  # of a failure: the name of a class in lipsep.errors, "crash", "time limit" or "unexpected"
    message: str = ""  # one line for people, when failed


class WorkerProcess:
    """A process with a model in it, started when first needed and again after it has died.

    Args:
        model, device, threads, weights: see `lipsep.services.opening.open_separator`.
        memory_bytes: that a file may take beyond what the model does (Linux); None: no limit.
        grace_s: between asking the process to stop, so that it tidies up, and ending it.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        weights: Sequence[str] = (),
        memory_bytes: int | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._settings = {"model": model, "device": device, "threads": threads, "weights": list(weights)}
        self._settings["memory_bytes"], self._grace_s = memory_bytes, grace_s
        self._process: subprocess.Popen | None = None

    def start(self, stop: threading.Event | None = None) -> None:
        """Load the model, unless it is loaded.

        Raises:
            LipsepError: of the kind that loading in this process would have raised; also if the process died.
        """
        if self._process is not None and self._process.poll() is None:
            return
        environment = dict(os.environ)
        if self._settings["threads"]:  # read when torch is imported, before it can be told otherwise
            environment["OMP_NUM_THREADS"] = str(self._settings["threads"])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lipsep.services.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process.stdout, self._events), daemon=True).start()
        self._send(self._settings)
        answer = self._answer(stop)
        if answer["event"] == "failed":
            self.close()
            raise getattr(lipsep.errors, answer["kind"], LipsepError)(answer["message"])

    def separate(
        self,
        source: Path,
        out: Path,
        options: Options,
        *,
        progress: Hook | None = None,
        on_faces: OnFaces | None = None,
        stop: threading.Event | None = None,
        time_limit_s: float | None = None,
        opening_limit_s: float | None = None,
        max_duration_s: float | None = None,
        original: Path | None = None,
    ) -> Outcome:
        """One file, like `Separator.__call__`; returns what became of it, whatever that is.

        Args:
            on_faces: called with a dict of "person", "png" (base64) and "presence" for everyone who was found.
            stop: when set, the work is stopped and tidied up.
            time_limit_s: for the separation, without the start of the process.
            opening_limit_s: for finding out what is in the file, until its first sound is read.
            max_duration_s: longer videos fail.
            original: where the sound of the file is to be written too, as WAV in the form of the voices.
        """
        try:
            self.start(stop)
        except LipsepError as error:
            return Outcome("failed", 0.0, kind=type(error).__name__, message=str(error))
        if stop is not None and stop.is_set():
            return Outcome("stopped", 0.0)
        start_s = time.monotonic()
        order = {
            "source": str(source),
            "out": str(out),
            "options": options.model_dump(),
            "max_duration_s": max_duration_s,
        }
        self._send({**order, "original": str(original) if original else None})
        opened_by_s = start_s + opening_limit_s if opening_limit_s else None
        ended_by_s = start_s + time_limit_s if time_limit_s else None
        answer = self._answer(stop, ended_by_s, opened_by_s, progress, on_faces)
        seconds = round(time.monotonic() - start_s, 2)
        if answer["event"] == "done":
            return Outcome("already done" if answer["skipped"] else "done", seconds, answer["report"])
        if answer["event"] == "stopped":
            return Outcome("stopped", seconds)
        if answer["kind"] == "time limit":
            limit_s, what = (opening_limit_s, "to be opened ") if answer["opening"] else (time_limit_s, "")
            answer["message"] = f"'{source.name}' took longer {what}than the time limit of {limit_s:g} s: stopped"
        elif answer["kind"] == "crash":
            answer["message"] = f"'{source.name}': {answer['message']}"
        elif answer["kind"] == "unexpected":
            self.close()  # whatever state it is in
        return Outcome("failed", seconds, kind=answer["kind"], message=answer["message"])

    def close(self) -> None:
        """Ask the process to tidy up and end; end it when it does not."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdin.close()

    def _send(self, content: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died: `_answer` finds out how

    def _answer(
        self,
        stop: threading.Event | None,
        ended_by_s: float | None = None,
        opened_by_s: float | None = None,
        progress: Hook | None = None,
        on_faces: OnFaces | None = None,
    ) -> dict[str, Any]:
        """The event that ends a start or a file; the process is closed when it is stopped or has died."""
        while True:
            if stop is not None and stop.is_set():
                self.close()
                return {"event": "stopped"}
            for deadline_s in (opened_by_s, ended_by_s):
                if deadline_s is not None and time.monotonic() > deadline_s:
                    self.close()
                    return {"event": "failed", "kind": "time limit", "opening": deadline_s is opened_by_s}
            try:
                event = self._events.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                continue
            if event is None:
                process, self._process = self._process, None
                if process is None:  # `close` was called by another thread
                    return {"event": "stopped"}
                process.stdin.close()
                return {"event": "failed", "kind": "crash", "message": _cause_of_death(process.wait())}
            opened_by_s = None
            if event["event"] == "progress":
                if progress is not None:
                    progress(event["step"], event["completed"], event["total"])
            elif event["event"] == "faces":
                if on_faces is not None:
                    on_faces(event["people"])
            else:
                return event


def memory_for_each(n_processes: int) -> int | None:
    """Bytes for each of so many processes, when the system and this one keep a fifth of all; None where unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return int(0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / n_processes)


def _listen(pipe, events: queue.SimpleQueue) -> None:
    with pipe:
        for line in pipe:
            events.put(json.loads(line))
    events.put(None)


def _cause_of_death(code: int) -> str:
    if code == -9:
        return "the system ended the process, most likely for lack of memory: try fewer --jobs or a smaller model"
    if code < 0:
        return f"the process crashed ({signal.Signals(-code).name}): the file is most likely damaged; convert it first"
    return f"the process ended with code {code}"
