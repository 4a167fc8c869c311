"""`lipsep profile`: what models cost."""

from __future__ import annotations

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
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
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
                rows.append(profile_one(Setup(name, seconds, batch, threads, runs), timed=not count_only))
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
