"""Root mean square norm: both forms say the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from agreement import assert_forms_agree

from lipsep.kernels.rms_norm import plain_rms_norm, rms_norm


@pytest.mark.parametrize("rows", [(3, 5), (19, 31)])  # within a chunk of rows, and more than two
def test_all_forms_agree(form, rows) -> None:
    inputs = [torch.randn(*rows, 48), torch.randn(48)]
    assert_forms_agree(partial(rms_norm, eps=1e-2), partial(plain_rms_norm, eps=1e-2), inputs)
    form.assert_ran("rms_norm", "rms_norm_back")
