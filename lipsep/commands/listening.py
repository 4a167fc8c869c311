"""What `lipsep web` and `lipsep serve` share: their options, and listening until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lipsep.commands.terminal import complain
from lipsep.system.environment import Stopped

if TYPE_CHECKING:
    from fastapi import FastAPI

ENDS_WITHIN_S = 1  # answers under way, after Ctrl-C or SIGTERM; the processes have their own time of grace

Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
HostName = Annotated[
    list[str] | None,
    typer.Option(help="A further name under which browsers reach it (a reverse proxy's).", show_default=False),
]
Model = Annotated[str | None, typer.Option(help="As for 'separate'.", show_default=False)]
Jobs = Annotated[int, typer.Option(min=1, help="Separations at a time; the others wait their turn.")]
MaxMb = Annotated[float, typer.Option(min=0.001, help="Largest upload.")]
MaxDiskGb = Annotated[float, typer.Option(min=0.001, help="Of all uploads and results together.")]
MaxMinutes = Annotated[float, typer.Option(min=0.001, help="Longest video.")]
MaxWaiting = Annotated[int, typer.Option(min=1, help="Longest queue.")]


def listen(app: FastAPI, host: str, port: int, what: str) -> None:
    """Say where, and serve until Ctrl-C."""
    import uvicorn

    from lipsep.services.patience import ImpatientProtocol

    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"{what}  http://{shown}:{port}  (Ctrl-C ends it)")
    try:
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            http=ImpatientProtocol,
            timeout_graceful_shutdown=ENDS_WITHIN_S,
        )
    except Stopped:
        app.state.close()  # again, if need be: after a second Ctrl-C uvicorn leaves everything as it is
        complain("stopped")
        sys.stdout.flush()
        os._exit(128 + (Stopped.signal_number or signal.SIGINT))  # whatever threads of libraries still wait for
    finally:
        app.state.close()
