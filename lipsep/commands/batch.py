"""`lipsep separate` for folders, with --jobs and with --ray: bars, a line for each file, and a summary."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lipsep.commands.terminal import Lines, account, complain, is_quiet
from lipsep.constants import STEP_NAMES
from lipsep.errors import OutputError
from lipsep.separation.options import Options
from lipsep.system.environment import Stopped

if TYPE_CHECKING:
    from lipsep.services.batch.inputs import Task
    from lipsep.services.batch.run import BatchLog, Progress

MAX_ROWS = 30  # of failures in the summary; the log has them all


def separate_batch(
    tasks: Sequence[Task],
    out: Path,
    options: Options,
    *,
    model: str | None,
    device: str,
    threads: int | None,
    weights: Sequence[Path],
    n_jobs: int | None,
    time_limit_s: float | None,
    ray: str | None,
) -> None:
    """Separate many files, tell what becomes of each, and sum up.

    Args:
        n_jobs: processes; None: 1, or with `ray` as many as its machines have room for.
        ray: address of a cluster, see `lipsep.system.cluster.on_ray`; None: this machine alone.

    Raises:
        OutputError: some files failed, or OUT cannot be written. ModelError: the model cannot be loaded.
    """
    from lipsep.services.batch.run import BatchLog, run_tasks, run_tasks_on_ray

    log, start_s = BatchLog(out), time.monotonic()
    common = {"model": model, "device": device, "weights": [str(path) for path in weights]}
    common["time_limit_s"] = time_limit_s
    n_here = 0 if ray else min(n_jobs or 1, len(tasks))
    with _bars(len(tasks), n_here) as (progress, advance):
        if ray:
            outcomes = run_tasks_on_ray(ray, tasks, options, threads=threads, n_jobs=n_jobs, **common)
        else:
            threads = threads or max(1, _n_processors() // n_here)
            outcomes = run_tasks(tasks, options, threads=threads, n_jobs=n_here, progress=progress, **common)
        for task, outcome in outcomes:
            Stopped.check()
            log.add(task, outcome)
            advance()
            if outcome.status == "failed":
                complain(f"{task.source}: {outcome.message}")
            elif outcome.status == "already done":
                typer.echo(f"{task.source}: already done in '{task.out}'")
            else:
                report = outcome.report
                typer.echo(f"{task.source}: {account(len(report['tracks']), report)}; results in '{task.out}'")
    _print_summary(log, len(tasks), time.monotonic() - start_s)
    if log.failures:
        raise OutputError(
            f"{len(log.failures)} of {len(tasks)} files could not be separated; the same command tries them again"
        )


def _print_summary(log: BatchLog, n_files: int, seconds: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, title=f"{n_files} files", title_justify="left")
    for name, justify in ("what became of them", "left"), ("files", "right"):
        table.add_column(name, justify=justify)
    for status in ("done", "already done", "failed"):
        table.add_row(status, str(log.n_of[status]))
    console = Console()
    console.print(table)
    if log.failures:
        failed = Table("file", "reason", box=box.SIMPLE, title="failed", title_justify="left")
        for task, outcome in log.failures[:MAX_ROWS]:
            failed.add_row(Text(str(task.source)), Text(f"{outcome.kind}: {outcome.message}"))
        console.print(failed)
        if len(log.failures) > MAX_ROWS:
            typer.echo(f"and {len(log.failures) - MAX_ROWS} more")
    if log.sound_s:
        typer.echo(f"{log.sound_s:.0f} s of video in {seconds:.0f} s: {seconds / log.sound_s:.2f} s for each second")
    typer.echo(f"log: {log.path}")


@contextmanager
def _bars(n_files: int, n_jobs: int) -> Iterator[tuple[Progress, Any]]:
    """A bar for all files and one for each job on a terminal, a line every so often elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, disable=is_quiet() or not console.is_terminal) as bars:
        whole = bars.add_task("files", total=n_files)
        jobs = [bars.add_task("starting", total=None) for _ in range(n_jobs)]

        lines = Lines(console.is_terminal)

        def progress(job: int, task: Task, step: str, completed: int, total: int | None) -> None:
            n_done = int(bars.tasks[0].completed)
            lines.tell(f"{n_done} of {n_files} files done, {task.source.name}", step, completed, total)
            description = f"{task.source.name}: {STEP_NAMES.get(step, step)}"
            bars.update(jobs[job], description=description, completed=completed, total=total)

        yield progress, lambda: bars.advance(whole)


def _n_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
