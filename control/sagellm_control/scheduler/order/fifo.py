"""First come, first served, over all priorities."""

from __future__ import annotations

from ...wire.request import Arrival


class FifoOrder:
    """Rank = time of arrival."""

    name = "fifo"

    def rank(self, request: Arrival) -> float:
        return request.arrived_ms
