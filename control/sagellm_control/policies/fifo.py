"""First come, first served."""

from __future__ import annotations

from ..types import EngineInfo, RequestMetadata, SchedulingDecision
from .base import SchedulingPolicy, route


class FIFOPolicy(SchedulingPolicy):
    """In the order in which they were added."""

    @property
    def name(self) -> str:
        return "fifo"

    def schedule(
        self,
        request: RequestMetadata,
        candidates: list[EngineInfo],
        pending_requests: list[RequestMetadata],
    ) -> SchedulingDecision:
        return route(request, candidates, "FIFO: routed to ", len(pending_requests))

    def reorder_queue(self, requests: list[RequestMetadata]) -> list[RequestMetadata]:
        return list(requests)
