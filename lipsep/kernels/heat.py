"""Heat diffusion along time as a frequency filter (Dolphin, eq. 3-5), without a T x T matrix.

The definition has two T x T matrix products. Two forms of the same operator, both with gradients, do without: an FFT,
exact for every k and every length, whose gains compiled kernels (native/heat.cpp) apply; and a short symmetric kernel,
which is what exp(-k w^2) is in time unless k is small (then it only falls with 1 / n^2) or large (then it is wide).
Fresh channels, with k = 1, have short ones. Exported, all channels diffuse by kernels, some by long ones.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels import native
from lipsep.kernels.depthwise import as_picture, as_sequence
from lipsep.kernels.exporting import is_exporting
from lipsep.kernels.precision import full_precision

KERNEL_REACHES = (8, 10, 13, 16, 24, 32)
"""Steps to either side that the kernels may cover; the shortest that loses no channel is taken."""
KERNEL_ERROR = 3e-6
"""Largest relative error (root mean square, white input) at which a kernel may be cut off; else the FFT is taken."""
NEARLY_STILL = 1e-3
"""Diffusivities below which a kernel is short again while its derivative by k, which training needs, is not."""
STEPS_FOR_KERNELS = 1000
"""Sequences from which kernels are made in training: for shorter ones they cost more than they save."""
SHORT_REACH, LONG_REACH = 16, 512
"""Steps to either side of exported kernels; the long ones for channels that lose much in short ones."""


def plain_diffuse(x: Tensor, k: Tensor) -> Tensor:
    """The definition: orthonormal DCT-II over time, the coefficient of order n times exp(-k (pi n / T)^2), inverse DCT.

    Shape: see `diffuse`. Cost: two T x T matrix products per channel.
    """
    time = x.shape[1]
    n, t = torch.arange(time, dtype=x.dtype, device=x.device)[:, None], torch.arange(time, device=x.device)
    cosines = torch.cos(n * (2 * t + 1) * (math.pi / (2 * time))) * math.sqrt(2 / time)  # (T, T)
    cosines[0] /= math.sqrt(2)
    gains = torch.exp(-k * (math.pi * n / time).square())  # (T, C)
    return cosines.mT @ (gains * (cosines @ x))


def diffuse(x: Tensor, k: Tensor, kernels: Tensor | None = None, by_fft: Tensor | None = None) -> Tensor:
    """Let each channel diffuse for a while on an interval with insulated ends.

    By FFT, but where channels' kernels are short enough: at inference those that `kernels_of` made of fixed weights, in
    training on a processor those that are made at each step.

    Args:
        kernels, by_fft: from `kernels_of`, if it was asked.

    Shape: x (B, T, C), k (C,) of any sign -> (B, T, C).
    """
    if is_exporting():
        return _diffuse_by_exported_kernels(x, k)
    if torch.is_grad_enabled():
        at_each_step = x.device.type == "cpu" and x.shape[1] >= STEPS_FOR_KERNELS
        return diffuse_with_gradients(x, k) if at_each_step else diffuse_by_fft(x, k)
    if kernels is None or x.shape[1] < kernels.shape[-1] // 2:
        return diffuse_by_fft(x, k)
    y = diffuse_by_kernel(x, kernels)
    if by_fft is not None and len(by_fft):
        y.index_copy_(2, by_fft, diffuse_by_fft(x.index_select(2, by_fft), k[by_fft]))
    return y


# --- By kernels ------------------------------------------------------------------------------------------------------


def kernels_of(k: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels of fixed diffusivities (C, 1, 1, 2 reach + 1), and the channels that need an FFT because theirs are long.

    Shape: k (C,).
    """
    reach, by_fft = shortest_reach(k)
    return short_kernels(k, reach)[0][:, None, None], by_fft


def shortest_reach(k: Tensor) -> tuple[int, Tensor]:
    """The least of `KERNEL_REACHES` at which no more channels than at the largest lose too much, and those channels."""
    errors = cut_off_errors(k, half_kernels(k, KERNEL_REACHES[-1]))
    too_long = errors[:, list(KERNEL_REACHES)] > KERNEL_ERROR  # (C, n)
    n_lost = too_long.sum(0).tolist()
    best = n_lost.index(n_lost[-1])
    return KERNEL_REACHES[best], too_long[:, best].nonzero()[:, 0]


