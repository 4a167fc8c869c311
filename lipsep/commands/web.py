"""`lipsep web`: the page for people without a command line."""

from __future__ import annotations

from typing import Annotated

import typer

from lipsep.terminal import Device, Threads, needs_extra


def web(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 7860,
    model: Annotated[str | None, typer.Option(help="As for 'separate'.", show_default=False)] = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Annotated[int, typer.Option(min=1, help="Separations at a time; other visitors wait their turn.")] = 1,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest upload.")] = 500.0,
    max_minutes: Annotated[float, typer.Option(min=0.001, help="Longest video.")] = 10.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Visitors in the queue.")] = 20,
    keep_minutes: Annotated[float, typer.Option(min=0.1, help="Remove results that nobody used for so long.")] = 60.0,
) -> None:
    """Open a web page: drop a video, see who is in it, hear each person. Works without a network."""
    with needs_extra("the web page", "web"):
        import uvicorn

        from lipsep.web.app import Limits, create_app

        limits = Limits(max_mb, 60 * max_minutes, max_waiting, keep_s=60 * keep_minutes)
        app = create_app(model, device, threads, jobs, limits)
    typer.echo(f"open  http://{host}:{port}  (Ctrl-C ends it)")
    uvicorn.run(app, host=host, port=port, log_level="warning")
