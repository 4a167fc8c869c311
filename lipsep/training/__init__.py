"""Training: a recipe goes in, a folder with weights, settings and scores comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def train(
    recipe: str | Path, *, overrides: Sequence[str] = (), trial_steps: int | None = None, resume: bool = True
) -> Path:
    """Run a recipe to its end and return the folder of the exported model (hub layout).

    Where the recipe begins with what its own pretraining makes, and that has not been made yet, the pretraining runs
    first. A run that was cut off goes on from its last checkpoint unless `resume` is False; a pretraining that has
    ended is not begun anew.

    Args:
        recipe: a file, or the name of a packaged recipe ("laptop/dolphin_laptop").
        overrides: what differs from the recipe, as in "training.learning_rate=3e-4".
        trial_steps: try the recipe out: one epoch of so many steps, validated on a few mixtures, always begun anew, in
            the folder `trial` of the run's own; so is a pretraining that has not been made.

    Raises:
        ModelError: the recipe is unreadable or names what does not exist.
        MediaError: a corpus that the recipe names is not there.
    """
    from lipsep.checkpoints.catalogue import CONFIG
    from lipsep.training.recipe import load_recipe
    from lipsep.training.run import run_recipe, trial_of_pretraining

    path, changes = Path(recipe), list(overrides)
    settings = load_recipe(path, changes)
    first = settings.pretraining
    if first is not None and not (first[1] / "model" / CONFIG).is_file():  # which is written last
        if trial_steps is not None:
            changes, resume = changes + trial_of_pretraining(*first, trial_steps), False
        processes = {"devices": settings.training.devices, "nodes": settings.training.nodes}  # all go on to train
        same = [f"{first[0]}.{setting}={number}" for setting, number in processes.items()]
        pretrain(path, overrides=[*changes, *same], resume=resume)
    return run_recipe(path, changes, trial_steps, resume)


def pretrain(recipe: str | Path, *, overrides: Sequence[str] = (), resume: bool = True) -> Path:
    """Teach the model's lips by the recipe's part `lip_reading` (to hear), `lip_pictures` (to give pictures back) or
    `lip_coder` (DP-LipCoder: both at once); or its ears by `voices` (to take voices apart without lips).

    Returns the folder to name in `initial_weights`.

    Raises:
        ModelError, MediaError: as `train`.
    """
    from lipsep.training.pretraining.coder import pretrain_coder
    from lipsep.training.pretraining.pictures import pretrain_pictures
    from lipsep.training.pretraining.reading import pretrain_lips
    from lipsep.training.pretraining.voices import pretrain_voices
    from lipsep.training.recipe import load_recipe

    path = Path(recipe)
    settings = load_recipe(path, overrides)
    if settings.lip_coder is not None:
        return pretrain_coder(path, overrides, resume)
    if settings.voices is not None:
        return pretrain_voices(path, overrides, resume)
    return (pretrain_lips if settings.lip_pictures is None else pretrain_pictures)(path, overrides, resume)
