"""Depthwise convolutions: all forms say what `conv1d` with groups says."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree
from torch import Tensor

from lipsep.kernels import depthwise as module
from lipsep.kernels.depthwise import depthwise, plain_depthwise


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 65])
@pytest.mark.parametrize("with_bias", [True, False])
def test_all_forms_agree(form, kernel: int, stride: int, with_bias: bool) -> None:
    inputs = [torch.randn(2, 40, 16), torch.randn(16, 1, kernel), torch.randn(16)]

    def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return depthwise(x, weight, bias, stride)

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return plain_depthwise(x, weight, bias, stride)

    assert_forms_agree(ours, plain, inputs if with_bias else inputs[:2], 1e-5)
    assert not form.ran  # compiled together with what follows alone: conv_glu, heat_ends, global_norm


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 5])
@pytest.mark.parametrize("time", [1, 2, 4, 75])
def test_gradients_in_short_sequences_and_in_pieces(time: int, kernel: int, stride: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "CACHED_PRODUCTS", 1)
    x, weight, bias = torch.randn(2, time, 3), torch.randn(3, 1, kernel), torch.randn(3)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    found, expected = depthwise(*leaves, stride), plain_depthwise(*leaves, stride)
    torch.testing.assert_close(found, expected)
    seen = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * seen).sum(), leaves) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_weights_keep_their_precision_in_half_precision() -> None:
    x, weight = torch.randn(1, 30, 16), torch.randn(16, 1, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise(x.bfloat16(), weight, None)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, plain_depthwise(x.bfloat16().float(), weight, None))
