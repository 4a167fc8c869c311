"""Heat diffusion along time as a frequency filter, without a T x T matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def diffuse(x: Tensor, k: Tensor) -> Tensor:
    """Let each channel diffuse for a while on an interval with insulated ends (Dolphin, eq. 3-5).

    The definition: orthonormal DCT-II over time, the coefficient of order n times exp(-k (pi n / T)^2), inverse DCT.
    A DCT of T points is a real FFT of T points of the reordered signal v = (x_0, x_2, ..., x_3, x_1) followed by a
    rotation of each coefficient (Makhoul 1980). The two rotations cancel around a real filter d_n except where the
    gains of the coefficients n and T - n, which share an FFT coefficient V_n, differ:

        V'_n = (d_n + d_{T-n}) / 2 V_n + exp(i pi n / T) (d_n - d_{T-n}) / 2 conj(V_n),  with d_T = d_0 at n = 0.

    Shape: x (B, T, C), k (C,) any real value -> (B, T, C). Cost: two real FFTs of T points per channel.
    """
    time = x.shape[1]
    even, odd = x[:, ::2], x[:, 1::2]
    spectrum = torch.fft.rfft(torch.cat([even, odd.flip(1)], dim=1).transpose(1, 2))  # (B, C, T // 2 + 1)
    n = torch.arange(time // 2 + 1, device=x.device, dtype=x.dtype)
    mirror = torch.where(n == 0, n, time - n)
    low = torch.exp(-k[:, None] * (n * (math.pi / time)) ** 2)  # (C, T // 2 + 1)
    high = torch.exp(-k[:, None] * (mirror * (math.pi / time)) ** 2)
    turn = torch.polar(torch.full_like(n, 0.5), n * (math.pi / time))
    filtered = spectrum * ((low + high) / 2) + spectrum.conj() * (turn * (low - high))
    v = torch.fft.irfft(filtered, n=time).transpose(1, 2)  # (B, T, C)
    out = torch.empty_like(x)
    n_even = even.shape[1]
    out[:, ::2] = v[:, :n_even]
    out[:, 1::2] = v[:, n_even:].flip(1)
    return out
