"""One of the other policies, by what the moment asks for."""

from __future__ import annotations

from ..types import EngineInfo, RequestMetadata, SchedulingDecision
from .base import SchedulingPolicy
from .fifo import FIFOPolicy
from .priority import PriorityPolicy
from .slo_aware import SLOAwarePolicy

FULL_ENGINE = 10
"""Active requests that count as a load of 1."""


class AdaptivePolicy(SchedulingPolicy):
    """Deadlines where a request has one, classes under high load, else first come, first served.

    Args:
        high_load_threshold: mean load, in tenths of active requests an engine, above which classes count.
    """

    def __init__(self, high_load_threshold: float = 0.7) -> None:
        super().__init__()
        self.high_load_threshold = high_load_threshold
        self._policies: dict[str, SchedulingPolicy] = {
            policy.name: policy for policy in (FIFOPolicy(), PriorityPolicy(), SLOAwarePolicy())
        }
        self._current = "fifo"

    @property
    def name(self) -> str:
        return "adaptive"

    @property
    def current_policy_name(self) -> str:
        """The policy that the last ``schedule`` chose."""
        return self._current

    def schedule(
        self,
        request: RequestMetadata,
        candidates: list[EngineInfo],
        pending_requests: list[RequestMetadata],
    ) -> SchedulingDecision:
        self._current = self._choose(request, candidates)
        decision = self._policies[self._current].schedule(request, candidates, pending_requests)
        if decision.is_scheduled:
            decision.reason = f"Adaptive({self._current}): {decision.reason}"
        return decision

    def reorder_queue(self, requests: list[RequestMetadata]) -> list[RequestMetadata]:
        return self._policies[self._current].reorder_queue(requests)

    def add_request(self, request: RequestMetadata) -> None:
        """Put a request at the end of the policy's own queue; ``reorder_queue`` orders it."""
        self._queue.append(request)

    def _choose(self, request: RequestMetadata, candidates: list[EngineInfo]) -> str:
        if request.slo_deadline_ms is not None:
            return "slo_aware"
        if not candidates:
            return "fifo"
        load = sum(engine.active_requests for engine in candidates) / len(candidates) / FULL_ENGINE
        return "priority" if load > self.high_load_threshold else "fifo"
