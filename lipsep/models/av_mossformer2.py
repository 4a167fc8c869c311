"""AV-MossFormer2: gated single-head attention and recurrence without recurrent units, led by the target's lips.

Shengkui Zhao et al., "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain
Monaural Speech Separation", ICASSP 2024, arXiv 2312.11825, with the visual front end of ClearerVoice-Studio (arXiv
2506.19398), whose released 16 kHz target-speaker checkpoint (AV_MossFormer2_TSE_16K) has the keys that load here.
Checked against a golden output of the published code.

In the papers: 55.87 M parameters and 111.79 G MACs for 1 s without the video encoder, 68.52 M and 124.5 G with it
(Dolphin's Table 4; the count leaves out the products inside attention: executed are 177 G); LRS2-2Mix 15.1 dB SI-SNRi.

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import encoder_for, resnet18_temporal
from lipsep.errors import ModelError
from lipsep.kernels.depthwise import depthwise
from lipsep.kernels.filterbank import overlap_add
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, Rules, register_released, renamed_once


@dataclass(frozen=True)
class AVMossFormer2Config:
    """Sizes of an AV-MossFormer2. Defaults are the published model."""

    audio_kernel: int = 16  # samples
    audio_stride: int = 8  # samples
    channels: int = 512  # filters of the audio encoder, and of the separator
    n_layers: int = 24  # R, each of attention and memory
    expansion: int = 4  # width inside attention, as a multiple of `channels`; half of it values, half gates
    key_channels: int = 128  # of queries and keys
    rotary_channels: int = 32  # of these, how many turn with time
    group: int = 256  # steps within which attention is quadratic, P
    conv_kernel: int = 17  # taps of the depthwise convolutions behind each linear map
    memory_channels: int = 256  # inside the gated FSMN
    memory_order: int = 20  # steps into past and future that a memory filter sees, before dilation
    dropout: float = 0.1
    video_encoder: str = "resnet18_temporal"
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise

    def __post_init__(self) -> None:
        if self.channels % 2 or self.rotary_channels % 2 or self.memory_channels % 2:
            raise ModelError(
                "channels, rotary_channels and memory_channels must be even; got "
                f"{self.channels}, {self.rotary_channels}, {self.memory_channels}"
            )
        if self.rotary_channels > self.key_channels:
            raise ModelError(f"rotary_channels={self.rotary_channels} exceeds key_channels={self.key_channels}")


# --- Blocks ----------------------------------------------------------------------------------------------------------


class ScaleNorm(nn.Module):
    """Divide by the root mean square over the channels; one gain for all (Nguyen & Salazar 2019). Shape kept."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        level = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x * (self.gain / level.clamp(min=1e-5))


class ResidualConv(DepthwiseConv):
    """Depthwise convolution added to its input, as one convolution. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, kernel, bias=False)
        self.register_buffer("identity", F.pad(torch.ones(1), (kernel // 2, kernel // 2)), persistent=False)  # (k,)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise(x, self.weight + self.identity, self.bias)


class ConvModule(nn.Module):
    """Norm, linear map, SiLU and a depthwise convolution over time. Shape: (B, T, C) -> (B, T, C')."""

    def __init__(self, norm: nn.Module, c_in: int, c_out: int, config: AVMossFormer2Config) -> None:
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(c_in, c_out)
        self.conv = ResidualConv(c_out, config.conv_kernel)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.conv(F.silu(self.linear(self.norm(x)))))


