"""A separator as a command or a server asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lipsep.errors import ModelError
from lipsep.system.environment import before_torch

if TYPE_CHECKING:
    from lipsep.separator import Separator


def open_separator(
    model: str | None, device: str, threads: int | None, weights: Sequence[str | os.PathLike] = ()
) -> Separator:
    """The main path with this model (default: the weights that ship) on this device.

    Args:
        weights: files of the authors' weights for the registered model named `model`.
    """
    before_torch()
    import cv2
    import torch

    from lipsep.checkpoints.catalogue import DEFAULT_MODEL
    from lipsep.separator import Separator

    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    if weights:
        from lipsep.checkpoints.folder import load_released

        if model is None:
            raise ModelError("--weights needs --model, to say whose they are; see 'lipsep models'")
        return Separator(load_released(model, weights), device)
    return Separator(model or DEFAULT_MODEL, device)
