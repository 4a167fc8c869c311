"""What causal layers remember between the pieces of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor


class Entry(Protocol):
    """What a layer leaves for itself: a tensor, or several that it updates."""

    @property
    def nbytes(self) -> int: ...


class Memory:
    """Tensors that causal layers leave for their own next call, in the order in which the layers run.

    A layer calls `recall` for what it left last time (None in the first piece), then `keep` with what it leaves for the
    next piece. A whole recording at once is a stream of one piece, so one forward serves both, and pieces give what the
    whole gives. A layer that runs several times in a piece has as many entries.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._next = 0

    def recall(self) -> Any:
        """What this layer's call left in the piece before."""
        return self._entries[self._next] if self._next < len(self._entries) else None

    def keep(self, entry: Entry) -> None:
        """Leave `entry` for this layer's call in the next piece."""
        self._entries[self._next : self._next + 1] = [entry]
        self._next += 1

    def next_piece(self) -> None:
        """To be called once between pieces."""
        self._next = 0

    @property
    def n_bytes(self) -> int:
        """Size of all that is remembered."""
        return sum(entry.nbytes for entry in self._entries)


class Recent:
    """The last steps of a growing sequence, which are seldom moved.

    New steps are written behind the old ones, and only where a buffer of twice `n_kept` steps is full, the last ones
    go to the beginning of another.

    Args:
        first: (B, H, n, E), the sequence's beginning.
        n_kept: steps that are kept.
    """

    def __init__(self, first: Tensor, n_kept: int) -> None:
        self._buffer, self._stop, self._n_kept = first, first.shape[2], n_kept

    def append(self, new: Tensor) -> Tensor:
        """The last `n_kept` steps and the new ones behind them: (B, H, n, E) -> (B, H, n_kept + n or fewer, E)."""
        start, n_new = max(0, self._stop - self._n_kept), new.shape[2]
        if self._stop + n_new > self._buffer.shape[2]:
            kept = self._buffer[:, :, start : self._stop]
            shape = (*new.shape[:2], 2 * self._n_kept + n_new, new.shape[3])
            self._buffer, start, self._stop = new.new_empty(shape), 0, kept.shape[2]
            self._buffer[:, :, : self._stop] = kept
        self._buffer[:, :, self._stop : self._stop + n_new] = new
        self._stop += n_new
        return self._buffer[:, :, start : self._stop]

    @property
    def nbytes(self) -> int:
        """Size of the buffer."""
        return self._buffer.nbytes


@dataclass
class Totals:
    """Sums over all steps so far: (2, B, 1, ...) of means and of mean squares, float64, of `n_steps` steps."""

    sums: Tensor
    n_steps: int

    @property
    def nbytes(self) -> int:
        """Size of the sums."""
        return self.sums.nbytes


@lru_cache(maxsize=8)
def shares(n_before: int, n_new: int, device: torch.device) -> Tensor:
    """1 over the number of steps so far, for each new step: float64 (n_new,)."""
    with torch.inference_mode(False):  # what is remembered serves training too
        return torch.arange(n_before + 1, n_before + n_new + 1, device=device, dtype=torch.float64).reciprocal()
