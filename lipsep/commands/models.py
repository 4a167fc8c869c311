"""`lipsep models`: the models and the weights that are at hand."""

from __future__ import annotations

import typer


def models() -> None:
    """List the models and the weights that are at hand, with licence and size."""
    import torch

    from lipsep.checkpoints.folder import available_weights
    from lipsep.models import create_model, list_models

    typer.echo("models, for lipsep.create_model and recipes:")
    for name in list_models():
        with torch.device("meta"):  # sizes only, nothing is computed
            model = create_model(name)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        typer.echo(f"  {name}: {n_parameters / 1e6:.2f} M parameters, lips by recipe {model.lip_recipe}")
    typer.echo("weights, for separate --model:")
    for entry in available_weights():
        typer.echo(f"  {entry.name}: {entry.size / 1e6:.1f} MB, {entry.licence}; {entry.provenance}")
