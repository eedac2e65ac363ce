"""The engine that has the least to do."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines


class LeastLoadedPlacement:
    """The engine with room and the fewest requests on it; the longest unused among equals.

    Where engines are clearly of different speed: the one that would soonest have finished the tokens that it holds.
    """

    name = "least_loaded"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        return least_loaded(request, forecast, engines)


def least_loaded(request: Arrival, forecast: Forecast, engines: OpenEngines) -> str | None:
    """What placements fall back on that have no better reason."""
    view = engines.by_drain if engines.speeds_differ else engines.by_load
    return next(view(request, forecast), None)
