"""The cheapest lip reader: a temporal convolution network on the mouth's landmarks, written as tiny pictures.

Ours, for processors. It watches what the recipe "points_8" writes down (`lips.reading.write_mouth`); no convolution
over pixels, so it costs next to nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from lipsep.encoders.base import VideoEncoder, register_encoder

DILATIONS = (1, 2, 4, 1)


class DilatedBlock(nn.Module):
    """Batch norm, GELU, dilated convolution of 5 frames, added to the input. Shape: (B, C, F) -> (B, C, F)."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv1d(channels, channels, 5, padding=2 * dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.dropout(self.act(self.norm(x))))


class MouthPoints(VideoEncoder):
    """Sees 0.9 s of motion around each frame. Shape: lips (B, F, 8, 8) -> (B, F, feature_dim)."""

    def __init__(
        self,
        lip_size: int = 8,
        lip_recipe: str = "points_8",
        feature_dim: int = 192,
        dropout: float = 0.1,
        n_values: int = 64,
    ) -> None:
        """n_values: what `values` takes from each picture."""
        super().__init__()
        self.lip_size, self.lip_recipe, self.feature_dim = lip_size, lip_recipe, feature_dim
        self.conv_in = nn.Conv1d(n_values, feature_dim, 5, padding=2)
        self.blocks = nn.Sequential(*(DilatedBlock(feature_dim, dilation, dropout) for dilation in DILATIONS))

    def forward(self, lips: Tensor) -> Tensor:
        return self.blocks(self.conv_in(self.values(lips).transpose(1, 2))).transpose(1, 2)  # (B, F, C)

    def values(self, lips: Tensor) -> Tensor:
        """What is written in the pictures: (B, F, 8, 8) -> (B, F, 64)."""
        return lips.flatten(2)


register_encoder("mouth_points", MouthPoints)
