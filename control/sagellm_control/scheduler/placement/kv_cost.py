"""The engine on which a request costs least: prefill that is left, and decode load."""

from __future__ import annotations

from itertools import islice

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from .base import Hold
from .holding import Holding

PREFIX_LOOKS = 4
"""Engines compared that have a beginning of the prompt cached."""
LOAD_LOOKS = 2
"""Engines compared that have the least to do."""


class KvCostPlacement:
    """The lowest cost, as NVIDIA Dynamo's KV router computes it, in tokens on an engine of the usual speed:

        prefill_weight · max(active prefill + prompt - overlap, 0) + decode_weight · KV tokens held

    times (usual speed / the engine's speed). For a closed engine that has more of the prompt than the cheapest open
    one, the request waits as long as that pays (``worth_waiting_until_ms``), and no longer than ``hold_ms`` in all.

    The lowest is looked for among the engines that have a beginning of the prompt and those with the least to do: no
    other can be lower, but for more than ``PREFIX_LOOKS`` engines with equally long beginnings.

    Args:
        prefill_weight: Dynamo's overlap score weight; higher favours cached prompts (and a short time to the first
            token), lower an even load.
        hold_ms: longest wait for a closed engine while others have room.
    """

    name = "kv_cost"

    def __init__(self, prefill_weight: float, decode_weight: float, hold_ms: float) -> None:
        self.prefill_weight = prefill_weight
        self.decode_weight = decode_weight
        self._holding = Holding(hold_ms)

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        best: str | None = None
        best_cost = float("inf")
        for engine in islice(engines.by_drain(request, forecast), LOAD_LOOKS):
            cost = self.cost(engine, request, forecast, engines, now_ms)
            if cost < best_cost:
                best, best_cost = engine, cost
        if best is None:
            return None
        wanted: str | None = None
        for engine, depth in engines.with_prefix(request, PREFIX_LOOKS):
            if engine == best:
                continue
            if engines.can_take(engine, request, forecast):
                cost = self.cost(engine, request, forecast, engines, now_ms, depth)
                if cost < best_cost:
                    best, best_cost = engine, cost
            else:
                wanted = wanted or engine
        if wanted is not None and (hold := self._holding.for_engine(wanted, best, request, forecast, engines, now_ms)):
            return hold
        return best

    def cost(
        self,
        engine: str,
        request: Arrival,
        forecast: Forecast,
        engines: OpenEngines,
        now_ms: float,
        depth: int | None = None,
    ) -> float:
        """In tokens on an engine of the usual speed; inf for one that is not READY.

        Args:
            depth: blocks of the prompt that it has cached, where that is known.
        """
        load = engines.load_of(engine)
        if load is None:
            return float("inf")
        left = load.backlog_tokens(now_ms) + engines.uncached_tokens(engine, request, forecast, depth)
        # Of an engine that does not tell what its cache holds nothing is recorded: its requests are taken to be alike.
        held = load.kv_held if load.row.kv_tokens else load.requests * max(forecast.kv_tokens, 1.0)
        tokens = self.prefill_weight * max(left, 0.0) + self.decode_weight * held
        return tokens * engines.usual_tps / load.row.speed.prefill_tps
