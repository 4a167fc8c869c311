"""What every command of the command line shares: options, progress bars, one-line errors, the way to stop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from lipsep.constants import STEP_NAMES
from lipsep.system.environment import Stopped

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps; auto is CUDA where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads to use; default: all.")]

Ray = Annotated[
    str | None,
    typer.Option(help="Share the work out by Ray: local (all cores or GPUs of this machine), or a cluster's address."),
]


def complain(message: str) -> None:
    """One line on stderr, red on a terminal."""
    typer.secho("lipsep: " + " ".join(message.split()), fg="red", err=True)


def account(n_people: int, report: dict[str, Any]) -> str:
    """What a run found and how long it took, in a few words."""
    people = f"{n_people} {'person' if n_people == 1 else 'people'}"
    return f"{people}, {report['input']['duration_s']:.1f} s of video in {report['seconds']['total']:.1f} s"


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """A bar per step on a terminal, nothing elsewhere: `hook(step, completed, total, note="")`.

    Python warnings are kept off the bars; the report has them.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = [TextColumn("{task.description:<18}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()]
    bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    with warnings.catch_warnings(), bars:
        warnings.simplefilter("ignore")
        if console.is_terminal:
            console.print(title, markup=False)
        tasks: dict[str, int] = {}

        def hook(step: str, completed: int, total: int | None, note: str = "") -> None:
            Stopped.check()
            if step not in tasks:
                tasks[step] = bars.add_task(STEP_NAMES.get(step, step), total=total)
            name = f"{STEP_NAMES.get(step, step)} {note}".strip()
            bars.update(tasks[step], completed=completed, total=total, description=name)

        yield hook
