"""The overload mode of a pool: when it begins, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping

from ..wire.priority import RequestPriority
from ..wire.request import Arrival
from .policy_settings import PolicySettings, WhenOverloaded

CLASSES = (RequestPriority.CRITICAL, RequestPriority.HIGH, RequestPriority.NORMAL)
"""Those behind which somebody sits and waits. A backlog of batch work is no overload."""


class OverloadMode:
    """Controlled delay and adaptive LIFO, as Facebook runs them (Maurer, "Fail at Scale", ACM Queue 13(8), 2015).

    - Overloaded is a class whose line has not been empty for ``overload_interval_ms``: a standing line, and no burst
      that the next moment would have served (CoDel's test: Nichols, Jacobson 2012). It ends when the line is empty.
    - While it lasts, the newest of the class goes first: its start is mirrored at the moment when the overload began.
      So somebody is served in time; in order of arrival everybody would be late. The more urgent classes are mirrored
      there too, overloaded or not: else the newest of this one would overtake them.
    - Who comes to the head after waiting for longer than ``overload_target_ms`` is refused: the client has most likely
      gone, and the answer would come too late.

    Off by default. Pure: the times are told. Since when a class is overloaded is recorded for the pool, so that all of
    its schedulers mirror at the same moment. Under a fair order starts are virtual, and only the refusals hold.
    """

    def __init__(self, settings: PolicySettings) -> None:
        self._on = settings.overload is WhenOverloaded.CODEL
        self._interval_ms = settings.overload_interval_ms
        self._target_ms = settings.overload_target_ms
        self._empty_at_ms: dict[RequestPriority, float] = {}
        self.since_ms: dict[RequestPriority, float] = {}
        """Overloaded classes, and since when."""
        self._mirrors_ms: dict[RequestPriority, float] = {}
        """Class -> where its starts are mirrored; inf: nowhere."""

    def observe(self, waiting: Mapping[RequestPriority, int], now_ms: float) -> dict[str, str]:
        """So many of each class wait; what is to be recorded for the pool (an empty value: no more)."""
        changed: dict[str, str] = {}
        for priority in CLASSES:
            if not self._on or not waiting.get(priority):
                self._empty_at_ms[priority] = now_ms
                if priority in self.since_ms:
                    changed[field_of(priority)] = ""
                continue
            stands_ms = now_ms - self._empty_at_ms.setdefault(priority, now_ms)
            if priority not in self.since_ms and stands_ms >= self._interval_ms:
                changed[field_of(priority)] = f"{now_ms:.0f}"
        return changed

    def follow(self, recorded: Mapping[str, str]) -> None:
        """Take over what is recorded for the pool."""
        found: dict[RequestPriority, float] = {}
        for priority in CLASSES:
            text = recorded.get(field_of(priority), "")
            if self._on and text.isdecimal() and len(text) <= 15:
                found[priority] = float(text)
        self.since_ms = found
        self._mirrors_ms = {}
        mirror_ms = float("inf")
        for priority in reversed(CLASSES):
            mirror_ms = min(mirror_ms, found.get(priority, mirror_ms))
            self._mirrors_ms[priority] = mirror_ms

    def start(self, request: Arrival) -> float:
        """Where its rank starts (ms), under an order that is not fair."""
        mirror_ms = self._mirrors_ms.get(request.priority) if self.since_ms else None
        if mirror_ms is None or request.arrived_ms <= mirror_ms:
            return request.arrived_ms
        return 2 * mirror_ms - request.arrived_ms

    def refuses(self, request: Arrival, now_ms: float) -> bool:
        """Whether it has waited for too long to be served now."""
        return request.priority in self.since_ms and now_ms > self.refused_from_ms(request)

    def refused_from_ms(self, request: Arrival) -> float:
        """The moment from which it is refused."""
        return request.arrived_ms + self._target_ms


def field_of(priority: RequestPriority) -> str:
    """The pool's setting that says since when (ms) the class is overloaded."""
    return f"overloaded_{priority.label}"
