"""DP-LipCoder: the dual-path video encoder of Dolphin, and its two halves.

Li et al., "Efficient Audio-Visual Speech Separation with Discrete Lip Semantics and Multi-Scale Global-Local
Attention", arXiv 2509.23610. The building blocks follow MAGVIT-v2 (Yu et al. 2023). Two paths of one shape read the
same lip pictures: the semantic path ends in a vector quantiser, whose codes were distilled from AV-HuBERT; the
reconstruction path keeps the appearance. Their sum is the visual feature. With the published sizes: 781,818 parameters,
of which 640,685 semantic (499,552 of them projections of the quantiser) and 141,133 reconstruction.

Where paper and published code differ, the code is followed: the squeeze-excite has max(16, C / 2) hidden units, the
first attention is linear (second-order Taylor expansion of exp), the convolutions look into the future.

Pictures are stored channels-last, (B, F, H, W, C): linear maps, norms and attention then need no transpose.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders.base import VideoEncoder, register_encoder
from lipsep.encoders.vector_quantizer import Quantized, VectorQuantizer
from lipsep.errors import ModelError
from lipsep.kernels.convolution import convolve_3d
from lipsep.kernels.precision import full_precision
from lipsep.kernels.relative_attention import scaled_attention
from lipsep.kernels.stem import STEM_KERNEL, stems
from lipsep.kernels.taylor import taylor_attention

PAPER_LAYERS = (
    "residual",
    "compress_space",
    "consecutive_residual",
    "compress_space",
    "consecutive_residual",
    "linear_attend_space",
    "compress_space",
    "consecutive_residual",
    "attend_space",
)
DP_LIPCODERS = ("dp_lipcoder", "lipcoder", "reconstruction")  # both paths, the semantic one, the other one
LINEAR_HEADS, LINEAR_HEAD_DIM = 16, 8
HEADS, HEAD_DIM, N_MEMORY = 8, 32, 4
FEED_FORWARD_MULT = 4


class StemConv(nn.Module):
    """The weights of a path's first convolution, k x k x k on grey pictures; see `kernels.stem.stems`."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        conv = nn.Conv3d(1, channels, kernel)
        self.weight, self.bias = conv.weight, conv.bias


