"""`lipsep train`, `lipsep pretrain` and `lipsep recipes`: a model by a recipe, or on with an unfinished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.commands.terminal import calm_libraries
from lipsep.errors import needs_extra
from lipsep.system.environment import before_torch

Recipe = Annotated[
    Path, typer.Argument(help="A YAML file, or a name of 'lipsep recipes', for example laptop/dolphin_laptop_together.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="What differs from the recipe: training.learning_rate=3e-4.", show_default=False
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Try the recipe out: so many steps, begun anew, in the folder trial of the run's own."
        ),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Processes of this machine: training.devices=N.", show_default=False)
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines, by torchrun or SLURM: training.nodes=N.", show_default=False)
    ] = None,
    restart: Restart = False,
) -> None:
    """Train a model by a recipe, or go on with an unfinished run of it.

    The recipe's own pretraining runs first where it has not been run.
    """
    before_torch()
    changes = [*(overrides or [])]
    changes += [f"training.{key}={value}" for key, value in (("devices", devices), ("nodes", nodes)) if value]
    with needs_extra("training"), calm_libraries("lightning", "torch"):
        from lipsep.training import train as run_training

        folder = run_training(recipe, overrides=changes, trial_steps=steps, resume=not restart)
    typer.echo(f"trained: '{folder}'; use it with  lipsep separate FILE --model '{folder}'")


def pretrain(recipe: Recipe, overrides: Overrides = None, restart: Restart = False) -> None:
    """Teach what a model should know before it separates, or go on with an unfinished run; 'lipsep train' begins there.

    The recipe has a part lip_reading, lip_pictures or lip_coder for the video encoder, or voices for the separator.
    """
    before_torch()
    with needs_extra("training"), calm_libraries("lightning", "torch"):
        from lipsep.training import pretrain as run_pretraining

        folder = run_pretraining(recipe, overrides=overrides or [], resume=not restart)
    typer.echo(f"pretrained: '{folder}', for a recipe's model.initial_weights")


def recipes(
    keys: Annotated[bool, typer.Option("--keys", help="Every key that a recipe may have, as a Markdown page.")] = False,
) -> None:
    """List the recipes that come with lipsep, for 'lipsep train NAME'."""
    if keys:
        with needs_extra("the keys of recipes"):
            from lipsep.training.schema import as_markdown

            typer.echo(as_markdown(), nl=False)
        return
    from lipsep.training.packaged import RECIPES, recipe_names

    for name in recipe_names():
        typer.echo(name)
    typer.echo(f"files: '{RECIPES}'", err=True)
