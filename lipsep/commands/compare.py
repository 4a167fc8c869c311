"""`lipsep compare`: evaluations side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsep.errors import needs_extra

if TYPE_CHECKING:
    from lipsep.evaluation.compare import Comparison, Difference

TITLES = {"si_snri": "SI-SNRi dB", "sdri": "SDRi dB", "pesq": "PESQ", "estoi": "ESTOI"}
DIGITS = {"si_snri": 2, "sdri": 2, "pesq": 2, "estoi": 3}


def compare(
    evaluations: Annotated[
        list[Path], typer.Argument(metavar="A B ...", help="Folders that 'lipsep evaluate -o' wrote.")
    ],
    condition: Annotated[str, typer.Option(help="A condition of a sweep, for example 'noise 5 dB'.")] = "as given",
) -> None:
    """Compare evaluations on the utterances they share; the first is what the others are measured against.

    A star marks a difference with p < 0.05 (Wilcoxon signed-rank test over mixtures); in brackets its 95 % bootstrap
    interval. The table is Markdown.
    """
    with needs_extra("comparing", "eval"):
        from lipsep.evaluation.compare import compare as run_comparison
    if len(evaluations) < 2:
        raise typer.BadParameter("name two evaluations or more", param_hint="A B ...")
    typer.echo("\n".join(table(run_comparison(evaluations, condition))))


def table(comparison: Comparison) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"{comparison.mixtures} mixtures, {comparison.utterances} utterances that all have", ""]
    lines.append("| system | " + " | ".join(TITLES.values()) + " |")
    lines.append("|---" * (1 + len(TITLES)) + "|")
    for number, (name, metrics) in enumerate(comparison.systems.items()):
        cells = [_cell(metrics[metric], DIGITS[metric], number == 0) for metric in TITLES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    left_out = {TITLES[m]: max(s[m].undefined for s in comparison.systems.values()) for m in TITLES}
    if any(left_out.values()):
        lines += ["", "left out as undefined: " + ", ".join(f"{n} of {m}" for m, n in left_out.items() if n)]
    return lines


def _cell(value: Difference, digits: int, first: bool) -> str:
    if first:
        return f"{value.mean:.{digits}f}"
    star = " *" if value.significant else ""
    interval = f"{value.low:+.{digits}f}..{value.high:+.{digits}f}"
    return f"{value.mean:.{digits}f} ({value.difference:+.{digits}f}, {interval}){star}"