class Rotation(nn.Module):
    """Rotary positions (Su et al. 2021): neighbouring channels turn as a pair, each pair at its own speed.

    Shape: (B, T, 4, C) -> (B, T, 4, C), of which the first `channels` turn.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("speeds", 10_000.0 ** -(torch.arange(0, channels, 2) / channels))  # radians per step

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.speeds  # (T, C / 2)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # (T, 1, C / 2)
        n_turning = 2 * len(self.speeds)
        even, odd = x[..., 0:n_turning:2], x[..., 1:n_turning:2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
        return torch.cat([turned, x[..., n_turning:]], dim=-1)


class GatedAttention(nn.Module):
    """Joint local and global single-head attention with triple gating, added to its input (the MossFormer block).

    Quadratic within groups of steps, linear over all of them; both weigh the same values and gates.
    Shape: (B, T, C) -> (B, T, C). Cost: T * group + T * key_channels products of `expansion * C` channels.
    """

    def __init__(self, config: AVMossFormer2Config) -> None:
        super().__init__()
        channels, width, keys = config.channels, config.expansion * config.channels, config.key_channels
        self.to_hidden = ConvModule(ScaleNorm(), channels, width, config)
        self.to_keys = ConvModule(ScaleNorm(), channels, keys, config)
        self.key_gain = nn.Parameter(torch.empty(4, keys).normal_(std=0.02))
        self.key_bias = nn.Parameter(torch.zeros(4, keys))
        self.to_out = ConvModule(ScaleNorm(), width // 2, channels, config)
        self.dropout = nn.Dropout(config.dropout)
        self.group = config.group

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        past, present = x.chunk(2, dim=-1)
        shifted = torch.cat([F.pad(past, (0, 0, 1, -1)), present], dim=-1)  # half of the channels one step late
        hidden = self.to_hidden(shifted)  # (B, T, 2 E): values and gates
        keys = torch.addcmul(self.key_bias, self.to_keys(shifted).unsqueeze(2), self.key_gain)  # (B, T, 4, K)
        attended_v, attended_u = self._attend(rotation(keys), hidden).chunk(2, dim=-1)
        v, u = hidden.chunk(2, dim=-1)
        return x + self.to_out(attended_u * v * torch.sigmoid(attended_v * u))

    def _attend(self, keys: Tensor, hidden: Tensor) -> Tensor:
        """Shape: keys (B, T, 4, K), hidden (B, T, 2 E) -> (B, T, 2 E)."""
        batch, time = hidden.shape[:2]
        missing = -time % self.group
        keys = F.pad(keys, (0, 0, 0, 0, 0, missing))
        near_q, far_q, near_k, far_k = keys.unbind(2)  # (B, T', K)
        far = far_q @ (far_k[:, :time].mT @ hidden / time)  # (B, T', 2 E)
        near_q, near_k, far, values = (
            y.unflatten(1, (-1, self.group)).flatten(0, 1)
            for y in (near_q, near_k, far, F.pad(hidden, (0, 0, 0, missing)))
        )  # (B T' / P, P, ...)
        weights = self.dropout(F.relu(near_q @ near_k.mT / self.group).square())
        return torch.baddbmm(far, weights, values).view(batch, time + missing, -1)[:, :time]


class DilatedMemory(nn.Module):
    """Feed-forward sequential memory: two dense depthwise filters over time, added to the input (UniDeepFSMN).

    Shape: (B, T, C) -> (B, T, C).
    """

    def __init__(self, channels: int, order: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)
        taps = 2 * order - 1
        self.near_conv = nn.Conv1d(channels, channels, taps, padding=order - 1, groups=channels, bias=False)
        self.near_norm = nn.InstanceNorm1d(channels, affine=True)
        self.near_activation = nn.PReLU(channels)
        self.far_conv = nn.Conv1d(
            2 * channels, channels, taps, padding=2 * (order - 1), dilation=2, groups=channels, bias=False
        )
        self.far_norm = nn.InstanceNorm1d(channels, affine=True)
        self.far_activation = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(F.relu(self.linear(x))).transpose(1, 2)  # (B, C, T)
        near = self.near_activation(self.near_norm(self.near_conv(projected)))
        far = self.far_conv(torch.cat([near, projected], dim=1))
        return x + self.far_activation(self.far_norm(far)).transpose(1, 2)


class GatedMemory(nn.Module):
    """Gated FSMN between two pointwise maps, added to its input (the recurrent block). Shape: (B, T, C) -> same."""

    def __init__(self, config: AVMossFormer2Config) -> None:
        super().__init__()
        channels, inner = config.channels, config.memory_channels
        self.expand = nn.Linear(channels, inner)
        self.activation = nn.PReLU()
        self.norm_in = nn.LayerNorm(inner)
        self.to_u, self.to_v = (ConvModule(nn.LayerNorm(inner), inner, inner, config) for _ in range(2))
        self.memory = DilatedMemory(inner, config.memory_order)
        self.norm_out = nn.LayerNorm(inner)
        self.contract = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_in(self.activation(self.expand(x)))  # (B, T, inner)
        y = torch.addcmul(y, self.memory(self.to_u(y)), self.to_v(y))
        return x + self.contract(self.norm_out(y))


class Layer(nn.Module):
    """Attention, then memory. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: AVMossFormer2Config) -> None:
        super().__init__()
        self.attention = GatedAttention(config)
        self.memory = GatedMemory(config)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        return self.memory(self.attention(x, rotation))


