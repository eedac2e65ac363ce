"""The urgent class first, and nobody starves."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import ByArrival


class PriorityOrder(ByArrival):
    """Handicap = class × aging.

    A request of class ``c`` (CRITICAL = 0 … BACKGROUND = 4) goes before everything that arrived more than
    ``c × aging`` later than it did: linear aging, as a rank that never has to be computed again. So no request waits
    behind more than ``c × aging`` of newer, more urgent arrivals.

    Every class has its least share: the offsets are bounded, so under an overload that lasts longer than 4 × aging the
    classes are served in proportion to what arrives of each, each as much behind the next as the aging says.

    Args:
        aging_ms: head start (ms) of a class over the next less urgent one.
    """

    name = "priority"

    def __init__(self, aging_ms: float) -> None:
        self.aging_ms = aging_ms

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return int(request.priority) * self.aging_ms
