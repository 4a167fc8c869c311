"""Dropout whose random numbers cost little on a processor."""

from __future__ import annotations

from torch import Tensor, nn

from lipsep.kernels.dropout import drop


class Dropout(nn.Dropout):
    """`nn.Dropout`, for less time in training on a processor."""

    @property
    def rate(self) -> float:
        """The probability with which a number is dropped now: 0 outside training."""
        return float(self.p) if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.rate)
