"""The command line. It only translates: options into calls, progress into bars, errors into one line."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import lipsep
from lipsep.commands.compare import compare
from lipsep.commands.evaluate import evaluate
from lipsep.commands.export import export
from lipsep.commands.mixtures import mixtures
from lipsep.commands.plot import plot
from lipsep.commands.prepare import prepare
from lipsep.commands.pretrain import pretrain
from lipsep.commands.profile import profile
from lipsep.commands.separate import separate
from lipsep.commands.serve import serve
from lipsep.commands.terminal import Device, Stopped, Threads, complain, needs_extra, open_separator, progress
from lipsep.commands.web import web
from lipsep.errors import plain_reason
from lipsep.system.environment import before_torch

# torch, OpenCV and the models are imported inside the commands, so that --help and typing errors answer at once

app = typer.Typer(
    name="lipsep",
    help="A video goes in; for every person who is visible, that person's voice comes out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULT_WEIGHTS_NOTE = (
    "The default weights learned from one filmed talker: they take mixtures of that talker apart by about 6 dB, those "
    "of strangers by about 2 dB, and leave the other voice audible; see MODELS.md for figures and other weights."
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lipsep {lipsep.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    pass


app.command()(separate)


@app.command()
def models() -> None:
    """List the models and the weights that are at hand, with licence and size."""
    import torch

    from lipsep.checkpoints.folder import available_weights
    from lipsep.models import create_model, list_models

    typer.echo("models, for lipsep.create_model and recipes:")
    for name in list_models():
        with torch.device("meta"):  # sizes only, nothing is computed
            model = create_model(name)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        typer.echo(f"  {name}: {n_parameters / 1e6:.2f} M parameters, lips by recipe {model.lip_recipe}")
    typer.echo("weights, for separate --model:")
    for entry in available_weights():
        typer.echo(f"  {entry.name}: {entry.size / 1e6:.1f} MB, {entry.licence}; {entry.provenance}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, for example recipes/laptop/dolphin_laptop_together.yaml.")],
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")] = False,
) -> None:
    """Train a model by a recipe, or go on with an unfinished run of it."""
    before_torch()
    with needs_extra("training"):
        from lipsep.training import train as run_training

        folder = run_training(recipe, resume=not restart)
    typer.echo(f"trained: '{folder}'; use it with  lipsep separate FILE --model '{folder}'")


app.command()(evaluate)
app.command()(export)
app.command()(web)
app.command()(serve)
app.command()(compare)
app.command()(profile)
app.add_typer(plot, name="plot")
app.command()(prepare)
app.command()(mixtures)
app.command()(pretrain)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the results go.")] = Path("demo_output"),
    model: Annotated[str | None, typer.Option(help="Another model than the default.", show_default=False)] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Separate the bundled clip of two people, of which the clean voices are known, and say how well it went."""
    separator = open_separator(model, device, threads)
    from lipsep.commands.bundled_clip import run_demo

    with progress("the bundled clip") as hook:
        reached = run_demo(separator, out, hook)
    for person, (before, gain) in enumerate(zip(reached.si_snr_before_db, reached.si_snri_db, strict=True), 1):
        typer.echo(
            f"person {person} from the left: {before:+.1f} dB in the mixture, {before + gain:+.1f} dB after: "
            f"SI-SNRi {gain:+.1f} dB"
        )
    typer.echo(f"look at  {out / 'overview.png'}\nlisten to  {out / 'speaker_1.wav'}  and  {out / 'speaker_2.wav'}")
    if model is None:
        typer.echo(DEFAULT_WEIGHTS_NOTE)


def main() -> None:
    """Entry point: 0 done, 1 refused or failed for a reason that is told, 2 wrong usage or a defect, 130 Ctrl-C."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = ["--debug"] * debug + [a for a in arguments if a != "--debug"]  # may stand anywhere
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, Stopped.on_signal)
    try:
        app(arguments)
    except (Exception, Stopped) as error:
        if Stopped.signal_number is not None:
            what = "stopped; what was unfinished is removed, the same command starts it again"
            _leave(128 + Stopped.signal_number, what)
        if debug:
            raise
        reason = plain_reason(error)
        if reason is not None:
            _leave(1, reason)
        _leave(2, f"unexpected {type(error).__name__}: {error}; run with --debug for the traceback")


def _leave(code: int, message: str) -> None:
    complain(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
