"""`lipsep separate`: videos go in; for every person who is visible, that person's voice comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.batch import separate_batch
from lipsep.commands.export import check_runtime
from lipsep.commands.terminal import Device, Ray, Threads, account, complain, note, progress, takes_options
from lipsep.errors import LipsepError, ModelError, OutputError
from lipsep.separation.options import Options
from lipsep.services.batch.inputs import find_tasks
from lipsep.services.opening import open_separator


@takes_options
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
    device: Device = "auto",
    runtime: Annotated[
        str | None,
        typer.Option(help="torch; or onnx, with --model a file of 'lipsep export'.", show_default=False),
    ] = None,
    threads: Threads = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also search the folders inside a folder.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Separate so many files at a time, each in a process of its own.")
    ] = None,
    ray: Ray = None,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Give up a file after so many seconds; with --jobs, --ray or a folder.")
    ] = None,
    released_input: Annotated[list[Path] | None, typer.Option("--input", hidden=True)] = None,
    released_cuda_device: Annotated[int | None, typer.Option("--cuda-device", hidden=True)] = None,
    released_config: Annotated[Path | None, typer.Option("--config", hidden=True)] = None,
    *,
    options: Options,
) -> None:
    """Separate the voices of everyone who is visible in each INPUT.

    OUT/FILE/ receives speaker_1.wav, speaker_1.mp4, ..., residual.wav (what nobody visible said), overview.png (who is
    who) and report.json. Finished work is left alone unless --overwrite is given. With a folder as INPUT, --jobs or
    --ray, failures and crashes stay with their file, and OUT/batch.jsonl tells what became of each.
    """
    sources = [*(inputs or []), *(released_input or [])]
    if not sources:
        raise typer.BadParameter("name at least one video file", param_hint="INPUT")
    tasks = find_tasks(sources, out, recursive)
    check_runtime(runtime, model)
    if released_cuda_device is not None:
        device = f"cuda:{released_cuda_device}" if released_cuda_device >= 0 else "cpu"
    if released_config is not None and model is None:
        model = _model_beside(released_config)
    if jobs or ray or any(source.is_dir() for source in sources):
        separate_batch(
            tasks,
            out,
            options,
            model=model,
            device=device,
            threads=threads,
            weights=weights or [],
            n_jobs=jobs,
            time_limit_s=time_limit,
            ray=ray,
        )
        return
    if len(tasks) == 1:
        from lipsep.media.containers import checked_path

        checked_path(tasks[0].source)  # at once: PyTorch and weights take seconds to load
    separator = open_separator(model, device, threads, weights or [])

    failed = 0
    for source, folder in ((task.source, task.out) for task in tasks):
        try:
            with progress(source.name) as hook:
                result = separator(source, folder, options=options, hook=hook)
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
            note(warning)
        typer.echo(
            f"{source.name}: {account(len(result.tracks), result.report)}; "
            f"results in '{folder}', begin with overview.png"
        )
    if failed:
        raise OutputError(f"{failed} of {len(sources)} files could not be separated, see above")


def _model_beside(config: Path) -> str | None:
    """The released script's --config: a folder, or a file beside the weights; lipsep reads settings from there."""
    folder = config if config.is_dir() else config.parent
    if (folder / "model.safetensors").is_file():
        return str(folder)
    raise ModelError(
        f"--config '{config}': no model.safetensors beside it; use --model with a name from 'lipsep models'"
    )
