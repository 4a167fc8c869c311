"""`lipsep people`: who is there, before anything is separated."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import progress, takes_options
from lipsep.separation.options import Options
from lipsep.services.batch.inputs import find_file
from lipsep.system.environment import before_torch


@takes_options
def people(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A video.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Thumbnails of FILE.mp4 go to OUT/FILE/.")] = Path("people"),
    *,
    options: Options,
) -> None:
    """List who is visible in FILE, with a thumbnail of each.

    The numbers are those that `lipsep separate --people 1,3 --name 1=Anna` understands.
    """
    before_torch()
    source = find_file(source)
    from rich.console import Console
    from rich.table import Table

    from lipsep.constants import FPS
    from lipsep.results.people import find_people
    from lipsep.results.report import presence_runs
    from lipsep.results.run import Run, open_clip
    from lipsep.results.voices import file_stem
    from lipsep.system.outputs import writing_to

    clip, folder = open_clip(source, options), out / source.stem
    with tempfile.TemporaryDirectory(prefix="lipsep-") as work, progress(source.name) as hook:
        run = Run(clip, options, {}, hook, None)
        tracks = find_people(run, clip.n_frames, Path(work))
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            pictures = [
                _write_picture(folder / f"{file_stem(t.person, options.names.get(t.person, ''))}.png", t.thumbnail)
                for t in tracks
            ]
    listed = Table("person", "seen", "from", "to", "lips", "picture", box=None)
    for track, picture in zip(tracks, pictures, strict=True):
        runs = presence_runs(track.present)
        listed.add_row(
            options.names.get(track.person, str(track.person)),
            f"{track.present.sum() / FPS:.1f} s",
            f"{runs[0][0]:.1f} s",
            f"{runs[-1][1]:.1f} s",
            "move" if track.lips_move else "hardly move",
            picture.name,
        )
    Console(width=100).print(listed)
    for warning in run.warnings:
        if "hardly move" not in warning:
            typer.echo(f"note: {warning}", err=True)
    typer.echo(f"pictures in '{folder}'; go on with: lipsep separate '{source}' --people 1,2 --name 1=Anna")


def _write_picture(path: Path, thumbnail) -> Path:
    import cv2

    from lipsep.system.outputs import whole_file

    with whole_file(path) as part:
        part.write_bytes(cv2.imencode(".png", thumbnail[..., ::-1])[1].tobytes())
    return path
