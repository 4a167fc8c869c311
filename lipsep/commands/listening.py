"""What `lipsep web` and `lipsep serve` share: their options, and listening until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fastapi import FastAPI

Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
Model = Annotated[str | None, typer.Option(help="As for 'separate'.", show_default=False)]
Jobs = Annotated[int, typer.Option(min=1, help="Separations at a time; the others wait their turn.")]
MaxMb = Annotated[float, typer.Option(min=0.001, help="Largest upload.")]
MaxMinutes = Annotated[float, typer.Option(min=0.001, help="Longest video.")]
MaxWaiting = Annotated[int, typer.Option(min=1, help="Longest queue.")]


def listen(app: FastAPI, host: str, port: int, what: str) -> None:
    """Say where, and serve until Ctrl-C."""
    import uvicorn

    typer.echo(f"{what}  http://{host}:{port}  (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, log_level="warning")
