"""`lipsep profile`: what models cost."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import complain, progress
from lipsep.errors import LipsepError, OutputError


def profile(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Registered models, or weights.", show_default=False)
    ] = None,
    all_models: Annotated[
        bool, typer.Option("--all", help="Every registered model, except tiny ones for tests.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the input.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Mixtures per pass.")] = 1,
    path: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Separate this video instead, and say where the time goes, step by step."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads; 1, with --path all there are.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed passes of each model.")] = 5,
    count_only: Annotated[
        bool, typer.Option("--count-only", help="Parameters and MACs alone: nothing is run.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write profile.txt, .md, .csv and quality_cost.pdf, .png here."),
    ] = None,
) -> None:
    """Parameters, multiply-accumulates, latency and memory, as in the tables of the papers.

    MACs are those executed; beside them stands what the programs counted that the papers used. Each model is measured
    in a process of its own. The figure sets the papers' quality against the cost counted here.
    """
    if path is not None:
        if all_models or len(models or []) > 1:
            raise typer.BadParameter("separates with one model: name one, or none for the default", param_hint="--path")
        typer.echo(_profile_path(path, models[0] if models else None, threads), nl=False)
        return
    from lipsep.models import list_models
    from lipsep.profiling.measuring import Setup
    from lipsep.profiling.table import as_csv, as_markdown, as_text
    from lipsep.profiling.table import profile as profile_one

    names = [name for name in list_models() if not name.endswith("_test")] if all_models else list(models or [])
    if not names:
        raise typer.BadParameter("name at least one model, or --all", param_hint="MODEL")
    rows, failed = [], 0
    with progress("profiling") as hook:
        for completed, name in enumerate(names, start=1):
            try:
                rows.append(profile_one(Setup(name, seconds, batch, threads or 1, runs), timed=not count_only))
            except LipsepError as error:  # one model must not cost the table of all
                if len(names) == 1:
                    raise
                complain(f"{name}: {error}")
                failed += 1
            hook("models", completed, len(names), name)
    if rows:
        typer.echo(as_text(rows), nl=False)
    if out is not None and rows:
        from lipsep.evaluation.paper_tables import PAPER_NAMES, paper_quality
        from lipsep.plots.cost import draw_quality_cost

        out.mkdir(parents=True, exist_ok=True)
        for kind, text in (("txt", as_text(rows)), ("md", as_markdown(rows)), ("csv", as_csv(rows))):
            (out / f"profile.{kind}").write_text(text, encoding="utf-8")
        if any(PAPER_NAMES.get(row.name, row.name) in paper_quality() for row in rows):
            draw_quality_cost(out / "profile.csv", out / "quality_cost")
        typer.echo(f"written: '{out}'")
    if failed:
        raise OutputError(f"{failed} of {len(names)} models could not be profiled, see above")


def _profile_path(path: Path, model: str | None, threads: int | None) -> str:
    """Separate a video as `lipsep separate` does, into a folder that goes away; the table."""
    begun_s, processor_begun_s = time.perf_counter(), time.process_time()
    from lipsep.profiling.path import path_table
    from lipsep.services.opening import open_separator

    separator = open_separator(model, "cpu", threads)
    opening_s = time.perf_counter() - begun_s
    with tempfile.TemporaryDirectory(prefix="lipsep-") as folder, progress(path.name) as hook:
        result = separator(path, Path(folder) / "results", hook=hook)
    return path_table(result.report, opening_s, time.process_time() - processor_begun_s)
