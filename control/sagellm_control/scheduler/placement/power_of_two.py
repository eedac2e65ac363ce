"""The better of two."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from ..ring import place_of


class PowerOfTwoPlacement:
    """Of two open engines drawn by the hash of the request's id, the one with less to do (Mitzenmacher 2001).

    Many schedulers that decide on slightly old facts do not all run to the same emptiest engine. The draw is by hash
    and not by dice, so that the same request is placed the same way in a simulation, time after time.
    """

    name = "power_of_two"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        drawn = engines.draw(request, forecast, place_of(request.id), 2 + len(request.excluded))
        first, second = next(drawn, None), next(drawn, None)
        if first is None or second is None:
            # Those drawn have no KV room for it: one of them all may.
            return first or second or next(engines.by_load(request, forecast), None)
        return min(first, second, key=lambda engine: _busy(engine, engines))


def _busy(engine: str, engines: OpenEngines) -> float:
    load = engines.load_of(engine)
    assert load is not None
    return load.drain_ms() if engines.speeds_differ else load.requests
