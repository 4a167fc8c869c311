"""Less memory, the same result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipsep.kernels import memory_saving
from lipsep.kernels.depthwise import plain_depthwise
from lipsep.kernels.memory_saving import in_pieces, rerun


@pytest.mark.parametrize("time", [1, 9, 10, 11, 35])
@pytest.mark.parametrize("whole", [True, False])
def test_pieces_give_what_the_whole_gives(form, time: int, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_saving, "STEPS_AT_ONCE", 10)
    x, weight = torch.randn(2, time, 4), torch.randn(4, 1, 3)
    longest = 0

    def inside(x: Tensor) -> Tensor:
        nonlocal longest
        longest = max(longest, x.shape[1])
        return plain_depthwise(x, weight, None)

    with torch.no_grad():
        y = in_pieces(inside, lambda hidden, x: 2 * hidden + x, x, whole)
    torch.testing.assert_close(y, 2 * plain_depthwise(x, weight, None) + x)
    assert longest == (time if whole or form.name == "exported" else min(time, 12))


@pytest.mark.parametrize("again", [True, False])
def test_what_runs_again_has_the_same_gradients(again: bool) -> None:
    calls, x = 0, torch.randn(5, requires_grad=True)

    def cube(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x**3

    y = rerun(again, cube, x)
    y.sum().backward()
    assert calls == 1 + again
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2)
    with torch.no_grad():
        assert torch.equal(rerun(again, cube, x), y)
