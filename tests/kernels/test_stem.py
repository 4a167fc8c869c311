"""Stems of lip encoders: all forms say what a 3-D convolution says."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree
from torch import Tensor

from lipsep.kernels.stem import plain_stems, stems


@pytest.mark.parametrize(("batch", "frames", "size", "channels"), [(1, 1, 5, 4), (2, 9, 20, 3), (1, 2, 50, 16)])
def test_all_forms_agree(form, batch: int, frames: int, size: int, channels: int) -> None:
    lips, weight = torch.randn(batch, frames, size, size), torch.randn(2 * channels, 1, 7, 7, 7)

    def ours(weight: Tensor, bias: Tensor) -> list[Tensor]:
        return stems(lips, weight, bias, 2)

    def plain(weight: Tensor, bias: Tensor) -> list[Tensor]:
        return plain_stems(lips.double(), weight, bias, 2)

    assert_forms_agree(ours, plain, [weight, torch.randn(2 * channels)])
    form.assert_ran("stem")


def test_gradients_of_the_pictures_and_other_filters_are_left_to_pytorch(form) -> None:
    inputs = [torch.randn(1, 4, 9, 8), torch.randn(4, 1, 5, 5, 5), torch.randn(4)]
    assert_forms_agree(lambda *given: stems(*given, 1), lambda *given: plain_stems(*given, 1), inputs)
    assert not form.ran
