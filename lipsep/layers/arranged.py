"""Weights that are kept as they were released, and used in another arrangement."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Arranged(nn.Module):
    """A layer that computes with `arrange()` of its parameters: made anew in training, once for inference."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Tensor, ...] | None = None

    def arrange(self) -> tuple[Tensor, ...]:
        """The parameters as the forward pass wants them."""
        raise NotImplementedError

    def arranged(self) -> tuple[Tensor, ...]:
        """What was kept by `prepare_for_inference`, or made now."""
        if self._kept is None or self._kept[0].device != next(self.parameters()).device:
            return self.arrange()
        return self._kept

    def prepare_for_inference(self) -> None:
        """Keep the arrangement until the layer trains, or gets other weights."""
        self._kept = tuple(x.detach() for x in self.arrange())

    def train(self, mode: bool = True) -> Arranged:
        if mode:
            self._kept = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)
