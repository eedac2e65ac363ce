"""The clock of a simulation: what is to happen, in the order in which it happens."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Agenda:
    """Events by time (ms); those of the same time in the order in which they were entered."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._entered = 0

    def at(self, time_ms: float, event: Callable[[float], None]) -> None:
        """Call ``event(now_ms)`` at this time, or now if it is past."""
        self._entered += 1
        heapq.heappush(self._events, (max(time_ms, self.now_ms), self._entered, event))

    def run(self, settle: Callable[[float], None], *, stop: Callable[[], bool] | None = None) -> None:
        """Until nothing is left to happen, or ``stop`` says so.

        ``settle`` is called after all events of one time: whoever decides then sees them all, as a scheduler that reads
        what has come in a batch does.
        """
        events = self._events
        while events:
            now = self.now_ms = events[0][0]
            while events and events[0][0] <= now:
                heapq.heappop(events)[2](now)
            settle(now)
            if stop is not None and stop():
                return
