"""`lipsep prepare`: a corpus on disk becomes voices and mouths to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import Ray, complain, progress
from lipsep.errors import MediaError

MAX_SKIPPED = 10  # told on the terminal; corpus.json has them all


def prepare(
    corpus: Annotated[
        str,
        typer.Argument(
            help="folder, grid, lombard_grid, crema_d, lrs2, lrs3, vox2, tcd_timit or ntcd_timit; "
            "of noise: noisex92, wham, demand or esc."
        ),
    ],
    root: Annotated[Path, typer.Argument(help="Where the corpus lies as it is published; folder: any videos.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the shards.")],
    processes: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; default 1, with --ray one per core.")
    ] = None,
    ray: Ray = None,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Keep pictures of mouths and faces, which papers train on; 0.8 GB an hour."),
    ] = False,
    clips_per_shard: Annotated[int, typer.Option(min=1, help="A run that is cut off loses one shard at most.")] = 100,
) -> None:
    """Find the mouths in a corpus of clips with one talker each, and write voices and mouths as shards; or read noise.

    The same command goes on where it was cut off. OUT/corpus.json tells what was skipped and why.
    """
    from lipsep.data.corpora.shards import SUMMARY, prepare_shards

    with progress(root.name) as hook:
        summary = prepare_shards(corpus, root, out, clips_per_shard, processes, hook, pictures, ray)
    for split, of in summary["splits"].items():
        typer.echo(f"{split}: {of['clips']} clips of {of['talkers']} talkers, {of['hours']:.2f} hours")
    skipped = summary["skipped"]
    for entry in skipped[:MAX_SKIPPED]:
        complain(f"skipped {entry['clip']}: {entry['reason']}")
    if skipped:
        typer.echo(f"skipped {len(skipped)} clips, each with its reason in '{out / SUMMARY}'")
    if not any(of["clips"] for of in summary["splits"].values()):
        raise MediaError(f"{root}: none of {len(skipped)} clips could be used, see '{out / SUMMARY}'")
