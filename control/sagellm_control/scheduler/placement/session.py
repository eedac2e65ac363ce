"""A session stays on its engine."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from .base import Hold
from .holding import Holding
from .least_loaded import least_loaded

NEXT_ON_THE_RING = 2
"""When the session's engine stays full, the next one on the ring is the second home, for all its requests alike."""


class SessionPlacement:
    """The engine that the session's name meets on a consistent-hash ring (Karger et al. 1997): no state, the same for
    every scheduler, and engines that come or go move few sessions. When that engine is full, the request waits for it
    for a bounded time and then goes to the next on the ring, or to any. Without a session: the least loaded.

    Args:
        hold_ms: longest wait for the session's engine while others have room.
    """

    name = "session"

    def __init__(self, hold_ms: float) -> None:
        self._holding = Holding(hold_ms)

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        if not request.session:
            return least_loaded(request, forecast, engines)
        homes = list(engines.on_ring(request, request.session, NEXT_ON_THE_RING))
        if homes and engines.can_take(homes[0], request, forecast):
            return homes[0]
        other = next((home for home in homes[1:] if engines.can_take(home, request, forecast)), None)
        other = other or least_loaded(request, forecast, engines)
        if other is not None and homes:
            load = engines.load_of(homes[0])
            until_ms = load.opens_at_ms(now_ms) if load is not None else now_ms
            if hold := self._holding.hold(request, now_ms, until_ms, engine=homes[0]):
                return hold
        return other
