"""What causal layers remember between the pieces of a stream."""

from __future__ import annotations

from torch import Tensor


class Memory:
    """Tensors that causal layers leave for their own next call, in the order in which the layers run.

    A layer calls `recall` for what it left last time (None in the first piece), then `keep` with what it leaves for the
    next piece. A whole recording at once is a stream of one piece, so one forward serves both, and pieces give what the
    whole gives. A layer that runs several times in a piece has as many entries.
    """

    def __init__(self) -> None:
        self._entries: list[Tensor] = []
        self._next = 0

    def recall(self) -> Tensor | None:
        """What this layer's call left in the piece before."""
        return self._entries[self._next] if self._next < len(self._entries) else None

    def keep(self, entry: Tensor) -> None:
        """Leave `entry` for this layer's call in the next piece."""
        self._entries[self._next : self._next + 1] = [entry]
        self._next += 1

    def next_piece(self) -> None:
        """To be called once between pieces."""
        self._next = 0

    @property
    def n_bytes(self) -> int:
        """Size of all that is remembered."""
        return sum(entry.numel() * entry.element_size() for entry in self._entries)
