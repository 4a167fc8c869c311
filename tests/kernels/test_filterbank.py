"""Filter banks: all forms say what convolutions and transposed convolutions say."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree
from torch import Tensor

from lipsep.kernels.filterbank import analyse, overlap_add, plain_analyse, plain_synthesise, synthesise


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(16, 4, 0), (40, 20, 20), (7, 7, 3)])
def test_all_forms_agree(form, kernel: int, stride: int, padding: int) -> None:
    def ours(sound: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return analyse(sound, weight, bias, stride, padding)

    def plain(sound: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return plain_analyse(sound, weight, bias, stride, padding)

    assert_forms_agree(ours, plain, [torch.randn(2, 333), torch.randn(5, 1, kernel), torch.randn(5)], 1e-5)
    assert_forms_agree(
        lambda x, weight: synthesise(x, weight, stride),
        lambda x, weight: plain_synthesise(x, weight, stride),
        [torch.randn(2, 3, 20, 5), torch.randn(5, 1, kernel)],
        1e-5,
    )


def test_overlapping_pieces_are_added(form) -> None:
    pieces = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 200.0, 300.0]]])
    assert overlap_add(pieces, 2).tolist() == [[1.0, 2.0, 13.0, 20.0, 130.0, 200.0, 300.0]]
