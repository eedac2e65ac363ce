"""How many objectives were missed lately."""

from __future__ import annotations

from bisect import bisect_left


class Misses:
    """Objectives of the last half minute: how many there were, and how many of them were missed."""

    SPAN_MS = 30_000.0

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._missed: list[bool] = []

    def count(self, now_ms: float, missed: bool) -> None:
        """One more."""
        self._ends.append(now_ms)
        self._missed.append(missed)

    def share(self, now_ms: float) -> float:
        """Missed ones, of all."""
        old = bisect_left(self._ends, now_ms - self.SPAN_MS)
        del self._ends[:old], self._missed[:old]
        return sum(self._missed) / max(1, len(self._missed))
