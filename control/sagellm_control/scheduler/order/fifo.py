"""First come, first served, over all priorities."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import ByArrival


class FifoOrder(ByArrival):
    """No handicap for anybody."""

    name = "fifo"

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return 0.0
