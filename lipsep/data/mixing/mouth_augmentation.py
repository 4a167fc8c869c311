"""One mouth becomes many: the same words spoken by other lips, filmed worse.

Everything that tells a person but not the words is drawn anew for every example: how strongly each way of moving is
used, how sluggish the lips are, whether sound and picture are apart, the resting shape, size, turn, place, and
the landmarks' noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from lipsep.data.clips.clips import MOUTH_POINTS
from lipsep.lips.drawing import picture_mouth
from lipsep.lips.recipes import LipRecipe, normalise_picture

N_MODES = 6  # principal motions of which the strengths vary; they hold most of a talker's motion


@dataclass(frozen=True)
class MouthConfig:
    """How mouths vary between examples; lengths in shares of the picture's side."""

    motion: tuple[float, float] = (0.7, 1.4)  # how strongly the mouth moves against the talker's own
    mode_gain: float = 0.2  # spread of the logarithm of each principal motion's strength
    sluggish: float = 0.3  # share of examples whose motion is smoothed over time
    sluggish_frames: tuple[float, float] = (0.3, 0.9)  # standard deviation of that smoothing
    early_or_late: float = 0.2  # share of examples whose picture is early or late
    offset_frames: int = 1  # by how many at most
    scale: float = 0.1  # relative spread of the mouth's size, per axis
    turn_deg: float = 5.0
    shift: float = 0.01
    shape: float = 0.005  # another talker's resting mouth
    jitter: float = 0.001  # landmark noise per frame


def principal_motions(mouths: np.ndarray) -> np.ndarray:
    """The ways in which mouths move most: points (F, 20, 2) around a common rest -> orthonormal (6, 40)."""
    motion = (mouths - mouths.mean(0)).reshape(len(mouths), -1).astype(np.float64)  # (F, 40)
    return np.linalg.eigh(motion.T @ motion)[1][:, : -N_MODES - 1 : -1].T.astype(np.float32)


class MouthAugmentation:
    """Draws a mouth's pictures with another person's habits: points (F, 20, 2) -> float32 (F, S, S)."""

    def __init__(self, config: MouthConfig, modes: np.ndarray, recipe: LipRecipe):
        """modes: (6, 40) from `principal_motions`."""
        self.config, self.modes, self.recipe = config, modes, recipe

    def __call__(self, mouth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        c = self.config
        rest = mouth.mean(0)
        motion = (mouth - rest).reshape(len(mouth), -1)  # (F, 40)
        gains = np.exp(rng.normal(0, c.mode_gain, len(self.modes)))
        motion = motion + (motion @ self.modes.T * (gains - 1)) @ self.modes
        motion = self._in_time(motion * rng.uniform(*c.motion), rng).reshape(mouth.shape)
        shape = rng.normal(0, c.shape, 2) + rng.normal(0, c.shape / 2, (MOUTH_POINTS, 2))
        turn = np.deg2rad(rng.uniform(-c.turn_deg, c.turn_deg))
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        scale = rng.uniform(1 - c.scale, 1 + c.scale, 2)
        if rng.random() < 0.5:
            scale[0] = -scale[0]  # mirrored
        centre = rest.mean(0)
        points = (rest + shape + motion - centre) * scale @ rotation.T + centre
        points = points + rng.uniform(-c.shift, c.shift, 2) + rng.normal(0, c.jitter, mouth.shape)
        return normalise_picture(picture_mouth(points.astype(np.float32), self.recipe))

    def _in_time(self, motion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sluggish lips, or a picture early or late: (F, 40) -> (F, 40)."""
        c = self.config
        if rng.random() < c.sluggish:
            motion = gaussian_filter1d(motion, rng.uniform(*c.sluggish_frames), axis=0, mode="nearest")
        if later := draw_offset(c, rng):
            motion = motion[np.clip(np.arange(len(motion)) - later, 0, len(motion) - 1)]
        return motion


def draw_offset(config: MouthConfig, rng: np.random.Generator) -> int:
    """By how many frames the picture is late (negative: early); 0 for most examples."""
    if rng.random() >= config.early_or_late:
        return 0
    later = int(rng.integers(2)) * 2 - 1
    return later * int(rng.integers(1, config.offset_frames + 1)) if config.offset_frames > 1 else later
