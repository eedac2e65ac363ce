"""Least slack first."""

from __future__ import annotations

from ...wire.priority import RequestPriority
from ...wire.request import Arrival
from ..forecast import Forecast
from .base import ByArrival

CLASS_SLO_MS: dict[RequestPriority, float] = {
    RequestPriority.CRITICAL: 1_000.0,
    RequestPriority.HIGH: 2_000.0,
    RequestPriority.NORMAL: 5_000.0,
    RequestPriority.LOW: 30_000.0,
    RequestPriority.BACKGROUND: 60_000.0,
}
"""When the first token of a request without an objective is due: what somebody who asks in this class puts up with."""

LONGEST_SLO_MS = 3_600_000.0
"""An objective beyond an hour counts as one of an hour, so that it bounds the wait of whoever states it."""


class SloAwareOrder(ByArrival):
    """Handicap = objective for the first token - predicted prefill: the latest moment at which a start is in time.

    That is least slack first (Mok's LLF), with the slack as it was on arrival: slack shrinks by the same ms each ms for
    everybody, so the order never changes afterwards. Who cannot make it any more steps back when it comes to the head
    (``lateness``).

    Bound: a request goes before everything that arrives more than its objective after it, so at most an hour.

    Args:
        ttft_slo_ms: the pool's objective for requests that state none; 0: by class, ``CLASS_SLO_MS``.
    """

    name = "slo_aware"

    def __init__(self, ttft_slo_ms: float = 0.0) -> None:
        self.ttft_slo_ms = ttft_slo_ms

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        objective = request.slo_ms or self.ttft_slo_ms or CLASS_SLO_MS[request.priority]
        return min(objective, LONGEST_SLO_MS) - min(forecast.prefill_ms, LONGEST_SLO_MS)
