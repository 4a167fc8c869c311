"""Training: a recipe goes in, a folder with weights, settings and scores comes out."""

from __future__ import annotations

from pathlib import Path


def train(recipe_path: str | Path, *, resume: bool = True) -> Path:
    """Run a recipe to its end and return the folder of the exported model (hub layout).

    A run that was cut off goes on from its last checkpoint unless `resume` is False.

    Raises:
        ModelError: the recipe is unreadable or names what does not exist.
        MediaError: a corpus that the recipe names is not there.
    """
    from lipsep.training.run import run_recipe

    return run_recipe(Path(recipe_path), resume=resume)


def pretrain(recipe_path: str | Path, *, resume: bool = True) -> Path:
    """Teach the model's lips by the recipe's part `lip_reading` (to hear), `lip_pictures` (to give pictures back) or
    `lip_coder` (DP-LipCoder: both at once).

    Returns the folder to name in `initial_weights`.

    Raises:
        ModelError, MediaError: as `train`.
    """
    from lipsep.training.pretraining.coder import pretrain_coder
    from lipsep.training.pretraining.pictures import pretrain_pictures
    from lipsep.training.pretraining.reading import pretrain_lips
    from lipsep.training.recipe import load_recipe

    path = Path(recipe_path)
    recipe = load_recipe(path)
    if recipe.lip_coder is not None:
        return pretrain_coder(path, resume=resume)
    return (pretrain_lips if recipe.lip_pictures is None else pretrain_pictures)(path, resume=resume)
