"""PReLU: all forms say what PyTorch's says."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_forms_agree
from torch.nn import functional as F

from lipsep.kernels.prelu import prelu


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.0])
def test_all_forms_agree(form, slope: float) -> None:
    assert_forms_agree(prelu, F.prelu, [torch.randn(2, 9, 3), torch.tensor([slope])])
