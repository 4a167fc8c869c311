"""`lipsep web`: the page for people without a command line."""

from __future__ import annotations

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


def web(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    host_name: HostName = None,
    model: Model = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Jobs = 1,
    max_mb: MaxMb = 500.0,
    max_minutes: MaxMinutes = 10.0,
    max_waiting: MaxWaiting = 20,
    max_disk_gb: MaxDiskGb = 20.0,
    keep_minutes: Annotated[float, typer.Option(min=0.1, help="Remove results that nobody used for so long.")] = 60.0,
) -> None:
    """Open a web page: drop a video, see who is in it, hear each person. Works without a network."""
    with needs_extra("the web page", "web"):
        from lipsep.services.gate import HostNames
        from lipsep.services.page.app import Limits, create_app

        limits = Limits(
            *(max_mb, 60 * max_minutes, max_waiting),
            keep_s=60 * keep_minutes,
            visitor_mb=4 * max_mb,
            disk_mb=1024 * max_disk_gb,
        )
        names = HostNames.of(host, host_name or ())
        listen(create_app(model, device, threads, jobs, limits, names), host, port, "open")
