"""The two networks that find faces: BlazeFace (full range) and the 468-point face mesh, in plain PyTorch.

Sources:
    Bazarevsky, Kartynnik, Vakunov, Raveendran, Grundmann: BlazeFace, arXiv:1907.05047 (here its full-range successor,
    as published in MediaPipe's model card "BlazeFace (full range)").
    Kartynnik, Ablavatski, Grishchenko, Grundmann: Real-time Facial Surface Geometry from Monocular Video on Mobile
    GPUs, arXiv:1907.06724.
The weights are Google's (Apache-2.0, see NOTICE), converted by scripts/convert_face_weights.py and kept in float16 as
published; the outputs agree with the TensorFlow Lite originals to one part in a million of their largest value.

The order in which modules are created is the order of the operations in the published graphs: the converter relies
on it, and checks every shape.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.errors import WeightsError
from lipsep.kernels import blaze

NET_SIZE = 192  # both networks read pictures of 192 x 192 pixels


def _pad_to_halve(x: Tensor) -> Tensor:
    """TensorFlow's "SAME" padding of even sizes for 3x3 kernels with stride 2: one row below, one column right."""
    return F.pad(x, (0, 1, 0, 1))


def _skip(x: Tensor, n_out: int, stride: int) -> Tensor:
    """The parameter-free shortcut: 2x2 maxima where the block halves the size, zero channels where it widens."""
    if stride == 2:
        x = F.max_pool2d(x, 2)  # (B, C, H/2, W/2)
    if n_out > x.shape[1]:
        x = F.pad(x, (0, 0, 0, 0, 0, n_out - x.shape[1]))  # (B, n_out, H, W)
    return x


class Depthwise(nn.Module):
    """3x3 convolution per channel, then 1x1 across channels.

    Shape: (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)
    """

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(n_in, n_in, 3, stride, padding=1 if stride == 1 else 0, groups=n_in)
        self.pointwise = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = _pad_to_halve(x)
        return self.pointwise(self.depthwise(x))


