"""What a model is shown of a training clip's mouth: drawn from its points, or cut out of its pictures."""

from __future__ import annotations

import numpy as np

from lipsep.data.clips.clips import TalkingClip, TalkingClips
from lipsep.data.clips.pace import frames_at
from lipsep.data.clips.pictures import cut
from lipsep.data.mixing.mouth_augmentation import MouthAugmentation, MouthConfig, draw_offset, principal_motions
from lipsep.lips.drawing import picture_mouth
from lipsep.lips.recipes import LipRecipe, lip_recipe, normalise_picture


class LipView:
    """Lip pictures of stretches of clips, float32 (F, S, S), normalised.

    A recipe of pixels gets the filmed mouth where the clip has pictures: the middle, or for training a cut near it,
    half of them mirrored, in stronger or weaker contrast. All else is drawn from the mouth's points.
    """

    def __init__(
        self,
        filmed: TalkingClips,
        unfilmed: TalkingClips | None,
        mouths: MouthConfig | None,
        random_crop: bool,
        recipe: LipRecipe,
        contrast: float = 0.0,
    ):
        """
        Args:
            filmed, unfilmed: the clips that will be shown.
            mouths: how drawn mouths vary; filmed ones are early or late as it says. None: neither.
            random_crop: whether the cut of filmed mouths varies.
            recipe: how the model's lip pictures are made.
            contrast: of filmed mouths, by which share it varies.

        Raises:
            MediaError: the recipe needs points, and the corpus has none.
        """
        self.mouths, self.random_crop, self.recipe, self.contrast = mouths, random_crop, recipe, contrast
        self.from_pixels = recipe.source == "pixels" and filmed.pictures is not None
        drawn = unfilmed if self.from_pixels else filmed
        self.augment = None
        if drawn is not None:
            points = drawn.mouths  # a corpus of pictures alone refuses
            self.augment = None if mouths is None else MouthAugmentation(mouths, principal_motions(points), recipe)

    @property
    def varies(self) -> bool:
        """Whether two views of one stretch differ."""
        return self.random_crop if self.from_pixels else self.augment is not None

    def __call__(self, clip: TalkingClip, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """position: (F,) places in the clip, in frames, from `data.clips.pace.draw_stretch`; pictures between two
        frames are the nearer one."""
        if not self.from_pixels or clip.pictures is None:
            mouth = frames_at(clip.mouth, position)  # (F, 20, 2)
            return (
                normalise_picture(picture_mouth(mouth, self.recipe)) if not self.augment else self.augment(mouth, rng)
            )
        if self.mouths is not None:
            position = position - draw_offset(self.mouths, rng)
        frames = np.clip(np.round(position), 0, clip.n_frames - 1).astype(np.int64)
        pictures = clip.pictures[frames]  # (F, 96, 96)
        seen = normalise_picture(cut(pictures, self.recipe.size, rng if self.random_crop else None))
        return seen * np.float32(1 + rng.uniform(-self.contrast, self.contrast)) if self.contrast else seen


def whole_clip(clip: TalkingClip, recipe_name: str) -> np.ndarray:
    """All of a clip's lip pictures as they are, filmed where there are pictures and the recipe wants them."""
    recipe = lip_recipe(recipe_name)
    if recipe.source == "pixels" and clip.pictures is not None:
        return normalise_picture(cut(clip.pictures[np.arange(clip.n_frames)], recipe.size))
    return normalise_picture(picture_mouth(clip.mouth, recipe))