class MaskNet(nn.Module):
    """From fused features to a mask on the encoded mixture. Shape: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: AVMossFormer2Config) -> None:
        super().__init__()
        channels = config.channels
        self.position_gain = nn.Parameter(torch.ones(1))
        self.rotation = Rotation(config.rotary_channels)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.global_norm = GlobalNorm(channels, eps=1e-8)
        self.activation = nn.PReLU()
        self.expand = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.output_gate = nn.Linear(channels, channels)
        self.to_mask = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        start = x = torch.addcmul(x, self.position_gain, self._positions(x))
        for layer in self.layers:
            x = layer(x, self.rotation)
        x = self.expand(self.activation(start + self.global_norm(self.norm(x))))
        return F.relu(self.to_mask(torch.tanh(self.output(x)) * torch.sigmoid(self.output_gate(x))))

    @staticmethod
    def _positions(x: Tensor) -> Tensor:
        """Sines, then cosines, from one radian per step down to 1 / 10,000: (B, T, C) -> (T, C)."""
        time, channels = x.shape[1:]
        speeds = 10_000.0 ** -(torch.arange(0, channels, 2, device=x.device) / channels)
        angles = torch.arange(time, device=x.device)[:, None] * speeds
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


# --- The network -----------------------------------------------------------------------------------------------------


class AVMossFormer2(SeparationModel):
    """Mixture and one person's lips to that person's voice.

    References: arXiv 2312.11825; code https://github.com/modelscope/ClearerVoice-Studio (Apache-2.0).
    """

    dead_parameters: ClassVar[tuple[str, ...]] = ("video_encoder.stages.0.shortcut.weight",)

    def __init__(self, config: AVMossFormer2Config) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c = config
        self.video_encoder = video_encoder
        self.encoder = nn.Conv1d(1, c.channels, c.audio_kernel, c.audio_stride, bias=False)
        self.norm = GlobalNorm(c.channels, eps=1e-8)
        self.bottleneck = nn.Linear(c.channels, c.channels, bias=False)
        self.fusion = nn.Linear(c.channels + video_encoder.feature_dim, c.channels)
        self.mask_net = MaskNet(config)
        self.decoder = nn.Linear(c.channels, c.audio_kernel, bias=False)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        video = self.video_encoder(lips)  # (B, F, C_v)
        shortest = self.config.audio_kernel + self.config.audio_stride  # two steps: of one there is no instance norm
        padded = self.fit_length(mixture, max(shortest, mixture.shape[1]))
        encoded = F.relu(self.encoder(padded.unsqueeze(1))).transpose(1, 2)  # (B, T', C)
        video = F.interpolate(video.transpose(1, 2), encoded.shape[1], mode="linear").transpose(1, 2)  # (B, T', C_v)
        fused = self.fusion(torch.cat([self.bottleneck(self.norm(encoded)), video], dim=-1))
        estimate = overlap_add(self.decoder(self.mask_net(fused) * encoded), self.config.audio_stride)
        return self.fit_length(estimate, mixture.shape[1]).unsqueeze(1)


# --- Variants and the authors' keys ----------------------------------------------------------------------------------


@register_model(AVMossFormer2)
def av_mossformer2() -> AVMossFormer2Config:
    """The published model."""
    return AVMossFormer2Config()


_OUTSIDE: Rules = (
    (r"encoder", "encoder.conv1d_U"),
    (r"norm", "separator.layer_norm"),
    (r"bottleneck", "separator.bottleneck_conv1x1"),
    (r"fusion", "separator.av_conv"),
    (r"decoder", "decoder.basis_signals"),
)
_MASK_NET: Rules = (
    (r"position_gain", "pos_enc.scale"),
    (r"rotation\.speeds", "dual_mdl.0.intra_mdl.mdl.flashT.layers.0.rotary_pos_emb.freqs"),
    (r"norm", "dual_mdl.0.intra_mdl.mdl.norm.norm"),
    (r"global_norm", "dual_mdl.0.intra_norm"),
    (r"activation", "prelu"),
    (r"expand", "conv1d_out"),
    (r"output", "output.0"),
    (r"output_gate", "output_gate.0"),
    (r"to_mask", "conv1_decoder"),
)
_ATTENTION: Rules = (
    (r"to_keys", "to_qk"),
    (r"key_gain", "qk_offset_scale.gamma"),
    (r"key_bias", "qk_offset_scale.beta"),
)
_MEMORY: Rules = (
    (r"expand", "conv1.0"),
    (r"activation", "conv1.1"),
    (r"norm_in", "norm1"),
    (r"norm_out", "norm2"),
    (r"contract", "conv2"),
    (r"to_u", "gated_fsmn.to_u"),
    (r"to_v", "gated_fsmn.to_v"),
    (r"memory\.linear", "gated_fsmn.fsmn.linear"),
    (r"memory\.project", "gated_fsmn.fsmn.project"),
    (r"memory\.near_conv", "gated_fsmn.fsmn.conv.conv1"),
    (r"memory\.near_norm", "gated_fsmn.fsmn.conv.norm1"),
    (r"memory\.near_activation", "gated_fsmn.fsmn.conv.prelu1"),
    (r"memory\.far_conv", "gated_fsmn.fsmn.conv.conv2"),
    (r"memory\.far_norm", "gated_fsmn.fsmn.conv.norm2"),
    (r"memory\.far_activation", "gated_fsmn.fsmn.conv.prelu2"),
)
_CONV_MODULE: Rules = (
    (r"norm\.gain", "mdl.0.g"),
    (r"norm", "mdl.0"),
    (r"linear", "mdl.1"),
    (r"conv", "mdl.3.sequential.1.conv"),
)


def released_key(name: str) -> str:
    """The key in the authors' checkpoint of one of our state-dict keys."""
    part, _, rest = name.partition(".")
    if part == "video_encoder":
        return "ref_encoder." + resnet18_temporal.released_key(rest)
    if part != "mask_net":
        return "sep_network." + renamed_once(name, _OUTSIDE)
    if not rest.startswith("layers."):
        return "sep_network.separator.masknet." + renamed_once(rest, _MASK_NET)
    _, index, block, rest = rest.split(".", 3)
    unit, _, inner = rest.partition(".")
    if unit.startswith("to_"):
        rest = f"{unit}.{renamed_once(inner, _CONV_MODULE)}"
    kind, names = ("layers", _ATTENTION) if block == "attention" else ("fsmn", _MEMORY)
    return f"sep_network.separator.masknet.dual_mdl.0.intra_mdl.mdl.flashT.{kind}.{index}.{renamed_once(rest, names)}"


register_released(
    "av_mossformer2",
    ReleasedFile("weights", released_key, ignored=("*.rotary_pos_emb.freqs", "*.pos_enc.inv_freq")),
)
