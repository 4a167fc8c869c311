"""Layers written down once more in operators that ONNX has, with the same weights.

- Heat diffusion by kernels alone; channels whose kernel is not short get one of up to `LONG_REACH` steps to either
  side, and mirrored indices instead of mirrored copies, so that a kernel may be longer than the sequence.
- No loops over pieces of a sequence: attention and feed-forward networks take it whole.
- Global norms by means over channels, then time; filter banks by convolutions.
- Spectrograms in real numbers, there and back by convolutions with the Fourier transform's waves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipsep.encoders.dp_lipcoder import (
    HEAD_DIM,
    HEADS,
    LINEAR_HEAD_DIM,
    N_MEMORY,
    Conv3d,
    DPLipCoder,
    LinearSpaceAttention,
    LipPath,
    RMSNorm,
    SpaceAttention,
)
from lipsep.encoders.front_conv import FRONT_FRAMES, FrontConv
from lipsep.encoders.vector_quantizer import VectorQuantizer
from lipsep.layers.channels_last import DepthwiseConv, GlobalNorm, LayerScale, as_picture, as_sequence
from lipsep.layers.filterbank import FilterbankDecoder, FilterbankEncoder
from lipsep.layers.heat import KERNEL_ERROR, HeatDiffusion, short_kernels
from lipsep.layers.relative_attention import RelativeAttention
from lipsep.layers.visual_fusion import AVFusion
from lipsep.layers.waveform import AudioDecoder, AudioEncoder
from lipsep.models.av_mossformer2 import ResidualConv
from lipsep.models.base import SeparationModel
from lipsep.models.dolphin import FeedForward
from lipsep.models.visualvoice import COLUMNS_PER_FRAME, HOP, N_FFT, ROWS, WINDOW, VisualVoice

SHORT_REACH, LONG_REACH = 16, 512
"""Steps to either side of the kernels of heat diffusion; the long ones for channels that lose much in short ones."""


@contextmanager
def traceable_tensors() -> Iterator[None]:
    """While this lasts, methods of tensors that tracing takes down wrongly are made of others that it takes down well.

    Sizes handed to `unflatten` would be fixed, `flatten` and `movedim` would count axes of an unknown number, `mT` and
    frames of unknown length in `fold` are unknown to it. (Counting from the end, as `repeat_interleave(n, dim=-1)`
    does, makes the exporter change every other -1 of the graph: such axes have positive numbers here and in the models
    that are exported.)
    """
    plain = {"flatten": Tensor.flatten, "unflatten": Tensor.unflatten, "movedim": Tensor.movedim, "mT": Tensor.mT}

    def flatten(self: Tensor, first: int = 0, last: int = -1) -> Tensor:
        after = last % self.ndim + 1
        return self.reshape(*self.shape[:first], math.prod(self.shape[first:after]), *self.shape[after:])

    def unflatten(self: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        dim %= self.ndim
        known = math.prod(size for size in sizes if isinstance(size, Tensor) or size != -1)
        sizes = [size if isinstance(size, Tensor) or size != -1 else self.shape[dim] // known for size in sizes]
        return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])

    def movedim(self: Tensor, source: int, destination: int) -> Tensor:
        order = list(range(self.ndim))
        order.insert(destination % self.ndim, order.pop(source))
        return self.permute(order)

    def fold(x: Tensor, output_size: tuple[int, int], kernel_size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        frame = int(kernel_size[1])
        return F.conv_transpose1d(x, torch.eye(frame)[:, None], stride=stride[1])[..., : output_size[1]].unsqueeze(2)

    plain_fold = F.fold
    try:
        F.fold = fold
        Tensor.flatten, Tensor.unflatten, Tensor.movedim = flatten, unflatten, movedim
        Tensor.mT = property(lambda self: self.transpose(self.ndim - 2, self.ndim - 1))
        yield
    finally:
        F.fold = plain_fold
        for name, method in plain.items():
            setattr(Tensor, name, method)


def in_onnx_operators(model: SeparationModel) -> SeparationModel:
    """A copy that computes the same in operators that ONNX has; it takes inputs of any shape without a check."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name in ("check_inputs", "check_faces"):
        setattr(model, name, lambda *_: None)  # shapes are unknown while a graph is written
    for module in model.modules():
        if isinstance(module, HeatDiffusion):
            _give_kernels(module)
        if isinstance(module, ResidualConv):
            module.weight[..., module.weight.shape[2] // 2] += 1
        if isinstance(module, Conv3d):
            module.weight_2d = module.weight.movedim(2, 0).flatten(0, 1)  # (3 C', C, 3, 3)
        for name, form in FORMS.get(type(module), {}).items():
            setattr(module, name, MethodType(form, module))
    return model


# --- Heat diffusion --------------------------------------------------------------------------------------------------


def _give_kernels(module: HeatDiffusion) -> None:
    """Short kernels for most channels, long ones for the rest; `places` brings the channels back into order."""
    short, error = short_kernels(module.k, SHORT_REACH)
    long, _ = short_kernels(module.k, LONG_REACH)
    module.is_short, module.is_long = (error <= KERNEL_ERROR).nonzero()[:, 0], (error > KERNEL_ERROR).nonzero()[:, 0]
    module.places = torch.cat([module.is_short, module.is_long]).argsort()
    module.short_kernels, module.long_kernels = (
        kernels[channels][:, None, None] for kernels, channels in ((short, module.is_short), (long, module.is_long))
    )


def _heat(self: HeatDiffusion, x: Tensor) -> Tensor:
    x = self.conv_in(x)
    x = torch.stack([x, x], dim=3).flatten(2)  # (B, T, 2 C), each channel twice in a row
    heat, gate = self.project(x).chunk(2, dim=2)
    return self.conv_out(self.norm(self.diffuse(heat)) * F.silu(gate))


def _diffuse(self: HeatDiffusion, x: Tensor) -> Tensor:
    parts = (self.is_short, self.short_kernels), (self.is_long, self.long_kernels)
    some = [_convolve_mirrored(x.index_select(2, channels), kernels) for channels, kernels in parts if len(channels)]
    return torch.cat(some, dim=2).index_select(2, self.places)


def _convolve_mirrored(x: Tensor, kernels: Tensor) -> Tensor:
    """(B, T, C), kernels (C, 1, 1, 2 reach + 1) of any reach -> (B, T, C)"""
    time, reach = x.shape[1], kernels.shape[3] // 2
    step = (torch.arange(time + 2 * reach) + 2 * LONG_REACH * time - reach) % (2 * time)  # positive, for any runtime
    mirrored = x.index_select(1, torch.minimum(step, 2 * time - 1 - step))  # reflected at both ends, as often as needed
    return as_sequence(F.conv2d(as_picture(mirrored), kernels, groups=kernels.shape[0]))


# --- The other layers ------------------------------------------------------------------------------------------------


def _norm(self: GlobalNorm, x: Tensor, scale: LayerScale | None = None) -> Tensor:
    y = self.standardise(x) * self.weight + self.bias
    return y if scale is None else y * scale.gain


def _standardise(self: GlobalNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(2, keepdim=True).mean(1, keepdim=True)
    return centred * (centred.square().mean(2, keepdim=True).mean(1, keepdim=True) + self.eps).rsqrt()


def _feed_forward(self: FeedForward, x: Tensor) -> Tensor:
    return x + F.linear(self._hidden(x), *self.scale.into(self.contract))


def _attend(self: RelativeAttention, x: Tensor, relative: Tensor | None) -> Tensor:
    y = self.norm(x)
    q, k, v = (to(y).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
    q = q * q.shape[3] ** -0.5
    logits = q @ k.mT  # (B, heads, L, L)
    if relative is not None:
        logits = logits + _position_logits(q, relative)
    return F.linear((logits.softmax(3) @ v).transpose(1, 2).flatten(2), *self.scale.into(self.to_out))


def _position_logits(q: Tensor, relative: Tensor) -> Tensor:
    """q_i . r(i - j), each row shifted by one against the one above: (B, heads, L, d), (2 M, d) -> (B, heads, L, L)"""
    length, reach = q.shape[2], len(relative) // 2
    distances = (length - 1 - torch.arange(2 * length - 1)).clamp(-reach, reach - 1) + reach
    logits = q @ relative.index_select(0, distances).t()  # (B, heads, L, 2 L - 1), the largest distance first
    return logits.flatten(2)[..., length - 1 : length * (2 * length - 1) - 1].unflatten(2, (length, 2 * length - 2))[
        ..., :length
    ]


def _fuse(self: AVFusion, audio: Tensor, video: Tensor) -> Tensor:
    time, n_frames = audio.shape[1], video.shape[1]
    frame = torch.arange(time) * n_frames // time  # the frame that each step repeats
    attention = self.video_attention(video).softmax(dim=1).index_select(1, frame)
    return self.audio_value(audio) * attention + self.audio_key(audio) * self.video_gate(video).index_select(1, frame)


def _encode(self: AudioEncoder, mixture: Tensor) -> Tensor:
    return F.gelu(self.conv(mixture.unsqueeze(1)).transpose(1, 2))


def _decode(self: AudioDecoder, x: Tensor) -> Tensor:
    return self.conv(x.transpose(1, 2)).squeeze(1)


def _filter(self: FilterbankEncoder, mixture: Tensor) -> Tensor:
    y = F.conv1d(mixture.unsqueeze(1), self.weight, self.bias, self.stride, self.padding)
    return y.transpose(1, 2)  # (B, T, C)


def _synthesise(self: FilterbankDecoder, x: Tensor) -> Tensor:
    y = x.reshape(math.prod(x.shape[: x.ndim - 2]), x.shape[x.ndim - 2], x.shape[x.ndim - 1]).transpose(1, 2)
    y = F.conv_transpose1d(y, self.weight, self.bias, self.stride)
    y = F.pad(y, (-self.padding, self.more - self.padding))  # (N, 1, n)
    return y.reshape(*x.shape[: x.ndim - 2], y.shape[2])


def _attend_space(self: LinearSpaceAttention, x: Tensor) -> Tensor:
    pixels = self.norm(x).flatten(0, 1).flatten(1, 2)  # (B * F, N, C)
    q, k, v = (t.permute(2, 0, 1, 3) for t in self.project(pixels))  # (B * F, heads, 8, N)
    first, second = torch.triu_indices(LINEAR_HEAD_DIM, LINEAR_HEAD_DIM)  # the 36 products of two of 8 numbers
    counts = torch.where(first == second, 0.5, 1.0)  # in s^2 / 2
    of_q, of_k = (t.index_select(2, first) * t.index_select(2, second) for t in (q, k))
    v = torch.cat([v, torch.ones_like(v[:, :, :1])], dim=2)  # the ones give the sum of weights
    out = v.sum(3, keepdim=True) + (v @ k.mT) @ q + (v @ of_k.mT * counts) @ of_q  # (B * F, heads, 9, N)
    out = out[:, :, :LINEAR_HEAD_DIM] / out[:, :, LINEAR_HEAD_DIM:].clamp(min=1e-5)
    return x + self.to_out(out.flatten(1, 2).mT).view_as(x)


def _attend_space_and_memory(self: SpaceAttention, x: Tensor) -> Tensor:
    pixels = self.norm(x).flatten(0, 1).flatten(1, 2)  # (B * F, N, C)
    q, k, v = self.to_qkv(pixels).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
    q = q * HEAD_DIM**-0.5
    logits = torch.cat([q @ self.memory[0].mT, q @ k.mT], dim=3)  # (B * F, heads, N, memory + N)
    weights = logits.softmax(3)
    out = weights[..., :N_MEMORY] @ self.memory[1] + weights[..., N_MEMORY:] @ v  # (B * F, heads, N, 32)
    return x + self.to_out(out.transpose(1, 2).flatten(2)).view_as(x)


def _rms_norm(self: RMSNorm, x: Tensor) -> Tensor:
    length = x.square().sum(4, keepdim=True).sqrt().clamp(min=1e-12)
    return x / length * (self.gain * self.gain.shape[0] ** 0.5)


def _convolve_3d(self: Conv3d, x: Tensor) -> Tensor:
    shares = (
        F.conv2d(x.flatten(0, 1).movedim(-1, 1), self.weight_2d, padding=1).movedim(1, -1).unflatten(0, x.shape[:2])
    )
    before, now, after = F.pad(shares, (0, 0, 0, 0, 0, 0, 1, 1)).chunk(3, dim=-1)  # (B, F + 2, H, W, C')
    return before[:, : x.shape[1]] + now[:, 1 : x.shape[1] + 1] + after[:, 2:] + self.bias


def _stems(_: DPLipCoder, lips: Tensor, paths: list[LipPath]) -> list[Tensor]:
    weight, bias = (torch.cat([getattr(path.conv_in, part) for path in paths]) for part in ("weight", "bias"))
    kernel, n_frames = weight.shape[4], lips.shape[1]
    padded = F.pad(lips, (0, 0, 0, 0, kernel // 2, kernel // 2))
    frames = torch.stack([padded[:, i : i + n_frames] for i in range(kernel)], dim=2)  # (B, F, k, H, W)
    maps = F.conv2d(frames.flatten(0, 1), weight[:, 0], bias, padding=kernel // 2).movedim(1, -1)
    return list(maps.unflatten(0, lips.shape[:2]).chunk(len(paths), dim=-1))


def _front(self: FrontConv, lips: Tensor, _: slice = slice(None)) -> Tensor:
    n_frames, reach = lips.shape[1], FRONT_FRAMES // 2
    padded = F.pad(lips, (0, 0, 0, 0, reach, reach))
    frames = torch.stack([padded[:, i : i + n_frames] for i in range(FRONT_FRAMES)], dim=2).flatten(0, 1)
    x = self.norm(F.conv2d(frames, self.weight.squeeze(1), None, stride=2, padding=3))
    return F.max_pool2d(self.act(x), kernel_size=3, stride=2, padding=1)


def _separate_spectrogram(self: VisualVoice, mixture: Tensor, lips: Tensor, faces: Tensor | None = None) -> Tensor:
    analysis, synthesis, energy = _fourier_kernels(self.window)
    gain = self.gain(mixture)
    filled = F.pad(mixture * gain, (N_FFT // 2, N_FFT // 2 + (COLUMNS_PER_FRAME - 1) * HOP))  # whole frames, one more
    spectrum = F.conv1d(filled.unsqueeze(1), analysis, stride=HOP).unflatten(1, (2, ROWS))  # (B, 2, 256, 4 F')
    identity = None if self.face_encoder is None else self.face_encoder(faces)
    visual = self._visual(lips, identity, lips.shape[1] + 1)
    (x, y), (real, imaginary) = spectrum.unbind(1), (self.config.mask_limit * self.unet(spectrum, visual)).unbind(1)
    masked = torch.cat([x * real - y * imaginary, x * imaginary + y * real], dim=1)  # (B, 512, 4 F')
    sound = F.conv_transpose1d(masked, synthesis, stride=HOP)
    sound = sound / F.conv_transpose1d(torch.ones_like(masked[:1, :1]), energy, stride=HOP).clamp(min=1e-11)
    return sound[:, :, N_FFT // 2 : N_FFT // 2 + mixture.shape[1]] / gain.unsqueeze(1)


def _fourier_kernels(window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Filters (2 rows, 1, N_FFT) that make the real and the imaginary parts of a spectrogram, those that make its
    sound, and the window's energy (1, 1, N_FFT), by which what overlaps is divided."""
    left = (N_FFT - WINDOW) // 2
    window = F.pad(window.double(), (left, N_FFT - WINDOW - left))
    turns = torch.arange(ROWS)[:, None] * torch.arange(N_FFT) % N_FFT
    angle = 2 * math.pi / N_FFT * turns.double()
    waves = window * torch.cat([angle.cos(), -angle.sin()])
    twice = torch.full((2 * ROWS, 1), 2.0)  # for the conjugate, which only the lowest row has not
    twice[0] = 1.0
    energy = window.square()[None, None]
    return waves.float()[:, None], (twice * waves / N_FFT).float()[:, None], energy.float()


def _choose_code(self: VectorQuantizer, vectors: Tensor) -> Tensor:
    return (vectors[:, None] - self.codebook).square().sum(2).argmin(1)


FORMS: dict[type[nn.Module], dict[str, Callable[..., Any]]] = {
    HeatDiffusion: {"forward": _heat, "diffuse": _diffuse},
    GlobalNorm: {"forward": _norm, "standardise": _standardise},
    FeedForward: {"forward": _feed_forward},
    RelativeAttention: {"forward": _attend},
    AVFusion: {"forward": _fuse},
    AudioEncoder: {"forward": _encode},
    AudioDecoder: {"forward": _decode},
    FilterbankEncoder: {"forward": _filter},
    FilterbankDecoder: {"forward": _synthesise},
    LinearSpaceAttention: {"forward": _attend_space},
    SpaceAttention: {"forward": _attend_space_and_memory},
    RMSNorm: {"forward": _rms_norm},
    Conv3d: {"forward": _convolve_3d},
    DPLipCoder: {"_stems": _stems},
    FrontConv: {"forward": _front},
    ResidualConv: {"forward": DepthwiseConv.forward},
    VisualVoice: {"forward": _separate_spectrogram},
    VectorQuantizer: {"_choose": _choose_code},
}
"""Module -> the methods that are replaced in the copy which is exported."""
