"""How every `lipsep pretrain` begins and ends: with a recipe's part and a fresh model, with a model that has a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lightning
from torch import nn

from lipsep.checkpoints.beginnings import take_separator
from lipsep.checkpoints.folder import save_model
from lipsep.errors import ModelError
from lipsep.models import SeparationModel, create_model
from lipsep.training.recipe import Recipe, load_recipe

Encoder = TypeVar("Encoder", bound=nn.Module)


@dataclass(frozen=True)
class Pretraining:
    """One run.

    Attributes:
        path, recipe: the recipe.
        part: the name of the recipe's part that the run goes by.
        model: with weights drawn from the part's seed, and the recipe's `initial_separator`.
    """

    path: Path
    recipe: Recipe
    part: str
    model: SeparationModel

    @classmethod
    def open(cls, path: Path, part: str, overrides: Sequence[str] = ()) -> Pretraining:
        """
        Raises:
            ModelError: the recipe cannot be read, has no such part, or names no model that there is.
        """
        recipe = load_recipe(path, overrides)
        settings = getattr(recipe, part)
        if settings is None:
            raise ModelError(f"recipe {path} has no part '{part}', so there is nothing to pretrain")
        lightning.seed_everything(settings.seed, verbose=False)
        model = create_model(recipe.model.name, **recipe.model.overrides)
        if recipe.model.initial_separator:
            take_separator(model, recipe.model.initial_separator)
        return cls(path, recipe, part, model)

    @property
    def settings(self) -> Any:
        """The recipe's part."""
        return getattr(self.recipe, self.part)

    @property
    def folder(self) -> Path:
        """Of the exported model."""
        return self.settings.output / "model"

    def encoder(self, kind: type[Encoder], what: str) -> Encoder:
        """The model's video encoder.

        Raises:
            ModelError: it is none of this kind.
        """
        encoder = getattr(self.model, "video_encoder", None)
        if not isinstance(encoder, kind):
            raise ModelError(f"recipe {self.path}: {self.part} teaches {what}, and '{self.recipe.model.name}' has none")
        return encoder

    def export(
        self, trainer: lightning.Trainer, learned: str, scores: dict[str, Any], card: dict[str, Any] | None = None
    ) -> None:
        """Write the model, by one of several processes: all return when it is there.

        Args:
            learned: what of it, and how.
            card: what else is to be known.
        """
        if trainer.is_global_zero:
            save_model(
                self.model,
                self.folder,
                {
                    "licence": self.recipe.licence,
                    "provenance": f"{learned}: {self.recipe.provenance}",
                    **(card or {}),
                    "validation": {name: round(float(value), 4) for name, value in scores.items()},
                    "recipe": self.path.name,
                },
            )
        trainer.strategy.barrier()
