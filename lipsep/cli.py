"""The command line. It only translates: options into calls, progress into bars, errors into one line."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.compare import compare
from lipsep.commands.demo import demo
from lipsep.commands.download import download
from lipsep.commands.evaluate import evaluate
from lipsep.commands.export import export
from lipsep.commands.mixtures import mixtures
from lipsep.commands.models import models
from lipsep.commands.people import people
from lipsep.commands.plot import plot
from lipsep.commands.prepare import prepare
from lipsep.commands.profile import profile
from lipsep.commands.push import push
from lipsep.commands.separate import separate
from lipsep.commands.serve import serve
from lipsep.commands.terminal import complain, talk
from lipsep.commands.train import pretrain, recipes, train
from lipsep.commands.transcribe import transcribe
from lipsep.commands.web import web
from lipsep.errors import plain_reason
from lipsep.system.environment import Stopped
from lipsep.version import __version__

# torch, OpenCV and the models are imported inside the commands, so that --help and typing errors answer at once

app = typer.Typer(
    name="lipsep",
    help="A video goes in; for every person who is visible, that person's voice comes out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lipsep {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Say more of what happens; -vv: what libraries say too.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Results and errors alone: no bars, no notes.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    talk(-1 if quiet else verbose)


app.command()(separate)
app.command()(people)
app.command()(transcribe)
app.command()(models)
app.command()(train)
app.command()(evaluate)
app.command()(export)
app.command()(push)
app.command()(web)
app.command()(serve)
app.command()(compare)
app.command()(profile)
app.add_typer(plot, name="plot")
app.command()(download)
app.command()(prepare)
app.command()(mixtures)
app.command()(pretrain)
app.command()(recipes)
app.command()(demo)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 refused or failed for a reason that is told, 2 wrong usage or a defect, 130
    Ctrl-C, 143 SIGTERM."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = ["--debug"] * debug + [a for a in arguments if a != "--debug"]  # may stand anywhere
    arguments = [f"./{a}" if _is_file_with_dash(a) else a for a in arguments]
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot write (LC_ALL=C, code pages) ends nothing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, Stopped.on_signal)
    try:
        app(arguments, prog_name="lipsep")
    except (Exception, Stopped) as error:
        if Stopped.signal_number is not None:
            _leave(128 + Stopped.signal_number, f"stopped; {Stopped.afterwards}")
        if debug:
            raise
        reason = plain_reason(error)
        if reason is not None:
            _leave(1, reason)
        _leave(2, f"unexpected {type(error).__name__}: {error}; run with --debug for the traceback")


def _is_file_with_dash(argument: str) -> bool:
    """Whether "-holiday.mp4" is a video that lies here, and no option."""
    path = Path(argument)
    return argument.startswith("-") and bool(path.suffix) and path.is_file()


def _leave(code: int, message: str) -> None:
    complain(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
