"""Where the mouth is: from face tracks to the lip pictures that a model watches, by the recipe its checkpoint names.

Two kinds of recipe. From pixels, as the field does it (Ma, Petridis, Pantic: auto_avsr; Shi et al.: AV-HuBERT): the
grey frame is laid over a mean face by a similarity of five points that do not talk, and a square around the mouth is
cut out. From the face mesh: the mouth is drawn from its 20 landmarks alone, so that light, skin, beard and camera
cannot matter; what it shows of the mouth is its shape. Or, cheapest of all, each landmark's place is written down as
two grey values: a picture for networks, not for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lipsep.errors import FaceError
from lipsep.faces.tracks import FaceTrack
from lipsep.lips.crops import GreyFrame, film_mouths
from lipsep.lips.pictures import DrawnLips, Lips
from lipsep.lips.recipes import CROP_SIZE, MEAN_GREY, LipRecipe
from lipsep.lips.shape import mouth_points


def extract_lips(
    tracks: Sequence[FaceTrack], frames: Iterable[GreyFrame] | None, recipe: LipRecipe, folder: Path | None = None
) -> list[Lips]:
    """Lip pictures of every person.

    Frames without a usable mouth are not valid, except that gaps of up to 0.2 s inside one shot are filled: with
    landmarks between those around them, and the true pixels.

    Args:
        tracks: from `find_faces`, F frames each.
        frames: the same F frames again, grey; not touched (and may be None) unless the recipe's source is "pixels".
        recipe: see `LIP_RECIPES`.
        folder: where temporary files go; default: the system's. Per person and hour about 0.7 GB for "mouth_88", 15 MB
            for recipes that need the landmarks only.

    Raises:
        FaceError: frames are missing or fewer than the tracks have.
        OutputError: the temporary files cannot be written.
    """
    if recipe.source != "pixels":
        return [_draw(track, recipe, folder) for track in tracks]
    if frames is None:
        raise FaceError(f"the lip recipe {recipe.name} needs the video's frames")
    return film_mouths(tracks, frames, recipe.size, folder)


def crop_mouth(track: FaceTrack, frames: Iterable[GreyFrame]) -> np.ndarray:
    """One person's mouth as training keeps it: the field's crop, larger than models see, uint8 (F, 96, 96).

    Frames without a usable mouth show the mean grey, which `normalise_picture` makes 0.

    Raises:
        FaceError, OutputError: as `extract_lips`.
    """
    with film_mouths([track], frames, CROP_SIZE, None)[0] as lips:
        pictures = lips._pictures(0, lips.n_frames).copy()
    pictures[~lips.valid] = round(255 * MEAN_GREY)
    return pictures


def _draw(track: FaceTrack, recipe: LipRecipe, folder: Path | None) -> Lips:
    mouths, usable = mouth_points(track.landmarks, track.present, folder)
    return DrawnLips(mouths.mapped(), usable, recipe)
