"""Dropout: every form drops its share, independently, and the same in the backward pass."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree
from torch import Tensor

from lipsep.kernels import native
from lipsep.kernels.dropout import drop, plain_drop


def test_all_forms_drop_their_share_and_keep_the_mean(form) -> None:
    x = torch.ones(1_000_001, requires_grad=True)
    y = drop(x, 0.05)
    y.sum().backward()
    assert float((y == 0).float().mean()) == pytest.approx(0.05, abs=2e-3)  # nine standard deviations
    assert torch.equal(x.grad, y) and y.detach().unique().tolist() == pytest.approx([0, 1 / 0.95], rel=1e-4)
    kept = y.detach() > 0
    assert float((kept[1:] & kept[:-1]).float().mean()) == pytest.approx(0.95**2, abs=3e-3)  # neighbours know nothing
    assert not torch.equal(y, drop(x, 0.05)) and drop(x, 0.0) is x and not drop(x, 1.0).any()
    assert ("drop" in form.ran) == (native.takes(x))


@pytest.mark.parametrize(("shape", "p"), [((3, 7), 0.5), ((2, 33, 64), 0.1)])
def test_all_forms_agree(form, shape: tuple[int, ...], p: float) -> None:
    """With the plain one, in what is left of which numbers; ones show which these are."""

    def seeded(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return drop(x, p)

    kept = seeded(torch.ones(shape)) > 0
    assert kept.any() and not kept.all()
    assert_forms_agree(seeded, lambda x: plain_drop(x, kept, p), [torch.randn(shape)])
    form.assert_ran("drop")


def test_all_forms_follow_the_seed(form) -> None:
    x = torch.ones(1_001, requires_grad=True)
    torch.manual_seed(3)
    y = drop(x, 0.2)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and set(y.tolist()) == {0.0, 1.25}
    torch.manual_seed(3)
    assert torch.equal(drop(x, 0.2), y)
    assert not torch.equal(drop(x, 0.2), y)


def dropped_by(seed: int, p: float, side: int) -> Tensor:
    ones, kept = torch.ones(side, side), torch.empty(side, side)
    native.run("drop", ones, kept, ones.numel(), seed, p)
    return kept.eq(0).double()


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_what_the_kernels_drop_is_as_good_as_random(compiled, p: float) -> None:
    side, tolerance = 1_000, 5e-3
    first, second = (dropped_by(seed, p, side) for seed in (1, 2))
    assert abs(first.mean() - p) < tolerance and abs(second.mean() - p) < tolerance
    assert (first.mean(0) - p).abs().max() < 6 * (p * (1 - p) / side) ** 0.5  # no column is dropped more often
    assert (first.mean(1) - p).abs().max() < 6 * (p * (1 - p) / side) ** 0.5
    pairs = [first[:, 1:] * first[:, :-1], first[1:] * first[:-1], first[:, 16:] * first[:, :-16], first * second]
    assert all(abs(pair.mean() - p**2) < tolerance for pair in pairs)
