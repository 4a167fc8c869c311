"""A light lip reader for processors: a small convolution network looks at each mouth, another follows it over time.

Ours. It halves the field's 88 x 88 crops and spends 2.1 M multiply-accumulates on each.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from lipsep.encoders.base import VideoEncoder, register_encoder
from lipsep.encoders.mouth_points import DILATIONS, DilatedBlock

CHANNELS = (1, 16, 32, 64, 96)  # halved in size at each step: 44 -> 22 -> 11 -> 6 -> 3 px


class Look(nn.Sequential):
    """Convolution of stride 2, batch norm, ReLU: (N, C, S, S) -> (N, C', S / 2, S / 2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class MouthPixels(VideoEncoder):
    """Sees 1 s of motion around each frame. Shape: lips (B, F, 88, 88) -> (B, F, feature_dim)."""

    def __init__(
        self, lip_size: int = 88, lip_recipe: str = "mouth_88", feature_dim: int = 192, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.lip_size, self.lip_recipe, self.feature_dim = lip_size, lip_recipe, feature_dim
        self.look = nn.Sequential(*(Look(i, o, 5 if i == 1 else 3) for i, o in itertools.pairwise(CHANNELS)))
        side = -(-lip_size // 2 ** len(CHANNELS))  # 88 -> 3 px
        self.projection = nn.Linear(CHANNELS[-1] * side**2, feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.conv_in = nn.Conv1d(feature_dim, feature_dim, 3, padding=1)
        self.blocks = nn.Sequential(*(DilatedBlock(feature_dim, dilation, dropout) for dilation in DILATIONS))

    def forward(self, lips: Tensor) -> Tensor:
        n_frames = lips.shape[1]
        x = functional.avg_pool2d(lips, 2)  # (B, F, 44, 44)
        x = x - x.mean((-2, -1), keepdim=True)  # the light does not count
        x = self.look(x.flatten(0, 1).unsqueeze(1)).flatten(1)  # (B F, 96 * 3 * 3)
        x = self.dropout(self.projection(x)).unflatten(0, (-1, n_frames)).transpose(1, 2)  # (B, C, F)
        return self.blocks(self.conv_in(x)).transpose(1, 2)  # (B, F, C)


register_encoder("mouth_pixels", MouthPixels)
