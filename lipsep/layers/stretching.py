"""Sequences of several lengths stretched to one, all in one pass over memory where compiled kernels take it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lipsep.kernels import native
from lipsep.layers.channels_last import stretch_to, unstretch_to

AT_ONCE = 4
"""Sequences that a kernel takes."""


def add_stretched(y: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """y and all of `parts`, each step repeated (nearest neighbour). `y` is overwritten where no gradients are wanted.

    Shape: y (B, T, C), parts (B, T_i, C) with T_i < T -> (B, T, C).
    """
    if not torch.is_grad_enabled() and y.is_contiguous() and native.takes_sequences(y, *parts):
        for some in _grouped([part.contiguous() for part in parts]):
            native.run("add_stretched", y, *_four(some), *y.shape)
        return y
    length = y.shape[1]
    for part in parts:
        if length % part.shape[1]:
            y += stretch_to(part, length)
        else:  # each step to all that repeat it
            y = (y.unflatten(1, (part.shape[1], -1)) + part.unsqueeze(2)).flatten(1, 2)
    return y


def unstretch_all(x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """`unstretch_to` for every length, without gradients. Shape: (B, T, C) -> (B, T_i, C) for each."""
    coarse = [length for length in lengths if length < x.shape[1]]
    if not coarse or not native.takes_sequences(x):
        return [unstretch_to(x, length) for length in lengths]
    x, found = x.contiguous(), {length: x.new_empty(len(x), length, x.shape[2]) for length in coarse}
    for some in _grouped(list(found.values())):
        native.run("sum_stretched", x, *_four(some), *x.shape)
    return [found[length] if length in found else unstretch_to(x, length) for length in lengths]


def _grouped(parts: list[Tensor]) -> list[list[Tensor]]:
    return [parts[start : start + AT_ONCE] for start in range(0, len(parts), AT_ONCE)]


def _four(parts: list[Tensor]) -> list[Tensor | int | None]:
    """Sequences and their lengths as the kernels have them."""
    missing = AT_ONCE - len(parts)
    return [*parts, *[None] * missing, *(part.shape[1] for part in parts), *[1] * missing]
