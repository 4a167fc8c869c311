"""What stands before and behind heat diffusion: all forms say what plain convolutions and norms say."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree

from lipsep.kernels.heat_ends import (
    NORM_EPS,
    duplicate_channels,
    heat_and_gate,
    plain_heat_and_gate,
    plain_release_heat,
    release_heat,
)

SHAPES = [(2, 1), (1, 2), (3, 32), (2, 33), (1, 100)]  # batch, time; kernels work on 32 steps together


def filters(channels: int) -> list[torch.Tensor]:
    return [0.5 * torch.randn(channels, 1, 3), torch.randn(channels)]


@pytest.mark.parametrize(("batch", "time"), SHAPES)
def test_all_forms_agree(form, batch: int, time: int) -> None:
    x, gate = torch.randn(2, batch, time, 64)
    assert_forms_agree(heat_and_gate, plain_heat_and_gate, [x, *filters(64), *filters(128)])
    form.assert_ran("heat_and_gate", "heat_and_gate_backward")
    form.ran.clear()
    assert_forms_agree(
        lambda *given: release_heat(*given, NORM_EPS),
        plain_release_heat,
        [x, gate, torch.rand(64), torch.randn(64), *filters(64)],
    )
    form.assert_ran("release_heat", "release_heat_backward")


@pytest.mark.parametrize("channels", [24, 31])
def test_other_numbers_of_channels_are_left_to_pytorch(form, channels: int) -> None:
    x = torch.randn(2, 9, channels)
    assert_forms_agree(heat_and_gate, plain_heat_and_gate, [x, *filters(channels), *filters(2 * channels)])
    assert not form.ran


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_channels_are_repeated_in_every_precision(form, dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 3).to(dtype)
    assert torch.equal(duplicate_channels(x), x.repeat_interleave(2, dim=-1))
