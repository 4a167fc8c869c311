"""How far a separation is and how long it will take yet, as one number for all of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARES = {"read": 0.02, "faces": 0.50, "lips": 0.03, "separate": 0.20, "write": 0.25}
"""What part of the whole time each step takes, roughly: 17 s of 720p and 13 s of 1080p on two cores, default model."""
TOLD_FROM_S = 4.0  # before that, and before TOLD_FROM of all is done, a time would be a guess
TOLD_FROM = 0.05


class Pace:
    """Steps as they are told by a hook -> the part of all that is done, and the seconds that are left.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start_s = clock, clock()
        self.step, self.done = "read", 0.0

    def tell(self, step: str, completed: int, total: int | None) -> None:
        """As `lipsep.constants.Hook`; what is done never gets less."""
        names = [*SHARES]
        if step not in SHARES:
            return
        before = sum(SHARES[name] for name in names[: names.index(step)])
        within = min(1.0, completed / total) if total else 0.0
        self.step, self.done = step, max(self.done, before + SHARES[step] * within)

    @property
    def left_s(self) -> float | None:
        """None: too early to tell."""
        gone_s = self._clock() - self._start_s
        if gone_s < TOLD_FROM_S or self.done < TOLD_FROM:
            return None
        return gone_s * (1 - self.done) / self.done


def in_words(seconds: float) -> str:
    """7 -> "10 s", 100 -> "2 min": no more exact than it is known."""
    return f"{max(5, 5 * round(seconds / 5))} s" if seconds < 90 else f"{round(seconds / 60)} min"
