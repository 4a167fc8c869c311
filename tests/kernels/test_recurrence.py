"""Simple recurrent units step by step: all forms say what the equations say."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from agreement import assert_forms_agree

from lipsep.kernels.recurrence import plain_recur, plain_scan, recur, scan


def test_all_forms_of_the_carries_agree(form) -> None:
    inputs = [*torch.randn(2, 7, 3, 5), torch.randn(5), torch.randn(3, 5)]
    assert_forms_agree(scan, plain_scan, inputs)


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize(
    ("n_groups", "n_directions", "n_maps", "n_sequences"), [(1, 2, 3, 19), (2, 2, 4, 3), (2, 1, 3, 1), (1, 1, 4, 2)]
)
def test_all_forms_of_the_whole_agree(form, n_groups, n_directions, n_maps, n_sequences, time) -> None:
    rows = (n_sequences, 7) if time else (7, n_sequences)
    layout = (n_groups, n_directions, 32)
    inputs = [
        torch.randn(n_groups, *rows, n_directions, n_maps, 32),
        torch.randn(4, *layout),
        torch.randn(n_sequences, *layout),
    ]
    if n_maps == 3:
        inputs.append(torch.randn(*rows, *layout))

    def in_order(function, maps, weights, start, x=None):
        return function(maps, x, weights, start, time)

    assert_forms_agree(partial(in_order, recur), partial(in_order, plain_recur), inputs)
    form.assert_ran("recur", "recur_back")
