"""Gated units: all forms say what a convolution, a gate and dropout say one after the other."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_close, assert_forms_agree
from torch import Tensor

from lipsep.kernels import native
from lipsep.kernels.conv_glu import ConvGLU, conv_glu, plain_conv_glu

KERNELS = "conv_glu", "conv_glu_backward"


def filters(channels: int) -> list[Tensor]:
    return [0.5 * torch.randn(channels, 1, 3), torch.randn(channels)]


@pytest.mark.parametrize(("batch", "time"), [(2, 1), (1, 2), (3, 32), (2, 33), (1, 100)])
def test_all_forms_agree(form, batch: int, time: int) -> None:
    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_glu(x, weight, bias, 0.0)

    assert_forms_agree(ours, plain_conv_glu, [torch.randn(batch, time, 96), *filters(96)])
    form.assert_ran(*KERNELS)


def test_the_kernels_drop_the_same_forth_and_back(compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    p, seed = 0.3, 2**61 + 12345
    monkeypatch.setattr(native, "draw_seed", lambda _: seed)
    ones, kept = torch.ones(2, 70, 32), torch.empty(2, 70, 32)
    native.run("drop", ones, kept, ones.numel(), seed, p)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return plain_conv_glu(x, weight, bias) * kept.double()

    assert_forms_agree(lambda *given: ConvGLU.apply(*given, p), plain, [torch.randn(2, 70, 64), *filters(64)])


def test_every_form_drops_its_share(form) -> None:
    x, (weight, bias) = torch.randn(1, 2_000, 64), filters(64)
    dropped = conv_glu(x, weight, bias, 0.3) == 0
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.02)  # 64,000 numbers: ten standard deviations
    assert not conv_glu(x, weight, bias, 1.0).any()


def test_gates_may_be_as_open_or_closed_as_they_like(form) -> None:
    gate = torch.tensor([-1e30, -1e4, -200, -100, -88, -87, -80, 0, 80, 87, 88, 89, 100, 200, 1e4, 1e30])
    x, weight = torch.ones(1, 4, 32), torch.zeros(32, 1, 3)
    x[..., 16:], weight[:, 0, 1] = gate, 1.0
    expected = gate.double().sigmoid().expand(1, 4, 16)
    assert_close(conv_glu(x, weight, torch.zeros(32), 0.0), expected, 3e-7)


def test_nans_stay(form) -> None:
    x = torch.randn(1, 10, 32)
    x[0, 5, 3] = torch.nan
    assert conv_glu(x, *filters(32), 0.0)[0, 4:7, 3].isnan().all()
