"""Stretching: all forms repeat nearest neighbours, alone, added to others, and behind a linear map."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_close, assert_forms_agree
from torch import Tensor

from lipsep.kernels.stretching import (
    add_stretched,
    packed_shares,
    plain_add_stretched,
    plain_stretch_to,
    plain_stretched_linear,
    stretch_to,
    stretched_linear,
    unstretch_all,
    unstretch_to,
)


@pytest.mark.parametrize(("time", "length"), [(25, 3_997), (27, 4_333), (13, 25), (7, 13), (250, 500), (9, 7), (5, 5)])
def test_all_forms_agree(form, time: int, length: int) -> None:
    assert_forms_agree(
        lambda x: stretch_to(x, length), lambda x: plain_stretch_to(x, length), [torch.randn(2, time, 3)]
    )


@pytest.mark.parametrize("length", [1601, 1600, 7, 98])
def test_several_added_to_one(form, length: int) -> None:
    lengths = [-(-length // 2**i) for i in range(1, 6)] + [-(-length // 49)]
    inputs = [torch.randn(2, length, 16), *(torch.randn(2, n, 16) for n in lengths)]
    assert_forms_agree(
        lambda y, *parts: add_stretched(y.clone(), parts), lambda y, *parts: plain_add_stretched(y, parts), inputs
    )
    form.assert_ran("add_stretched")


@pytest.mark.parametrize("length", [1601, 1600, 7, 98])
def test_the_transpose(form, length: int) -> None:
    lengths, x = [length, *(-(-length // 2**i) for i in range(1, 6)), -(-length // 49)], torch.randn(2, length, 16)
    for n, found in zip(lengths, unstretch_all(x, lengths), strict=True):
        coarse = torch.zeros(2, n, 16, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(plain_stretch_to(coarse, length), coarse, x.double())
        assert_close(found, expected)
        assert_close(unstretch_to(x, n), expected)
    form.assert_ran("sum_stretched")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("times", "length"), [((13, 7, 4), 13), ((8, 4, 2), 8), ((7, 9, 3), 7)])
def test_behind_a_linear_map(form, times: tuple[int, ...], length: int, packed: bool) -> None:
    """As if everything were stretched and put side by side."""
    inputs = [torch.randn(2, time, size) for time, size in zip(times, (3, 4, 5), strict=True)]

    def ours(*given: Tensor) -> Tensor:
        *parts, weight, bias = given
        return stretched_linear(parts, weight, bias, length, packed_shares(weight, (3, 4, 5)) if packed else None)

    def plain(*given: Tensor) -> Tensor:
        *parts, weight, bias = given
        return plain_stretched_linear(parts, weight, bias, length)

    assert_forms_agree(ours, plain, [*inputs, torch.randn(6, 12), torch.randn(6)])
