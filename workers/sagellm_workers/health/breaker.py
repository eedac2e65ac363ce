"""A circuit breaker: an engine that fails too many requests gets none for a while, then one to show that it is well."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

BUCKETS = 10
"""The window is counted in so many parts, so that it costs the same for one request a minute as for a thousand a
second."""


class CircuitState(IntEnum):
    """The numbers are those of the metric."""

    CLOSED = 0
    """Requests go through."""
    OPEN = 1
    """None does."""
    HALF_OPEN = 2
    """One does; how it ends decides."""


@dataclass(slots=True, frozen=True)
class BreakerSettings:
    """When a circuit opens, and for how long."""

    window_s: float = 60.0
    min_requests: int = 10
    """Fewer in the window say nothing."""
    error_rate: float = 0.5
    """Opens at this share of failures in the window."""
    open_s: float = 5.0
    """The first time; doubled, with jitter, each time that the one request fails as well."""
    longest_open_s: float = 60.0


@dataclass(slots=True)
class _Bucket:
    began: float
    good: int = 0
    bad: int = 0


class CircuitBreaker:
    """The circuit of one engine. Time comes from ``clock`` (s, monotonic); nothing happens by itself."""

    def __init__(self, settings: BreakerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._buckets: deque[_Bucket] = deque()
        self._opened_at: float | None = None
        self._open_s = settings.open_s
        self.reason = ""
        """Why it opened last."""

    @property
    def state(self) -> CircuitState:
        """Where it is now."""
        if self._opened_at is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self.opens_in_s > 0 else CircuitState.HALF_OPEN

    @property
    def opens_in_s(self) -> float:
        """How long it lets nothing through yet."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock())

    def record(self, ok: bool) -> None:
        """A request has ended, and the engine did (not) fail it."""
        match self.state:
            case CircuitState.CLOSED:
                self._count(ok)
            case CircuitState.HALF_OPEN if ok:
                self._opened_at = None
                self._open_s = self._settings.open_s
                self._buckets.clear()
            case CircuitState.HALF_OPEN:
                longest = self._settings.longest_open_s
                self._open(min(longest, 2 * self._open_s) * random.uniform(0.8, 1.0), self.reason)
            case CircuitState.OPEN:
                pass  # it was under way when the circuit opened

    def _count(self, ok: bool) -> None:
        now, width = self._clock(), self._settings.window_s / BUCKETS
        if not self._buckets or now - self._buckets[-1].began >= width:
            self._buckets.append(_Bucket(now))
        while now - self._buckets[0].began > self._settings.window_s:
            self._buckets.popleft()
        self._buckets[-1].good += ok
        self._buckets[-1].bad += not ok
        if ok:
            return  # only a failure opens it
        bad = sum(bucket.bad for bucket in self._buckets)
        total = bad + sum(bucket.good for bucket in self._buckets)
        if total >= self._settings.min_requests and bad >= self._settings.error_rate * total:
            reason = f"it failed {bad} of {total} requests within {self._settings.window_s:g} s"
            self._open(self._settings.open_s, reason)

    def _open(self, open_s: float, reason: str) -> None:
        self._opened_at, self._open_s, self.reason = self._clock(), open_s, reason
        self._buckets.clear()
