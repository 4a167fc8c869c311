"""`lipsep transcribe`: who says what, as subtitles with names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import Device, Threads, progress, takes_options
from lipsep.errors import install_line
from lipsep.separation.options import Options
from lipsep.services.batch.inputs import find_file


@takes_options
def transcribe(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A video, or a folder of finished results.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Results of FILE.mp4 go to OUT/FILE/.")] = Path("separated"),
    whisper: Annotated[
        str, typer.Option(help="Folder with weights of faster-whisper, or a model's name to be fetched.")
    ] = "small",
    language: Annotated[str | None, typer.Option(help="Such as en; default: found out.")] = None,
    model: Annotated[str | None, typer.Option(help="Of the separation; see 'lipsep models'.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    *,
    options: Options,
) -> None:
    """Write down what everybody says: transcript.srt and transcript.vtt beside the voices, each line with its speaker.

    FILE is separated first, unless that is done. Speech is recognised by faster-whisper (pip install
    'lipsep[transcribe]'); without it, every stretch of speech is written as a sound file for another program.
    """
    from lipsep.results.transcript import faster_whisper, transcribe, write_segments, write_transcript
    from lipsep.services.opening import open_separator

    folder = source = find_file(source)
    if not source.is_dir():
        folder = out / source.stem
        with progress(source.name) as hook:
            open_separator(model, device, threads)(source, folder, options=options, hook=hook)
    engine = faster_whisper(whisper, language)
    if engine is None:
        paths = write_segments(folder)
        typer.echo(
            f"{len(paths)} stretches of speech in '{folder / 'segments'}', for a program that recognises speech; with "
            f"faster-whisper ({install_line('transcribe')}) the same command writes subtitles"
        )
        return
    with progress(source.name) as hook:
        lines = transcribe(folder, engine, hook)
    written = write_transcript(folder, lines)
    typer.echo(f"{len(lines)} lines in " + " and ".join(f"'{path}'" for path in written))
