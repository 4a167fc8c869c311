"""`lipsep train` and `lipsep pretrain`: a model by a recipe, or on with an unfinished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsep.errors import needs_extra
from lipsep.system.environment import before_torch


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, for example recipes/laptop/dolphin_laptop_together.yaml.")],
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")] = False,
) -> None:
    """Train a model by a recipe, or go on with an unfinished run of it."""
    before_torch()
    with needs_extra("training"):
        from lipsep.training import train as run_training

        folder = run_training(recipe, resume=not restart)
    typer.echo(f"trained: '{folder}'; use it with  lipsep separate FILE --model '{folder}'")


def pretrain(
    recipe: Annotated[Path, typer.Argument(help="A recipe with a part 'lip_reading', 'lip_pictures' or 'lip_coder'.")],
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")] = False,
) -> None:
    """Teach a model's lips by a recipe, or go on with an unfinished run; 'lipsep train' then begins from there."""
    before_torch()
    with needs_extra("training"):
        from lipsep.training import pretrain as run_pretraining

        folder = run_pretraining(recipe, resume=not restart)
    typer.echo(f"pretrained: '{folder}', for a recipe's model.initial_weights")
