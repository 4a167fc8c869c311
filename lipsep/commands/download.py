"""`lipsep download`: a corpus that anybody may have, from where its authors keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import progress
from lipsep.errors import OptionError
from lipsep.system.environment import Stopped


def download(
    corpus: Annotated[str, typer.Argument(help="grid, lombard_grid or crema_d.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for corpora; this one gets a folder of its name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence that is shown without it.")] = False,
) -> None:
    """Download a corpus of filmed talkers: GRID and Lombard GRID from Zenodo, CREMA-D from its repository.

    Licence and size are shown first. The same command goes on where it was cut off; every file is checked against what
    its authors state. 'lipsep prepare' reads all three.
    """
    from lipsep.data.corpora.downloads import download as fetch
    from lipsep.data.corpora.downloads import look_up
    from lipsep.system.fetching import open_client

    Stopped.afterwards = "what has arrived is kept, the same command goes on from there"
    folder = out / corpus
    with open_client() as client:
        offer = look_up(corpus, client)
        typer.echo(f"{offer.corpus.title}\nfrom {offer.corpus.page}\nlicence: {offer.corpus.licence}")
        typer.echo(f"{len(offer.files)} files, {offer.n_bytes / 1e9:.2f} GB, into '{folder}'")
        if not yes:
            raise OptionError("nothing was downloaded: add --yes to accept the licence")
        with progress(corpus) as hook:
            fetch(offer, folder, client, hook)
    typer.echo(f"complete: '{folder}'; find the mouths with  lipsep prepare {corpus} '{folder}' -o FOLDER")
