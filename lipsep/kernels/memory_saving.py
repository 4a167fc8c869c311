"""The same result with less memory: long sequences in pieces, and activations that are made again when needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lipsep.kernels.exporting import is_exporting

STEPS_AT_ONCE = 1024
"""Time steps that are handled together without gradients: what a network has inside then stays in the cache."""


def in_pieces(
    inside: Callable[[Tensor], Tensor], outside: Callable[[Tensor, Tensor], Tensor], x: Tensor, whole: bool
) -> Tensor:
    """`outside(inside(x), x)`, without gradients `STEPS_AT_ONCE` steps at a time.

    Each step of `inside` may depend on both neighbours, `outside` works on single steps.

    Args:
        whole: all at once nevertheless, because random numbers are drawn.

    Shape: x (B, T, C), inside (B, T, C) -> (B, T, H), outside (B, T, H), (B, T, C) -> (B, T, C), T being any.
    """
    if whole or torch.is_grad_enabled() or is_exporting():
        return outside(inside(x), x)
    y = torch.empty_like(x)
    for start in range(0, x.shape[1], STEPS_AT_ONCE):
        now, first = slice(start, start + STEPS_AT_ONCE), max(start - 1, 0)
        hidden = inside(x[:, first : now.stop + 1])
        y[:, now] = outside(hidden[:, start - first : start - first + STEPS_AT_ONCE], x[:, now])
    return y


def rerun(again: bool, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
    """`function(*inputs)`; with `again`, only its inputs are kept and it runs again in the backward pass.

    Nothing in it may draw random numbers.
    """
    if again and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
