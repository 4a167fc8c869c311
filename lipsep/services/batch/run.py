"""Separating many files with several processes, here or on a cluster, and the log of it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lipsep.separation.options import Options
from lipsep.services.batch.inputs import Task
from lipsep.services.process import Outcome, WorkerProcess
from lipsep.system.cluster import on_ray
from lipsep.system.outputs import writing_to

LOG = "batch.jsonl"

Progress = Callable[[int, Task, str, int, "int | None"], None]


def run_tasks(
    tasks: Sequence[Task],
    options: Options,
    *,
    model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    weights: Sequence[str] = (),
    n_jobs: int = 1,
    time_limit_s: float | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Task, Outcome]]:
    """Separate every file; outcomes come as they are ready, in any order. What goes wrong with one file stays with it.

    Args:
        options: for all files.
        model, device, threads, weights: of each process, see `lipsep.services.opening.open_separator`.
        n_jobs: processes.
        time_limit_s: for one file.
        progress: called as `progress(job, task, step, completed, total)`, from several threads.

    Raises:
        LipsepError: the model cannot be loaded at all; nothing is done then.
    """
    workers = [WorkerProcess(model, device, threads, weights) for _ in range(min(n_jobs, len(tasks)))]
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    outcomes: queue.SimpleQueue[tuple[Task, Outcome]] = queue.SimpleQueue()
    stop = threading.Event()

    def work(job: int, worker: WorkerProcess) -> None:
        while not stop.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                break
            tell = (lambda *step, task=task: progress(job, task, *step)) if progress else None
            outcomes.put(
                (
                    task,
                    worker.separate(
                        task.source, task.out, options, progress=tell, stop=stop, time_limit_s=time_limit_s
                    ),
                )
            )
        worker.close()

    threads_of_jobs = [threading.Thread(target=work, args=pair) for pair in enumerate(workers)]
    try:
        workers[0].start()
        for thread in threads_of_jobs:
            thread.start()
        for _ in tasks:
            yield _next(outcomes)
    finally:
        stop.set()
        for thread in threads_of_jobs:
            if thread.ident is not None:
                thread.join()
        for worker in workers:
            worker.close()


def run_tasks_on_ray(
    address: str,
    tasks: Sequence[Task],
    options: Mapping[str, Any],
    *,
    model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    weights: Sequence[str] = (),
    n_jobs: int | None = None,
    time_limit_s: float | None = None,
) -> Iterator[tuple[Task, Outcome]]:
    """`run_tasks` on a Ray cluster, whose machines see the same files under the same names.

    Args:
        address: see `lipsep.system.cluster.on_ray`.
        threads: of each process; None: 1.
        n_jobs: processes; None: one per graphics processor where `device` allows and there are any, else one per core.

    Raises:
        LipsepError: the model cannot be loaded, or the cluster cannot be used.
    """
    if model is not None and Path(model).exists():
        model = str(Path(model).absolute())
    settings = {"model": model, "device": device, "threads": threads or 1}
    settings["weights"] = [str(Path(path).absolute()) for path in weights]
    asked = {Task(task.source.absolute(), task.out.absolute()): task for task in tasks}
    make_work = partial(_separating, settings, options, time_limit_s)
    gpus = device.startswith(("auto", "cuda"))
    for task, outcome in on_ray(address, list(asked), make_work, n_actors=n_jobs, threads=threads or 1, gpus=gpus):
        yield asked[task], outcome


def _separating(settings: Mapping[str, Any], options: Options, time_limit_s: float | None) -> Callable[[Task], Outcome]:
    worker = WorkerProcess(**settings)

    def separate(task: Task) -> Outcome:
        worker.start()  # a model that cannot be loaded ends it all
        return worker.separate(task.source, task.out, options, time_limit_s=time_limit_s)

    return separate


class BatchLog:
    """OUT/batch.jsonl: a line of JSON for each file as soon as it is finished, runs after one another.

    Keys: run (when it began, UTC), source, out, status ("done", "already done", "failed"), seconds; when done people,
    duration_s, warnings; when failed kind, message.
    """

    def __init__(self, out: Path) -> None:
        self.path, self._run = out / LOG, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.n_of: Counter[str] = Counter()  # by status
        self.failures: list[tuple[Task, Outcome]] = []
        self.sound_s = 0.0  # length of what was separated in this run
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                end = file.seek(0, 2)
                file.seek(max(0, end - 1))
                if file.read(1) not in (b"", b"\n"):  # a run was killed while it wrote
                    file.write(b"\n")

    def add(self, task: Task, outcome: Outcome) -> None:
        row: dict[str, Any] = {"run": self._run, "source": str(task.source), "out": str(task.out)}
        row |= {"status": outcome.status, "seconds": outcome.seconds}
        if outcome.status == "failed":
            self.failures.append((task, outcome))
            row |= {"kind": outcome.kind, "message": outcome.message}
        elif outcome.report:
            duration_s = outcome.report["input"]["duration_s"]
            row |= {"people": len(outcome.report["tracks"]), "duration_s": duration_s}
            row["warnings"] = outcome.report["warnings"]
            self.sound_s += duration_s if outcome.status == "done" else 0.0
        self.n_of[outcome.status] += 1
        with writing_to(self.path.parent), self.path.open("ab") as file:
            # names that are no UTF-8 (LC_ALL=C, old disks) hold half surrogates: \udcfc is how JSON writes these
            file.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")


def _next(outcomes: queue.SimpleQueue) -> tuple[Task, Outcome]:
    while True:  # waits in small steps: signals are answered in between on every system
        try:
            return outcomes.get(timeout=0.5)
        except queue.Empty:
            continue
