"""Whether all forms of an operation agree with its plain one, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Tensor | Sequence[Tensor]]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 5e-6) -> None:
    """Within a share of the largest number, or of 1."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(expected.abs().max().item(), 1.0)


def assert_forms_agree(
    function: Function, plain: Function, inputs: Sequence[Tensor], tolerance: float = 5e-6, fixed: Sequence[int] = ()
) -> None:
    """`function` in 32 bits and `plain` in 64: results, gradients by all inputs, results of inference.

    Args:
        fixed: inputs that get no gradients.
    """
    ours = [x.clone().requires_grad_(i not in fixed) for i, x in enumerate(inputs)]
    exact = [x.double().requires_grad_(i not in fixed) for i, x in enumerate(inputs)]
    found, expected = _several(function(*ours)), _several(plain(*exact))
    directions = [torch.randn_like(y) for y in found]
    for y, wanted in zip(found, expected, strict=True):
        assert_close(y.detach(), wanted.detach(), tolerance)
    torch.autograd.backward(found, directions)
    torch.autograd.backward(expected, [direction.double() for direction in directions])
    for x, y in zip(ours, exact, strict=True):
        if y.requires_grad:
            assert_close(x.grad, y.grad, tolerance)
    with torch.inference_mode():
        for y, wanted in zip(_several(function(*inputs)), expected, strict=True):
            assert_close(y, wanted.detach(), tolerance)


def _several(y: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y)
