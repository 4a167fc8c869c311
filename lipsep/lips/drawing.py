"""Mouths drawn or written from their points."""

from __future__ import annotations

import cv2
import numpy as np

from lipsep.lips.recipes import LipRecipe
from lipsep.lips.shape import INNER_PAIRS, RESTING_MOUTH

WRITTEN_RANGE = 0.1  # of the picture's side, in "points" recipes
SKIN, LIPS, OPENING = 160, 100, 16  # greys of drawn mouths
_OVERSAMPLING = 4  # mouths are drawn so much larger, then averaged: a gap of a tenth of a pixel shows as a shade
_SHIFT = 4  # binary digits below the pixel for OpenCV's polygons


def picture_mouth(points: np.ndarray, recipe: LipRecipe) -> np.ndarray:
    """Pictures of a mouth of which only the points are known, as `recipe` makes them: (F, 20, 2) -> uint8 (F, S, S).

    Recipes that cut mouths out of the video get drawn ones of the same size.
    """
    return write_mouth(points) if recipe.source == "points" else draw_mouth(points, recipe.size)


def write_mouth(points: np.ndarray) -> np.ndarray:
    """How far each of the 20 points is from where `RESTING_MOUTH` has it: 127 grey values for `WRITTEN_RANGE`.

    Shape: (F, 20, 2) -> uint8 (F, 8, 8): x and y of the points in the first 40 pixels, the others stay at 128.
    """
    pictures = np.full((len(points), 64), 128, np.uint8)
    motion = (points - RESTING_MOUTH).reshape(len(points), -1) / WRITTEN_RANGE  # (F, 40)
    pictures[:, :40] = np.round(128 + 127 * np.clip(motion, -1, 1))
    return pictures.reshape(-1, 8, 8)


def draw_mouth(points: np.ndarray, size: int) -> np.ndarray:
    """Draw mouths: light skin, grey lips, the opening dark.

    Args:
        points: (F, 20, 2) in shares of the picture's side, as `normalise_mouth` gives them.
        size: side of the pictures in px.

    Returns:
        uint8 (F, size, size).
    """
    large = size * _OVERSAMPLING
    points = points.copy()
    for above, below in INNER_PAIRS:  # lips do not pass through each other, whatever the landmarks' noise says
        points[:, below, 1] = np.maximum(points[:, below, 1], points[:, above, 1])
    corners = np.round((points * large - 0.5) * (1 << _SHIFT)).astype(np.int32)  # (F, 20, 2)
    canvas = np.empty((large, large), np.uint8)
    pictures = np.empty((len(points), size, size), np.uint8)
    for picture, mouth in zip(pictures, corners, strict=True):
        canvas[:] = SKIN
        cv2.fillPoly(canvas, [mouth[:12]], LIPS, shift=_SHIFT)
        cv2.fillPoly(canvas, [mouth[12:]], OPENING, shift=_SHIFT)
        cv2.resize(canvas, (size, size), dst=picture, interpolation=cv2.INTER_AREA)
    return pictures
