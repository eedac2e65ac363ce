"""Ends in time what may wait only for so long."""

from __future__ import annotations

from ..store.connect import Store
from ..store.steps.expire import expire_waiting
from . import metrics
from .server_clock import ServerClock

LOOKS_APART_MS = 50.0
"""Where requests come due one after the other, they end in groups: each look costs a few round trips."""


class TimeLimits:
    """Of the requests of one pool that wait: until when their class may, or until they would be late and are to be
    refused then. The store has them all; here it is known when the first is due."""

    def __init__(self, store: Store, pool: str, clock: ServerClock) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._first_ms = float("inf")
        self._looked_ms = float("-inf")

    @property
    def due_ms(self) -> float:
        """When to look; inf: nothing is known to be due ever."""
        return max(self._first_ms, self._looked_ms + LOOKS_APART_MS)

    def note(self, ends_ms: float) -> None:
        """A request that waits now may do so until then."""
        self._first_ms = min(self._first_ms, ends_ms)

    async def enforce_due(self) -> None:
        """End those whose time has come, if any is known."""
        if self.due_ms <= self._clock.now_ms():
            await self.enforce()

    async def enforce(self) -> None:
        """End those whose time has come, whoever has admitted them."""
        self._looked_ms = self._clock.now_ms()
        self._first_ms = float("inf")  # what is noted from here on may be unknown to the store yet
        expired = await expire_waiting(self._store, self._pool)
        self.note(expired.next_ms)
        if expired.of_class:
            metrics.QUEUE_EXPIRED.labels(self._pool).inc(expired.of_class)
        if expired.late:
            metrics.LATE.labels(self._pool, "refused").inc(expired.late)