def short_kernels(k: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """What heat diffusion is in time, on an endless line, cut off at `reach` steps.

    Shape: k (C,) -> kernels (C, 2 reach + 1), relative errors (C,): the energy that is cut off, as a root.
    """
    half = half_kernels(k, reach)
    kernels = _both_sides(half)
    kernels = kernels / kernels.sum(1, keepdim=True)  # no heat is made or lost
    return kernels.to(k.dtype), cut_off_errors(k, half)[:, -1]


def half_kernels(k: Tensor, reach: int, power: int = 0) -> Tensor:
    """1 / pi times the integral from 0 to pi of (-w^2)^power exp(-k w^2) cos(n w), for n from 0 to `reach`.

    The kernels with power 0, their derivatives by k with power 1. Shape: k (C,) -> float64 (C, reach + 1).
    """
    squares, cosines = _quadrature(reach, k.device)
    return ((-squares) ** power * torch.exp(-k.double()[:, None] * squares)) @ cosines


def cut_off_errors(k: Tensor, half: Tensor) -> Tensor:
    """The energy beyond each step, relative to all, as a root: k (C,), half (C, n) from `half_kernels` -> (C, n)."""
    energies = half.square()
    total = (half_kernels(2 * k, half.shape[1] - 1)[:, :1] + energies[:, :1]) / 2  # of one side with its middle
    return (1 - energies.cumsum(1) / total).clamp(min=0).sqrt()


@lru_cache(maxsize=8)
def _quadrature(reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Squared frequencies (Q,), and cos(n w) times weight / pi (Q, reach + 1): Gauss-Legendre between 0 and pi."""
    points, weights = (torch.from_numpy(a).to(device) for a in np.polynomial.legendre.leggauss(64 + reach))
    w = (points + 1) * (math.pi / 2)
    steps = torch.arange(reach + 1, device=device, dtype=w.dtype)
    return w.square(), torch.cos(w[:, None] * steps) * (weights[:, None] / 2)


def _both_sides(half: Tensor) -> Tensor:
    """(C, n) -> (C, 2 n - 1), symmetric."""
    return torch.cat([half[:, 1:].flip(1), half], dim=1)


def diffuse_with_gradients(x: Tensor, k: Tensor) -> Tensor:
    """As `diffuse_by_fft`, by kernels where at least three quarters are short: (B, T, C), (C,) -> (B, T, C)."""
    reach, by_fft = shortest_reach(k.detach())
    nearly_still = (k.detach() < NEARLY_STILL).nonzero()[:, 0]
    by_fft = torch.cat([by_fft, nearly_still]).unique()
    if 4 * len(by_fft) > len(k):
        return diffuse_by_fft(x, k)
    with full_precision(x):
        x = x.to(k.dtype)
        y = _DiffuseByKernel.apply(x, k, reach, by_fft)
        if by_fft is not None and len(by_fft):
            y = y.index_copy(2, by_fft, diffuse_by_fft(x.index_select(2, by_fft), k[by_fft]))
        return y


class _DiffuseByKernel(torch.autograd.Function):
    """`diffuse_by_kernel`, a symmetric operator, which is its own gradient by x; that by k is a convolution too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor, reach: int, left_out: Tensor) -> Tensor:
        kernels, slopes = (_both_sides(half_kernels(k, reach, power)) for power in (0, 1))
        total = kernels.sum(1, keepdim=True)
        kernels = kernels / total
        slopes = (slopes - kernels * slopes.sum(1, keepdim=True)) / total
        kernels, slopes = (
            taps.index_fill_(0, left_out, 0.0).to(k.dtype)[:, None, None] for taps in (kernels, slopes)
        )  # (C, 1, 1, 2 reach + 1)
        ctx.save_for_backward(x, kernels, slopes)
        return diffuse_by_kernel(x, kernels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, kernels, slopes = ctx.saved_tensors
        grad_k = (grad * diffuse_by_kernel(x, slopes)).sum((0, 1))
        return diffuse_by_kernel(grad, kernels), grad_k, None, None


def diffuse_by_kernel(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each channel with its kernel; the ends are insulated because the samples before and after are mirrored.

    Shape: x (B, T, C) with T >= reach, kernels (C, 1, 1, 2 reach + 1) -> (B, T, C).
    """
    reach = kernels.shape[-1] // 2
    mirrored = torch.cat([x[:, :reach].flip(1), x, x[:, -reach:].flip(1)], dim=1)  # (B, T + 2 reach, C)
    return as_sequence(F.conv2d(as_picture(mirrored), kernels, groups=len(kernels)))


def _diffuse_by_exported_kernels(x: Tensor, k: Tensor) -> Tensor:
    """Short kernels for most channels, long ones for the rest; both are fixed in the graph."""
    short, error = short_kernels(k, SHORT_REACH)
    long, _ = short_kernels(k, LONG_REACH)
    is_short = error <= KERNEL_ERROR
    parts = [
        (_constant(channels.nonzero()[:, 0]), _constant(kernels[channels]))
        for channels, kernels in ((is_short, short), (~is_short, long))
    ]
    some = [_convolve_mirrored(x.index_select(2, at), kernels) for at, kernels in parts if len(at)]
    places = _constant(torch.cat([at for at, _ in parts]).argsort())
    return torch.cat(some, dim=2).index_select(2, places)  # the channels back in order


def _constant(x: Tensor) -> Tensor:
    """What tracing does not know the origin of."""
    return torch.from_numpy(x.detach().numpy())


def _convolve_mirrored(x: Tensor, kernels: Tensor) -> Tensor:
    """As `diffuse_by_kernel`, by mirrored indices, so that a kernel may be longer than the sequence.

    Shape: x (B, T, C), kernels (C, 2 reach + 1) -> (B, T, C).
    """
    time, reach = x.shape[1], kernels.shape[1] // 2
    step = (torch.arange(time + 2 * reach) + 2 * LONG_REACH * time - reach) % (2 * time)  # positive, for any runtime
    mirrored = x.index_select(1, torch.minimum(step, 2 * time - 1 - step))  # reflected at both ends, as often as needed
    return as_sequence(F.conv2d(as_picture(mirrored), kernels[:, None, None], groups=kernels.shape[0]))


# --- By FFT ----------------------------------------------------------------------------------------------------------


def diffuse_by_fft(x: Tensor, k: Tensor) -> Tensor:
    """`plain_diffuse` for every k and every length. Cost: two real FFTs of T points per channel, and two more in the
    backward pass."""
    return _Diffuse.apply(x, k)


class _Diffuse(torch.autograd.Function):
    """DCT filter by an FFT of T points (Makhoul 1980).

    With the samples reordered as v = (x_0, x_2, ..., x_3, x_1) and V = FFT(v), the DCT coefficients of order n and
    T - n are the real part and minus the imaginary part of exp(-i pi n / 2T) V_n. Filtering them by the gains d_n and
    d_{T-n} and turning back gives

        V'_n = (d_n + d_{T-n}) / 2 V_n + exp(i pi n / T) (d_n - d_{T-n}) / 2 conj(V_n)      (d_T counts as d_0 at n = 0)

    The operator is symmetric, so the gradient of x is the same filter applied to the gradient of the output; that of k
    is -sum_n (pi n / T)^2 d_n X_n G_n over the DCT coefficients of both.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor) -> Tensor:
        spectrum = _spectrum(x)
        ctx.save_for_backward(spectrum, k)
        ctx.time = x.shape[1]
        return _filtered(spectrum, k, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        spectrum, k = ctx.saved_tensors
        time = ctx.time
        grad_spectrum = _spectrum(grad)
        grad_k: Tensor | None = None
        if native.takes(grad, k):
            filtered, grad_k = torch.empty_like(spectrum), torch.empty_like(k)
            pairs = [torch.view_as_real(s) for s in (spectrum, grad_spectrum, filtered)]
            sizes = len(grad), len(k), pairs[0][0, 0].numel(), time
            native.run("heat_filter_backward", *pairs[:2], k, _tables(time), pairs[2], grad_k, *sizes)
            return _samples(filtered, time), grad_k
        grad_x = _filtered(grad_spectrum, k, time) if ctx.needs_input_grad[0] else None
        if ctx.needs_input_grad[1]:
            _, _, squares_low, squares_high, half_turn, _ = _grid(time, k.dtype, k.device)
            x_dct, g_dct = (torch.view_as_real(s * half_turn) for s in (spectrum, grad_spectrum))
            products = (x_dct * g_dct).sum(0)  # (C, T // 2 + 1, 2): orders n and T - n
            low = squares_low * torch.exp(-k[:, None] * squares_low)
            high = squares_high * torch.exp(-k[:, None] * squares_high)
            if time % 2 == 0:
                high[:, -1] = 0.0  # order T / 2 stands in both columns: count it once
            grad_k = (products[..., 0] * low + products[..., 1] * high).sum(1) * (-2 / time)
        return grad_x, grad_k


def _spectrum(x: Tensor) -> Tensor:
    """FFT of the reordered samples: (B, T, C) -> (B, C, T // 2 + 1) complex."""
    order, *_ = _grid(x.shape[1], x.dtype, x.device)
    return torch.fft.rfft(x.index_select(1, order).transpose(1, 2))


def _filtered(spectrum: Tensor, k: Tensor, time: int) -> Tensor:
    """Apply the gains and return to samples: (B, C, T // 2 + 1) complex -> (B, T, C)."""
    if native.takes(k):
        filtered = torch.empty_like(spectrum)
        pairs = [torch.view_as_real(s) for s in (spectrum, filtered)]
        native.run("heat_filter", pairs[0], k, _tables(time), pairs[1], len(spectrum), len(k), pairs[0][0, 0].numel())
        return _samples(filtered, time)
    _, _, squares_low, squares_high, _, turn = _grid(time, k.dtype, k.device)
    low = torch.exp(-k[:, None] * squares_low)  # (C, T // 2 + 1)
    high = torch.exp(-k[:, None] * squares_high)
    turned = (turn * spectrum).conj().resolve_conj()
    filtered = _times(spectrum, (low + high) / 2) + _times(turned, (low - high) / 2)
    return _samples(torch.view_as_complex(filtered), time)


def _samples(spectrum: Tensor, time: int) -> Tensor:
    """The inverse of `_spectrum`: (B, C, T // 2 + 1) complex -> (B, T, C)."""
    _, inverse, *_ = _grid(time, spectrum.dtype.to_real(), spectrum.device)
    v = torch.fft.irfft(spectrum, n=time)
    return v.transpose(1, 2).contiguous().index_select(1, inverse)


def _times(spectrum: Tensor, gains: Tensor) -> Tensor:
    """Complex times real numbers, as pairs of real ones: (B, C, N) complex, (C, N) -> (B, C, N, 2)."""
    return torch.view_as_real(spectrum) * torch.view_as_real(torch.complex(gains, gains))


@lru_cache(maxsize=32)
def _grid(time: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """For n = 0 ... T // 2: order and inverse, (pi n / T)^2 for n and T - n, exp(-i pi n / 2T), its square."""
    with torch.inference_mode(False):
        index = torch.arange(time, device=device)
        order = torch.cat([index[::2], index[1::2].flip(0)])
        inverse = torch.empty_like(order)
        inverse[order] = index
        n = torch.arange(time // 2 + 1, device=device, dtype=torch.float64)
        mirror = torch.where(n == 0, n, time - n)
        low, high = ((m * (math.pi / time)).square().to(dtype) for m in (n, mirror))
        half_turn = torch.polar(torch.ones_like(n), n * (-math.pi / (2 * time)))
        turns = (half_turn.to(dtype.to_complex()), half_turn.square().to(dtype.to_complex()))
        return order, inverse, low, high, *turns


@lru_cache(maxsize=32)
def _tables(time: int) -> Tensor:
    """What native/heat.cpp looks up for the orders n = 0 ... T // 2, a pair of numbers for each: (6, padded)."""
    with torch.inference_mode(False):
        n = torch.arange(time // 2 + 1, dtype=torch.float64)
        mirror = torch.where(n == 0, n, time - n)
        angles = n * (math.pi / time)
        squares = torch.stack([angles, mirror * (math.pi / time)], 1).square()
        once = squares.clone()
        once[2 * n == time, 1] = 0.0  # order T / 2 stands in both columns: count it once
        rows = [squares]
        for a in (angles, angles / 2):
            rows += [torch.stack([a.cos(), a.cos()], 1), torch.stack([a.sin(), -a.sin()], 1)]
        table = torch.stack([row.flatten() for row in (*rows, once)]).float()
        return F.pad(table, (0, -table.shape[1] % native.MULTIPLE))
