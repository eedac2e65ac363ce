"""The engines in turn."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines


class RoundRobinPlacement:
    """The engine with room whose last turn is longest ago."""

    name = "round_robin"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        return next(engines.by_turn(request, forecast), None)
