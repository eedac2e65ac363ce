"""The urgent class first, and nobody starves."""

from __future__ import annotations

from ...wire.request import Arrival


class PriorityOrder:
    """Rank = time of arrival + class × aging.

    A request of class ``c`` (CRITICAL = 0 … BACKGROUND = 4) goes before everything that arrived more than
    ``c × aging`` later than it did: linear aging, as a rank that never has to be computed again. So no request waits
    behind more than ``c × aging`` of newer, more urgent arrivals.

    Args:
        aging_ms: head start (ms) of a class over the next less urgent one.
    """

    name = "priority"

    def __init__(self, aging_ms: float) -> None:
        self.aging_ms = aging_ms

    def rank(self, request: Arrival) -> float:
        return request.arrived_ms + int(request.priority) * self.aging_ms
