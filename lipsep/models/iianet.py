"""IIANet: intra- and inter-attention network for audio-visual speech separation.

Kai Li et al., "IIANet: An Intra- and Inter-Modality Attention Network for Audio-Visual Speech Separation", ICML 2024,
arXiv 2308.08143. Checked against a golden output of the published code (JusperLee/IIANet, configs LRS2, LRS3 and
VoxCeleb2, which differ in their data alone).

In the papers: 18.5 G MACs for 1 s without the video encoder, 26.5 G with it; LRS2-2Mix 16.0 dB SI-SNRi. The code
has 3,036,670 parameters without the video encoder, which this file meets. Dolphin's Table 4 says 3.82 M: that is as
many and DP-LipCoder's 781,818.

Where paper and code differ, this file follows the code, because the released weights need it:
- the audio encoder has 9 filters (half a window and one), not 512; the mask's activation is ReLU;
- attention is a sigmoid gate and an offset, computed by convolutions; there are no dot products;
- one pair of blocks serves all 16 rounds; the video block runs in the first 4 alone, and from then on nothing of the
  video enters but what the audio has taken over.

Sequences are stored (B, T, C) throughout; see layers/channels_last.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders import encoder_for, resnet18_3d
from lipsep.errors import ModelError
from lipsep.kernels.stretching import nearest_steps, stretch_to
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.masks import ReLUMasks
from lipsep.layers.top_down import BottomUp, ConvNorm, IntraAttention, TopDown
from lipsep.models.base import SeparationModel
from lipsep.models.registry import register_model
from lipsep.models.released import ReleasedFile, register_released, within


@dataclass(frozen=True)
class IIANetConfig:
    """Sizes of an IIANet. Defaults are the published model."""

    audio_kernel: int = 16  # samples; the encoder has half as many filters and one
    audio_stride: int = 4  # samples
    channels: int = 128  # between the rounds
    hidden_channels: int = 512  # inside the audio block
    video_channels: int = 64
    n_rounds: int = 16  # of the shared blocks, N
    n_video_rounds: int = 4  # of them with video
    n_scales: int = 5  # time resolutions, each half of the one before
    dropout: float = 0.1
    drop_path: float = 0.1  # share of recordings for which a residual branch is left out in training
    video_encoder: str = "resnet18_3d"
    lip_size: int | None = None  # pixels; None: what the video encoder was made for
    lip_recipe: str | None = None  # how lip pictures are made (lipsep.lips.reading); None: likewise

    def __post_init__(self) -> None:
        if self.audio_kernel % (2 * self.audio_stride) or self.n_scales < 2:
            raise ModelError(
                "audio_kernel must be a multiple of twice audio_stride, n_scales at least 2; got "
                f"{self.audio_kernel}, {self.audio_stride}, {self.n_scales}"
            )
        if not 1 <= self.n_video_rounds <= self.n_rounds:
            raise ModelError(f"n_video_rounds={self.n_video_rounds} must lie in 1..n_rounds={self.n_rounds}")


# --- Blocks ----------------------------------------------------------------------------------------------------------


class SequenceConv(nn.Conv1d):
    """A dense convolution that keeps the length. Shape: (B, T, C) -> (B, T, C')."""

    def __init__(self, c_in: int, c_out: int, kernel: int, bias: bool = True) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, a residual branch is zero for some recordings of a batch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch
        return F.dropout(branch.new_ones(len(branch), 1, 1), self.share) * branch


class AudioIntraAttention(IntraAttention):
    """The same for the audio's first fusion, where the global features are stretched before their norms.

    Repeated steps count as often in a norm's mean and variance as they are repeated; nothing else changes.
    """

    def forward(self, local: Tensor, coarse: Tensor) -> Tensor:
        steps = nearest_steps(coarse.shape[1], local.shape[1], coarse.device)
        repeats = coarse.new_zeros(coarse.shape[1]).index_add(0, steps, coarse.new_ones(len(steps)))
        share = repeats / (len(steps) * coarse.shape[2])  # (L,)
        gate, offset = (self._normalised(part, coarse, share[:, None]) for part in (self.gate, self.offset))
        return self._inject(local, torch.sigmoid(gate), offset)

    @staticmethod
    def _normalised(part: ConvNorm, coarse: Tensor, share: Tensor) -> Tensor:
        y, norm = part.conv(coarse), part.norm  # (B, L, C)
        y = y - (y * share).sum((1, 2), keepdim=True)
        variance = (y.square() * share).sum((1, 2), keepdim=True)
        return torch.addcmul(norm.bias, y * torch.rsqrt(variance + norm.eps), norm.weight)


class AudioTopDown(TopDown):
    """Top-down pass of the audio, its scales lifted where the video says so (InterA-M).

    Shape: maps [(B, T / 2^k, H)], top (B, L, H), guides [(B, F / 2^k, H)] or None -> (B, T, C).
    """

    fusion_class = AudioIntraAttention

    def forward(self, maps: list[Tensor], top: Tensor, guides: list[Tensor] | None) -> Tensor:
        fused = []
        for k, (fusion, local) in enumerate(zip(self.fusions, maps, strict=True)):
            x = fusion(local, top)
            if guides is not None:
                x = torch.addcmul(x, x, stretch_to(torch.sigmoid(guides[k]), x.shape[1]))
            fused.append(x)
        return self.descend(fused)


class VideoTopDown(TopDown):
    """Top-down pass of the video, which also gives the audio a guide at every scale.

    Shape: maps [(B, F / 2^k, H)], top (B, L, H) -> (B, F, C), guides [(B, F / 2^k, H_audio)].
    """

    def __init__(self, channels: int, hidden: int, n_scales: int, audio_hidden: int) -> None:
        super().__init__(channels, hidden, n_scales)
        self.guides = nn.ModuleList(
            ConvNorm(SequenceConv(hidden, audio_hidden, 3, bias=False), audio_hidden) for _ in range(n_scales)
        )

    def forward(self, maps: list[Tensor], top: Tensor) -> tuple[Tensor, list[Tensor]]:
        fused = [fusion(local, top) for fusion, local in zip(self.fusions, maps, strict=True)]
        return self.descend(fused), [guide(x) for guide, x in zip(self.guides, fused, strict=True)]


class InterAttentionTop(nn.Module):
    """Each modality gates what it takes from the other at the coarsest scale; then both are refined (InterA-T).

    Shape: audio (B, L_a, H_a), video (B, L_v, H_v) or None -> the same.
    """

    def __init__(self, config: IIANetConfig) -> None:
        super().__init__()
        audio, video = config.hidden_channels, config.video_channels
        self.video_to_audio = ConvNorm(nn.Linear(video, audio), audio)
        self.audio_to_video = ConvNorm(nn.Linear(audio, video), video)
        self.audio_gate = ConvNorm(SequenceConv(audio, video, 3, bias=False), video)
        self.video_gate = ConvNorm(SequenceConv(video, audio, 5, bias=False), audio)
        self.audio_context = ConvNorm(SequenceConv(audio, audio, 3, bias=False), audio)
        self.audio_mlp = nn.Sequential(
            ConvNorm(nn.Linear(audio, 2 * audio, bias=False), 2 * audio),
            DepthwiseConv(2 * audio, 5),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            ConvNorm(nn.Linear(2 * audio, audio, bias=False), audio),
            nn.Dropout(config.dropout),
        )
        self.video_context = ConvNorm(SequenceConv(video, video, 3, bias=False), video)
        self.video_mlp = ConvNorm(SequenceConv(video, video, 3, bias=False), video)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, audio: Tensor, video: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if video is not None:
            seen = stretch_to(video, audio.shape[1]) * torch.sigmoid(self.audio_gate(audio))
            heard = stretch_to(audio, video.shape[1]) * torch.sigmoid(self.video_gate(video))
            audio, video = audio + self.video_to_audio(seen), video + self.audio_to_video(heard)
            video = video + self.drop_path(self.video_context(video))
            video = video + self.drop_path(self.video_mlp(video))
        audio = audio + self.drop_path(self.audio_context(audio))
        return audio + self.drop_path(self.audio_mlp(audio)), video


class IIANetSeparator(nn.Module):
    """Rounds of one pair of blocks, with video and then without. Shape: (B, T, C), (B, F, C_v) -> (B, T, C)."""

    def __init__(self, config: IIANetConfig) -> None:
        super().__init__()
        c = config
        self.config = config
        self.audio_up = BottomUp(c.channels, c.hidden_channels, 5, c.n_scales, nn.PReLU())
        self.audio_down = AudioTopDown(c.channels, c.hidden_channels, c.n_scales)
        self.video_up = BottomUp(c.video_channels, c.video_channels, 3, c.n_scales, nn.GELU())
        self.video_down = VideoTopDown(c.video_channels, c.video_channels, c.n_scales, c.hidden_channels)
        self.inter_top = InterAttentionTop(config)
        self.audio_bottom = nn.Sequential(DepthwiseConv(c.channels, 1), nn.PReLU())  # InterA-B
        self.video_bottom = nn.Sequential(DepthwiseConv(c.video_channels, 1), nn.ReLU())

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        x, v = audio, video
        for k in range(self.config.n_rounds):
            if k > 0:
                x = self.audio_bottom(x + audio)
            maps, top = self.audio_up(x)
            guides = None
            if k < self.config.n_video_rounds:
                if k > 0:
                    v = self.video_bottom(v + video)
                video_maps, video_top = self.video_up(v)
                top, video_top = self.inter_top(top, video_top)
                change, guides = self.video_down(video_maps, video_top)
                v = v + change
            else:
                top, _ = self.inter_top(top, None)
            x = x + self.audio_down(maps, top, guides)
        return x


# --- The network -----------------------------------------------------------------------------------------------------


class IIANet(SeparationModel):
    """Mixture and one person's lips to that person's voice.

    References: arXiv 2308.08143; code https://github.com/JusperLee/IIANet.
    """

    def __init__(self, config: IIANetConfig) -> None:
        video_encoder, config = encoder_for(config)
        super().__init__(config, lip_recipe=config.lip_recipe)
        c, n_filters = config, config.audio_kernel // 2 + 1
        self.video_encoder = video_encoder
        self.video_projection = SequenceConv(video_encoder.feature_dim, c.video_channels, 3)
        lead = c.audio_kernel * 3 // 2 - c.audio_stride  # zeros before the recording, so that full windows reach it
        self.encoder = FilterbankEncoder(n_filters, c.audio_kernel, c.audio_stride, lead)
        self.norm = GlobalNorm(n_filters, eps=1e-8)
        self.bottleneck = nn.Linear(n_filters, c.channels)
        self.separator = IIANetSeparator(config)
        self.masks = ReLUMasks(c.channels, n_filters, n_src=1)
        self.decoder = FilterbankDecoder(n_filters, c.audio_kernel, c.audio_stride, lead)

    def forward(self, mixture: Tensor, lips: Tensor) -> Tensor:
        """Shape: mixture (B, T), lips (B, F, S, S) -> (B, 1, T)."""
        self.check_inputs(mixture, lips, self.config.lip_size)
        video = self.video_projection(self.video_encoder(lips))  # (B, F, C_v)
        kernel, stride, n_samples = self.config.audio_kernel, self.config.audio_stride, mixture.shape[1]
        rest = kernel - (stride + n_samples) % kernel  # as published: one window of it where none is needed
        encoded = self.encoder(F.pad(mixture, (0, rest)))  # (B, T', N)
        features = self.separator(self.bottleneck(self.norm(encoded)), video)  # (B, T', C)
        return self.decoder(self.masks(features, encoded))[..., :n_samples]


# --- Variants and the authors' keys ----------------------------------------------------------------------------------


@register_model(IIANet)
def iianet() -> IIANetConfig:
    """The published model: the configurations for LRS2, LRS3 and VoxCeleb2 are one."""
    return IIANetConfig()


_KEYS = (  # ours -> theirs, all that fit
    (r"^separator\.", "sm."),
    (r"^norm\b", "ln"),
    (r"^video_projection", "pre_v"),
    (r"^masks\.act", "mask_net.0"),
    (r"^masks\.linear", "mask_net.1"),
    (r"\b(audio|video)_up", r"\1_blocks.0"),
    (r"\b(audio|video)_down", r"\1_blocks.1"),
    (r"\bactivation", "proj_1x1.act"),
    (r"\bproject\b", "proj_1x1"),
    (r"\bscales", "spp_dw"),
    (r"\bcontract", "res_conv"),
    (r"\bfusions", "loc_glo_fus"),
    (r"\bdescent", "last_layer"),
    (r"\blocal\b", "local_embedding"),
    (r"\boffset", "global_embedding"),
    (r"\bgate\b", "global_act"),
    (r"\bguides", "video_res"),
    (r"\binter_top", "InterA_T"),
    (r"\bvideo_to_audio", "W_wav"),
    (r"\baudio_to_video", "W_video"),
    (r"\baudio_gate", "M_wav"),
    (r"\bvideo_gate", "M_video"),
    (r"\baudio_context", "amlp.attn"),
    (r"\baudio_mlp\.0", "amlp.mlp.fc1"),
    (r"\baudio_mlp\.1", "amlp.mlp.dwconv"),
    (r"\baudio_mlp\.4", "amlp.mlp.fc2"),
    (r"\bvideo_context", "vmlp.attn"),
    (r"\bvideo_mlp", "vmlp.mlp"),
    (r"\baudio_bottom", "InterA_B_A"),
    (r"\bvideo_bottom", "InterA_B_V"),
)


def released_key(name: str) -> str | None:
    """The key in the authors' separator checkpoints of one of our state-dict keys."""
    if name.startswith("video_encoder."):
        return None
    for ours, theirs in _KEYS:
        name = re.sub(ours, theirs, name)
    return name


register_released(
    "iianet",
    ReleasedFile("separator", released_key),
    ReleasedFile(
        "video encoder", within("video_encoder.", resnet18_3d.released_key), ignored=("tcn.*",)
    ),  # its word classifier
)
