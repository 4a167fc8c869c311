"""How lip pictures are made: the recipes that checkpoints name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lipsep.errors import ModelError

CROP_SIZE = 96  # px of the mean face, of which models see the middle
MEAN_GREY, STD_GREY = 0.421, 0.165  # of mouth crops, in shares of full scale


@dataclass(frozen=True)
class LipRecipe:
    """How lip pictures are made.

    Attributes:
        name: as checkpoints write it.
        size: the pictures' side in px.
        source: "pixels" needs the video's frames; "mesh" (drawn mouths) and "points" (written ones) need the landmarks
            only.
    """

    name: str
    size: int
    source: Literal["pixels", "mesh", "points"]


LIP_RECIPES = {
    recipe.name: recipe
    for recipe in (
        LipRecipe("mouth_88", 88, "pixels"),
        LipRecipe("mouth_64", 64, "pixels"),
        LipRecipe("mouth_112", 112, "pixels"),
        LipRecipe("mesh_32", 32, "mesh"),
        LipRecipe("mesh_88", 88, "mesh"),
        LipRecipe("points_8", 8, "points"),
    )
}


def lip_recipe(name: str) -> LipRecipe:
    """The recipe of this name.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    if name not in LIP_RECIPES:
        raise ModelError(f"unknown lip recipe {name!r}: choose one of {', '.join(LIP_RECIPES)}")
    return LIP_RECIPES[name]


def normalise_picture(pictures: np.ndarray) -> np.ndarray:
    """Grey pictures uint8 (any shape) -> float32 as models expect them: ``(x / 255 - 0.421) / 0.165``."""
    return (pictures.astype(np.float32) / 255 - MEAN_GREY) / STD_GREY
