"""A light lip reader: one 3D convolution, ShuffleNet V2 on every frame, a temporal convolutional network.

Pingchuan Ma et al., "Towards Practical Lipreading with Distilled and Efficient Models", ICASSP 2021, arXiv 2007.06504;
ShuffleNet V2 (width 1) is arXiv 1807.11164. VisualVoice watches lips with it. Checked against the golden output of the
published code. Trained there on word classification (LRW); the classifier behind it is left out here.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from lipsep.encoders.base import VideoEncoder, register_encoder
from lipsep.encoders.front_conv import FrontConv
from lipsep.layers.picture_conv import FoldedNorm, PictureConv, conv_norm

_FRONT_CHANNELS = 24
_STAGES = ((116, 4), (232, 8), (464, 4))  # channels, blocks; the first block of each halves the picture
_FRAME_CHANNELS = 1024
_DILATIONS = (1, 2, 4, 8)  # frames


def _pointwise(c_in: int, c_out: int) -> list[nn.Module]:
    return [*conv_norm(c_in, c_out, 1), nn.ReLU()]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return conv_norm(channels, channels, 3, stride, padding=1, groups=channels)


class ShuffleBlock(nn.Module):
    """One half of the channels goes through a bottleneck, then the halves are interleaved; a block with stride 2 sends
    all channels through both branches. Shape: (N, C, H, W) -> (N, C', H / s, W / s)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        half, c_branch = c_out // 2, c_in if stride > 1 else c_out // 2
        self.shortcut = nn.Sequential(*_depthwise(c_in, stride), *_pointwise(c_in, half)) if stride > 1 else None
        self.branch = nn.Sequential(*_pointwise(c_branch, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        kept, passed = x.chunk(2, dim=1) if self.shortcut is None else (self.shortcut(x), x)
        both = torch.stack([kept, self.branch(passed)], dim=2)  # (N, C' / 2, 2, H, W)
        return both.flatten(1, 2)


class TemporalBlock(nn.Module):
    """Two dilated convolutions over time, added to the input. Shape: (B, C, 1, F) -> (B, C', 1, F)."""

    def __init__(self, c_in: int, c_out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        over_time = {"kernel_size": (1, 3), "padding": (0, dilation), "dilation": (1, dilation)}
        self.conv1 = PictureConv(c_in, c_out, **over_time)
        self.norm1, self.act1 = FoldedNorm(self.conv1), nn.PReLU(c_out)
        self.conv2 = PictureConv(c_out, c_out, **over_time)
        self.norm2, self.act2 = FoldedNorm(self.conv2), nn.PReLU(c_out)
        self.shortcut = PictureConv(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.act = nn.PReLU(c_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.act1(self.norm1(self.conv1(x))))
        y = self.dropout(self.act2(self.norm2(self.conv2(y))))
        return self.act(y + self.shortcut(x))


class ShuffleNetTCN(VideoEncoder):
    """Lip pictures to one vector per frame.

    Args:
        lip_size: S, px; any size works, 88 is what it was trained on.
        lip_recipe: how the pictures are made.
        dropout: in the temporal blocks.

    Shape: lips (B, F, S, S) -> (B, F, 512).
    """

    feature_dim = 512

    def __init__(self, lip_size: int = 88, lip_recipe: str = "mouth_88", dropout: float = 0.2) -> None:
        super().__init__()
        self.lip_size, self.lip_recipe = lip_size, lip_recipe
        self.front = FrontConv(_FRONT_CHANNELS, nn.PReLU(_FRONT_CHANNELS))
        blocks, c_in = [], _FRONT_CHANNELS
        for c_out, n_blocks in _STAGES:
            for block in range(n_blocks):
                blocks.append(ShuffleBlock(c_in, c_out, 1 if block else 2))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.expand = nn.Sequential(*_pointwise(c_in, _FRAME_CHANNELS))
        sizes = [_FRAME_CHANNELS] + [self.feature_dim] * len(_DILATIONS)
        self.temporal = nn.Sequential(
            *(TemporalBlock(sizes[k], sizes[k + 1], d, dropout) for k, d in enumerate(_DILATIONS))
        )

    def forward(self, lips: Tensor) -> Tensor:
        x = self.front(lips)  # (B * F, 24, S / 4, S / 4)
        x = self.expand(self.blocks(x))  # (B * F, 1024, S / 32, S / 32)
        x = x.mean((2, 3)).unflatten(0, lips.shape[:2])  # (B, F, 1024)
        return self.temporal(x.mT.unsqueeze(2)).squeeze(2).mT


register_encoder("shufflenet_tcn", ShuffleNetTCN)

_KEYS = (
    (r"^front\.weight", "frontend3D.0.weight"),
    (r"^front\.norm", "frontend3D.1"),
    (r"^front\.act", "frontend3D.2"),
    (r"^blocks\.(\d+)\.shortcut\.", r"trunk.0.\1.banch1."),
    (r"^blocks\.(\d+)\.branch\.", r"trunk.0.\1.banch2."),
    (r"^expand\.", "trunk.1."),
    (r"^(temporal\.\d+\.)norm", r"\1batchnorm"),
    (r"^(temporal\.\d+\.)act", r"\1relu"),
    (r"^(temporal\.\d+\.)shortcut", r"\1downsample"),
    (r"^temporal\.", "tcn.tcn_trunk.network."),
)
IGNORED = ("tcn.tcn_trunk.network.*.net.*", "tcn.tcn_output.*")
"""Second names of the same weights, and the word classifier."""


def released_key(name: str) -> str:
    """The key in the released lip-reading checkpoint of one of this encoder's state-dict keys."""
    for ours, theirs in _KEYS:
        name = re.sub(ours, theirs, name)
    return name
