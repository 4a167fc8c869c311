"""`lipsep serve`: separation for other programs, over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lipsep.terminal import Device, Threads, needs_extra


def serve(
    data: Annotated[Path, typer.Option(help="Folder of jobs and results; they outlive the server.")] = Path("jobs"),
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    model: Annotated[str | None, typer.Option(help="As for 'separate'.", show_default=False)] = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Annotated[int, typer.Option(min=1, help="Separations at a time.")] = 1,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest upload.")] = 500.0,
    max_minutes: Annotated[float, typer.Option(min=0.001, help="Longest video.")] = 60.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Longest queue.")] = 100,
    keep_hours: Annotated[float, typer.Option(min=0.01, help="Remove results after so long.")] = 24.0,
) -> None:
    """Separate for other programs over HTTP; see /openapi.json. Set LIPSEP_TOKEN to ask for a token."""
    with needs_extra("the server", "serve"):
        import uvicorn

        from lipsep.serve.app import Limits, create_app

        limits = Limits(max_mb, 60 * max_minutes, max_waiting, keep_s=3600 * keep_hours)
        app = create_app(data, model, device, threads, jobs, os.environ.get("LIPSEP_TOKEN"), limits)
    typer.echo(f"listening at  http://{host}:{port}  (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, log_level="warning")
