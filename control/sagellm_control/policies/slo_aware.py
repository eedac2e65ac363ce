"""The one whose deadline is nearest first."""

from __future__ import annotations

import time

from ..types import EngineInfo, RequestMetadata, SchedulingDecision
from .base import SchedulingPolicy, route
from .priority import in_time

_EXPIRED = float("inf")


class SLOAwarePolicy(SchedulingPolicy):
    """By the time that is left; what has none left goes first.

    Args:
        default_deadline_ms: deadline (ms from arrival) of requests that have none.
    """

    def __init__(self, default_deadline_ms: float = 5000.0) -> None:
        super().__init__()
        self.default_deadline_ms = default_deadline_ms

    @property
    def name(self) -> str:
        return "slo_aware"

    def schedule(
        self,
        request: RequestMetadata,
        candidates: list[EngineInfo],
        pending_requests: list[RequestMetadata],
    ) -> SchedulingDecision:
        now = time.time()
        urgency = self._urgency(request, now)
        # What is as urgent came before it.
        ahead = sum(self._urgency(pending, now) >= urgency for pending in pending_requests)
        return route(request, candidates, f"SLO-aware: urgency={urgency:.4f}, routed to ", ahead)

    def reorder_queue(self, requests: list[RequestMetadata]) -> list[RequestMetadata]:
        now = time.time()
        # Expired ones are all alike, so they keep their order.
        return sorted(requests, key=lambda request: max(0.0, self._remaining_ms(request, now)))

    def _remaining_ms(self, request: RequestMetadata, now: float) -> float:
        deadline = self.default_deadline_ms if request.slo_deadline_ms is None else request.slo_deadline_ms
        return deadline - (now - in_time(request.arrival_time)) * 1000

    def _urgency(self, request: RequestMetadata, now: float) -> float:
        remaining = self._remaining_ms(request, now)
        return 1.0 / remaining if remaining > 0 else _EXPIRED
