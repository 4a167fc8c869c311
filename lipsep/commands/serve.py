"""`lipsep serve`: separation for other programs, over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.listening import Host, Jobs, MaxMb, MaxMinutes, MaxWaiting, Model, Port, listen
from lipsep.commands.terminal import Device, Threads
from lipsep.errors import needs_extra


def serve(
    data: Annotated[Path, typer.Option(help="Folder of jobs and results; they outlive the server.")] = Path("jobs"),
    database: Annotated[
        str | None,
        typer.Option(
            envvar="LIPSEP_DATABASE",
            help="postgresql://user:password@host/name for the list of jobs; default: an SQLite file in --data.",
            show_default=False,
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Jobs = 1,
    max_mb: MaxMb = 500.0,
    max_minutes: MaxMinutes = 60.0,
    max_waiting: MaxWaiting = 100,
    keep_hours: Annotated[float, typer.Option(min=0.01, help="Remove results after so long.")] = 24.0,
) -> None:
    """Separate for other programs over HTTP; see /openapi.json. Set LIPSEP_TOKEN to ask for a token."""
    with needs_extra("the server", "serve"):
        from lipsep.services.http.app import Limits, create_app

        limits = Limits(max_mb, 60 * max_minutes, max_waiting, keep_s=3600 * keep_hours)
        token = os.environ.get("LIPSEP_TOKEN")
        listen(create_app(data, model, device, threads, jobs, token, limits, database), host, port, "listening at")
