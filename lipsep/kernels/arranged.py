"""Weights that are kept as they were released, and used in another arrangement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lipsep.kernels.exporting import is_exporting


class Arranged(nn.Module):
    """A layer that computes with `arrange()` of its parameters: made anew in training, once for inference.

    For inference they are packed besides, in the order in which the processor's library reads them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Tensor, ...] | None = None

    def arrange(self) -> tuple[Tensor, ...]:
        """The parameters as the forward pass wants them."""
        raise NotImplementedError

    def pack(self, *arranged: Tensor) -> tuple[Tensor, ...]:
        """What `arrange` gives, packed; as it is unless a layer says otherwise."""
        return arranged

    @property
    def is_arranged(self) -> bool:
        """Whether what was kept may be used: the layer was not moved since, nobody wants gradients or exports."""
        if self._kept is None or torch.is_grad_enabled() or is_exporting():
            return False
        kept, now = self._kept[0], next(self.parameters())
        return kept.device == now.device and kept.dtype == now.dtype

    def arranged(self) -> tuple[Tensor, ...]:
        """What was kept by `prepare_for_inference`, or made now."""
        return self._kept if self._kept is not None and self.is_arranged else self.arrange()

    def prepare_for_inference(self) -> None:
        """Keep the arrangement until the layer trains, or gets other weights."""
        self._kept = tuple(x.detach() for x in self.pack(*self.arrange()))

    def __getstate__(self) -> dict[str, Any]:  # a copy makes its own
        return {**self.__dict__, "_kept": None}

    def train(self, mode: bool = True) -> Arranged:
        if mode:
            self._kept = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)


def onednn_takes(weight: Tensor) -> bool:
    """Whether oneDNN computes with such weights here."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
