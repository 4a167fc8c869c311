"""The small convolutional autoencoder of AVLIT and BIN: every frame by itself, trained to give the picture back.

Hector Martel et al., "Audio-Visual Speech Separation in Noisy Environments with a Lightweight Iterative Model",
Interspeech 2023. Published sizes: 2,760 parameters with three layers (AVLIT's code), 11,144 with four (BIN's), encoder
alone; 64 x 64 px either way.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders.base import VideoEncoder, register_encoder
from lipsep.errors import ModelError

LEAK = 0.3  # slope of the leaky ReLU below zero


class HalveSpace(nn.Module):
    """2 x 2 convolution of stride 2, instance norm, leaky ReLU. Shape: (N, C, H, W) -> (N, C', H / 2, W / 2)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 2, stride=2)
        self.norm = nn.InstanceNorm2d(c_out, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), LEAK)


class DoubleSpace(nn.Module):
    """The transposed convolution that mirrors `HalveSpace`. Shape: (N, C, H, W) -> (N, C', 2 H, 2 W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
        self.norm = nn.InstanceNorm2d(c_out, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), LEAK)


class FrameAutoencoder(VideoEncoder):
    """Lip pictures to one vector per frame, and back for pretraining by reconstruction (`decode`).

    Args:
        channels: of each layer; S must be a multiple of 2 to the power of their number.
        lip_size: S, px.
        lip_recipe: how the pictures are made.

    Shape: lips (B, F, S, S) -> (B, F, channels[-1] (S / 2^n)^2), in the order channel, row, column.
    """

    lookahead_frames = 0

    def __init__(
        self, channels: tuple[int, ...] = (8, 16, 32), lip_size: int = 64, lip_recipe: str = "mouth_64"
    ) -> None:
        super().__init__()
        if lip_size % 2 ** len(channels):
            raise ModelError(
                f"lip_size={lip_size} must be a multiple of {2 ** len(channels)} for {len(channels)} layers"
            )
        self.lip_size, self.lip_recipe = lip_size, lip_recipe
        side = lip_size // 2 ** len(channels)
        self.map_shape = (channels[-1], side, side)
        self.feature_dim = channels[-1] * side**2
        sizes = list(pairwise((1, *channels)))
        self.encoder = nn.Sequential(*(HalveSpace(*ends) for ends in sizes))
        self.decoder = nn.Sequential(*(DoubleSpace(*ends[::-1]) for ends in reversed(sizes)))

    def forward(self, lips: Tensor) -> Tensor:
        maps = self.encoder(lips.flatten(0, 1).unsqueeze(1))  # (B * F, C, side, side)
        return maps.flatten(1).unflatten(0, lips.shape[:2])

    def decode(self, features: Tensor) -> Tensor:
        """Shape: (B, F, feature_dim) -> (B, F, S, S)."""
        pictures = self.decoder(features.flatten(0, 1).unflatten(-1, self.map_shape))  # (B * F, 1, S, S)
        return pictures.squeeze(1).unflatten(0, features.shape[:2])


def released_key(name: str) -> str:
    """The key of AVLIT's and BIN's released autoencoders for one of ours."""
    part, _, rest = name.partition(".")
    return f"{part}.layers.{rest}"


register_encoder("autoencoder", FrameAutoencoder)
register_encoder("autoencoder_1024", partial(FrameAutoencoder, channels=(8, 16, 32, 64)))
