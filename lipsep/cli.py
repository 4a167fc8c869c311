"""The command line. It only translates: options into calls, progress into bars, errors into one line."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import lipsep
from lipsep.batch.inputs import find_tasks
from lipsep.commands.batch import separate_batch
from lipsep.commands.compare import compare
from lipsep.commands.evaluate import evaluate
from lipsep.commands.plot import plot
from lipsep.commands.prepare import prepare
from lipsep.commands.pretrain import pretrain
from lipsep.commands.profile import profile
from lipsep.commands.serve import serve
from lipsep.commands.web import web
from lipsep.errors import LipsepError, ModelError, OutputError, plain_reason
from lipsep.terminal import Device, Stopped, Threads, account, complain, needs_extra, open_separator, progress

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
    "The default weights learned from one filmed talker: they take that talker's mixtures apart by about 3 dB and are "
    "hardly better than chance on other people, such as these; see MODELS.md for figures and for other weights."
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


@app.command()
def separate(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", help="Video files, or folders of them.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", "--output", help="Results of FILE.mp4 go to OUT/FILE/.")] = Path(
        "separated"
    ),
    model: Annotated[
        str | None, typer.Option(help="Name, folder or hub id of the model; see 'lipsep models'.", show_default=False)
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights that --model's authors released; once for each of their files.", show_default=False),
    ] = None,
    speakers: Annotated[
        int | None, typer.Option(min=1, help="Keep the N people seen most; default: everyone who matters.")
    ] = None,
    detect_every_n: Annotated[int, typer.Option(min=1, help="Look for new faces in every n-th frame.")] = 5,
    face_scale: Annotated[float, typer.Option(help="2 finds faces of half the size, more slowly.")] = 1.0,
    device: Device = "auto",
    keep_offscreen: Annotated[
        bool, typer.Option("--keep-offscreen", help="Also hear people while they are not visible.")
    ] = False,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Of a model that refines its answer step by step: fewer are quicker.")
    ] = None,
    rate: Annotated[
        str, typer.Option(help="Voices at 16k (mono), or original: the rate and the channels of the input.")
    ] = "16k",
    video: Annotated[
        str, typer.Option(help="A video per person: none, original, or tracked (boxes drawn in).")
    ] = "original",
    save_artifacts: Annotated[
        bool, typer.Option("--save-artifacts", help="Also write landmarks and the lip pictures the model saw.")
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Picture by picture, hearing the past alone; for causal models.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished work again and replace it.")] = False,
    threads: Threads = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also search the folders inside a folder.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Separate so many files at a time, each in a process of its own.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Give up a file after so many seconds; with --jobs or a folder.")
    ] = None,
    published_input: Annotated[list[Path] | None, typer.Option("--input", hidden=True)] = None,
    published_cuda_device: Annotated[int | None, typer.Option("--cuda-device", hidden=True)] = None,
    published_config: Annotated[Path | None, typer.Option("--config", hidden=True)] = None,
) -> None:
    """Separate the voices of everyone who is visible in each INPUT.

    OUT/FILE/ receives speaker_1.wav, speaker_1.mp4, ..., residual.wav (what nobody visible said), overview.png (who is
    who) and report.json. Finished work is left alone unless --overwrite is given. With a folder as INPUT, or --jobs,
    failures and crashes stay with their file, and OUT/batch.jsonl tells what became of each.
    """
    sources = [*(inputs or []), *(published_input or [])]
    if not sources:
        raise typer.BadParameter("name at least one video file", param_hint="INPUT")
    tasks = find_tasks(sources, out, recursive)
    if published_cuda_device is not None:
        device = f"cuda:{published_cuda_device}" if published_cuda_device >= 0 else "cpu"
    if published_config is not None and model is None:
        model = _model_beside(published_config)
    options = {
        "speakers": speakers,
        "detect_every_n": detect_every_n,
        "face_scale": face_scale,
        "keep_offscreen": keep_offscreen,
        "iterations": iterations,
        "rate": rate,
        "video": video,
        "overwrite": overwrite,
        "save_artifacts": save_artifacts,
        "streaming": streaming,
    }
    if jobs or any(source.is_dir() for source in sources):
        separate_batch(
            tasks,
            out,
            options,
            model=model,
            device=device,
            threads=threads,
            weights=weights or [],
            n_jobs=jobs or 1,
            time_limit_s=time_limit,
        )
        return
    separator = open_separator(model, device, threads, weights or [])

    failed = 0
    for source, folder in ((task.source, task.out) for task in tasks):
        try:
            with progress(source.name) as hook:
                result = separator(source, folder, **options, hook=hook)
        except LipsepError as error:
            if len(sources) == 1:
                raise
            complain(str(error))
            failed += 1
            continue
        if result.skipped:
            typer.echo(f"{source.name}: already done in '{folder}', nothing to do (--overwrite to redo)")
            continue
        for warning in result.report["warnings"]:
            typer.echo(f"note: {warning}", err=True)
        typer.echo(
            f"{source.name}: {account(len(result.tracks), result.report)}; "
            f"results in '{folder}', begin with overview.png"
        )
    if failed:
        raise OutputError(f"{failed} of {len(sources)} files could not be separated, see above")


@app.command()
def models() -> None:
    """List the models and the weights that are at hand, with licence and size."""
    import torch

    from lipsep.checkpoints import available_weights
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
    recipe: Annotated[Path, typer.Argument(help="A recipe, for example recipes/laptop/dolphin_laptop.yaml.")],
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")] = False,
) -> None:
    """Train a model by a recipe, or go on with an unfinished run of it."""
    with needs_extra("training"):
        from lipsep.training import train as run_training

        folder = run_training(recipe, resume=not restart)
    typer.echo(f"trained: '{folder}'; use it with  lipsep separate FILE --model '{folder}'")


app.command()(evaluate)
app.command()(web)
app.command()(serve)
app.command()(compare)
app.command()(profile)
app.add_typer(plot, name="plot")
app.command()(prepare)
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
    from lipsep.demo import run_demo

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


def _model_beside(config: Path) -> str | None:
    """The published script's --config: a folder, or a file beside the weights; lipsep reads settings from there."""
    folder = config if config.is_dir() else config.parent
    if (folder / "model.safetensors").is_file():
        return str(folder)
    raise ModelError(
        f"--config '{config}': no model.safetensors beside it; use --model with a name from 'lipsep models'"
    )


if __name__ == "__main__":
    main()
