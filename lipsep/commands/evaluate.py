"""`lipsep evaluate`: a table of metrics over fixed mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lipsep.commands.terminal import Device, Threads, progress
from lipsep.errors import MediaError, needs_extra
from lipsep.services.opening import open_separator


def evaluate(
    model: Annotated[str, typer.Argument(help="Name, folder or hub id of the model; with --estimates any name.")],
    data: Annotated[
        Path,
        typer.Option(help="Manifest, for example recipes/laptop/unseen_talkers.csv, or a folder with mix/, s1/, s2/."),
    ],
    root: Annotated[Path, typer.Option(help="Folder that the manifest's paths are relative to.")] = Path("."),
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write every utterance, means and settings here.")
    ] = None,
    estimates: Annotated[
        Path | None,
        typer.Option(help="Score these separated files instead: s1/NAME.wav, s2/..., or NAME/speaker_1.wav, ..."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Also score under noise, talkers, off screen, hidden, room, offset, occlusion, missing, swap, or all; "
            "may be repeated."
        ),
    ] = None,
    noise: Annotated[Path | None, typer.Option(help="Noise files for the sweep; default: pink noise.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N mixtures.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where OUT holds an evaluation.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Score a model on fixed mixtures: SI-SNRi, SDRi, PESQ, STOI, ESTOI, and the two-cue test (swap the lips).

    With -o, a run that was cut off goes on where it stopped. Intervals are 95 % bootstrap intervals over mixtures.
    """
    if estimates is not None and sweep:
        raise MediaError("--sweep changes the mixtures, which finished --estimates cannot follow: use one of the two")
    separator = None if estimates is not None else open_separator(model, device, threads)
    with needs_extra("evaluation", "eval"):
        from lipsep.evaluation.cases import Estimates
        from lipsep.evaluation.evaluate import Protocol
        from lipsep.evaluation.evaluate import evaluate as run_evaluation
    system = separator.model if separator is not None else Estimates(estimates)
    with progress(data.name) as hook:
        means = run_evaluation(
            system, Protocol(data, root, tuple(sweep or ()), noise, limit), out, hook, processes, overwrite
        )
    for name, row in {"all": means, **means.get("groups", {}), **means.get("conditions", {})}.items():
        typer.echo(f"{name}: {_line(row)}")
    undefined = {metric: means[f"{metric}_undefined"] for metric in ("pesq", "si_snri", "estoi")}
    if any(undefined.values()):
        counts = ", ".join(f"{metric.upper()} of {count}" for metric, count in undefined.items() if count)
        typer.echo(f"undefined, and left out of the means: {counts} of {means['utterances']} utterances")


def _line(row: dict[str, Any]) -> str:
    low, high = row.get("ci95", {}).get("si_snri", (None, None))
    interval = "" if low is None else f" ({low:+.2f}..{high:+.2f})"
    return (
        f"{row['mixtures']} mixtures, SI-SNRi {row['si_snri']:+.2f} dB{interval}, SDRi {row['sdri']:+.2f} dB, "
        f"PESQ {row['pesq']:.2f}, ESTOI {row['estoi']:.3f}, two-cue {row['two_cue']:.1%}"
    )
