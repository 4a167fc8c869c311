"""`lipsep demo`: the bundled clip, and how well it went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import Device, Threads, progress
from lipsep.services.opening import open_separator

DEFAULT_WEIGHTS_NOTE = (
    "The default weights take these two voices, a woman's and a man's, apart better than voices alike in pitch, and "
    "sometimes give strangers each other's voice; see MODELS.md for figures and other weights."
)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the results go.")] = Path("demo_output"),
    model: Annotated[str | None, typer.Option(help="Another model than the default.", show_default=False)] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Separate the bundled clip of two people, of which the clean voices are known, and say how well it went."""
    separator = open_separator(model, device, threads)
    from lipsep.commands.bundled_clip import run_demo

    with progress("the bundled clip") as hook:
        reached = run_demo(separator, out, hook)
    for person, (before, gain) in enumerate(zip(reached.si_snr_before_db, reached.si_snri_db, strict=True), 1):
        typer.echo(
            f"person {person} from the left: {before:+.1f} dB in the mixture, {before + gain:+.1f} dB after: "
            f"SI-SNRi {gain:+.1f} dB"
        )
    typer.echo(f"look at  {out / 'overview.png'}\nlisten to  {out / 'speaker_1.wav'}  and  {out / 'speaker_2.wav'}")
    if model is None:
        typer.echo(DEFAULT_WEIGHTS_NOTE)
