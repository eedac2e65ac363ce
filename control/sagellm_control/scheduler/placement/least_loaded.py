"""The engine that runs the fewest requests."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines


class LeastLoadedPlacement:
    """The engine with room and the fewest requests on it; the longest unused among equals."""

    name = "least_loaded"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        return next(engines.by_load(request), None)
