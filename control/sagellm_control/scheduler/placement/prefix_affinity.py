"""Where the prompt's beginning is cached, as long as that keeps the engines' work even."""

from __future__ import annotations

from itertools import islice

from ...wire.request import Arrival
from ...wire.states import Stage
from ..forecast import Forecast
from ..open_engines import OpenEngines
from ..recent_work import work_ms
from .base import Hold
from .holding import Holding
from .least_loaded import least_loaded

LOOKS = 8
"""Engines looked at that have a beginning of the prompt; and of those with the least recent work."""
PATIENCE = 5.0
"""Times the usual longest hold, for a request whose objective says when it must end."""
ALIKE = 0.05
"""Difference (log2) of recent work that is none: 3.5 %."""
EVEN_MS = 5_000.0
"""Recent work in which engines may differ without being uneven: one long prompt."""


class PrefixAffinityPlacement:
    """The engine with the highest

        cached share of the prompt - balance · (its recent work / the least recent work - 1)

    Work is what engines were handed lately, in ms of reading the prompts (``RecentWork``); the least is that of the
    engine which a prompt goes to that no engine has: so new conversations settle where the least was done, and coming
    back to them later leaves the engines even. A hot beginning that many prompts share, and that is a small part of
    each, spreads to other engines before it makes one of them stand out.

    - A match counts if it covers more than ``match`` of the prompt.
    - sgl-router's guard, against a burst of long answers: where the engine wanted has over ``guard_requests`` requests
      more than the emptiest open one, and over ``guard_ratio`` times as many, another engine (sgl: 64 and 1.5, of the
      fullest engine; its queues are deep, ours are slots).
    - If the engine wanted is closed, the request waits for it as long as that pays (``worth_waiting_until_ms``), and no
      longer than ``hold_ms``; one with an objective for its first token in any case for half of that, as long as it is
      in no danger, and no longer than 5 × ``hold_ms``.

    Args:
        match: least share of the prompt, 0 to 1.
        balance: share of the prompt that makes up for twice the recent work; 0: work does not matter.
        hold_ms: longest wait for the engine while others have room.
    """

    name = "prefix_affinity"

    def __init__(self, match: float, balance: float, guard_requests: int, guard_ratio: float, hold_ms: float) -> None:
        self.match = match
        self.balance = balance
        self.guard_requests = guard_requests
        self.guard_ratio = guard_ratio
        self._holding = Holding(hold_ms, patience=PATIENCE)

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        if not request.prefix:
            return least_loaded(request, forecast, engines)
        best = self._least_worked(request, forecast, engines)
        if best is None:
            return None
        even_ms = self._recent_ms(best, engines, now_ms) + EVEN_MS
        wanted: str | None = None
        best_worth = wanted_worth = 0.0
        for engine, depth in engines.with_prefix(request, LOOKS):
            share = depth / len(request.prefix)
            if share <= self.match:
                break
            worth = share - self.balance * (self._recent_ms(engine, engines, now_ms) / even_ms - 1)
            if worth <= max(0.0, best_worth) or self._guarded(engine, request, engines):
                continue
            if engines.can_take(engine, request, forecast):
                best, best_worth = engine, worth
            elif worth > wanted_worth:
                wanted, wanted_worth = engine, worth
        if wanted is not None and wanted_worth > best_worth:
            hold = self._holding.for_engine(wanted, best, request, forecast, engines, now_ms)
            if hold is not None:
                return hold
        return best

    def _least_worked(self, request: Arrival, forecast: Forecast, engines: OpenEngines) -> str | None:
        """Where a prompt goes that no engine has: of those with equally little, to the one with the fewest requests."""
        best = None
        if request.stage != Stage.DECODE:
            for engine in islice(engines.by_recent(request, forecast), LOOKS):
                load = engines.load_of(engine)
                if load is None or self._guarded(engine, request, engines):
                    continue
                if best is None or (load.recent < best.recent + ALIKE and load.requests < best.requests):
                    best = load
        return best.row.engine_id if best is not None else least_loaded(request, forecast, engines)

    def _guarded(self, engine: str, request: Arrival, engines: OpenEngines) -> bool:
        load = engines.load_of(engine)
        if load is None:
            return True
        fewest = engines.fewest(request)
        return load.requests > fewest + self.guard_requests and load.requests > self.guard_ratio * fewest

    @staticmethod
    def _recent_ms(engine: str, engines: OpenEngines, now_ms: float) -> float:
        load = engines.load_of(engine)
        return work_ms(load.recent, now_ms) if load is not None else float("inf")
