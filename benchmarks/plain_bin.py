"""BIN as one would write it down from the paper: the yardstick of bin_speed.py and of the tests.

Channels before time, every norm spelled out, everything stretched before it is mapped, every activation kept for the
backward pass. Modules are named as in the published code, so that its weights load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOKEN_STEPS = 1601


class GlobalNorm(nn.Module):
    """(B, C, T) -> (B, C, T), over channels and time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        variance = (x - mean).square().mean((1, 2), keepdim=True)
        return self.gamma[:, None] * (x - mean) / (variance + 1e-8).sqrt() + self.beta[:, None]


class ConvNorm(nn.Module):
    """(B, C, T) -> (B, C', T / stride)"""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, groups=groups)
        self.norm = GlobalNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ConvNormAct(ConvNorm):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class PlainAFRCNN(nn.Module):
    """(B, C, T) -> (B, C, T)"""

    def __init__(self, channels: int, hidden: int, n_scales: int = 5) -> None:
        super().__init__()
        self.proj_1x1 = ConvNormAct(channels, hidden)
        self.spp_dw = nn.ModuleList(
            ConvNorm(hidden, hidden, 5, stride=2 if i else 1, groups=hidden) for i in range(n_scales)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList([ConvNorm(hidden, hidden, 5, 2, hidden)] * (i > 0)) for i in range(n_scales)
        )
        self.concat_layer = nn.ModuleList(
            ConvNormAct((2 if i in (0, n_scales - 1) else 3) * hidden, hidden) for i in range(n_scales)
        )
        self.last_layer = nn.Sequential(ConvNormAct(n_scales * hidden, hidden))
        self.res_conv = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.spp_dw[0](self.proj_1x1(x))]
        for layer in self.spp_dw[1:]:
            maps.append(layer(maps[-1]))
        time, merged = maps[0].shape[-1], []
        for i, own in enumerate(maps):
            parts = [self.fuse_layers[i][0](maps[i - 1])] if i else []
            parts.append(own)
            if i + 1 < len(maps):
                parts.append(F.interpolate(maps[i + 1], own.shape[-1]))
            merged.append(self.concat_layer[i](torch.cat(parts, dim=1)))
        return self.res_conv(self.last_layer(torch.cat([F.interpolate(m, time) for m in merged], dim=1)))


class PlainBranch(nn.Module):
    """(B, C, T), tokens (B, C_c, T) -> the new (B, C, T) and (B, C_c, T)"""

    def __init__(self, channels: int, token_channels: int, hidden: int) -> None:
        super().__init__()
        both = channels + token_channels
        self.afrcnn_block = PlainAFRCNN(both, hidden)
        self.adapt_audio = nn.Sequential(nn.Conv1d(channels, channels, 1, groups=channels), nn.PReLU())
        self.adapt_fusion = nn.Sequential(nn.Conv1d(both, both, 1, groups=both), nn.PReLU())
        self.sizes = [channels, token_channels]

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.adapt_fusion(torch.cat([self.adapt_audio(x), tokens], dim=1))
        return self.afrcnn_block(x).split(self.sizes, dim=1)


class PlainBIN(nn.Module):
    """mixture (B, T), latents (B, n_src, F, 1024) -> (B, n_src, T)"""

    def __init__(self, iterations: int, n_src: int = 2) -> None:
        super().__init__()
        self.iterations, self.n_src = iterations, n_src
        self.audio_token, self.video_token = (nn.Parameter(torch.rand(256, TOKEN_STEPS)) for _ in range(2))
        self.audio_encoder = nn.Conv1d(1, 512, 40, 20, 20, bias=False)
        self.audio_decoder = nn.ConvTranspose1d(512, 1, 40, 20, 20, 19, bias=False)
        self.audio_norm = GlobalNorm(512)
        self.audio_bottleneck, self.video_bottleneck = nn.Conv1d(512, 128, 1), nn.Conv1d(n_src * 1024, 128, 1)
        self.audio_branch, self.video_branch = PlainBranch(128, 256, 512), PlainBranch(128, 256, 128)
        self.mask_net = nn.Sequential(nn.PReLU(), nn.Conv1d(128, n_src * 512, 1), nn.ReLU())

    def forward(self, mixture: Tensor, latents: Tensor) -> Tensor:
        encoded = self.audio_encoder(F.pad(mixture, (0, -mixture.shape[-1] % 160))[:, None])  # (B, 512, T)
        audio = self.audio_bottleneck(self.audio_norm(encoded))  # (B, 128, T)
        video = self.video_bottleneck(latents.transpose(2, 3).flatten(1, 2))  # (B, 128, F)
        video = F.interpolate(video, audio.shape[-1])  # (B, 128, T)
        heard = seen = torch.zeros_like(audio)
        audio_c, video_c = (t.expand(len(audio), -1, -1) for t in (self.audio_token, self.video_token))
        for _ in range(self.iterations):
            tokens = F.interpolate((audio_c + video_c) / 2, audio.shape[-1])
            heard, audio_c = self.audio_branch(audio + heard, tokens)
            seen, video_c = self.video_branch(video + seen, tokens)
        masks = self.mask_net(heard + seen).unflatten(1, (self.n_src, -1))
        signals = self.audio_decoder((masks * encoded[:, None]).flatten(0, 1))  # (B n_src, 1, T')
        return signals.view(len(mixture), self.n_src, -1)[..., : mixture.shape[-1]]
