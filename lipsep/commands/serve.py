"""`lipsep serve`: separation for other programs, over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.listening import (
    Host,
    HostName,
    Jobs,
    MaxDiskGb,
    MaxMb,
    MaxMinutes,
    MaxWaiting,
    Model,
    Port,
    listen,
)
from lipsep.commands.terminal import Device, Threads
from lipsep.errors import needs_extra


def serve(
    data: Annotated[Path, typer.Option(help="Folder of jobs and results; they outlive the server.")] = Path("jobs"),
    host: Host = "127.0.0.1",
    port: Port = 8000,
    host_name: HostName = None,
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Jobs = 1,
    max_mb: MaxMb = 500.0,
    max_minutes: MaxMinutes = 60.0,
    max_waiting: MaxWaiting = 100,
    max_disk_gb: MaxDiskGb = 50.0,
    keep_hours: Annotated[float, typer.Option(min=0.01, help="Remove results after so long.")] = 24.0,
) -> None:
    """Separate for other programs over HTTP; see /openapi.json. Set LIPSEP_TOKEN to ask for a token."""
    with needs_extra("the server", "serve"):
        from lipsep.services.gate import HostNames
        from lipsep.services.http.app import Limits, create_app

        disk_mb = 1024 * max_disk_gb
        limits = Limits(
            *(max_mb, 60 * max_minutes, max_waiting),
            keep_s=3600 * keep_hours,
            disk_mb=disk_mb,
            address_mb=disk_mb / 2,
        )
        token = os.environ.get("LIPSEP_TOKEN")
        names = HostNames.of(host, host_name or ())
        app = create_app(data, model, device, threads, jobs, token, limits, names)
        listen(app, host, port, "listening at")
