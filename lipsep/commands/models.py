"""`lipsep models`: the weights that are at hand and the models that there are. Answers without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from lipsep.checkpoints.catalogue import DEFAULT_MODEL, available_weights, model_sizes


def models(
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """List the weights that are at hand, with licence and size, and the models that there are."""
    weights, sizes = available_weights(), model_sizes()
    if as_json:
        rows = [{**asdict(entry), "default": entry.name == DEFAULT_MODEL} for entry in weights]
        models = [{"name": name, **size} for name, size in sizes.items()]
        typer.echo(json.dumps({"weights": rows, "models": models}, indent=2, ensure_ascii=False))
        return
    typer.echo("weights, for separate --model:")
    for entry in sorted(weights, key=lambda entry: (entry.name != DEFAULT_MODEL, entry.sha256 is None, entry.name)):
        mark = " (default)" if entry.name == DEFAULT_MODEL else "" if entry.sha256 else " (downloaded on first use)"
        typer.echo(f"  {entry.name}{mark}: {entry.size / 1e6:.1f} MB, {entry.licence}; {entry.provenance}")
    typer.echo("models, for lipsep.create_model and recipes; without weights, unless they stand above:")
    for name, size in sizes.items():
        typer.echo(f"  {name}: {size['parameters'] / 1e6:.2f} M parameters, lips by recipe {size['lip_recipe']}")
