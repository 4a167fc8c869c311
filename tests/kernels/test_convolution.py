"""Convolutions and linear maps: all forms say what PyTorch's say."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_close, assert_forms_agree
from torch import Tensor
from torch.nn import functional as F

from lipsep.kernels.convolution import (
    convolve,
    convolve_3d,
    convolve_exactly,
    frames_around,
    packed,
    plain_convolve_3d,
)
from lipsep.kernels.linear import linear, packed_matrix


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_all_forms_of_three_dimensions_agree(form, frames: int) -> None:
    inputs = [torch.randn(2, frames, 6, 5, 4), torch.randn(3, 4, 3, 3, 3), torch.randn(3)]
    assert_forms_agree(convolve_3d, plain_convolve_3d, inputs, 1e-5)


def test_all_forms_of_long_sums_agree(form) -> None:
    inputs = [torch.randn(2, 500, 9), torch.randn(4, 500, 3), torch.randn(4)]
    assert_forms_agree(
        lambda *given: convolve_exactly(*given, 1), lambda x, w, b: F.conv1d(x, w, b, padding=1), inputs, 1e-5
    )


@pytest.mark.parametrize(("n_frames", "wanted"), [(1, slice(None)), (6, slice(None)), (6, slice(2, 5))])
def test_all_forms_put_neighbouring_frames_into_channels(form, n_frames: int, wanted: slice) -> None:
    lips = torch.randn(2, n_frames, 4, 3)
    padded = F.pad(lips, (0, 0, 0, 0, 2, 2))
    expected = torch.stack([padded[:, t : t + 5] for t in range(n_frames)], dim=1)[:, wanted].flatten(0, 1)
    assert torch.equal(frames_around(lips, 5, wanted), expected)


def test_packed_filters_and_weights_give_the_same() -> None:
    x, weight, bias = torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3), torch.randn(6)
    settings = (2, 2), (1, 1)
    with torch.inference_mode():
        assert_close(convolve(x, packed(weight, *settings), bias, *settings), F.conv2d(x, weight, bias, 2, 1).double())
        x, plus, weight = torch.randn(2, 9, 4), torch.randn(2, 9, 6), torch.randn(6, 4)
        expected = F.linear(x.double(), weight.double(), bias.double())
        assert_close(linear(x, packed_matrix(weight), bias), expected)
        for kind in (weight, packed_matrix(weight)):
            assert_close(linear(x, kind, bias, plus=plus), expected + plus)


def test_what_a_sum_is_added_to_is_not_dropped(form) -> None:
    x, weight, plus = torch.randn(2, 50, 4), torch.randn(6, 4), torch.randn(2, 50, 6)
    assert torch.equal(linear(x, weight, None, plus, dropout=1.0), plus)
    y: Tensor = linear(x, weight, None, plus, dropout=0.5)
    kept = (y != plus).float().mean()
    assert 0.35 < kept < 0.65
