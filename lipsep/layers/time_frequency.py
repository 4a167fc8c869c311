"""Layers on maps of time and frequency that are stored (B, T, F, C), of which the transpose is channels-last.

RTFS-Net and its causal offspring Swift-Net are made of them. Those that can be causal take a `Memory`: with one they
see the past alone, and what they need of it in the next piece of a stream stays there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.kernels.arranged import Arranged
from lipsep.kernels.convolution import convolve, packed
from lipsep.kernels.filterbank import overlap_add
from lipsep.layers.memory import Memory, Recent
from lipsep.layers.sru import SRU


def as_picture(x: Tensor) -> Tensor:
    """A view as a channels-last picture: (B, T, F, C) -> (B, C, T, F)."""
    return x.movedim(-1, 1)


def as_map(picture: Tensor) -> Tensor:
    """The inverse view: (B, C, T, F) -> (B, T, F, C)."""
    return picture.movedim(1, -1)


def past_and_present(x: Tensor, n_past: int, memory: Memory, dim: int = 1) -> Tensor:
    """Put the last `n_past` steps of the piece before in front of x; zeros where there were none."""
    past = memory.recall()
    if past is None:
        shape = list(x.shape)
        shape[dim] = n_past
        past = x.new_zeros(shape)
    y = torch.cat([past, x], dim)
    memory.keep(y.narrow(dim, y.shape[dim] - n_past, n_past))
    return y


class Affine(nn.Module):
    """A gain and an offset per channel. Shape: (..., C) -> (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.weight)


class Gateway(Affine):
    """A gain, an offset and a PReLU. Shape: (..., C) -> (..., C)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class DepthwiseConv2d(Arranged):
    """One k x k filter per channel, "same" padding; with a memory, all time padding is in the past.

    An even kernel reaches one step further up than down at stride 1, and pads (k - 1) // 2 both ways at stride 2.
    Shape: (B, T, F, C) -> (B, T', F', C).
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, kernel, groups=channels, bias=bias)  # for PyTorch's own initialisation
        self.weight, self.bias = conv.weight, conv.bias
        self.stride = stride

    def arrange(self) -> tuple[Tensor, ...]:
        """The filters as they are."""
        return (self.weight,)

    def pack(self, *arranged: Tensor) -> tuple[Tensor, ...]:
        """The filters in oneDNN's own order where it has one."""
        return tuple(packed(weight, (self.stride, self.stride), groups=len(weight)) for weight in arranged)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        channels, _, kernel, _ = self.weight.shape
        low, high = (kernel - 1) // 2, kernel // 2 if self.stride == 1 else (kernel - 1) // 2
        pad = (low, low)
        if memory is not None:
            x, pad = past_and_present(x, kernel - 1, memory), (0, low)
        elif low != high:
            x, pad = F.pad(x, (0, 0, low, high, low, high)), (0, 0)
        stride = self.stride, self.stride
        return as_map(convolve(as_picture(x), *self.arranged(), self.bias, stride, pad, groups=channels))


class FrameNorm(nn.Module):
    """Normalise each time step over frequency and channels; a gain and an offset per frequency and channel.

    Shape: (..., F, C) -> (..., F, C).
    """

    def __init__(self, channels: int, n_freqs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, n_freqs))
        self.bias = nn.Parameter(torch.zeros(channels, n_freqs))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-2:], self.weight.t(), self.bias.t())


