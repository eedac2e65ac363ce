"""Where the prompt's beginning is cached, unless that engine has too much to do."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from .base import Hold
from .holding import Holding
from .least_loaded import least_loaded

LOOKS = 8
"""Engines looked at that have a beginning of the prompt."""


class PrefixAffinityPlacement:
    """The engine with the longest cached beginning of the prompt, by sgl-router's rules.

    - A match counts if it covers more than ``match`` of the prompt (sgl: 0.3); otherwise the least loaded engine.
    - The guard: where the engine wanted has over ``guard_requests`` requests more than the emptiest open one, and over
      ``guard_ratio`` times as many, the least loaded engine (sgl: 64 and 1.5, of the fullest engine; its queues are
      deep, ours are slots).
    - If the engine wanted is closed, the request waits for it as long as that pays (``worth_waiting_until_ms``), and
      no longer than ``hold_ms`` in all.

    Args:
        match: least share of the prompt, 0 to 1.
        hold_ms: longest wait for the engine while others have room.
    """

    name = "prefix_affinity"

    def __init__(self, match: float, guard_requests: int, guard_ratio: float, hold_ms: float) -> None:
        self.match = match
        self.guard_requests = guard_requests
        self.guard_ratio = guard_ratio
        self._holding = Holding(hold_ms)

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        other = least_loaded(request, forecast, engines)
        if other is None or not request.prefix:
            return other
        hold_for: str | None = None
        for engine, depth in engines.with_prefix(request, LOOKS):
            if depth <= self.match * len(request.prefix):
                break
            if self._guarded(engine, request, engines):
                continue
            if engines.can_take(engine, request, forecast):
                if hold_for is not None and (
                    hold := self._holding.for_engine(hold_for, engine, request, forecast, engines, now_ms)
                ):
                    return hold
                return engine
            hold_for = hold_for or engine
        if hold_for is not None and (
            hold := self._holding.for_engine(hold_for, other, request, forecast, engines, now_ms)
        ):
            return hold
        return other

    def _guarded(self, engine: str, request: Arrival, engines: OpenEngines) -> bool:
        load = engines.load_of(engine)
        if load is None:
            return True
        fewest = engines.fewest(request)
        return load.requests > fewest + self.guard_requests and load.requests > self.guard_ratio * fewest
