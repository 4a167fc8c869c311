"""What every command of the command line shares: options, progress bars, one-line errors, the way to stop."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipsep.errors import ModelError
from lipsep.system.environment import before_torch

if TYPE_CHECKING:
    from lipsep.separator import Separator

STEP_NAMES = {
    "read": "reading the sound",
    "faces": "finding faces",
    "lips": "reading lips",
    "mixtures": "scoring mixtures",
    "separate": "separating voices",
    "write": "writing results",
}

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps; auto is CUDA where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads to use; default: all.")]

Ray = Annotated[
    str | None,
    typer.Option(help="Share the work out by Ray: local (all cores or GPUs of this machine), or a cluster's address."),
]


class Stopped(BaseException):
    """Ctrl-C or a request to end: unwinds everything, so that temporary files go. (typer would swallow the usual one.)

    Libraries in C sometimes lose an exception that a signal throws into them, or make another one of it; therefore
    the number of the signal is kept, and looked at again at every step of progress and at the end.
    """

    signal_number: int | None = None

    @classmethod
    def on_signal(cls, number: int, _: object) -> None:
        cls.signal_number = number
        signal.signal(number, signal.SIG_DFL)  # asked twice, the process ends at once
        raise cls

    @classmethod
    def check(cls) -> None:
        if cls.signal_number is not None:
            raise cls


def complain(message: str) -> None:
    """One line on stderr, red on a terminal."""
    typer.secho("lipsep: " + " ".join(message.split()), fg="red", err=True)


def account(n_people: int, report: dict[str, Any]) -> str:
    """What a run found and how long it took, in a few words."""
    people = f"{n_people} {'person' if n_people == 1 else 'people'}"
    return f"{people}, {report['input']['duration_s']:.1f} s of video in {report['seconds']['total']:.1f} s"


def open_separator(
    model: str | None, device: str, threads: int | None, weights: Sequence[str | os.PathLike] = ()
) -> Separator:
    """The main path with this model (default: the weights that ship) on this device.

    Args:
        weights: files of the authors' weights for the registered model named `model`.
    """
    before_torch()
    import cv2
    import torch

    from lipsep.separator import DEFAULT_MODEL, Separator

    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    if weights:
        from lipsep.checkpoints.folder import load_published

        if model is None:
            raise ModelError("--weights needs --model, to say whose they are; see 'lipsep models'")
        return Separator(load_published(model, weights), device)
    return Separator(model or DEFAULT_MODEL, device)


@contextmanager
def needs_extra(what: str, extra: str = "train") -> Iterator[None]:
    """Say which optional part of lipsep is missing, where a package that `what` needs is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lipsep"):
            raise
        raise ModelError(f"{what} needs the package '{error.name}': run  pip install 'lipsep[{extra}]'") from error


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
