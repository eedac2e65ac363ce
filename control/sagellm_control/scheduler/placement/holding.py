"""How long a request may wait for a better engine than there is."""

from __future__ import annotations

from ...wire.request import Arrival
from .base import Hold

MOST_HELD = 10_000
"""Requests whose wait is remembered; more than can be at the head of a line at once."""


class Holding:
    """Lets a request hold out for a better engine, and no longer than a bounded time in all.

    The time runs from the first hold and not from the arrival: who has waited its turn in a long line would never
    hold out otherwise, and a long line is where a cached prompt is worth most.

    Args:
        longest_ms: of all holds of a request together; 0: none.
    """

    def __init__(self, longest_ms: float) -> None:
        self.longest_ms = longest_ms
        self._since: dict[str, float] = {}

    def hold(self, request: Arrival, now_ms: float, until_ms: float = float("inf")) -> Hold | None:
        """A hold until then, or to the end of the patience if that is sooner; None: it has run out."""
        since = self._since.get(request.id)
        if since is None:
            if self.longest_ms <= 0:
                return None
            if len(self._since) >= MOST_HELD:
                del self._since[next(iter(self._since))]
            self._since[request.id] = since = now_ms
        end_ms = since + self.longest_ms
        if now_ms >= end_ms:
            return None
        return Hold(min(end_ms, max(until_ms, now_ms + SHORTEST_MS)))

    def end(self, request: Arrival) -> None:
        """It has found an engine."""
        if self._since:
            self._since.pop(request.id, None)


SHORTEST_MS = 1.0
"""Of a hold, so that nobody asks again in the same instant."""
