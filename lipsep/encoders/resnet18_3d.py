"""The lip-reading front end of most baselines: one 3-D convolution, then a ResNet-18 on every frame.

Themos Stafylakis and Georgios Tzimiropoulos, "Combining Residual Networks with LSTMs for Lipreading", Interspeech 2017,
in the form of Brais Martinez et al., "Lipreading Using Temporal Convolutional Networks", ICASSP 2020 (PReLU). Trained
on word classification (LRW) and then frozen, batch norms included, while a separator learns.

In the papers: 11,186,688 parameters, 7.95 G MACs for 25 pictures of 88 x 88 px. `resnet18_3d_256` is the older form
that AV-ConvTasNet uses: ReLU, convolutions with bias, a linear map to 256 features.
"""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor, nn

from lipsep.encoders.base import VideoEncoder, register_encoder
from lipsep.encoders.front_conv import FRONT_FRAMES, FrontConv
from lipsep.layers.picture_conv import FoldedNorm, PictureConv, conv_norm

CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to the input. Shape: (N, C, H, W) -> (N, C', H / s, W / s)."""

    def __init__(self, c_in: int, c_out: int, stride: int, prelu: bool, bias: bool) -> None:
        super().__init__()
        self.conv1 = PictureConv(c_in, c_out, 3, stride, padding=1, bias=bias)
        self.norm1 = FoldedNorm(self.conv1)
        self.act1 = nn.PReLU(c_out) if prelu else nn.ReLU()
        self.conv2 = PictureConv(c_out, c_out, 3, padding=1, bias=bias)
        self.norm2 = FoldedNorm(self.conv2)
        self.act2 = nn.PReLU(c_out) if prelu else nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(*conv_norm(c_in, c_out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))


class ResNet18Lips(VideoEncoder):
    """Lip pictures to one vector per frame.

    Args:
        lip_size: S, px; any size works, 88 is what it was trained on.
        lip_recipe: how the pictures are made.
        embedding: features after a linear map and batch norm at the end; None: the pooled 512 themselves.
        prelu: PReLU in the blocks, with a slope per channel; otherwise ReLU, and convolutions have a bias.

    Shape: lips (B, F, S, S) -> (B, F, feature_dim).
    """

    lookahead_frames = FRONT_FRAMES // 2

    def __init__(
        self, lip_size: int = 88, lip_recipe: str = "mouth_88", embedding: int | None = None, prelu: bool = True
    ) -> None:
        super().__init__()
        self.lip_size, self.lip_recipe = lip_size, lip_recipe
        self.front = FrontConv(CHANNELS[0], nn.PReLU(CHANNELS[0] if prelu else 1))
        blocks, c_in = [], CHANNELS[0]
        for stage, c_out in enumerate(CHANNELS):
            for block in range(BLOCKS_PER_STAGE):
                stride = 2 if stage and block == 0 else 1
                blocks.append(BasicBlock(c_in, c_out, stride, prelu, bias=not prelu))
                c_in = c_out
        self.trunk = nn.ModuleList(blocks)
        self.feature_dim = embedding or CHANNELS[-1]
        self.embed = None
        if embedding is not None:
            self.embed = nn.Sequential(nn.Linear(CHANNELS[-1], embedding), nn.BatchNorm1d(embedding))

    def forward(self, lips: Tensor, wanted: slice = slice(None)) -> Tensor:
        """wanted: of which pictures; the others are context (in a stream)."""
        x = self.front(lips, wanted)  # (B * F, 64, S / 4, S / 4)
        for block in self.trunk:
            x = block(x)
        x = x.mean((2, 3))  # (B * F, 512)
        x = x if self.embed is None else self.embed(x)
        return x.unflatten(0, (len(lips), -1))


def released_key(name: str) -> str:
    """The key of CTCNet's, RTFS-Net's and IIANet's released lip-reading models for one of `resnet18_3d`'s."""
    name = re.sub(r"^front\.weight", "frontend3D.0.weight", name)
    name = re.sub(r"^front\.norm", "frontend3D.1", name)
    name = re.sub(r"^front\.act", "frontend3D.2", name)
    return _trunk_key(name)


def published_key_256(name: str) -> str:
    """The key of AV-ConvTasNet's released lip-reading model for one of `resnet18_3d_256`'s."""
    name = re.sub(r"^front\.weight", "front3d.conv3d.0.weight", name)
    name = re.sub(r"^front\.norm", "front3d.conv3d.1", name)
    name = re.sub(r"^front\.act", "front3d.conv3d.2", name)
    name = re.sub(r"^embed\.0", "front3d.resnet.fc", name)
    name = re.sub(r"^embed\.1", "front3d.resnet.bnfc", name)
    return re.sub(r"^trunk\.", "front3d.resnet.", _trunk_key(name))


def _trunk_key(name: str) -> str:
    if not name.startswith("trunk."):
        return name
    _, index, rest = name.split(".", 2)
    stage, block = divmod(int(index), BLOCKS_PER_STAGE)
    rest = re.sub(r"^norm(\d)", r"bn\1", re.sub(r"^act(\d)", r"relu\1", rest))
    return f"trunk.layer{stage + 1}.{block}.{re.sub('^shortcut', 'downsample', rest)}"


register_encoder("resnet18_3d", ResNet18Lips)
register_encoder("resnet18_3d_256", partial(ResNet18Lips, embedding=256, prelu=False))
