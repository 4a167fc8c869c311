"""Where half precision would not do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Operations on the device of `x` keep the precision of their inputs, though training runs in half of it."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
