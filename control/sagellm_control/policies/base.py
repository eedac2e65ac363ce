"""What a scheduling policy is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..router import least_loaded
from ..types import EngineInfo, RequestMetadata, RequestStatus, SchedulingDecision

NO_ENGINE = "No healthy engines available"


class SchedulingPolicy(ABC):
    """Chooses engines for requests, and keeps requests that wait in its order."""

    def __init__(self) -> None:
        self._queue: list[RequestMetadata] = []

    @property
    @abstractmethod
    def name(self) -> str:
        """The policy's name."""

    @abstractmethod
    def schedule(
        self,
        request: RequestMetadata,
        candidates: list[EngineInfo],
        pending_requests: list[RequestMetadata],
    ) -> SchedulingDecision:
        """Where the request goes. ``pending_requests``: those that wait already."""

    @abstractmethod
    def reorder_queue(self, requests: list[RequestMetadata]) -> list[RequestMetadata]:
        """The requests in the order in which they go."""

    def add_request(self, request: RequestMetadata) -> None:
        """Put a request into the policy's own queue, at its place."""
        self._queue.append(request)
        self._queue = self.reorder_queue(self._queue)

    def next_request(self) -> RequestMetadata | None:
        """Take the first request out of the queue; None: it is empty."""
        return self._queue.pop(0) if self._queue else None

    def peek_next(self) -> RequestMetadata | None:
        """The first request of the queue, which stays there; None: it is empty."""
        return self._queue[0] if self._queue else None

    def queue_length(self) -> int:
        """Requests in the queue."""
        return len(self._queue)


def route(
    request: RequestMetadata, candidates: list[EngineInfo], reason: str, queue_position: int
) -> SchedulingDecision:
    """The least loaded of the candidates that accept requests; its id is put behind ``reason``."""
    engine = least_loaded(candidates)
    if engine is None:
        return SchedulingDecision(request.request_id, None, status=RequestStatus.FAILED, reason=NO_ENGINE)
    return SchedulingDecision(
        request.request_id,
        engine.engine_id,
        queue_position=queue_position,
        reason=reason + engine.engine_id,
    )
