"""The recurrence of simple recurrent units: both forms say what the equations say."""

from __future__ import annotations

import torch
from agreement import assert_forms_agree

from lipsep.kernels.recurrence import plain_scan, scan


def test_all_forms_agree(form) -> None:
    inputs = [*torch.randn(2, 7, 3, 5), torch.randn(5), torch.randn(3, 5)]
    assert_forms_agree(scan, plain_scan, inputs)