class Conv3d(nn.Module):
    """A 3 x 3 x 3 convolution that keeps the size. Shape: (B, F, H, W, C) -> (B, F, H, W, C')."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        conv = nn.Conv3d(c_in, c_out, 3)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return convolve_3d(x, self.weight, self.bias)


class SqueezeExcite(nn.Module):
    """Gate the channels of each frame by an attention-pooled summary of the frame.

    The last bias starts at `gate_bias`: at the published -10 the gates start at 4.5e-5, so that residual units start as
    identities. Shape: (B, F, H, W, C) -> (B, F, H, W, C).
    """

    def __init__(self, channels: int, gate_bias: float) -> None:
        super().__init__()
        hidden = max(16, channels // 2)
        self.attend = nn.Linear(channels, 1)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.constant_(self.excite.bias, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2, 3)  # (B, F, H * W, C)
        weights = self.attend(pixels).softmax(2)  # (B, F, H * W, 1)
        summary = (weights.transpose(2, 3) @ pixels).squeeze(2)  # (B, F, C)
        gates = torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(summary), 0.1)))
        return x * gates[:, :, None, None]


class ResidualUnit(nn.Module):
    """3x3x3 convolution, pointwise convolution, squeeze-excite, added to the input."""

    def __init__(self, channels: int, gate_bias: float) -> None:
        super().__init__()
        self.conv = Conv3d(channels, channels)
        self.pointwise = nn.Linear(channels, channels)
        self.gate = SqueezeExcite(channels, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(F.elu(self.pointwise(F.elu(self.conv(x), inplace=True)), inplace=True))


class CompressSpace(nn.Module):
    """Halve the picture with a strided 3x3 convolution. Shape: (B, F, H, W, C) -> (B, F, H / 2, W / 2, C')."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1).movedim(-1, 1)  # (B * F, C, H, W), channels-last in memory
        return self.conv(frames).movedim(1, -1).unflatten(0, x.shape[:2])


class RMSNorm(nn.Module):
    """Scale the channel vector of each pixel to length sqrt(C), then one gain per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * (self.gain * len(self.gain) ** 0.5)


class LinearSpaceAttention(nn.Module):
    """Attention among the pixels of a frame with exp(s) replaced by 1 + s + s^2 / 2, hence linear in the pixels.

    Works on (heads, 8, pixels), so that the products of the expansion run along the pixels.
    Shape: (B, F, H, W, C) -> same, added to the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = LINEAR_HEADS * LINEAR_HEAD_DIM
        self.norm = RMSNorm(channels)
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_kv = nn.Linear(channels, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(0, 1).flatten(1, 2)  # (B * F, N, C) with N = H * W
        with full_precision(x):  # sums over many pixels: in full precision, forth and back
            out = taylor_attention(*self.project(pixels.to(self.to_q.weight.dtype)))  # (heads, 8, B * F, N)
        return x + self.to_out(out.flatten(0, 1).flatten(1).t()).view_as(x)

    def project(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values: (frames, N, C) -> (heads, 8, frames, N) each."""
        columns, shape = pixels.flatten(0, 1).t(), (LINEAR_HEADS, LINEAR_HEAD_DIM, *pixels.shape[:2])
        weights = self.to_q.weight * LINEAR_HEAD_DIM**-0.5, *self.to_kv.weight.chunk(2)  # (inner, C) each
        return tuple((weight @ columns).view(shape) for weight in weights)


class SpaceAttention(nn.Module):
    """Attention among the pixels of a frame and a few learned memory slots. Shape: (B, F, H, W, C) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * HEADS * HEAD_DIM, bias=False)
        self.memory = nn.Parameter(torch.randn(2, HEADS, N_MEMORY, HEAD_DIM))  # keys, values
        self.to_out = nn.Linear(HEADS * HEAD_DIM, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(0, 1).flatten(1, 2)  # (B * F, N, C)
        q, k, v = self.to_qkv(pixels).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        memory = self.memory[:, None].expand(-1, pixels.shape[0], -1, -1, -1)
        k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)  # (B * F, heads, 4 + N, 32)
        out = scaled_attention(q, k, v)
        return x + self.to_out(out.transpose(1, 2).flatten(2)).view_as(x)


class FeedForward(nn.Module):
    """Pixel-wise gated feed-forward network (GEGLU), added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = int(channels * FEED_FORWARD_MULT * 2 / 3)
        self.norm = RMSNorm(channels)
        self.expand = nn.Linear(channels, 2 * inner)
        self.contract = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(self.norm(x)).chunk(2, dim=-1)
        return x + self.contract(value * F.gelu(gate))


class ExpandSpace(nn.Module):
    """Double the picture: four pixels from the channels of one. Shape: (B, F, H, W, C) -> (B, F, 2 H, 2 W, C')."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(c_in, 4 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        quads = F.silu(self.linear(x)).unflatten(-1, (2, 2, -1))  # (B, F, H, W, 2, 2, C')
        return quads.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def build_layers(kinds: tuple[str, ...], channels: list[int], gate_bias: float, decode: bool = False) -> nn.ModuleList:
    """The layers `kinds`, the i-th from channels[i] to channels[i + 1]; `decode` turns halving into doubling."""
    resize = ExpandSpace if decode else CompressSpace
    make = {
        "residual": lambda c, _: ResidualUnit(c, gate_bias),
        "consecutive_residual": lambda c, _: nn.Sequential(ResidualUnit(c, gate_bias), ResidualUnit(c, gate_bias)),
        "compress_space": resize,
        "linear_attend_space": lambda c, _: nn.Sequential(LinearSpaceAttention(c), FeedForward(c)),
        "attend_space": lambda c, _: nn.Sequential(SpaceAttention(c), FeedForward(c)),
    }
    unknown = [kind for kind in kinds if kind not in make]
    if unknown:
        raise ModelError(f"unknown video layer '{unknown[0]}'; known: {', '.join(make)}")
    return nn.ModuleList(make[kind](*ends) for kind, ends in zip(kinds, pairwise(channels), strict=True))


def widths(kinds: tuple[str, ...], init_channels: int, max_channels: int) -> list[int]:
    """Channels before each layer and after the last: doubled at each `compress_space` up to `max_channels`."""
    channels = [init_channels]
    for kind in kinds:
        channels.append(min(2 * channels[-1], max_channels) if kind == "compress_space" else channels[-1])
    return channels


class LipPath(nn.Module):
    """One path after its first convolution `conv_in`: one small map of features per frame.

    Shape: (B, F, S, S, C_0) -> (B, F, S / 2^n, S / 2^n, C) with n `compress_space` layers; S is rounded up at each.
    """

    def __init__(self, layers: tuple[str, ...], init_channels: int, max_channels: int, gate_bias: float) -> None:
        super().__init__()
        channels = widths(layers, init_channels, max_channels)
        self.conv_in = StemConv(channels[0], STEM_KERNEL)
        self.layers = build_layers(layers, channels, gate_bias)
        self.norm = nn.LayerNorm(channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class LipDecoder(nn.Module):
    """The mirror of a path, for pretraining the encoder by reconstruction: features of each frame back to pictures.

    The published code has no decoder; this one follows the paper's description (the reconstruction encoder's layers in
    reverse, with doubling in place of halving) and the 3 x 3 x 3 output convolution that its configuration names.

    Shape: (B, F, feature_dim) -> (B, F, S, S).
    """

    def __init__(
        self,
        lip_size: int = 88,
        layers: tuple[str, ...] = PAPER_LAYERS,
        init_channels: int = 4,
        max_channels: int = 32,
        gate_bias: float = -10.0,
    ) -> None:
        super().__init__()
        channels = widths(layers, init_channels, max_channels)[::-1]
        self.map_shape = (channels[0], *(map_size(lip_size, layers),) * 2)
        self.lip_size = lip_size
        self.layers = build_layers(layers[::-1], channels, gate_bias, decode=True)
        self.conv_out = Conv3d(channels[-1], 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features.unflatten(-1, self.map_shape).movedim(2, -1)  # (B, F, h, w, C)
        for layer in self.layers:
            x = layer(x)
        return self.conv_out(x)[:, :, : self.lip_size, : self.lip_size, 0]


def map_size(lip_size: int, layers: tuple[str, ...]) -> int:
    """Height and width of the features' map for square pictures of `lip_size`."""
    for kind in layers:
        lip_size = (lip_size + 1) // 2 if kind == "compress_space" else lip_size
    return lip_size


def as_features(maps: Tensor) -> Tensor:
    """Flatten each frame's map in the order channel, row, column: (B, F, h, w, C) -> (B, F, C * h * w)."""
    return maps.movedim(-1, 2).flatten(2)


class LipCode(NamedTuple):
    """What `DPLipCoder.encode` finds. The last two are None where there is no semantic path."""

    features: Tensor  # (B, F, feature_dim): the encoder's output
    semantics: Tensor | None  # (B, F, feature_dim): the semantic path's features before they are quantised
    quantized: Quantized | None


class DPLipCoder(VideoEncoder):
    """Both paths (`dp_lipcoder`), or one of them alone for ablations: `lipcoder` (semantic), `reconstruction`.

    Shape: lips (B, F, S, S), normalised -> features (B, F, feature_dim).
    """

    def __init__(
        self,
        kind: str = "dp_lipcoder",
        lip_size: int = 88,
        layers: tuple[str, ...] = PAPER_LAYERS,
        init_channels: int = 4,
        max_channels: int = 32,
        gate_bias: float = -10.0,
        n_codes: int = 256,
        code_dim: int = 64,
        lip_recipe: str = "mouth_88",
    ) -> None:
        super().__init__()
        self.lip_size, self.lip_recipe = lip_size, lip_recipe
        if kind not in DP_LIPCODERS:
            raise ModelError(f"unknown video encoder '{kind}'; known: {', '.join(DP_LIPCODERS)}")
        self.semantic = self.quantizer = self.reconstruction = None
        if kind != "reconstruction":
            self.semantic = LipPath(layers, init_channels, max_channels, gate_bias)
        if kind != "lipcoder":
            self.reconstruction = LipPath(layers, init_channels, max_channels, gate_bias)
        self.feature_dim = widths(layers, init_channels, max_channels)[-1] * map_size(lip_size, layers) ** 2
        if self.semantic is not None:
            self.quantizer = VectorQuantizer(self.feature_dim, n_codes, code_dim)
        self.sizes = (layers, init_channels, max_channels, gate_bias)

    def forward(self, lips: Tensor) -> Tensor:
        return self.encode(lips).features

    def encode(self, lips: Tensor) -> LipCode:
        """`forward` with what its losses in pretraining need."""
        paths = [path for path in (self.semantic, self.reconstruction) if path is not None]
        features = [as_features(path(x)) for path, x in zip(paths, self._stems(lips, paths), strict=True)]
        if self.semantic is None:
            return LipCode(features[0], None, None)
        semantics, quantized = features[0], self.quantizer(features[0])
        return LipCode(sum(features[1:], start=quantized.features), semantics, quantized)

    def mirror(self) -> LipDecoder:
        """A fresh decoder of this encoder's features, for its pretraining."""
        return LipDecoder(self.lip_size, *self.sizes)

    @staticmethod
    def _stems(lips: Tensor, paths: list[LipPath]) -> list[Tensor]:
        """The first convolution of each path, all at once, since they see the same pictures: (B, F, S, S, C) each."""
        convs = [path.conv_in for path in paths]
        weight, bias = torch.cat([conv.weight for conv in convs]), torch.cat([conv.bias for conv in convs])
        return stems(lips, weight, bias, len(paths))


for _kind in DP_LIPCODERS:
    register_encoder(_kind, partial(DPLipCoder, _kind))
