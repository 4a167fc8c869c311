"""What every command of the command line shares: options, progress bars, one-line errors, the way to stop."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import typer

from lipsep.constants import STEP_NAMES
from lipsep.separation.options import Options, variable
from lipsep.system.environment import Stopped

LINE_EVERY_S = 30.0  # of progress that goes to a log

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps; auto is CUDA where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads to use; default: all.")]

Ray = Annotated[
    str | None,
    typer.Option(help="Share the work out by Ray: local (all cores or GPUs of this machine), or a cluster's address."),
]


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option (and environment variable) for each field of `Options`; it gets them as `options`."""
    hints, own = get_type_hints(command, include_extras=True), inspect.signature(command).parameters.values()
    parameters = [each.replace(annotation=hints[each.name]) for each in own if each.name != "options"]
    for name, field in Options.model_fields.items():
        kind, default = field.annotation, field.default
        if get_origin(kind) is Literal or name in ("sync", "start", "end"):  # words, and h:mm:ss
            kind, default = str | None, None if default is None else str(default)
        elif get_origin(kind) is tuple:  # may be repeated
            kind, default = list[str] | None, None
        flag = f"--{name.replace('_', '-')}"
        least = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
        told = typer.Option(flag, min=least, envvar=variable(name), help=field.description, show_envvar=False)
        annotation = Annotated[kind, told]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        asked = {name: given.pop(name) for name in Options.model_fields}
        command(**given, options=Options.of(**asked))

    with_options.__signature__ = inspect.Signature(parameters)  # what typer reads
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


class _ToTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def talk(how_much: int) -> None:
    """Let lipsep's log, and from 2 on that of libraries, reach stderr: -1 errors alone, 0 warnings, 1 and 2 more."""
    log = logging.getLogger("lipsep")
    log.setLevel({-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(how_much, logging.DEBUG))
    if not any(isinstance(handler, _ToTerminal) for handler in log.handlers):
        log.addHandler(_ToTerminal())
    if how_much > 1:
        logging.basicConfig(level=logging.INFO)


@contextmanager
def calm_libraries(*names: str) -> Iterator[None]:
    """Without -v: no adverts of any library, no hints and deprecations of these; their errors still come."""
    if logging.getLogger("lipsep").isEnabledFor(logging.INFO):
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # a level set on their loggers would be set back when they are imported
    try:
        with warnings.catch_warnings():
            for name in names:
                warnings.filterwarnings("ignore", module=rf"{re.escape(name)}(\.|$)")
            yield
    finally:
        logging.disable(before)


def is_quiet() -> bool:
    """Whether -q was given."""
    return not logging.getLogger("lipsep").isEnabledFor(logging.WARNING)


def note(message: str) -> None:
    """Something worth knowing about a result, on stderr."""
    if not is_quiet():
        typer.echo(f"note: {message}", err=True)


def complain(message: str) -> None:
    """One line on stderr, red on a terminal unless NO_COLOR is set."""
    colour = None if os.environ.get("NO_COLOR") else "red"
    typer.secho("lipsep: " + " ".join(message.split()), fg=colour, err=True)


def account(n_people: int, report: dict[str, Any]) -> str:
    """What a run found and how long it took, in a few words."""
    people = f"{n_people} {'person' if n_people == 1 else 'people'}"
    return f"{people}, {report['input']['duration_s']:.1f} s of video in {report['seconds']['total']:.1f} s"


class Lines:
    """Progress where there is no terminal to draw bars on (a log, a pipe): a line every LINE_EVERY_S on stderr."""

    def __init__(self, is_terminal: bool) -> None:
        self._silent, self._last_s = is_terminal or is_quiet(), time.monotonic()

    def tell(self, title: str, step: str, completed: int, total: int | None, note: str = "") -> None:
        now_s = time.monotonic()
        if self._silent or now_s - self._last_s < LINE_EVERY_S:
            return
        self._last_s = now_s
        done = f"{100 * min(completed, total) // total} %" if total else str(completed)
        typer.echo(" ".join(f"{title}: {STEP_NAMES.get(step, step)} {done} {note}".split()), err=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """A bar per step on a terminal, a line every so often elsewhere: `hook(step, completed, total, note="")`.

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
    bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=is_quiet() or not console.is_terminal)
    with warnings.catch_warnings(), bars:
        warnings.simplefilter("ignore")
        if console.is_terminal and not is_quiet():
            console.print(title, markup=False)
        tasks: dict[str, int] = {}
        lines = Lines(console.is_terminal)

        def hook(step: str, completed: int, total: int | None, note: str = "") -> None:
            Stopped.check()
            lines.tell(title, step, completed, total, note)
            if step not in tasks:
                tasks[step] = bars.add_task(STEP_NAMES.get(step, step), total=total)
            name = f"{STEP_NAMES.get(step, step)} {note}".strip()
            bars.update(tasks[step], completed=completed, total=total, description=name)

        yield hook
