"""The lip reader that strangers need: it sees how far the lips are open, and nothing of whose lips they are.

Ours. How far lips are open goes with how loud the voice is (Yehia, Rubin and Vatikiotis-Bateson 1998), whoever speaks;
what else a mouth does, a network that has watched one talker knows of that talker alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipsep.encoders.base import register_encoder
from lipsep.encoders.mouth_points import MouthPoints

FACING = (((13, 19), (14, 18), (15, 17)), ((2, 10), (3, 9), (4, 8)))  # points above and below: inner, outer lips
LEAST_MOTION = 0.25  # of normalised grey, half a pixel of the mean face: lips at rest are not made into talking ones


class MouthOpening(MouthPoints):
    """`MouthPoints` on the opening alone. Shape: lips (B, F, 8, 8) -> (B, F, feature_dim)."""

    def __init__(
        self, lip_size: int = 8, lip_recipe: str = "points_8", feature_dim: int = 192, dropout: float = 0.1
    ) -> None:
        super().__init__(lip_size, lip_recipe, feature_dim, dropout, n_values=len(FACING) + 1)

    def values(self, lips: Tensor) -> Tensor:
        """Openings of the inner and the outer lips, each with mean 0 and spread at most 1 over the frames that show a
        mouth, 0 in others; and which frames do. Shape: (B, F, 8, 8) -> (B, F, 3)."""
        written = lips.flatten(2)  # (B, F, 64): x and y of the 20 points, the rest the same grey
        heights = written[..., 1:40:2]  # (B, F, 20), downwards
        shown = (written[..., -1:] != 0).to(lips.dtype)  # (B, F, 1): frames without a mouth are all 0
        pairs = torch.tensor(FACING, device=lips.device)  # (2, 3, 2)
        openings = (heights[..., pairs[..., 1]] - heights[..., pairs[..., 0]]).mean(-1)  # (B, F, 2)
        n_shown = shown.sum(1, keepdim=True).clamp(min=1)
        motion = (openings - (openings * shown).sum(1, keepdim=True) / n_shown) * shown
        spread = (motion.square().sum(1, keepdim=True) / n_shown + LEAST_MOTION**2).sqrt()
        return torch.cat([motion / spread, shown], -1)


register_encoder("mouth_opening", MouthOpening)
