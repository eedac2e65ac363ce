"""The engine that would have finished first, for engines of different hardware."""

from __future__ import annotations

from itertools import islice

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines

LOOKS = 4
"""Engines compared exactly; the view is sorted by what they hold already, a little coarsely."""


class SpeedAwarePlacement:
    """The lowest of (backlog + own prefill) / prefill speed + own output · time per token at its batch.

    That is smg's least load ((queued + in-flight tokens) / throughput + 0.15 · k / (1 - k), k the use of the KV cache;
    it sorts the candidates) with the request's own time on the engine on top, so that a long answer goes to an engine
    with quick steps and a long prompt to one that prefills fast.
    """

    name = "speed_aware"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        candidates = islice(engines.by_drain(request, forecast), LOOKS)
        return min(
            candidates, key=lambda engine: self._finish_ms(engine, request, forecast, engines, now_ms), default=None
        )

    @staticmethod
    def _finish_ms(engine: str, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> float:
        load = engines.load_of(engine)
        assert load is not None
        uncached = engines.uncached_tokens(engine, request, forecast)
        prefill_ms = (load.backlog_tokens(now_ms) + uncached) * 1000 / load.row.speed.prefill_tps
        return prefill_ms + max(1.0, forecast.output_tokens) * load.step_ms(1)
