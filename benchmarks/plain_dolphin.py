"""Dolphin as one would write it down from the paper: the yardstick of dolphin_speed.py and of the tests.

Channels before time, PyTorch's own layers, every cosine transform a product with a T x T matrix, relative positions as
an (L, L, d) tensor, the Taylor expansion as an outer product, every activation kept for the backward pass. In two
things it is kinder than the published code: operators of one length share one cosine matrix, which is not copied at
each call, and the random code book is that of `lipsep`. Names are those of `lipsep.models.dolphin`, whose weights
`plain_dolphin` takes over.

The plain forms of `lipsep.kernels` are not used here: a second writing of the paper, in another layout, finds slips
that a shared one would hide.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders.dp_lipcoder import HEAD_DIM, HEADS, LINEAR_HEAD_DIM, LINEAR_HEADS, map_size, widths
from lipsep.encoders.vector_quantizer import VectorQuantizer
from lipsep.models.dolphin import Dolphin, DolphinConfig


def plain_dolphin(model: Dolphin) -> PlainDolphin:
    """The same network with the same weights, written down plainly."""
    plain = PlainDolphin(model.config)
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    plain.load_state_dict({name: x.reshape(shapes.get(name, x.shape)) for name, x in model.state_dict().items()})
    return plain.train(model.training)


# --- Lips: (B, C, F, H, W) -------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """(..., C) -> same"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.gain * len(self.gain) ** 0.5


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(16, channels // 2)
        self.attend = nn.Conv2d(channels, 1, 1)
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)  # (B F, C, H, W)
        weights = self.attend(frames).flatten(2).softmax(-1)  # (B F, 1, H W)
        summary = torch.einsum("nij,ncj->nci", weights, frames.flatten(2)).unsqueeze(-1)  # (B F, C, 1, 1)
        gates = torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(summary), 0.1)))
        return (frames * gates).unflatten(0, (len(x), -1)).transpose(1, 2)


class ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)
        self.pointwise = nn.Conv3d(channels, channels, 1)
        self.gate = SqueezeExcite(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(F.elu(self.pointwise(F.elu(self.conv(x)))))


class CompressSpace(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).transpose(1, 2)


def pixels_of(x: Tensor) -> Tensor:
    """(B, C, F, H, W) -> (B F, H W, C)"""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).flatten(1, 2)


def picture_of(pixels: Tensor, like: Tensor) -> Tensor:
    """(B F, H W, C) -> (B, C, F, H, W)"""
    batch, _, frames, height, width = like.shape
    return pixels.reshape(batch, frames, height, width, -1).permute(0, 4, 1, 2, 3)


class LinearSpaceAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = LINEAR_HEADS * LINEAR_HEAD_DIM
        self.norm = RMSNorm(channels)
        self.to_q, self.to_kv = nn.Linear(channels, inner, bias=False), nn.Linear(channels, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(pixels_of(x))
        q, k, v = (
            part.unflatten(-1, (LINEAR_HEADS, LINEAR_HEAD_DIM)).transpose(1, 2)  # (B F, heads, N, 8)
            for part in (self.to_q(pixels), *self.to_kv(pixels).chunk(2, dim=-1))
        )
        q, k = self._expand(q * LINEAR_HEAD_DIM**-0.5), self._expand(k)  # (B F, heads, N, 73)
        total = torch.einsum("bhnd,bhne->bhde", k, v)
        share = 1 / torch.einsum("bhnd,bhd->bhn", q, k.sum(2)).clamp(min=1e-5)
        y = torch.einsum("bhnd,bhde,bhn->bhne", q, total, share)
        return x + picture_of(self.to_out(y.transpose(1, 2).flatten(2)), x)

    @staticmethod
    def _expand(x: Tensor) -> Tensor:
        squares = torch.einsum("...i,...j->...ij", x, x).flatten(-2) * 0.5**0.5
        return torch.cat([torch.ones_like(x[..., :1]), x, squares], dim=-1)


class SpaceAttention(nn.Module):
    def __init__(self, channels: int, n_memory: int = 4) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * HEADS * HEAD_DIM, bias=False)
        self.memory = nn.Parameter(torch.randn(2, HEADS, n_memory, HEAD_DIM))
        self.to_out = nn.Linear(HEADS * HEAD_DIM, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(pixels_of(x))
        q, k, v = (part.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for part in self.to_qkv(pixels).chunk(3, -1))
        k, v = (torch.cat([m.expand(len(q), -1, -1, -1), y], dim=2) for m, y in zip(self.memory, (k, v), strict=True))
        y = (q @ k.mT * HEAD_DIM**-0.5).softmax(-1) @ v  # (B F, heads, N, 32)
        return x + picture_of(self.to_out(y.transpose(1, 2).flatten(2)), x)


class PixelFeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = int(4 * 2 / 3 * channels)
        self.norm = RMSNorm(channels)
        self.expand, self.contract = nn.Linear(channels, 2 * inner), nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(self.norm(pixels_of(x))).chunk(2, dim=-1)
        return x + picture_of(self.contract(value * F.gelu(gate)), x)


class LipPath(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        sizes = widths(config.video_layers, config.video_init_channels, config.video_max_channels)
        make = {
            "residual": lambda c, _: ResidualUnit(c),
            "consecutive_residual": lambda c, _: nn.Sequential(ResidualUnit(c), ResidualUnit(c)),
            "compress_space": CompressSpace,
            "linear_attend_space": lambda c, _: nn.Sequential(LinearSpaceAttention(c), PixelFeedForward(c)),
            "attend_space": lambda c, _: nn.Sequential(SpaceAttention(c), PixelFeedForward(c)),
        }
        self.conv_in = nn.Conv3d(1, sizes[0], 7, padding=3)
        ends = zip(config.video_layers, sizes, sizes[1:], strict=False)
        self.layers = nn.Sequential(*(make[kind](c_in, c_out) for kind, c_in, c_out in ends))
        self.norm = nn.LayerNorm(sizes[-1])

    def forward(self, lips: Tensor) -> Tensor:
        x = self.layers(self.conv_in(lips.unsqueeze(1)))
        x = self.norm(x.permute(0, 2, 3, 4, 1))  # (B, F, h, w, C)
        return x.permute(0, 1, 4, 2, 3).flatten(2)  # (B, F, C h w)


class LipEncoder(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.semantic, self.reconstruction = LipPath(config), LipPath(config)
        n_pixels = map_size(config.lip_size, config.video_layers) ** 2
        self.feature_dim = len(self.semantic.norm.weight) * n_pixels
        self.quantizer = VectorQuantizer(self.feature_dim, config.n_codes, config.code_dim)

    def forward(self, lips: Tensor) -> Tensor:
        return self.reconstruction(lips) + self.quantizer(self.semantic(lips)).features


# --- Sound: (B, C, T) ------------------------------------------------------------------------------------------------


def depthwise(channels: int, kernel: int, stride: int = 1, c_out: int | None = None) -> nn.Conv1d:
    return nn.Conv1d(channels, c_out or channels, kernel, stride, kernel // 2, groups=channels)


class LayerScale(nn.Module):
    """(B, T, C) -> same"""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((config.channels,), config.layer_scale_init))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


@lru_cache(maxsize=8)
def cosines(time: int) -> Tensor:
    """The orthonormal DCT-II of T steps, (T, T)."""
    n = torch.arange(time, dtype=torch.float64)
    rows = torch.cos((n[:, None] * (2 * n + 1)) % (4 * time) * (math.pi / (2 * time))) * math.sqrt(2 / time)
    rows[0] /= math.sqrt(2)
    return rows.float()


class Heat(nn.Module):
    def __init__(self, channels: int, as_published: bool) -> None:
        super().__init__()
        self.conv_in, self.project = depthwise(channels, 3), depthwise(channels, 3, c_out=2 * channels)
        self.k = nn.Parameter(torch.ones(channels))
        self.norm = nn.LayerNorm(channels)
        self.conv_out = depthwise(channels, 3)
        self.unused_k_conv = depthwise(channels, 3) if as_published else None

    def forward(self, x: Tensor) -> Tensor:
        heat, gate = self.project(self.conv_in(x)).chunk(2, dim=1)
        time = x.shape[-1]
        orders = torch.arange(time) * (math.pi / time)
        spectrum = (heat @ cosines(time).t()) * torch.exp(-self.k[:, None] * orders.square())
        heat = self.norm((spectrum @ cosines(time)).transpose(1, 2)).transpose(1, 2)
        return self.conv_out(heat * F.silu(gate))


class TopDown(nn.Module):
    def __init__(self, channels: int, as_published: bool, batch_norm: bool = False) -> None:
        super().__init__()
        for name in ("fine", "coarse_gate", "coarse"):
            norm = nn.BatchNorm1d(channels) if batch_norm else nn.GroupNorm(1, channels, eps=1e-8)
            self.add_module(name, nn.Sequential(Heat(channels, as_published), norm))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        gate, offset = torch.sigmoid(self.coarse_gate(coarse)), self.coarse(coarse)
        return self.fine(fine) * F.interpolate(gate, fine.shape[-1]) + F.interpolate(offset, fine.shape[-1])


class Attention(nn.Module):
    """(B, L, C) -> same"""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        c = config.channels
        self.norm = nn.LayerNorm(c)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(c, c) for _ in range(4))
        self.scale = LayerScale(config)
        self.dropout, self.n_heads = nn.Dropout(config.dropout), config.n_heads

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """positions: (L, L, d)"""
        y = self.norm(x)
        q, k, v = (to(y).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        logits = q @ k.mT  # (B, heads, L, L)
        if positions is not None:
            batch, heads, length, _ = q.shape
            rows = q.flatten(0, 1).transpose(0, 1)  # (L, B heads, d)
            logits = logits + (rows @ positions.mT).transpose(0, 1).reshape(batch, heads, length, length)
        weights = self.dropout((logits / q.shape[-1] ** 0.5).softmax(-1))
        return self.scale(self.dropout(self.to_out((weights @ v).transpose(1, 2).flatten(2))))


class FeedForward(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        hidden = config.ffn_expansion * config.channels
        self.norm = nn.LayerNorm(config.channels)
        self.expand, self.conv = nn.Linear(config.channels, hidden), depthwise(hidden, 3)
        self.contract = nn.Linear(hidden // 2, config.channels)
        self.scale, self.dropout = LayerScale(config), nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.norm(x.transpose(1, 2)))  # (B, T, hidden)
        y = self.dropout(F.glu(self.conv(y.transpose(1, 2)).transpose(1, 2), dim=2))
        return x + self.scale(self.dropout(self.contract(y))).transpose(1, 2)


class CoarseAttention(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.gate_norm, self.gate = nn.LayerNorm(config.channels), nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        coarse = self.attention(F.adaptive_avg_pool1d(x, len(positions)).transpose(1, 2), positions)
        gate = torch.sigmoid(self.gate(self.gate_norm(x.transpose(1, 2)))).transpose(1, 2)
        return x + gate * F.interpolate(coarse.transpose(1, 2), x.shape[-1])


class HeatAttention(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        c = config.channels
        self.heat = Heat(c, config.as_published)
        self.norm_in, self.norm_out = nn.GroupNorm(1, c, eps=1e-5), nn.GroupNorm(1, c, eps=1e-5)
        self.large_conv, self.small_conv = depthwise(c, config.large_kernel), depthwise(c, 3)
        self.dropout, self.scale = nn.Dropout(config.dropout), LayerScale(config)

    def forward(self, x: Tensor) -> Tensor:
        y = self.small_conv(F.gelu(self.large_conv(self.norm_in(self.heat(x)))))
        return x + self.scale(self.norm_out(self.dropout(y)).transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        self.coarse_attention, self.heat_attention = CoarseAttention(config), HeatAttention(config)
        self.global_ffn, self.local_ffn = FeedForward(config), FeedForward(config)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.local_ffn(self.heat_attention(self.global_ffn(self.coarse_attention(x, positions))))


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = depthwise(channels, 5, 2), nn.GroupNorm(1, channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x)))


class Separator(nn.Module):
    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        c = config
        self.relative_positions = nn.Embedding(2 * c.max_relative_position, c.channels // c.n_heads)

        def blocks(n_blocks: int) -> nn.ModuleList:
            return nn.ModuleList(Block(c) for _ in range(n_blocks))

        self.encoder = nn.ModuleList(
            nn.ModuleDict({"blocks": blocks(c.encoder_blocks), "down": Down(c.channels)}) for _ in range(c.n_stages)
        )
        self.global_attention, self.global_ffn = Attention(c), FeedForward(c)
        self.skip_fusions = nn.ModuleList(TopDown(c.channels, c.as_published) for _ in range(c.n_stages))
        self.decoder = nn.ModuleList(
            nn.ModuleDict({"fusion": TopDown(c.channels, c.as_published), "blocks": blocks(c.decoder_blocks)})
            for _ in range(c.n_stages)
        )

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[-1]
        x = F.pad(x, (0, -time % 2 ** len(self.encoder)))
        steps = torch.arange(x.shape[-1] // 2 ** len(self.encoder))
        reach = self.relative_positions.num_embeddings // 2
        distances = (steps[:, None] - steps).clamp(-reach, reach - 1) + reach
        positions = self.relative_positions(distances)  # (L, L, d)
        skips, maps = [], []
        for layer in self.encoder:
            for block in layer["blocks"]:
                x = block(x, positions)
            skips.append(x)
            x = layer["down"](x)
            maps.append(x)
        top = sum(F.adaptive_avg_pool1d(m, 2 * len(steps)) for m in maps)
        top = self.global_ffn(self.global_attention(top.transpose(1, 2), None).transpose(1, 2))
        skips = [fusion(skip, top) for fusion, skip in zip(self.skip_fusions, skips, strict=True)]
        for layer in self.decoder:
            x = layer["fusion"](skips.pop(), x)
            for block in layer["blocks"]:
                x = block(x, positions)
        return x[..., :time]


# --- How they meet ---------------------------------------------------------------------------------------------------


class VideoProjection(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2)
        self.norm, self.act = nn.BatchNorm1d(c_out), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class VisualTop(nn.Module):
    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.linear_in, self.linear_out = (nn.Conv1d(channels, channels, 1, bias=False) for _ in range(2))
        self.norm_in, self.norm_out = (nn.GroupNorm(1, channels, eps=1e-8) for _ in range(2))
        self.conv, self.dropout = depthwise(channels, 5), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.conv(self.norm_in(self.linear_in(x)))))
        return self.dropout(self.norm_out(self.linear_out(x)))


class VisualFusion(nn.Module):
    """With the slip of the published code, see `lipsep.layers.visual_fusion`."""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        c, n_scales = config.visual_channels, config.visual_scales
        self.project = VideoProjection(c, c, 1)
        self.scales = nn.ModuleList(
            nn.ModuleDict({"conv": depthwise(c, 5, 2 if i else 1), "norm": nn.BatchNorm1d(c)}) for i in range(n_scales)
        )
        self.top = VisualTop(c, config.visual_dropout)
        self.fusions = nn.ModuleList(TopDown(c, config.as_published, True) for _ in range(n_scales))
        self.descent = nn.ModuleList(TopDown(c, config.as_published, True) for _ in range(n_scales - 1))
        self.linear_out = nn.Conv1d(c, c, 1)

    def forward(self, video: Tensor) -> Tensor:
        x, maps = self.project(video), []
        for scale in self.scales:
            x = scale["norm"](scale["conv"](x))
            maps.append(x)
        top = self.top(sum(F.adaptive_avg_pool1d(m, x.shape[-1]) for m in maps))
        fused = [fusion(m, top) for fusion, m in zip(self.fusions, maps, strict=True)]
        state = fused[-3]
        for step, m in zip(reversed(self.descent), reversed(fused[:-1]), strict=True):
            state = step(m, state)
        return video + self.linear_out(state)


class Embed(nn.Conv1d):
    def __init__(self, c_in: int, c_out: int, full: bool = False) -> None:
        super().__init__(c_in, c_out, 1, groups=1 if full else c_in)
        self.norm, self.act = nn.GroupNorm(1, c_out, eps=1e-8), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(super().forward(x)))


class AVFusion(nn.Module):
    def __init__(self, channels: int, visual_channels: int) -> None:
        super().__init__()
        self.audio_key, self.audio_value = Embed(channels, channels), Embed(channels, channels)
        self.video_gate = Embed(visual_channels, channels, full=True)
        self.video_attention = Embed(visual_channels, channels)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        attention = F.interpolate(self.video_attention(video).softmax(-1), audio.shape[-1])
        gate = F.interpolate(self.video_gate(video), audio.shape[-1])
        return self.audio_value(audio) * attention + self.audio_key(audio) * gate


class PlainDolphin(nn.Module):
    """mixture (B, T), lips (B, F, S, S) -> (B, 1, T), T a multiple of the stride"""

    def __init__(self, config: DolphinConfig) -> None:
        super().__init__()
        c = config
        self.video_encoder = LipEncoder(c)
        self.video_projection = VideoProjection(self.video_encoder.feature_dim, c.visual_channels, 3)
        self.visual_fusion = VisualFusion(c)
        sizes = {"kernel_size": c.audio_kernel, "stride": c.audio_stride, "bias": False}
        self.audio_encoder = nn.ModuleDict({"conv": nn.Conv1d(1, c.audio_channels, **sizes)})
        self.audio_projection = nn.ModuleDict({
            "norm": nn.GroupNorm(1, c.audio_channels, eps=1e-8),
            "linear": nn.Conv1d(c.audio_channels, c.channels, 1, bias=False),
        })  # fmt: skip
        self.av_fusion = AVFusion(c.channels, c.visual_channels)
        self.separator = Separator(c)
        self.output_layer = nn.ModuleDict({
            "expand": nn.Conv1d(c.channels, 2 * c.audio_channels, 1),
            "mix": nn.Conv1d(c.audio_channels, c.audio_channels, 1),
        })  # fmt: skip
        self.audio_decoder = nn.ModuleDict({"conv": nn.ConvTranspose1d(c.audio_channels, 1, **sizes)})

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        video = self.visual_fusion(self.video_projection(self.video_encoder(lips).transpose(1, 2)))  # (B, C_v, F)
        encoded = F.gelu(self.audio_encoder["conv"](mixture.unsqueeze(1)))  # (B, N, T')
        audio = self.audio_projection["linear"](self.audio_projection["norm"](encoded))  # (B, C, T')
        audio = self.separator(self.av_fusion(audio, video))
        audio = self.output_layer["mix"](F.glu(self.output_layer["expand"](audio), dim=1))  # (B, N, T')
        return self.audio_decoder["conv"](audio)
