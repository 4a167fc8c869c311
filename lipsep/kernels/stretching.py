"""Stretching sequences in time, by nearest neighbours: alone, added to others, and behind a linear map.

Where the lengths divide each other it is repetition, else PyTorch's nearest neighbour, or, exported, for graphs of any
length, a choice of steps. Compiled kernels (native/stretch.cpp) add sequences of several lengths in one pass over
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from lipsep.kernels import native
from lipsep.kernels.arranged import onednn_takes
from lipsep.kernels.depthwise import as_picture, as_sequence
from lipsep.kernels.exporting import is_exporting
from lipsep.kernels.linear import linear, packed_matrix

AT_ONCE = 4
"""Sequences that a compiled kernel takes."""

Shares = Sequence[Tensor]
"""The weights of each part, as they are or packed."""


# --- One sequence ----------------------------------------------------------------------------------------------------


def plain_stretch_to(x: Tensor, length: int) -> Tensor:
    """The definition; see `stretch_to`."""
    return F.interpolate(x.mT, length, mode="nearest").mT


def stretch_to(x: Tensor, length: int) -> Tensor:
    """Nearest-neighbour stretching over time: (B, T, C) -> (B, length, C)."""
    time = x.shape[1]
    if time == length:
        return x
    if length % time == 0:
        return x.repeat_interleave(length // time, dim=1)
    if is_exporting():
        return x.index_select(1, torch.arange(length, device=x.device) * time // length)
    return as_sequence(torch.ops.aten.upsample_nearest2d(as_picture(x), (1, length)))


def unstretch_to(x: Tensor, time: int) -> Tensor:
    """The transpose of `stretch_to`, which its gradient needs: sums of the steps that repeat one step.

    Shape: (B, length, C) -> (B, time, C).
    """
    length = x.shape[1]
    if time == length:
        return x
    if length % time == 0:
        return x.unflatten(1, (time, -1)).sum(2)
    shape = (len(x), x.shape[2], 1, time)
    return as_sequence(torch.ops.aten.upsample_nearest2d_backward(as_picture(x), (1, length), shape))


def nearest_steps(time: int, length: int, device: torch.device) -> Tensor:
    """Which of `time` steps each of `length` steps repeats: int64 (length,)."""
    steps = torch.arange(time, device=device, dtype=torch.float32)[None, None]
    return F.interpolate(steps, size=length, mode="nearest")[0, 0].long()


# --- Several, added --------------------------------------------------------------------------------------------------


def plain_add_stretched(y: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The definition; see `add_stretched`."""
    return y + sum(plain_stretch_to(part, y.shape[1]) for part in parts)


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


# --- Behind a linear map ---------------------------------------------------------------------------------------------


def plain_stretched_linear(parts: Sequence[Tensor], weight: Tensor, bias: Tensor | None, length: int) -> Tensor:
    """The definition; see `stretched_linear`."""
    return F.linear(torch.cat([plain_stretch_to(part, length) for part in parts], dim=2), weight, bias)


def stretched_linear(
    parts: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    length: int,
    packed: tuple[Shares, Shares] | None = None,
) -> Tensor:
    """Bring sequences to one length (nearest neighbour), put their channels side by side, map them linearly.

    A map of single steps and the repetition of steps commute, so a coarse sequence is mapped before it is stretched:
    the same result for fewer operations, sum_i min(T_i, length) C_i C multiplications instead of length sum_i C_i C.
    Programs that count operations as the literature does meet this function by its name (lipsep.profiling).

    Args:
        packed: the weights from `packed_shares`, for training.

    Shape: parts (B, T_i, C_i), weight (C, sum C_i), bias (C,) or None -> (B, length, C).
    """
    if not is_exporting() and has_torch_function(parts):
        return handle_torch_function(stretched_linear, parts, parts, weight, bias, length)
    if packed is not None:
        return _StretchedLinear.apply(length, *packed, weight, bias, *parts)
    shares = weight.split([part.shape[-1] for part in parts], dim=1)
    if _trains_on_onednn(weight):
        shares = [share.detach() for share in shares]
        return _StretchedLinear.apply(length, shares, [share.t() for share in shares], weight, bias, *parts)
    return mix_stretched(parts, shares, bias, length)


def packed_shares(weight: Tensor, sizes: Sequence[int]) -> tuple[Shares, Shares] | None:
    """Each part's share of the weights and its transpose, packed for training passes; None where that gains nothing.

    Shape: weight (C, sum sizes) -> (C, sizes[i]) each, and (sizes[i], C) each.
    """
    if not _trains_on_onednn(weight):
        return None
    shares = [share.contiguous() for share in weight.detach().split(sizes, dim=1)]  # turned sooner
    return [packed_matrix(w) for w in shares], [packed_matrix(w.t()) for w in shares]


def _trains_on_onednn(weight: Tensor) -> bool:
    wanted = torch.is_grad_enabled() and not is_exporting()
    return wanted and onednn_takes(weight) and not torch.is_autocast_enabled("cpu")


class _StretchedLinear(torch.autograd.Function):
    """For training: the weights' shares and their transposes may be packed; their gradients are written into place."""

    @staticmethod
    def forward(
        ctx: Any, length: int, shares: Shares, transposed: Shares, weight: Tensor, bias: Tensor | None, *parts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight, *parts)
        ctx.transposed, ctx.has_bias = transposed, bias is not None
        return mix_stretched(parts, shares, bias, length)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *parts = ctx.saved_tensors
        grad_weight, grad_parts = torch.empty_like(weight), []
        places = grad_weight.split([part.shape[-1] for part in parts], dim=1)
        grads = unstretch_all(grad, [part.shape[1] for part in parts])  # (B, T_i, C)
        for coarse, part, share, place in zip(grads, parts, ctx.transposed, places, strict=True):
            torch.mm(coarse.flatten(0, 1).t(), part.flatten(0, 1), out=place)
            grad_parts.append(linear(coarse, share, None))  # (B, T_i, C_i)
        return None, None, None, grad_weight, grad.sum((0, 1)) if ctx.has_bias else None, *grad_parts


def mix_stretched(parts: Sequence[Tensor], shares: Shares, bias: Tensor | None, length: int) -> Tensor:
    """`stretched_linear` with each part's share of the weights, as it is or from `packed_matrix`."""
    first, *others = [
        (stretch_to(part, length) if part.shape[1] > length else part, share)
        for part, share in sorted(zip(parts, shares, strict=True), key=lambda pair: -pair[0].shape[1])
    ]
    mixed, coarse = stretch_to(linear(*first, bias), length), []
    for part, share in others:
        if part.shape[1] == length:
            mixed = linear(part, share, None, plus=mixed)
        else:
            coarse.append(linear(part, share, None))  # (B, T_i, C)
    return add_stretched(mixed, coarse)
