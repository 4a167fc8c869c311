"""The recipes that come with lipsep, by name: `laptop/dolphin_laptop` for recipes/laptop/dolphin_laptop.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path

from lipsep.errors import ModelError

SUFFIX = ".yaml"
_PACKAGE = Path(__file__).resolve().parents[1]
_IN_WHEEL, _IN_REPOSITORY = _PACKAGE / "recipes", _PACKAGE.parent / "recipes"
RECIPES = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_REPOSITORY


def recipe_names() -> list[str]:
    """Names that `locate` knows, sorted."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob(f"*{SUFFIX}"))


def locate(recipe: Path) -> tuple[Path, Path]:
    """The file of a recipe, and the file that its relative paths are meant from.

    A file is both. A recipe that is named lies in the package, where nothing should be written: its paths are meant as
    if the file lay under `recipes/` of the current folder, so that runs go to `runs/` there.

    Raises:
        ModelError: there is no such file, and no recipe by that name.
    """
    name, names = recipe.as_posix().removeprefix("recipes/").removesuffix(SUFFIX), recipe_names()
    if not recipe.is_file() and name in names:
        relative = Path(f"{name}{SUFFIX}")
        return RECIPES / relative, Path.cwd() / "recipes" / relative
    if recipe.is_file() or recipe.suffix == SUFFIX:
        return recipe, recipe
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "'lipsep recipes' lists those that there are"
    raise ModelError(f"there is no recipe '{recipe}', neither as a file nor by name: {hint}")