class RecurrentPath(nn.Module):
    """A residual recurrent network along one axis, all lines of the other axis alike.

    `window` neighbouring steps go into the recurrence as one; as many come out of each of its steps, and overlapping
    ones are added. A causal path takes a memory, and one step at a time; its `spread` is never used (the published code
    creates it all the same).

    Shape: (B, T, F, C) -> (B, T, F, C).

    Args:
        axis: 1 for time, 2 for frequency.
        cell: "sru", or "lstm".
    """

    def __init__(
        self,
        axis: int,
        channels: int,
        hidden: int,
        n_layers: int,
        window: int,
        n_groups: int = 1,
        causal: bool = False,
        cell: str = "sru",
    ) -> None:
        super().__init__()
        self.axis, self.window, self.causal = axis, window, causal
        self.norm = nn.LayerNorm(channels)
        if cell == "sru":
            self.rnn = SRU(channels, hidden, n_layers, not causal, n_groups, 1 if causal else window)
        else:
            self.rnn = nn.LSTM(channels * window, hidden, n_layers, bidirectional=True)
        self.spread = nn.ConvTranspose1d(n_groups * hidden * (1 if causal else 2), channels, window)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        other = 3 - self.axis
        lines = self.norm(x).permute(self.axis, 0, other, 3)  # (L, B, N, C), time-major
        n_steps = len(lines)
        y = lines.flatten(1, 2)  # (L, B * N, C)
        if not self.causal:
            y = self._spread(self._recur(F.pad(y, (0, 0, 0, 0, 0, max(0, self.window - n_steps)))))[:n_steps]
        else:
            y, carry = self.rnn(y, memory.recall())
            memory.keep(carry)
        y = y.unflatten(1, lines.shape[1:3])  # (L, B, N, C)
        return x + (y.permute(1, 0, 2, 3) if self.axis == 1 else y.permute(1, 2, 0, 3))

    def _recur(self, x: Tensor) -> Tensor:
        if isinstance(self.rnn, SRU):
            return self.rnn(x)[0]
        return self.rnn(x.unfold(0, self.window, 1).flatten(2))[0]

    def _spread(self, x: Tensor) -> Tensor:
        """Each step into `window` steps, added where they overlap: (L, N, C') -> (L + window - 1, N, C)."""
        picture = x.movedim(-1, 0).unsqueeze(0)  # (1, C', L, N), channels-last
        y = F.conv_transpose2d(picture, self.spread.weight.unsqueeze(-1), self.spread.bias)
        return y[0].movedim(0, -1)


class Heads(Arranged):
    """Pointwise map, PReLU and frame norm for each attention head. Shape: (B, T, F, C) -> (B, H, T, F * E)."""

    def __init__(self, channels: int, n_heads: int, n_out: int, n_freqs: int) -> None:
        super().__init__()
        maps = [nn.Linear(channels, n_out) for _ in range(n_heads)]  # for PyTorch's own initialisation
        self.weight = nn.ParameterList(m.weight for m in maps)
        self.bias = nn.ParameterList(m.bias for m in maps)
        self.slope = nn.ParameterList(torch.full((1,), 0.25) for _ in maps)
        self.gain = nn.ParameterList(torch.ones(n_out, n_freqs) for _ in maps)
        self.offset = nn.ParameterList(torch.zeros(n_out, n_freqs) for _ in maps)

    def arrange(self) -> tuple[Tensor, ...]:
        """All heads' maps (H * E, C) and (H * E,), slopes (H, 1, 1, 1), gains and offsets (H, 1, F, E)."""
        gain, offset = (torch.stack(list(p)).transpose(1, 2).unsqueeze(1) for p in (self.gain, self.offset))
        slope = torch.cat(list(self.slope)).view(-1, 1, 1, 1)
        return torch.cat(list(self.weight)), torch.cat(list(self.bias)), slope, gain, offset

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, slope, gain, offset = self.arranged()
        y = F.linear(x, weight, bias)  # (B, T, F, H * E)
        y = y.unflatten(-1, (len(self.weight), -1)).permute(0, 3, 1, 2, 4)  # (B, H, T, F, E)
        y = torch.where(y >= 0, y, y * slope)
        y = F.layer_norm(y.contiguous(), y.shape[-2:])
        return torch.addcmul(offset, y, gain).flatten(3)


