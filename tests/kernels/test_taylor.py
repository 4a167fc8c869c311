"""Linear attention: all forms weigh by the second-order Taylor expansion of exp."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree

from lipsep.kernels.taylor import TaylorAttention, plain_taylor_attention, taylor_attention


@pytest.mark.parametrize(("heads", "frames", "n"), [(1, 1, 2), (2, 3, 25), (4, 2, 484)])
def test_all_forms_agree(form, heads: int, frames: int, n: int) -> None:
    q, k, v = (torch.randn(heads, 8, frames, n) for _ in range(3))
    assert_forms_agree(taylor_attention, plain_taylor_attention, [q * 8**-0.5, k, v], 1e-5)
    form.assert_ran("taylor_attend", "taylor_attend_backward")


def test_other_heads_are_left_to_pytorch(form) -> None:
    q, k, v = (torch.randn(2, 6, 3, 20) for _ in range(3))
    assert_forms_agree(taylor_attention, plain_taylor_attention, [q * 6**-0.5, k, v], 1e-5)
    assert not form.ran


def test_what_is_made_again_in_the_backward_pass_has_the_right_gradients() -> None:
    q, k, v = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    torch.autograd.gradcheck(TaylorAttention.apply, (q, k, v))


def test_nans_stay(form) -> None:
    q, k, v = torch.randn(3, 2, 8, 3, 20)
    k[0, 2, 1, 4] = torch.nan
    y = taylor_attention(q, k, v)
    assert y[0, :, 1].isnan().all() and not y[1].isnan().any()
