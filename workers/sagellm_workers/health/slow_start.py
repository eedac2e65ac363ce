"""An engine that comes back is not given everything at once: its caches are cold, and it may break again."""

from __future__ import annotations

import math
from collections.abc import Callable


class SlowStart:
    """How many places of an engine may be used while it recovers. Time comes from ``clock`` (s, monotonic)."""

    def __init__(self, duration_s: float, clock: Callable[[], float]) -> None:
        self._duration_s = duration_s
        self._clock = clock
        self._began: float | None = None

    def begin(self) -> None:
        """The engine has come back just now."""
        self._began = self._clock()

    def limit(self, places: int) -> int | None:
        """So many of the places, growing evenly from the first on; None: all, it has recovered."""
        if self._began is None or self._duration_s <= 0:
            return None
        share = (self._clock() - self._began) / self._duration_s
        if share >= 1:
            self._began = None
            return None
        return max(1, math.floor(share * places))

    def next_step_s(self, places: int) -> float:
        """After so long the limit is another; only while there is one."""
        return self._duration_s / max(1, places)
