"""The urgent class first."""

from __future__ import annotations

from datetime import datetime

from ..types import EngineInfo, RequestMetadata, RequestPriority, SchedulingDecision
from .base import SchedulingPolicy, route


class PriorityPolicy(SchedulingPolicy):
    """By class, and within a class by time of arrival."""

    @property
    def name(self) -> str:
        return "priority"

    def schedule(
        self,
        request: RequestMetadata,
        candidates: list[EngineInfo],
        pending_requests: list[RequestMetadata],
    ) -> SchedulingDecision:
        ahead = sum(pending.priority < request.priority for pending in pending_requests)
        name = RequestPriority(request.priority).name
        return route(request, candidates, f"Priority({name}): routed to ", ahead)

    def reorder_queue(self, requests: list[RequestMetadata]) -> list[RequestMetadata]:
        return sorted(requests, key=lambda request: (request.priority, in_time(request.arrival_time)))


def in_time(moment: datetime) -> float:
    """Seconds since the epoch; a moment without a time zone is local time."""
    return moment.timestamp()