class TFAttention(nn.Module):
    """Self-attention over time frames, of which all frequencies are seen together; residual.

    Shape: (B, T, F, C) -> (B, T, F, C) with F = n_freqs.

    Args:
        qk_channels: E, per head and frequency, of queries and keys; values have C / H.
        span: with a memory, a frame attends to this many frames, itself the last; None: to all so far.
    """

    def __init__(self, channels: int, n_heads: int, qk_channels: int, n_freqs: int, span: int | None = None) -> None:
        super().__init__()
        self.queries = Heads(channels, n_heads, qk_channels, n_freqs)
        self.keys = Heads(channels, n_heads, qk_channels, n_freqs)
        self.values = Heads(channels, n_heads, channels // n_heads, n_freqs)
        self.out = nn.Linear(channels, channels)
        self.act = nn.PReLU()
        self.norm = FrameNorm(channels, n_freqs)
        self.span = span

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        q, k, v = self.queries(x), self.keys(x), self.values(x)  # (B, H, T, F * E)
        visible = None
        if memory is not None:
            (k, v), visible = self._with_past(k, v, memory)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        y = y.unflatten(-1, (x.shape[2], -1)).permute(0, 2, 3, 1, 4).flatten(3)  # (B, T, F, C)
        return x + self.norm(self.act(self.out(y)))

    def _with_past(self, k: Tensor, v: Tensor, memory: Memory) -> tuple[list[Tensor], Tensor]:
        """Keys and values with those of the past in front, and which of them each frame sees: (T, T_past + T) bool."""
        n_steps, joined = k.shape[2], []
        for new in (k, v):
            recent = memory.recall()
            if recent is None:
                recent, both = Recent(new, n_steps if self.span is None else self.span - 1), new
            else:
                both = recent.append(new)
            memory.keep(recent)
            joined.append(both)
        n_keys = joined[0].shape[2]
        age = torch.arange(n_keys - n_steps, n_keys, device=k.device)[:, None] - torch.arange(n_keys, device=k.device)
        return joined, (age >= 0) & (age < (self.span or n_keys))


class VideoProjection(nn.Module):
    """From the features of an encoder that has not `channels` of them: as many groups as both sizes allow.

    With DP-LipCoder, each of its 32 pictures of 11 x 11 becomes 16 numbers. Shape: (B, F, C) -> (B, F, channels).
    """

    def __init__(self, feature_dim: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(feature_dim, channels, 1, groups=math.gcd(feature_dim, channels))

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features.transpose(1, 2)).transpose(1, 2)


def spectrogram(waveform: Tensor, n_fft: int, hop: int) -> Tensor:
    """Frames under a Hann window, centred on multiples of `hop`: (B, n) -> complex (B, 1 + n // hop, F)."""
    window = torch.hann_window(n_fft, device=waveform.device)
    return torch.stft(waveform, n_fft, hop, window=window, return_complex=True).transpose(1, 2)


def waveform(spectrum: Tensor, n_fft: int, hop: int, n_samples: int) -> Tensor:
    """The least-squares inverse of `spectrogram`: complex (B, T, F) -> (B, n_samples)."""
    window = torch.hann_window(n_fft, device=spectrum.device)
    frames = torch.fft.irfft(spectrum, n_fft) * window  # (B, T, n_fft)
    weight = window.square().expand(1, frames.shape[1], n_fft)
    start = n_fft // 2
    return (overlap_add(frames, hop) / overlap_add(weight, hop).clamp(min=1e-11))[:, start : start + n_samples]


def complex_mask(masks: Tensor, encoded: Tensor) -> Tensor:
    """Product of features whose first half is the real part and whose second the imaginary one (S^3 of RTFS-Net).

    Shape: (..., C) both -> (..., C).
    """
    mask_real, mask_imag = masks.chunk(2, dim=-1)
    real, imag = encoded.chunk(2, dim=-1)
    return torch.cat([real * mask_real - imag * mask_imag, real * mask_imag + imag * mask_real], dim=-1)
