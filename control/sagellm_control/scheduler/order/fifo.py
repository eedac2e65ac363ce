"""First come, first served, over all priorities."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast


class FifoOrder:
    """No handicap for anybody."""

    name = "fifo"
    fair = False

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return 0.0

    def charge(self, request: Arrival, forecast: Forecast) -> float:
        return 0.0
