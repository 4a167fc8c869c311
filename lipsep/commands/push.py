"""`lipsep push`: weights with their model card onto the hub, or into a folder in its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    model: Annotated[str, typer.Argument(help="Name or folder of the model; see 'lipsep models'.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Of the repository on the hub.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Only write the folder that would be uploaded.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is created.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default: main.", show_default=False)] = None,
) -> None:
    """Upload weights to the Hugging Face hub, with a model card made from what the checkpoint says of itself.

    The token is that of 'huggingface-cli login' or of HF_TOKEN.
    """
    from lipsep.checkpoints.folder import load_model
    from lipsep.checkpoints.sharing import push_to_hub, write_hub_folder

    loaded = load_model(model)
    if out is not None:
        typer.echo(f"written: '{write_hub_folder(loaded, out, name)}'")
    else:
        typer.echo(f"uploaded: {push_to_hub(loaded, name, private=private, revision=revision)}")
