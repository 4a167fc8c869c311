"""A 3D convolution, a ResNet-18 on each frame and five temporal blocks, on mouth pictures of 112 x 112.

The visual front end of AV-MossFormer2 and its sisters, after Afouras et al., "Deep Audio-Visual Speech Recognition",
2018 (the ResNet) and Pan et al., "MuSE", ICASSP 2021 (the temporal blocks). Checked against the golden output of the
published code (ClearerVoice-Studio). 12,649,925 parameters, 12.7 G MACs per second of video.

The authors normalise pictures with mean 0.4161 and deviation 0.1688 and cut them from the middle of a face box; here
the lip recipe `mouth_112` does it with 0.421 and 0.165, and from an aligned face.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders.base import VideoEncoder, register_encoder
from lipsep.encoders.front_conv import FrontConv
from lipsep.layers.picture_conv import FoldedNorm, PictureConv

_STAGES = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))  # channels in, channels out, stride
_EPS, _MOMENTUM = 1e-3, 0.01  # of the ResNet's batch norms


class ResidualPair(nn.Module):
    """Two residual blocks, the second of which adds what the first had before its norm. Shape: (N, C, H, W) ->
    (N, C', H / stride, W / stride).

    As published, `shortcut` exists in every stage and is used where the size changes.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1a = PictureConv(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2a, self.conv1b, self.conv2b = (PictureConv(c_out, c_out, 3, 1, 1, bias=False) for _ in range(3))
        self.shortcut = PictureConv(c_in, c_out, 1, stride, bias=False)
        self.norm1a, self.norm1b = (FoldedNorm(conv, _EPS, _MOMENTUM) for conv in (self.conv1a, self.conv1b))
        self.norm2a, self.norm2b = (nn.BatchNorm2d(c_out, _EPS, _MOMENTUM) for _ in range(2))  # of sums

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2a(F.relu(self.norm1a(self.conv1a(x))))
        total = branch + (x if self.conv1a.stride == (1, 1) else self.shortcut(x))
        branch = self.conv2b(F.relu(self.norm1b(self.conv1b(F.relu(self.norm2a(total))))))
        return F.relu(self.norm2b(branch + total))


class TemporalBlock(nn.Module):
    """Depthwise convolution over time between two pointwise ones, added to its input. Shape: (B, C, F) -> (B, C, F)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm1d(channels)
        self.expand = nn.Conv1d(channels, hidden, 1, bias=False)
        self.norm_hidden = nn.BatchNorm1d(hidden)
        self.conv = nn.Conv1d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.PReLU()
        self.norm_out = nn.BatchNorm1d(hidden)
        self.contract = nn.Conv1d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_hidden(F.relu(self.expand(self.norm_in(F.relu(x)))))  # (B, hidden, F)
        return x + self.contract(self.norm_out(self.activation(self.conv(y))))


class TemporalResNet(VideoEncoder):
    """Lip pictures to one vector per frame.

    Args:
        lip_size: S, px; any size works, 112 is what it was trained on.

    Shape: lips (B, F, S, S), normalised -> features (B, F, 256).
    """

    feature_dim = 256

    def __init__(self, lip_size: int = 112, lip_recipe: str = "mouth_112") -> None:
        super().__init__()
        self.lip_size, self.lip_recipe = lip_size, lip_recipe
        self.front = FrontConv(64, nn.ReLU(), _EPS, _MOMENTUM)
        self.stages = nn.ModuleList(ResidualPair(*sizes) for sizes in _STAGES)
        self.reduce = nn.Linear(512, self.feature_dim, bias=False)
        self.temporal = nn.Sequential(*(TemporalBlock(self.feature_dim, 512) for _ in range(5)))

    def forward(self, lips: Tensor) -> Tensor:
        x = self.front(lips)  # (B * F, 64, 28, 28)
        for stage in self.stages:
            x = stage(x)  # (B * F, 512, 4, 4) after the last
        x = self.reduce(x.mean((2, 3))).unflatten(0, lips.shape[:2])  # (B, F, 256)
        return self.temporal(x.mT).mT


register_encoder("resnet18_temporal", TemporalResNet)

_FRONT = {"conv1a": "conv1a", "conv2a": "conv2a", "conv1b": "conv1b", "conv2b": "conv2b", "shortcut": "downsample"}
_FRONT |= {"norm1a": "bn1a", "norm2a": "outbna", "norm1b": "bn1b", "norm2b": "outbnb"}
_TEMPORAL = {"norm_in": "norm_0", "expand": "conv1x1", "norm_hidden": "norm_1", "conv": "dsconv"}
_TEMPORAL |= {"activation": "prelu", "norm_out": "norm_2", "contract": "pw_conv"}


def released_key(name: str) -> str:
    """The key in the authors' checkpoints of one of this encoder's state-dict keys."""
    part, _, rest = name.partition(".")
    if part == "stages":
        index, layer, rest = rest.split(".", 2)
        return f"v_frontend.resnet.layer{int(index) + 1}.{_FRONT[layer]}.{rest}"
    if part == "temporal":
        index, layer, rest = rest.split(".", 2)
        return f"visual_conv.{index}.{_TEMPORAL[layer]}.{rest}"
    if part == "front":
        return "v_frontend.frontend3D." + ("0.weight" if rest == "weight" else rest.replace("norm", "1"))
    return f"v_ds.{rest}"