class DoubleBlazeBlock(nn.Module):
    """BlazeFace's double block: squeeze to n_mid channels, expand to n_out, add the shortcut (its figure 1, right).

    Shape: (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)
    """

    def __init__(self, n_in: int, n_mid: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.n_out, self.stride = n_out, stride
        self.squeeze = Depthwise(n_in, n_mid, stride)
        self.expand = Depthwise(n_mid, n_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.squeeze(x).relu_())
        return y.add_(_skip(x, self.n_out, self.stride)).relu_()


class PyramidLevel(nn.Module):
    """One step of the feature pyramid: coarse features, doubled in size, join the finer ones.

    Shape: (B, n_coarse, H, W), (B, n_fine, 2H, 2W) -> (B, n_out, 2H, 2W)
    """

    def __init__(self, n_coarse: int, n_fine: int, n_out: int, n_blocks: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(n_coarse, n_out, 1)
        self.fine = nn.Conv2d(n_fine, n_out, 1)
        self.blocks = nn.Sequential(*(DoubleBlazeBlock(n_out, n_out // 2, n_out) for _ in range(n_blocks)))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(self.coarse(coarse).relu_(), scale_factor=2, mode="bilinear", align_corners=False)
        return self.blocks(self.fine(fine).relu_().add_(coarse))


class FaceNet(nn.Module):
    """A network for pictures, in one go where there are compiled kernels (`lipsep.kernels.blaze`) once it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self._programs: dict[tuple[int, int], blaze.Program] = {}  # by the size of the pictures

    def maps(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """The network itself."""
        raise NotImplementedError

    def frozen_maps(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """What `maps` gives."""
        if not blaze.takes(pictures):
            return self.maps(pictures)
        height, width = pictures.shape[2:]
        if (height, width) not in self._programs:
            self._programs[height, width] = blaze.Program.of(self.maps, height, width)
        return tuple(self._programs[height, width](pictures))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._programs = {}
        super()._load_from_state_dict(*args, **kwargs)


class BlazeFace(FaceNet):
    """Full-range face detector: one anchor at the centre of each 4x4 cell of a 192x192 picture.

    Shape: (B, 3, 192, 192) RGB in [-1, 1] -> scores (B, 2304), boxes (B, 2304, 16)

    Scores are logits. The sixteen numbers are offsets in pixels of the 192x192 picture from the anchor's centre:
    box centre x, y; box width, height; then six points x, y: right eye, left eye (as the person has them), nose tip,
    mouth, right ear, left ear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2)
        block = DoubleBlazeBlock
        self.stage_48 = nn.Sequential(  # up to the last feature map of 48 x 48
            block(32, 8, 32), block(32, 8, 32),
            block(32, 12, 48, 2), block(48, 12, 48), block(48, 16, 64),
        )  # fmt: skip
        self.stage_24 = nn.Sequential(block(64, 24, 96, 2), block(96, 32, 128), block(128, 32, 128))
        self.stage_12 = nn.Sequential(block(128, 36, 144, 2), block(144, 48, 192), block(192, 64, 256))
        self.stage_6 = nn.Sequential(block(256, 96, 384, 2), *(block(384, 96, 384) for _ in range(3)))
        self.level_12 = PyramidLevel(384, 256, 96, n_blocks=2)
        self.level_24 = PyramidLevel(96, 128, 64, n_blocks=2)
        self.level_48 = PyramidLevel(64, 64, 48, n_blocks=1)
        self.score = nn.Conv2d(48, 1, 1)
        self.box = nn.Conv2d(48, 16, 1)

    def maps(self, pictures: Tensor) -> tuple[Tensor, ...]:
        x_48 = self.stage_48(self.stem(_pad_to_halve(pictures)).relu_())  # (B, 64, 48, 48)
        x_24 = self.stage_24(x_48)  # (B, 128, 24, 24)
        x_12 = self.stage_12(x_24)  # (B, 256, 12, 12)
        x = self.level_12(self.stage_6(x_12), x_12)  # (B, 96, 12, 12)
        x = self.level_48(self.level_24(x, x_24), x_48)  # (B, 48, 48, 48)
        return self.score(x), self.box(x)  # (B, 1, 48, 48), (B, 16, 48, 48)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = self.frozen_maps(pictures)
        return scores.flatten(1), boxes.flatten(2).transpose(1, 2)  # (B, 2304), (B, 2304, 16)


class MeshBlock(nn.Module):
    """Single residual block with a learnt slope for negative values.

    Shape: (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)
    """

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.n_out, self.stride = n_out, stride
        self.conv = Depthwise(n_in, n_out, stride)
        self.prelu = nn.PReLU(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.conv(x).add_(_skip(x, self.n_out, self.stride)))


class FaceMesh(FaceNet):
    """468 points of a face's surface, and whether the picture shows a face at all.

    Shape: (B, 3, 192, 192) RGB in [0, 1] -> points (B, 468, 3), score (B,)

    Points are x, y, depth in pixels of the 192x192 picture; the score is a logit. The picture is an upright face with
    25 % of margin on every side (MediaPipe's convention).
    """

    def __init__(self) -> None:
        super().__init__()
        block = MeshBlock
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.PReLU(16))
        self.trunk = nn.Sequential(
            block(16, 16), block(16, 16),
            block(16, 32, 2), block(32, 32), block(32, 32),
            block(32, 64, 2), block(64, 64), block(64, 64),
            block(64, 128, 2), block(128, 128), block(128, 128),
            block(128, 128, 2), block(128, 128), block(128, 128),
        )  # fmt: skip
        self.point_head = nn.Sequential(
            block(128, 128, 2), block(128, 128), block(128, 128),
            nn.Conv2d(128, 32, 1), nn.PReLU(32), block(32, 32), nn.Conv2d(32, 3 * 468, 3),
        )  # fmt: skip
        self.score_head = nn.Sequential(
            block(128, 128, 2), nn.Conv2d(128, 32, 1), nn.PReLU(32), block(32, 32), nn.Conv2d(32, 1, 3)
        )

    def maps(self, pictures: Tensor) -> tuple[Tensor, ...]:
        x = self.trunk(self.stem(_pad_to_halve(pictures)))  # (B, 128, 6, 6)
        return self.point_head(x), self.score_head(x)  # (B, 1404, 1, 1), (B, 1, 1, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        points, score = self.frozen_maps(pictures)
        return points.reshape(-1, 468, 3), score.flatten()


def load_face_nets() -> tuple[BlazeFace, FaceMesh]:
    """Both networks with the weights of the package, in eval mode on the CPU.

    Raises:
        WeightsError: a weight file is missing or does not fit (a broken installation).
    """
    nets = (("blazeface", BlazeFace()), ("facemesh", FaceMesh()))
    for name, net in nets:
        try:
            with as_file(files("lipsep") / "weights" / "faces" / f"{name}.safetensors") as path:
                state = load_file(path)
            net.load_state_dict({key: value.float() for key, value in state.items()})
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"the face weights {name!r} of this installation are unusable, reinstall: {error}"
            ) from error
        net.requires_grad_(False).eval()
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stub lacks this form
    return nets[0][1], nets[1][1]
