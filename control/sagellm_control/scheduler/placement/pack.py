"""The fullest engine that still keeps its promises."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from .least_loaded import least_loaded

PREFILL_SHARE = 0.5
"""Part of the time that engines spend on prefills, which the running answers wait for; the step that is predicted has
to fit into the rest."""


class PackPlacement:
    """The engine with the longest decode step of those whose step, with this request, stays within its objective.

    PolyServe (2025): packing serves more within the objectives than spreading does, and leaves the other engines empty,
    free for what is urgent or to be drained. Only when no engine that runs something has such room, an empty one.
    When none meets the objective, the least loaded: a request is late rather than left waiting. Without an objective
    engines are filled to their slots.

    Args:
        tpot_slo_ms: objective for the time per output token of requests that state none; 0: none.
    """

    name = "pack"

    def __init__(self, tpot_slo_ms: float) -> None:
        self.tpot_slo_ms = tpot_slo_ms

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        objective = request.tpot_slo_ms or self.tpot_slo_ms
        most_ms = objective * (1 - PREFILL_SHARE) if objective else float("inf")
        fullest = next(engines.by_step(request, forecast, most_ms=most_ms), None)
        return fullest or least_loaded(request, forecast, engines)
